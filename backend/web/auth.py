"""Access to the web application: login, own host names, same site, and the security headers of every answer."""

import logging

from flask import Flask, Response, current_app, request

from skylight.backend.errors import Forbidden
from skylight.backend.security.basic_auth import BasicAuth
from skylight.backend.security.webhook_secret import HEADER
from skylight.backend.web import csrf
from skylight.backend.web.http import json_response, service_of
from skylight.backend.web.rq_dashboard import NAME as DASHBOARD

# Answered without a login: that it is alive, and whether it is ready. Neither may say more than that to strangers.
PUBLIC_PATHS = ("/health", "/ready")
# Called by Label Studio or a monitoring program, by whatever name a network has for this machine.
API_PATHS = (*PUBLIC_PATHS, "/setup", "/predict", "/webhook", "/versions", "/metrics")
WEBHOOK = "/webhook"  # also opened by its secret header, since Label Studio sends no basic auth along
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
OWN_HOSTS = "skylight-own-hosts"
LOGIN_NEEDED = (
    "user and password are needed: SKYLIGHT_USER and SKYLIGHT_PASSWORD; Label Studio gets them by "
    "`skylight connect` or `skylight doctor --fix`"
)
CHALLENGE = 'Basic realm="Skylight", charset="UTF-8"'
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with none at all a form's Origin would be "null"
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
POLICY = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
# rq-dashboard has inline scripts and evaluates strings; at least nothing is sent elsewhere.
DASHBOARD_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)

log = logging.getLogger(__name__)


def install(app: Flask, listen_host: str = "") -> None:
    """Have the application check every request first, and send the security headers with every answer, also errors.

    `listen_host`: the host that the server listens on, by whose name it may be called too.
    """
    app.extensions[OWN_HOSTS] = csrf.own_hosts(listen_host)
    app.before_request(_check_access)
    app.after_request(_add_headers)


def has_login() -> bool:
    """Whether the request brings the right login; never where none is set."""
    authorization = request.authorization
    if authorization is None or authorization.type != "basic":
        return False
    return _required_login().matches(authorization.username, authorization.password)


def _required_login() -> BasicAuth:
    """The login that callers need; false where none is set."""
    return BasicAuth.from_settings(service_of(current_app).settings)


def _check_access() -> Response | None:
    """None for a request that is allowed, else the answer that asks for a login.

    Raises Forbidden for a request of another site's page, or of one that has its own name mean this machine: a browser
    keeps a login, and sends it along with whatever any page posts here.
    """
    _check_host()
    allowed = request.path in PUBLIC_PATHS or not _required_login()
    if not allowed and not has_login() and not _is_signed_webhook():
        log.warning("%s %r without the login, from %s", request.method, request.path[:200], request.remote_addr)
        return _unauthorized()
    if request.method not in SAFE_METHODS and not csrf.is_same_site(request):
        raise Forbidden(f"this request came from another site; {csrf.RELOAD}")
    return None


def _check_host() -> None:
    """Raise Forbidden if a browser may have been led here by a name that is not Skylight's (DNS rebinding).

    Such a page would count as of this site. Where a login is set it has none: a browser keeps a login for each name.
    Label Studio may call by any name; of the API's callers only a browser's page sends an Origin.
    """
    service = service_of(current_app)
    from_page = "Origin" in request.headers or request.headers.get("Sec-Fetch-Site", "none") != "none"
    if request.path in API_PATHS and not from_page:
        return
    own = current_app.extensions[OWN_HOSTS]
    trusted = service.settings.trusted_hosts
    if (_required_login() and not trusted.entries) or csrf.is_own_host(request.host, trusted, own):
        return
    name = csrf.split_host(request.host)[0] or request.headers.get("Host", "")
    raise Forbidden(
        f"this Skylight was called by the name {name[:100]!r}, which it does not know as its own; if it is, set "
        f"SKYLIGHT_TRUSTED_HOSTS={name[:100]} where Skylight runs, or call it by its IP address"
    )


def _is_signed_webhook() -> bool:
    return request.path == WEBHOOK and service_of(current_app).secret.matches(request.headers.get(HEADER))


def _unauthorized() -> Response:
    message = LOGIN_NEEDED
    if request.path == WEBHOOK:
        message = f"an event came without the right header {HEADER}; for one that has it, run: skylight doctor --fix"
    response = json_response({"error": message}, 401)
    response.headers["WWW-Authenticate"] = CHALLENGE
    return response


def _add_headers(response: Response) -> Response:
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    policy = DASHBOARD_POLICY if request.blueprint == DASHBOARD else POLICY
    response.headers.setdefault("Content-Security-Policy", policy)
    return response
