"""Formats of the log: one JSON object per line, or one sentence per line; no secret in either.

Where SKYLIGHT_LOG_FORMAT is `auto`, a terminal gets sentences and everything else (a file, `docker logs`) JSON.
"""

import logging
import re
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from skylight.backend.settings import Settings
from skylight.backend.trace import CURRENT_TRACE

TEXT_FORMAT = "%(asctime)s %(levelname).1s %(name)s: %(message)s"
REDACTED = "***"
MIN_SECRET = 6  # characters of a secret that is searched for in every line
# Of a URL the query, and the user with his password; of a header what comes after the kind of authorization, which has
# a digit, a sign or a capital in it, as the words after it in a sentence have not.
QUERY = re.compile(r"(?<=[\w/=])\?(?=[\w%&=.~+-])[^\s\"'<>)\]]*")
USER = re.compile(r"(?<=://)[^/\s\"'@]+@")
AUTHORIZATION = re.compile(r"\b((?i:token|bearer|basic)) +(?=[a-z._~-]*[A-Z0-9+/=])[\w.~+/=-]{8,}")
RQ_LOGGERS = "rq."  # they repeat what our own line says of every job

log = logging.getLogger(__name__)


def configure(settings: Settings) -> None:
    """Configure the process's root logger, unless it is configured already."""
    handler = logging.StreamHandler()
    hide = secret_filter((settings.label_studio_api_key, settings.webhook_secret, settings.password))
    json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    handler.setFormatter(JsonFormatter(hide) if json else TextFormatter(hide))
    handler.addFilter(_is_news)
    if not json:
        handler.addFilter(_is_for_people)
    logging.basicConfig(level=settings.log_level, handlers=[handler])
    logging.getLogger("urllib3").setLevel(logging.INFO)  # below that it writes addresses with the signatures in them


def secret_filter(secrets: Sequence[str]) -> Callable[[str], str]:
    """Return a function that redacts these secrets, queries and users of URLs, and authorizations in a text."""
    known = sorted((secret for secret in secrets if len(secret) >= MIN_SECRET), key=len, reverse=True)

    def hide(text: str) -> str:
        for secret in known:
            text = text.replace(secret, REDACTED)
        if "?" in text:
            text = QUERY.sub(f"?{REDACTED}", text)
        if "@" in text:
            text = USER.sub(f"{REDACTED}@", text)
        return AUTHORIZATION.sub(rf"\1 {REDACTED}", text) if " " in text else text

    return hide


class TextFormatter(logging.Formatter):
    """One sentence per record, for people."""

    def __init__(self, hide: Callable[[str], str]) -> None:
        super().__init__(TEXT_FORMAT, datefmt="%H:%M:%S")
        self.hide = hide

    def format(self, record: logging.LogRecord) -> str:
        """Time, level, logger, message, and a traceback where there is one."""
        return self.hide(super().format(record))


class JsonFormatter(logging.Formatter):
    """One JSON object per record: time, level, logger, message, and the fields of the current request or job."""

    def __init__(self, hide: Callable[[str], str]) -> None:
        super().__init__()
        self.hide = hide

    def format(self, record: logging.LogRecord) -> str:
        """One JSON object."""
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": self.hide(record.getMessage()),
        }
        if isinstance(whole := getattr(record, "trace", None), dict):
            fields |= {name: self.hide(value) if isinstance(value, str) else value for name, value in whole.items()}
        elif trace := CURRENT_TRACE.get():
            fields["id"] = trace.id
        if record.exc_info:
            fields["traceback"] = self.hide(self.formatException(record.exc_info))
        return orjson.dumps(fields, default=str).decode()


def _is_news(record: logging.LogRecord) -> bool:
    return record.levelno != logging.INFO or not record.name.startswith(RQ_LOGGERS)


def _is_for_people(record: logging.LogRecord) -> bool:
    """False for successful GET requests: the page's refreshing, probes and images."""
    trace = getattr(record, "trace", None)
    return not (isinstance(trace, dict) and trace.get("method") == "GET" and trace.get("outcome") == "ok")
