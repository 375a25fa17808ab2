"""One authenticated HTTP connection to Label Studio: sessions, tokens, timeouts, errors.

Two kinds of key work. A legacy token goes out as `Authorization: Token`. A personal access token is a JWT
*refresh* token: it is exchanged for an access token, which lives 300 s and goes out as `Authorization:
Bearer`.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any

import requests

from skylight.backend.errors import ConfigError, LabelStudioError, NotFound

ACCESS_SECONDS = 240.0
"""Age at which an access token is replaced; Label Studio lets it live 300 s."""
DETAIL_CHARS = 500
"""How much of Label Studio's own explanation an error quotes; it may quote a whole mask back."""
REFRESH_PATH = "/api/token/refresh/"


class Connection:
    """Label Studio at `url` (no trailing slash), with a legacy or a personal access token.

    `timeout` is in seconds, for connecting and for each read; `clock` counts seconds. May be shared by
    threads: each gets its own session. The key is in no message.
    """

    def __init__(
        self, url: str, api_key: str, timeout: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.url = url
        self.timeout = timeout
        self._key = api_key
        self.personal = api_key.count(".") == 2
        self._clock = clock
        self._local = threading.local()
        self._lock = threading.Lock()
        self._access = ""
        self._access_since = 0.0

    def headers(self, refused: str = "") -> dict[str, str]:
        """Return the headers that authenticate a request, also one for an image; empty without a key.

        `refused` is an `Authorization` value that was answered with a 401: if it is the present one, it is
        renewed.
        """
        if not self.personal:
            return {"Authorization": f"Token {self._key}"} if self._key else {}
        with self._lock:
            age = self._clock() - self._access_since
            if not self._access or age >= ACCESS_SECONDS or refused == f"Bearer {self._access}":
                answer = self._send("POST", REFRESH_PATH, {}, json={"refresh": self._key})
                self._access = str(member(_read(answer, "POST", REFRESH_PATH), "access"))
                self._access_since = self._clock()
            return {"Authorization": f"Bearer {self._access}"}

    def request(self, method: str, path: str, **options: Any) -> Any:
        """Send one request; return the decoded JSON, None for an empty body.

        `path` begins with a slash; `options` are those of `requests.request`: params, json, files, timeout
        (a number of seconds for reading). Raises `LabelStudioError` when Label Studio cannot be reached or
        refuses, and `ConfigError` when `url` is empty.
        """
        headers = self.headers()
        answer = self._send(method, path, headers, **options)
        if answer.status_code == 401 and self.personal:
            headers = self.headers(refused=headers["Authorization"])
            answer = self._send(method, path, headers, **options)
        return _read(answer, method, path)

    def get_without_key(self, path: str) -> tuple[Any, float | None]:
        """Send one GET without the key; return the decoded JSON, and the seconds Label Studio's clock is ahead of ours.

        The clock is that of the answer's Date header, which counts whole seconds; None without one.
        """
        started = time.time()
        answer = self._send("GET", path, {})
        midway = (started + time.time()) / 2
        try:
            ahead = parsedate_to_datetime(answer.headers.get("Date", "")).timestamp() + 0.5 - midway
        except ValueError:
            ahead = None
        return _read(answer, "GET", path), ahead

    def _send(
        self, method: str, path: str, headers: dict[str, str], timeout: float | None = None, **options: Any
    ) -> requests.Response:
        if not self.url:
            raise ConfigError("LABEL_STUDIO_URL is not set; set it to the address of Label Studio.")
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
        session: requests.Session = self._local.session

        def authorize(prepared: requests.PreparedRequest) -> requests.PreparedRequest:
            # given as `auth`, because a .netrc entry for the host would replace a plain Authorization header
            prepared.headers.update(headers)
            return prepared

        options.update(timeout=(self.timeout, timeout or self.timeout), allow_redirects=False, auth=authorize)
        try:
            return session.request(method, self.url + path, **options)
        except requests.RequestException as error:
            raise LabelStudioError(
                f"Label Studio at {self.url} did not answer {method} {path} ({type(error).__name__}). "
                "Is it running, and is LABEL_STUDIO_URL right?"
            ) from None


def _read(answer: requests.Response, method: str, path: str) -> Any:
    """Return the JSON of a good answer; raise what is wrong with any other."""
    succeeded = answer.ok and not answer.is_redirect
    if succeeded and not answer.content:
        return None
    if succeeded and _is_json(answer):
        return answer.json()
    message = f"Label Studio answered {answer.status_code} to {method} {path}: {_detail(answer)}"
    if answer.status_code == 401:
        message = f"{message.rstrip('.')}. Check LABEL_STUDIO_API_KEY."
    error = (NotFound if answer.status_code == 404 and _is_json(answer) else LabelStudioError)(message)
    error.http_status = answer.status_code
    raise error


def _is_json(answer: requests.Response) -> bool:
    return answer.headers.get("Content-Type", "").startswith("application/json")


def _detail(answer: requests.Response) -> str:
    if answer.is_redirect:
        return f"it is to be called at {answer.headers['Location']}; is LABEL_STUDIO_URL right?"
    if not _is_json(answer):
        return "a page that is not JSON; is LABEL_STUDIO_URL right?"
    body = answer.json()
    if isinstance(body, dict):
        body = body.get("validation_errors") or body.get("detail") or body
    return shorten(body)


def member(answer: Any, key: str) -> Any:
    """Return `answer[key]`, or say that something other than Label Studio seems to have answered."""
    if not isinstance(answer, dict) or key not in answer:
        raise LabelStudioError(f"The answer lacks '{key}'. Is LABEL_STUDIO_URL the address of a Label Studio?")
    return answer[key]


def json_object(value: Any) -> dict[str, Any]:
    """Return the value if it is a JSON object. Raises LabelStudioError."""
    if not isinstance(value, dict):
        raise LabelStudioError(f"Label Studio answered {type(value).__name__} where an object was expected.")
    return value


def json_list(value: Any) -> list[dict[str, Any]]:
    """Return the value if it is a JSON list. Raises LabelStudioError."""
    if not isinstance(value, list):
        raise LabelStudioError(f"Label Studio answered {type(value).__name__} where a list was expected.")
    return value


def shorten(value: Any) -> str:
    """Return a decoded JSON value as text of at most about `DETAIL_CHARS` characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= DETAIL_CHARS else f"{text[:DETAIL_CHARS]}..."
