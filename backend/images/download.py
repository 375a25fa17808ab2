"""Downloads of images: Label Studio's key goes to no other host, and hosts of the internal network are not asked.

Credentials go to the origin (scheme, host, port) of `label_studio_url`, for the paths at which it hands out files, and
to nothing else. A redirect from there to another origin, as Label Studio answers for cloud storage, is followed without
them; once a chain of redirects has left that origin it gets none any more, even if it comes back.

Other hosts are asked if `allowed_hosts` says so: those that are named, and any that it allows if the address that the
socket goes to is public. That holds for every redirect anew.
"""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

import requests
from urllib3.exceptions import HTTPError
from urllib3.util import parse_url

from skylight.backend.errors import MediaError
from skylight.backend.images.guarded_http import AddressNotPublic, GuardedAdapter, SocketDeadline
from skylight.backend.images.user_agent import user_agent
from skylight.backend.labelstudio.client import LabelStudio
from skylight.backend.labelstudio.file_paths import has_path_traversal, serves_files
from skylight.backend.labelstudio.image_urls import RESOLVED, browser_address
from skylight.backend.settings import Settings

MAX_BYTES = 200 * 2**20
"""Size at which a download is given up, bytes; a 100-megapixel photograph is 50 MB or so."""
CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0
"""The longest silence of a server in the middle of an answer."""
TOTAL_SECONDS = 300.0
"""The longest time for one image with all redirects, so that a slow server cannot occupy a thread."""
MAX_REDIRECTS = 5
CHUNK_BYTES = 2**18
ALLOWED_URLS = "an http:// or https:// URL, or a path of Label Studio such as /data/upload/1/a.png"

Origin = tuple[str, str, int]


def fetch(url: str, settings: Settings, client: LabelStudio) -> bytes:
    """Return the content of a task's image URL.

    `url` is what stands in the task's data: a path on Label Studio (`/data/...`) or an absolute http(s) URL.
    Raises `MediaError` for any other kind, for a host that may not be asked, for an error answer, for more than
    `MAX_BYTES`, and when it takes too long.
    """
    with SocketDeadline(TOTAL_SECONDS) as deadline:
        try:
            return _fetch_following(browser_address(url), settings, client, deadline)
        except MediaError:
            if deadline.expired:
                message = f"{_redacted(url)} took longer than {TOTAL_SECONDS:.0f} s; is the network slow?"
                raise MediaError(message) from None
            raise


def _fetch_following(url: str, settings: Settings, client: LabelStudio, deadline: SocketDeadline) -> bytes:
    home, trusted = settings.label_studio_url, True
    target = url
    for _ in range(MAX_REDIRECTS + 1):
        target, own = _checked(_absolute(target, home), home)
        trusted = trusted and own
        public = not own and _needs_public(target, settings)
        try:
            with _get(target, client if trusted and serves_files(target, home) else None, deadline, public) as response:
                if not response.is_redirect:
                    return _read(response, target, home, trusted, deadline)
                target = urljoin(target, response.headers["Location"])
        except AddressNotPublic as error:
            raise MediaError(_forbidden_message(target, error.host, home)) from None
    raise MediaError(f"{_redacted(url)} redirects more than {MAX_REDIRECTS} times; give the image's final address.")


def _checked(url: str, home: str) -> tuple[str, bool]:
    """The URL as it is sent, and whether it is of Label Studio's origin.

    Raises MediaError if it is no URL, or one of Label Studio whose path leads upwards.
    """
    try:
        sent = requests.Request("GET", url).prepare().url or ""
    except (requests.RequestException, HTTPError, ValueError):
        raise MediaError(f"{_redacted(url)} is not a URL; the image must be {ALLOWED_URLS}.") from None
    own = bool(home) and _origin(sent) == _origin(home)
    if own and (has_path_traversal(url) or has_path_traversal(sent)):
        raise MediaError(f"Cannot fetch {_redacted(url)}: its path leads out of its folder; give the file's own path.")
    return sent, own


def _needs_public(url: str, settings: Settings) -> bool:
    """Whether a host that is not Label Studio's may be asked at a public address only. Raises MediaError if at none."""
    _, host, port = _origin(url)
    if settings.allowed_hosts.contains(host, port):
        return False
    if settings.allowed_hosts.allowed_if_public(host):
        return True
    raise MediaError(_forbidden_message(url, host, settings.label_studio_url))


def _absolute(url: str, home: str) -> str:
    """Return `url` as an absolute http(s) URL, a path being one of Label Studio's, as in a page of it."""
    if url.startswith("/") and not url.startswith("//"):
        if not home:
            raise MediaError(f"{_redacted(url)} is a path of Label Studio; set LABEL_STUDIO_URL to its address.")
        prefix = urlsplit(home).path
        # served below a path, Label Studio puts that path in front of its own links
        below = bool(prefix) and url.startswith(f"{prefix}/")
        return (home.removesuffix(prefix) if below else home) + url
    if url.startswith("//"):  # by the scheme of the page that shows it
        return f"{urlsplit(home).scheme or 'https'}:{url}"
    if not url.lower().startswith(("http://", "https://")):
        raise MediaError(f"Cannot fetch {_redacted(url)}: the image must be {ALLOWED_URLS}.")
    return url


def _origin(url: str) -> Origin:
    """Return scheme, host and port, read by the HTTP client's own parser, so that both see one host."""
    try:
        parts = parse_url(url)
    except HTTPError:
        raise MediaError(f"{_redacted(url)} is not a URL; the image must be {ALLOWED_URLS}.") from None
    scheme = parts.scheme or ""
    return scheme, parts.host or "", parts.port or (443 if scheme == "https" else 80)


def _get(url: str, client: LabelStudio | None, deadline: SocketDeadline, public: bool) -> requests.Response:
    """Send one GET, with credentials if there is a client, again with fresh ones after a 401."""
    headers = client.headers() if client else {}
    response = _send(url, headers, deadline, public)
    if client and headers and response.status_code == 401:
        renewed = client.headers(refused=headers["Authorization"])
        if renewed != headers:
            response.close()
            response = _send(url, renewed, deadline, public)
    return response


def _send(url: str, headers: dict[str, str], deadline: SocketDeadline, public: bool) -> requests.Response:
    def authorize(prepared: requests.PreparedRequest) -> requests.PreparedRequest:
        # given as `auth`, so that neither .netrc nor a name in the URL adds other credentials
        prepared.headers.update(headers)
        return prepared

    timeout = (CONNECT_SECONDS, READ_SECONDS)
    try:
        with requests.Session() as session:
            session.headers["User-Agent"] = user_agent()  # some hosts refuse the names of HTTP libraries
            for scheme in ("http://", "https://"):
                session.mount(scheme, GuardedAdapter(deadline, public))
            return session.get(url, auth=authorize, timeout=timeout, stream=True, allow_redirects=False)
    except (requests.RequestException, HTTPError) as error:
        raise MediaError(f"Cannot fetch {_redacted(url)} ({type(error).__name__}). Is the server up?") from None


def _read(response: requests.Response, url: str, home: str, trusted: bool, deadline: SocketDeadline) -> bytes:
    if response.status_code != 200:
        raise MediaError(_status_message(response.status_code, url, home, trusted))
    too_large = f"{_redacted(url)} is larger than {MAX_BYTES // 2**20} MB, the limit; use a smaller image."
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and int(length) > MAX_BYTES:
        raise MediaError(too_large)
    content = bytearray()
    try:
        for chunk in response.iter_content(CHUNK_BYTES):
            content += chunk
            if len(content) > MAX_BYTES:
                raise MediaError(too_large)
    except (requests.RequestException, HTTPError) as error:
        raise MediaError(f"{_redacted(url)} broke off ({type(error).__name__}); try again.") from None
    if deadline.expired:  # its socket was shut, which without a length looks like the end
        raise MediaError(f"{_redacted(url)} broke off.")
    return bytes(content)


def _status_message(status: int, url: str, home: str, trusted: bool) -> str:
    message = f"{_redacted(url)} answered {status}."
    if trusted and status in (404, 424) and RESOLVED.fullmatch(url):
        return (
            f"{message} Is the file there, and does the project have a storage (Settings > Cloud Storage) for its "
            "bucket?"
        )
    if status not in (401, 403):
        return f"{message} Does the file still exist?" if status in (404, 410) else message
    if trusted:
        return f"{message} Check LABEL_STUDIO_API_KEY."
    if "/data/" in url:
        return f"{message} {_address_hint(home)}"
    if status == 401:
        return f"{message} Skylight can only open addresses that need no login."
    return (
        f"{message} The host refuses it: perhaps it wants a login, a newer signature, or no programs. Skylight calls "
        f"itself {user_agent()!r} there; allow that name, or upload the picture."
    )


def _forbidden_message(url: str, host: str, home: str) -> str:
    message = f"Cannot fetch {_redacted(url)}: its host is neither Label Studio's nor public, or is not allowed."
    if "/data/" in url:
        message += f" {_address_hint(home)}"
    return f"{message} If pictures may come from there, add {host} to SKYLIGHT_ALLOWED_HOSTS."


def _address_hint(home: str) -> str:
    return (
        f"If that is Label Studio: the key goes only to LABEL_STUDIO_URL ({home or 'not set'}), "
        "so LABEL_STUDIO_URL here and LABEL_STUDIO_HOST there must be the same address."
    )


def _redacted(url: str) -> str:
    """The URL as messages may show it: without its query (a signature may be in it) and user name."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "the image's URL"
    if parts.scheme == "data":
        return "a data: URL"
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()[:300]
