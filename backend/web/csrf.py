"""That a form was sent from Skylight's own page, by the browser that was shown it, and that the page is Skylight's.

Three things must hold for an action: the browser says that the request comes from this very site (`Sec-Fetch-Site`, or
`Origin` where that is not sent), it brings the cookie that the page set (`SameSite=Strict`: no other site's form does),
and the form holds that cookie's value, signed here.

All three hold for a page of another site as well whose name is made to mean this machine while it is open (DNS
rebinding). So the name must be known as Skylight's: `is_ours`. An IP address always is, it means nothing else.
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
AGAIN = "open the page again and press the button there"


def new_key() -> str:
    """A key to sign with; every web process must have the same."""
    return secrets.token_hex(KEY_BYTES)


class Guard:
    """Makes the tokens of one application's forms and checks what comes back."""

    def __init__(self, key: str) -> None:
        self._signer = URLSafeTimedSerializer(key, salt=SALT)

    def token(self, cookie: str) -> str:
        """What a form must hold for a browser with this cookie."""
        return self._signer.dumps(cookie)

    def check(self, request: Request) -> None:
        """Raise Forbidden unless the request is a form of this site, sent by the browser that was shown it."""
        if not same_site(request):
            raise Forbidden(f"this request came from another site; {AGAIN}")
        cookie = request.cookies.get(COOKIE, "")
        try:
            signed = self._signer.loads(request.form.get(FIELD, ""), max_age=TOKEN_SECONDS)
        except BadSignature:
            raise Forbidden(f"the form's token is missing, old or not Skylight's; {AGAIN}") from None
        if not cookie or not secrets.compare_digest(str(signed), cookie):
            raise Forbidden(f"the form was shown to another browser, or cookies are off; {AGAIN}")


def same_site(request: Request) -> bool:
    """Whether the browser says that the request was sent by a page of this site, or cannot say it."""
    said = request.headers.get("Sec-Fetch-Site")
    if said is not None:
        return said == "same-origin"
    origin = request.headers.get("Origin")
    return origin is None or urlsplit(origin).netloc == request.host


def own_names(listens: str = "") -> frozenset[str]:
    """The names that mean this machine: its own, and the one that the server listens on."""
    return frozenset(name.lower().rstrip(".") for name in (socket.gethostname(), listens) if name)


def host_and_port(host: str) -> tuple[str, int]:
    """A Host header's name, lower case, IPv6 in brackets, and its port, 0 without one; "" if it is none."""
    found = HOST.fullmatch(host.lower())
    return (found["name"], int(found["port"] or 0)) if found else ("", 0)


def is_ours(host: str, trusted: HostList, own: frozenset[str]) -> bool:
    """Whether a Host header names this Skylight: as localhost, by an IP address, or by a name of `trusted` or `own`."""
    name, port = host_and_port(host)
    if not name:
        return False
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return name == "localhost" or name in own or trusted.covers(name, port)
    return True


def give_cookie(request: Request, response: Response, value: str) -> None:
    """Have the browser keep the cookie, if it does not have it yet."""
    if request.cookies.get(COOKIE) != value:
        response.set_cookie(COOKIE, value, httponly=True, samesite="Strict", secure=request.is_secure)
