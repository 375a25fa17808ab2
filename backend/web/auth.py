"""Who may call what, and what every answer tells a browser not to do with it."""

import logging

from flask import Flask, Response, current_app, request

from skylight.backend.errors import Forbidden
from skylight.backend.security.basic_auth import BasicAuth
from skylight.backend.security.webhook_secret import HEADER
from skylight.backend.web import csrf
from skylight.backend.web.http import json_response, service_of
from skylight.backend.web.rq_dashboard import NAME as DASHBOARD

# Answered without a login: that it is alive, and whether it is ready. Neither may say more than that to strangers.
OPEN = ("/health", "/ready")
# Called by Label Studio, or a program that watches, by whatever name a network has for this machine.
MACHINES = (*OPEN, "/setup", "/predict", "/webhook", "/versions", "/metrics")
WEBHOOK = "/webhook"  # also opened by its secret header, since Label Studio sends no basic auth along
READING = ("GET", "HEAD", "OPTIONS")
OWN_NAMES = "skylight-names"
CHALLENGE = 'Basic realm="Skylight", charset="UTF-8"'
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with none at all a form's Origin would be "null"
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
POLICY = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
# rq-dashboard has scripts in its pages and makes functions of texts; at least nothing goes elsewhere.
DASHBOARD_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)

log = logging.getLogger(__name__)


def protect(app: Flask, listens: str = "") -> None:
    """Have the application ask for the login first, and send the headers with every answer, also errors.

    `listens`: the host that the server listens on, by whose name it may be called too.
    """
    app.extensions[OWN_NAMES] = csrf.own_names(listens)
    app.before_request(_admit)
    app.after_request(_headers)


def logged_in() -> bool:
    """Whether the request brings the login; never where none is set."""
    given = request.authorization
    if given is None or given.type != "basic":
        return False
    return BasicAuth.from_settings(service_of(current_app).settings).matches(given.username, given.password)


def admitted() -> bool:
    """Whether whoever sent the request may be told everything."""
    return not BasicAuth.from_settings(service_of(current_app).settings) or logged_in()


def _admit() -> Response | None:
    """Nothing for who may come in, else the refusal. Raises Forbidden for what another site's page sends, or one that
    has its own name mean this machine.

    A browser keeps a login, and sends it along with whatever any page has it post here.
    """
    _check_name()
    if request.path not in OPEN and not admitted() and not _is_webhook():
        log.warning("%s %r without the login, from %s", request.method, request.path[:200], request.remote_addr)
        return _refusal()
    if request.method not in READING and not csrf.same_site(request):
        raise Forbidden(f"this request came from another site; {csrf.AGAIN}")
    return None


def _check_name() -> None:
    """Raise Forbidden if a browser may have been led here by a name that is not ours (DNS rebinding).

    Its pages would count as of this site. With a login they have none: a browser keeps that for each name. Label Studio
    may call by any name; of what calls as it does, only a browser's page says where it comes from.
    """
    service = service_of(current_app)
    from_page = "Origin" in request.headers or request.headers.get("Sec-Fetch-Site", "none") != "none"
    if request.path in MACHINES and not from_page:
        return
    own = current_app.extensions[OWN_NAMES]
    trusted = service.settings.trusted_hosts
    if (BasicAuth.from_settings(service.settings) and not trusted.entries) or csrf.is_ours(request.host, trusted, own):
        return
    name = csrf.host_and_port(request.host)[0] or request.headers.get("Host", "")
    raise Forbidden(
        f"this Skylight was called by the name {name[:100]!r}, which it does not know as its own; if it is, set "
        f"SKYLIGHT_TRUSTED_HOSTS={name[:100]} where Skylight runs, or call it by its IP address"
    )


def _is_webhook() -> bool:
    return request.path == WEBHOOK and service_of(current_app).secret.matches(request.headers.get(HEADER))


def _refusal() -> Response:
    if request.path == WEBHOOK:
        said = f"an event came without the right header {HEADER}; for a webhook that has it, run: skylight doctor --fix"
    else:
        said = "user and password are needed: SKYLIGHT_USER and SKYLIGHT_PASSWORD; Label Studio gets them by "
        said += "`skylight connect` or `skylight doctor --fix`"
    answer = json_response({"error": said}, 401)
    answer.headers["WWW-Authenticate"] = CHALLENGE
    return answer


def _headers(answer: Response) -> Response:
    for name, value in HEADERS.items():
        answer.headers.setdefault(name, value)
    policy = DASHBOARD_POLICY if request.blueprint == DASHBOARD else POLICY
    answer.headers.setdefault("Content-Security-Policy", policy)
    return answer
