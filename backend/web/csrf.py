"""Protection of the page's forms against other sites (CSRF), and of the page against DNS rebinding.

A form is accepted if the browser says that it was sent by this very site (`Sec-Fetch-Site`, or `Origin` where that is
not sent), if it brings the cookie that the page set (`SameSite=Strict`: no other site's form does), and if it holds
that cookie's value, signed here.

All three hold for another site's page as well whose name is made to mean this machine while it is open (DNS rebinding).
So the name in the Host header must be one of Skylight's: `is_own_host`. An IP address always is, it means nothing else.
"""

import ipaddress
import re
import secrets
import socket
from urllib.parse import urlsplit

from flask import Request, Response
from itsdangerous import BadSignature, URLSafeTimedSerializer

from skylight.backend.allowed_hosts import HostList
from skylight.backend.errors import Forbidden

COOKIE = "skylight-form"
FIELD = "token"
TOKEN_SECONDS = 12 * 3600  # a page left open for longer must be reloaded before its buttons work
KEY_BYTES = 32
SALT = "form"
# A name with or without its last dot, or an address.
HOST = re.compile(r"(?P<name>[a-z0-9_]([a-z0-9._-]*[a-z0-9_])?|\[[0-9a-f:.]+\])\.?(:(?P<port>[0-9]{0,5}))?")
RELOAD = "open the page again and press the button there"


def new_key() -> str:
    """A random key to sign tokens with; every web process must have the same."""
    return secrets.token_hex(KEY_BYTES)


class FormSigner:
    """Makes and checks the tokens of an application's forms."""

    def __init__(self, key: str) -> None:
        self._serializer = URLSafeTimedSerializer(key, salt=SALT)

    def token(self, cookie: str) -> str:
        """The token that a form must hold for a browser with this cookie."""
        return self._serializer.dumps(cookie)

    def check(self, request: Request) -> None:
        """Raise Forbidden unless the request is a form of this site, sent by the browser that it was shown to."""
        if not is_same_site(request):
            raise Forbidden(f"this request came from another site; {RELOAD}")
        cookie = request.cookies.get(COOKIE, "")
        try:
            signed = self._serializer.loads(request.form.get(FIELD, ""), max_age=TOKEN_SECONDS)
        except BadSignature:
            raise Forbidden(f"the form's token is missing, old or not Skylight's; {RELOAD}") from None
        if not cookie or not secrets.compare_digest(str(signed), cookie):
            raise Forbidden(f"the form was shown to another browser, or cookies are off; {RELOAD}")


def is_same_site(request: Request) -> bool:
    """Whether the browser says that a page of this site sent the request, or cannot say it."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("Origin")
    return origin is None or urlsplit(origin).netloc == request.host


def own_hosts(listen_host: str = "") -> frozenset[str]:
    """The names of this machine: its own, and the one that the server listens on."""
    return frozenset(name.lower().rstrip(".") for name in (socket.gethostname(), listen_host) if name)


def split_host(host: str) -> tuple[str, int]:
    """The name in a Host header, lower case, IPv6 in brackets, and its port, 0 without one; "" if it is invalid."""
    match = HOST.fullmatch(host.lower())
    return (match["name"], int(match["port"] or 0)) if match else ("", 0)


def is_own_host(host: str, trusted: HostList, own: frozenset[str]) -> bool:
    """Whether a Host header names this Skylight: as localhost, by an IP address, or by a name of `trusted` or `own`."""
    name, port = split_host(host)
    if not name:
        return False
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return name == "localhost" or name in own or trusted.covers(name, port)
    return True


def set_cookie(request: Request, response: Response, value: str) -> None:
    """Set the cookie, unless the browser has it already."""
    if request.cookies.get(COOKIE) != value:
        response.set_cookie(COOKIE, value, httponly=True, samesite="Strict", secure=request.is_secure)
