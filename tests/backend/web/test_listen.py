"""Where the web server may listen without a login."""

import pytest
from click.testing import CliRunner
from gunicorn.util import parse_address

from skylight.backend.cli import main
from skylight.backend.errors import ConfigError
from skylight.backend.settings import Settings
from skylight.backend.web.listen import address, check
from skylight.backend.web.server import Server

OPEN = ["0.0.0.0", "::", "", "0", "192.0.2.1", "10.0.0.1", "fd00::1", "::ffff:127.0.0.1", "::ffff:0.0.0.0"]
LOOPBACK = ["127.0.0.1", "127.0.0.2", "127.1", "::1", "localhost"]


@pytest.mark.parametrize("host", OPEN)
def test_an_address_that_others_reach_needs_a_login_or_the_word(host):
    with pytest.raises(ConfigError, match="SKYLIGHT_USER and SKYLIGHT_PASSWORD.*doctor --fix.*--insecure"):
        check(host, Settings(), insecure=False)
    check(host, Settings(), insecure=True)
    check(host, Settings(user="a", password="long enough"), insecure=False)


@pytest.mark.parametrize("host", LOOPBACK)
def test_this_machines_own_does_not(host):
    check(host, Settings(), insecure=False)


@pytest.mark.parametrize("host", ["nowhere.invalid", "unix:/tmp/x", "fd://3", "a" * 300, "127.0.0.1:1"])
def test_what_is_no_host_is_refused(host):
    with pytest.raises(ConfigError, match="there is no host"):
        check(host, Settings(), insecure=False)


@pytest.mark.parametrize("host", [*OPEN[:2], *LOOPBACK])
def test_gunicorn_listens_where_it_was_told(host):
    """It reads `::1:9090` as all addresses, port 9090."""
    server = Server(Settings(), host, 9090)
    assert parse_address(server.cfg.bind[0] if isinstance(server.cfg.bind, list) else server.cfg.bind) == (host, 9090)
    assert address("::1", 9090) == "[::1]:9090"


@pytest.mark.parametrize("command", ["serve", "web"])
@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_both_commands_refuse(tmp_path, command, host):
    environ = {
        "SKYLIGHT_HOME": str(tmp_path / "home"),
        "REDIS_URL": "unix:///nowhere/redis.sock",
        "SKYLIGHT_DATA": None,
        "SKYLIGHT_CASES": None,
    }
    done = CliRunner().invoke(main.cli, [command, "--host", host, "--port", "0"], env=environ)
    assert isinstance(done.exception, ConfigError) and "--insecure" in str(done.exception)
    assert not (tmp_path / "home").exists()
