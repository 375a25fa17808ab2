"""That a form was sent from Skylight's own page, by the browser that was shown it.

Three things must hold for an action: the browser says that the request comes from this very site (`Sec-Fetch-Site`, or
`Origin` where that is not sent), it brings the cookie that the page set (`SameSite=Strict`: no other site's form does),
and the form holds that cookie's value, signed here.
"""

import secrets
from urllib.parse import urlsplit

from flask import Request, Response
from itsdangerous import BadSignature, URLSafeTimedSerializer

from backend.errors import Forbidden

COOKIE = "skylight-form"
FIELD = "token"
TOKEN_SECONDS = 12 * 3600  # a page left open for longer must be reloaded before its buttons work
KEY_BYTES = 32
SALT = "form"
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


def give_cookie(request: Request, response: Response, value: str) -> None:
    """Have the browser keep the cookie, if it does not have it yet."""
    if request.cookies.get(COOKIE) != value:
        response.set_cookie(COOKIE, value, httponly=True, samesite="Strict", secure=request.is_secure)
