"""The address that the web server listens on: beyond this machine only with a login, or when told so."""

import ipaddress
import socket

from skylight.backend.errors import ConfigError
from skylight.backend.security.basic_auth import BasicAuth
from skylight.backend.settings import Settings


def address(host: str, port: int) -> str:
    """Host and port as gunicorn and URLs write them: an IPv6 address in brackets, else its first colon ends it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check(host: str, settings: Settings, insecure: bool) -> None:
    """Raise ConfigError if anybody in the network could call without a login, unless `insecure` allows that."""
    if insecure or BasicAuth.from_settings(settings) or is_loopback(host):
        return
    raise ConfigError(
        f"whoever reaches {host or 'this machine'} could click, train and send annotations: set SKYLIGHT_USER and "
        "SKYLIGHT_PASSWORD, then run `skylight connect` or `skylight doctor --fix`, which give them to Label Studio; "
        "or listen on 127.0.0.1; or, where nobody else is in the network, add --insecure."
    )


def is_loopback(host: str) -> bool:
    """Whether a host means only this machine; "" means all its addresses. Raises ConfigError for an unknown name."""
    try:
        addresses = {str(info[4][0]) for info in socket.getaddrinfo(host or "0.0.0.0", None)}  # nosec B104
    except (OSError, UnicodeError):
        raise ConfigError(f"there is no host {host[:100]!r} to listen on; give an address, such as 127.0.0.1") from None
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in addresses)
