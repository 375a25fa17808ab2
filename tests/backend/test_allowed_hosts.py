"""Which hosts may be asked, and which addresses are public."""

import pytest

from skylight.backend.allowed_hosts import HostList, is_public
from skylight.backend.errors import ConfigError
from skylight.backend.settings import Settings


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "93.184.216.34", "172.15.0.1", "172.32.0.1", "192.169.0.1", "100.128.0.1", "2606:4700::1111"]
    + ["::ffff:1.1.1.1", "64:ff9b::1.1.1.1", "2002:101:101::1", "2a00:1450:4001::200e"],
)
def test_addresses_of_the_internet_are_public(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.255.255.254", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1"]
    + ["169.254.169.254", "192.0.0.192", "192.88.99.1", "198.18.0.1", "203.0.113.1", "224.0.0.1", "240.0.0.1"]
    + ["255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1"]
    + ["::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "::1.1.1.1", "64:ff9b::a00:1", "64:ff9b:1::1", "100::1"]
    + ["2002:7f00:1::", "2002:a00:1::1", "2001::1", "2001:db8::1", "3fff::1", "4000::1", "5f00::1", "", "localhost"],
)
def test_all_others_are_not(address):
    assert not is_public(address)


def test_what_is_named_is_vouched_for_and_a_pattern_is_not():
    hosts = HostList.parse("minio:9000, [fd00::5], *.Example.org, 10.1.2.3")
    assert hosts.contains("minio", 9000) and hosts.contains("[fd00::5]", 1) and hosts.contains("10.1.2.3", 80)
    assert (
        not hosts.contains("minio", 9001)
        and not hosts.contains("a.example.org", 80)
        and not hosts.contains("10.1.2.30", 80)
    )
    assert hosts.allowed_if_public("a.b.example.org") and hosts.allowed_if_public("a.example.org.")
    for other in ("example.org", "badexample.org", "a.example.org.evil.test", "minio"):
        assert not hosts.allowed_if_public(other)


def test_any_and_none():
    assert Settings().allowed_hosts == HostList(("*",))
    assert Settings().allowed_hosts.allowed_if_public("a.test") and not Settings().allowed_hosts.contains("a.test", 80)
    assert HostList.parse(" None ") == HostList(())


@pytest.mark.parametrize("entry", ["http://a.test", "a.test/", "a b", "a:b", "*.*", "a*.test", "::1", "@a", "**", "-"])
def test_what_is_no_host_is_refused_by_name(entry):
    with pytest.raises(ConfigError, match="SKYLIGHT_ALLOWED_HOSTS: .* is not a host, such as"):
        Settings.from_env({"SKYLIGHT_ALLOWED_HOSTS": f"a.test,{entry}"})
