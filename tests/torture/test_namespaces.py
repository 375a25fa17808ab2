"""Machines as network namespaces: they reach each other, and do not once a cable is pulled."""

import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.label_studio_double import wait_until
from tests.torture.namespaces import Machine, Switch, ip, missing, network

ANSWER = """
import socket, sys
with socket.create_server((sys.argv[1], 7000)) as server:
    while True:
        with server.accept()[0] as client:
            client.sendall(b"here")
"""
ASK = """
import socket, sys
with socket.create_connection((sys.argv[1], 7000), 1) as server:
    assert server.recv(4) == b"here"
"""


@pytest.fixture(scope="module")
def switch() -> Iterator[Switch]:
    if why := missing():
        pytest.skip(why)
    with network(2) as made:
        yield made


def asked(machine: Machine, address: str) -> bool:
    """Whether a machine reaches another over TCP."""
    command = [*machine.enter, sys.executable, "-c", ASK, address]
    return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0


def there() -> str:
    return ip("netns", "list") + ip("addr", "show")


def test_machines_reach_each_other_until_a_cable_is_pulled_and_again_once_it_is_back(switch):
    one, two = switch.machines
    with subprocess.Popen([*two.enter, sys.executable, "-c", ANSWER, two.address]) as server:
        try:
            wait_until(lambda: asked(one, two.address), 30)
            two.cut_off()
            assert not asked(one, two.address) and asked(two, two.address)
            two.back()
            wait_until(lambda: asked(one, two.address), 30)
        finally:
            server.kill()


def test_what_listens_on_this_machine_alone_is_not_reached_from_another(switch):
    with socket.create_server(("127.0.0.1", 7000)):
        assert not asked(switch.machines[0], "127.0.0.1") and not asked(switch.machines[0], switch.address)


def test_nothing_is_left_of_a_network_even_if_it_ends_with_an_error():
    if why := missing():
        pytest.skip(why)
    with pytest.raises(KeyboardInterrupt), network(2) as switch:
        names = [switch.address, *(machine.name for machine in switch.machines)]
        assert all(name in there() for name in names)
        raise KeyboardInterrupt
    assert not any(name in there() for name in names)
