"""Free TCP ports of this machine."""

import socket

HOST = "127.0.0.1"


def free_port(preferred: int) -> int:
    """Return `preferred` if it is not 0 and nothing on 127.0.0.1 uses it, else one of the system's choice."""
    if preferred and is_free(preferred):
        return preferred
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether the port can be bound on 127.0.0.1; a listener on all addresses counts as using it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
