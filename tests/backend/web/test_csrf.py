"""Forms are taken only from the page, and only from the browser that it was shown to."""

import pytest
from flask import Flask, Response, request

from skylight.backend.errors import Forbidden
from skylight.backend.web.csrf import COOKIE, FIELD, FormSigner, set_cookie

SIGNER = FormSigner("key")


def sent(cookie="browser", token=None, guard=SIGNER, **headers):
    """A form as it arrives."""
    form = {} if token is None else {FIELD: token}
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    if cookie:
        names["Cookie"] = f"{COOKIE}={cookie}"
    context = Flask("t").test_request_context("/act", method="POST", data=form, headers=names)
    with context:
        guard.check(request)


def test_the_pages_own_form_is_taken():
    sent(token=SIGNER.token("browser"), Sec_Fetch_Site="same-origin", Origin="http://localhost")
    sent(token=SIGNER.token("browser"), Origin="http://localhost")
    sent(token=SIGNER.token("browser"))  # an old browser says neither


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "none"},
        {"Sec_Fetch_Site": "cross-site", "Origin": "http://localhost"},
        {"Origin": "http://localhost:8080"},  # Label Studio on the same machine
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ],
)
def test_what_another_site_sends_is_refused_even_with_cookie_and_token(headers):
    with pytest.raises(Forbidden, match="another site"):
        sent(token=SIGNER.token("browser"), **headers)


def test_behind_a_proxy_that_ends_tls_the_browsers_word_counts():
    sent(token=SIGNER.token("browser"), Sec_Fetch_Site="same-origin", Origin="https://skylight.example")


@pytest.mark.parametrize(
    "token",
    [None, "", "browser", SIGNER.token("browser")[:-1], FormSigner("other").token("browser")],
    ids=["none", "empty", "no token", "cut", "of another guard"],
)
def test_a_form_without_a_token_of_ours_is_refused(token):
    with pytest.raises(Forbidden, match="token"):
        sent(token=token)


def test_a_token_of_another_browser_is_refused():
    for cookie in ("", "other"):
        with pytest.raises(Forbidden, match="another browser"):
            sent(cookie=cookie, token=SIGNER.token("browser"))
    with pytest.raises(Forbidden, match="another browser"):
        sent(cookie="", token=SIGNER.token(""))


def test_a_token_grows_old(monkeypatch):
    token = SIGNER.token("browser")
    monkeypatch.setattr("skylight.backend.web.csrf.TOKEN_SECONDS", -1)
    with pytest.raises(Forbidden, match="old"):
        sent(token=token)


def test_the_cookie_stays_in_this_site_and_out_of_scripts():
    app = Flask("t")
    with app.test_request_context("/", base_url="https://skylight.example"):
        answer = Response()
        set_cookie(request, answer, "value")
    cookie = answer.headers["Set-Cookie"]
    assert all(part in cookie for part in ("SameSite=Strict", "HttpOnly", "Secure", "Path=/"))
    with app.test_request_context("/", headers={"Cookie": f"{COOKIE}=value"}):
        answer = Response()
        set_cookie(request, answer, "value")
    assert "Set-Cookie" not in answer.headers
