"""Free ports."""

import socket

import pytest

from skylight.backend.process.ports import free_port, is_free


def test_port_0_means_any():
    assert free_port(0) > 1023


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_that_something_listens_at_is_not_free(host):
    port = free_port(0)
    assert is_free(port) and free_port(port) == port
    with socket.create_server((host, port)):
        assert not is_free(port) and free_port(port) != port
