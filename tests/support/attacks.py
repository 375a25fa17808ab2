"""Addresses of pictures that try to have Skylight call what it must not, and a network to try them in.

Everything is real but what names mean: a trap listens at every address of this machine, and no address, however it is
written, redirected to or renamed meanwhile, may lead to it.
"""

import base64
import contextlib
import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock
from urllib.parse import quote

import requests

from skylight.backend import allowed_hosts as hosts
from skylight.backend.allowed_hosts import HostList
from skylight.backend.errors import MediaError
from skylight.backend.images import download
from skylight.backend.labelstudio.client import LabelStudio
from skylight.backend.settings import Settings
from tests.support.picture_sites import IMAGE, KEY, Site, serving

STRANGER = "127.0.0.3"  # plays an address of the Internet
# All of these mean this machine, or something in a private network.
LOOPBACK = (
    "127.0.0.1 127.1 127.0.1 127.0.0.2 127.255.255.254 127.0.0.1. 0177.0.0.1 0177.0.0.01 0x7f.0.0.1 0x7f.1 "
    "0x7F000001 017700000001 2130706433 0 0.0.0.0 0x0 00 localhost LOCALHOST LocalHost localhost. [::1] [::] "
    "[0:0:0:0:0:0:0:1] [0::1] [::0001] [::ffff:127.0.0.1] [::FFFF:127.0.0.1] [::ffff:7f00:1] [::ffff:0:0] "
    "[0:0:0:0:0:ffff:7f00:0001] [::127.0.0.1] [64:ff9b::127.0.0.1] [64:ff9b::7f00:1] [64:ff9b:1::7f00:1] "
    "[2002:7f00:1::] [2002:7f00:1::1] １２７.0.0.1 ①②⑦.⓪.⓪.① 127。0。0。1 ⓛⓞⓒⓐⓛⓗⓞⓢⓣ ｌｏｃａｌｈｏｓｔ 127.0.0.1%20 "
    "127.0.0.1%00 %6c%6f%63%61%6c%68%6f%73%74 %31%32%37.0.0.1 [::1%25lo] "
)
PRIVATE = (
    "10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.255 192.168.0.1 192.168.255.255 169.254.169.254 169.254.0.1 "
    "100.64.0.1 100.100.100.200 192.0.0.192 198.18.0.1 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255 "
    "0.1.2.3 2852039166 0xa9fea9fe 0251.0376.0251.0376 169.254.43518 [fe80::1] [fe80::1%25lo] [fc00::1] "
    "[fd00:ec2::254] [fec0::1] [ff02::1] [::ffff:169.254.169.254] [::ffff:a9fe:a9fe] [64:ff9b::a9fe:a9fe] "
    "[2002:a9fe:a9fe::] [2001:0:a9fe:a9fe::] [100::1] [2001:db8::1] [::ffff:0:a9fe:a9fe] [::a9fe:a9fe] "
)
CLIMBING = [
    *("../../etc/passwd", "..", "a/../../b.png", "/etc/../etc/passwd", "..\\..\\etc\\passwd", "a/..%2fb", "%2e%2e/b"),
    *("..%2f..%2fetc/passwd", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "%252e%252e%252fetc", "..%5c..%5cetc", ".%2e/etc"),
    *("%25252e%25252e%25252fetc", "a%00.png/../b", "a.png%00", "a%0d%0aHost:%20evil", "..%c0%af../etc" + "/../x"),
]
REDIRECTS = (301, 302, 303, 307, 308)
NAMES = {  # what names mean, at each look; the last for good
    "rebinding.test": [[STRANGER], ["127.0.0.1"]],
    "late.test": [[STRANGER], [STRANGER], [STRANGER], ["127.0.0.1"]],
    "both.test": [[STRANGER, "127.0.0.1"]],
    "behind.test": [["127.0.0.1", STRANGER]],
    "inside.test": [["127.0.0.1"]],
    "six.test": [["::1"]],
    "mapped.test": [["::ffff:127.0.0.1"]],
    "metadata.test": [["169.254.169.254"]],
    "public.test": [[STRANGER]],
}


@dataclass
class Network:
    """Label Studio, a stranger who redirects, and a trap; `own` is an address of this machine, not a loopback one."""

    home: Site
    stranger: Site
    trap: Site
    looks: dict[str, int] = field(default_factory=dict)

    def fetch(self, url: str, allowed: str = "*") -> bytes | None:
        """What a task with this address gets; None if it is refused."""
        settings = Settings(self.home.url, KEY, allowed_hosts=HostList.parse(allowed))
        self.looks.clear()
        try:
            return download.fetch(url, settings, LabelStudio(self.home.url, KEY))
        except MediaError as error:
            assert KEY not in str(error)
            return None

    def plainly(self, url: str) -> None:
        """The same without any check: what the attack would reach."""
        self.looks.clear()
        with contextlib.suppress(Exception):
            requests.get(url, timeout=0.5).close()

    @property
    def leaked(self) -> int:
        """How often the key came to anybody but Label Studio, or there for what is no file."""
        strangers = [given for site in (self.stranger, self.trap) for _, given in site.seen if given]
        return len(strangers) + sum(bool(given) and not path.startswith("/data/") for path, given in self.home.seen)


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """The three sites, and names that mean what `NAMES` says."""
    with serving() as home, serving(STRANGER) as stranger, serving(everywhere()) as trap:
        found = Network(home, stranger, trap)
        home.routes["/data/upload/1/a.png"] = stranger.anything = trap.anything = (200, {}, IMAGE)
        trap.spared = STRANGER  # where it is a stranger too: a name that means another place at the next look
        for name in NAMES:
            trap.routes[f"/{name}"] = (302, {"Location": f"http://{name}:{trap.port}/a.png"}, b"")
        real, judged = socket.getaddrinfo, hosts.is_public

        def look(name: Any, port: Any, *args: Any, **options: Any) -> Any:
            if name not in NAMES:
                return real(name, port, *args, **options)
            turn = found.looks[name] = found.looks.get(name, 0) + 1
            meant = NAMES[name][min(turn, len(NAMES[name])) - 1]
            return [each for address in meant for each in real(address, port, *args, **options)]

        with (
            mock.patch("socket.getaddrinfo", look),
            mock.patch.object(hosts, "is_public", lambda address: address == STRANGER or judged(address)),
        ):
            yield found


def everywhere() -> str:
    """What a socket is bound to that is to answer at all addresses."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
        return "::"
    except OSError:
        return "0.0.0.0"


def direct(port: int, home: str) -> Iterator[str]:
    """Addresses of the trap's port, written in all ways; `home` is Label Studio's host and port."""
    for host in [*LOOPBACK.split(), *PRIVATE.split(), socket.gethostname(), *own_addresses()]:
        at = f"{host}:{port}"
        yield f"http://{at}/a.png"
        yield f"https://{at}/a.png"
        yield f"HTTP://{at}/data/upload/1/a.png"
        yield f"http://user:password@{at}/a.png"
        yield f"http://{home}@{at}/a.png"
        yield f"http://{at}/#@{home}/data/upload/1/a.png"
        yield f"http://{at}\\@{home}/data/upload/1/a.png"
        yield f"http://{home}\\@{at}/a.png"
        yield f"http://{home}#@{at}/a.png"
        yield f"http://{home}%23@{at}/a.png"
        yield f"http://{home}%2f@{at}/a.png"
        yield f"http://{home}\t@{at}/a.png"
        yield f" http://{at}/a.png"
        yield f"http:\\\\{at}\\a.png"
        yield f"http:///{at}/a.png"
        yield f"//{at}/a.png"
        yield f"/\\{at}/a.png"
        yield f"/@{at}/a.png"
    for name in NAMES:
        if name not in ("public.test", "metadata.test"):
            yield f"http://{name}:{port}/a.png"
            yield f"http://{name}:{port}/{name}"
            yield f"http://{name}.:{port}/a.png"
    for start in (
        "file:///etc/passwd",
        "file://localhost/etc/passwd",
        "gopher://127.0.0.1:{port}/_x",
        "ftp://127.0.0.1",
    ):
        yield start.format(port=port)


def redirected(net: Network, targets: list[str]) -> Iterator[str]:
    """Addresses of the stranger, and of Label Studio, that redirect to these."""
    for i, target in enumerate(targets):
        encoded = quote(target, safe=":/?#[]@!$&'()*+,;=%\\")
        for status in REDIRECTS if i % 10 == 0 else (random.Random(i).choice(REDIRECTS),):
            path = f"/{status}/{i}"
            net.stranger.routes[path] = (status, {"Location": encoded}, b"")
            net.stranger.routes[f"/twice{path}"] = (
                status,
                {"Location": f"http://public.test:{net.stranger.port}{path}"},
                b"",
            )
            net.home.routes[f"/data{path}"] = (status, {"Location": encoded}, b"")
            yield f"{net.stranger.url}{path}"
            yield f"http://public.test:{net.stranger.port}/twice{path}"
            yield f"/data{path}"


def climbing(home: str) -> Iterator[str]:
    """Addresses of Label Studio that try to leave the folder of its files."""
    for path in CLIMBING:
        for start in ("/data/local-files/?d=", "/data/upload/1/", "/storage-data/uploaded/?filepath=", f"{home}/data/"):
            yield f"{start}{path}"
            yield f"{start}a/{path}"
        yield f"/tasks/1/resolve/?fileuri={base64.urlsafe_b64encode(b'file:///etc/passwd').decode()}&x={path}"


def own_addresses() -> list[str]:
    """Addresses of this machine in its networks, as URLs write them."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing
        return [str(probe.getsockname()[0])]
    return []
