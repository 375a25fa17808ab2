"""Lists of hosts, as `SKYLIGHT_ALLOWED_HOSTS` (from which pictures may come beside Label Studio) and
`SKYLIGHT_TRUSTED_HOSTS` (by which names the page may be called); and which addresses are public.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

ANY = "*"
NONE = "none"
# A name, an IPv4 address or an IPv6 address in brackets, of any port or of one; or all names below one.
ENTRY = re.compile(r"(?:[a-z0-9_]([a-z0-9._-]*[a-z0-9_])?|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?|\*\.[a-z0-9_][a-z0-9._-]*")
GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")  # all that is assigned of IPv6
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # an IPv4 address in the last 32 bits, where a network has only IPv6
RESERVED = tuple(
    ipaddress.ip_network(net)
    for net in (
        "192.0.0.0/24",  # protocols, and a cloud's 192.0.0.192; Python before 3.12 knows a part of it
        "192.88.99.0/24",  # relays of 6to4
        "2001::/23",  # Teredo and other protocols; not to be reached, or it holds another address
        "3fff::/20",  # documentation, which Python does not know everywhere
    )
)


@dataclass(frozen=True)
class HostList:
    """A list of hosts, as `127.0.0.1:9000, minio.example.org, *.amazonaws.com` or `*`.

    A host that is listed may have a private address. `*`, or `*.` and the end of a name, allows hosts whose address is
    public.
    """

    entries: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> HostList:
        """Read a list, `none` being the empty one. Raises ValueError."""
        if text.strip().lower() == NONE:
            return cls(())
        entries = tuple(entry for part in text.split(",") if (entry := part.strip().lower()))
        for entry in entries:
            if entry != ANY and not ENTRY.fullmatch(entry):
                raise ValueError(f"'{entry}' is not a host, such as images.example.org, 10.1.2.3:9000 or *.example.org")
        return cls(entries)

    def contains(self, host: str, port: int) -> bool:
        """Whether the host itself is listed. `host` is lower case, IPv6 in brackets."""
        return host in self.entries or f"{host}:{port}" in self.entries

    def covers(self, host: str, port: int) -> bool:
        """Whether the host is listed, itself or by a pattern."""
        return self.contains(host, port) or self.allowed_if_public(host)

    def allowed_if_public(self, host: str) -> bool:
        """Whether a pattern allows the host, if its address is public."""
        suffixes = [entry[1:] for entry in self.entries if entry.startswith("*.")]
        return ANY in self.entries or any(host.rstrip(".").endswith(suffix) for suffix in suffixes)


def is_public(address: str) -> bool:
    """Whether an IP address is public; of an IPv6 address that holds an IPv4 address, whether that one is."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:  # such as one with a zone, fe80::1%eth0
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = ip.ipv4_mapped or ip.sixtofour
        if ip in NAT64:
            embedded = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if embedded is not None:
            return is_public(str(embedded))
        if ip not in GLOBAL_UNICAST:
            return False
    is_reserved = any(ip in net for net in RESERVED if net.version == ip.version)
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or is_reserved)
