"""How the log looks: a JSON object a line for machines, a sentence a line for people; no secret in either.

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

SENTENCE = "%(asctime)s %(levelname).1s %(name)s: %(message)s"
HIDDEN = "***"
SHORTEST = 6  # characters of a secret that is looked for in every line
# Of a URL the query, and the user with his password; of a header what comes after the kind of authorization, which has
# a digit, a sign or a capital in it, as the words after it in a sentence have not.
QUERY = re.compile(r"(?<=[\w/=])\?(?=[\w%&=.~+-])[^\s\"'<>)\]]*")
USER = re.compile(r"(?<=://)[^/\s\"'@]+@")
AUTHORIZATION = re.compile(r"\b((?i:token|bearer|basic)) +(?=[a-z._~-]*[A-Z0-9+/=])[\w.~+/=-]{8,}")
CHATTY = "rq."  # says of every job what our own line says

log = logging.getLogger(__name__)


def configure(settings: Settings) -> None:
    """Set up the process's log; does nothing where it is set up already."""
    handler = logging.StreamHandler()
    hide = secret_filter((settings.label_studio_api_key, settings.webhook_secret, settings.password))
    json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    handler.setFormatter(Json(hide) if json else Sentence(hide))
    handler.addFilter(_is_news)
    if not json:
        handler.addFilter(_is_for_people)
    logging.basicConfig(level=settings.log_level, handlers=[handler])
    logging.getLogger("urllib3").setLevel(logging.INFO)  # below that it writes addresses with the signatures in them


def secret_filter(secrets: Sequence[str]) -> Callable[[str], str]:
    """A function that makes a text fit for a log: without these secrets, the queries of URLs, and authorizations."""
    known = sorted((each for each in secrets if len(each) >= SHORTEST), key=len, reverse=True)

    def hide(text: str) -> str:
        for secret in known:
            text = text.replace(secret, HIDDEN)
        if "?" in text:
            text = QUERY.sub(f"?{HIDDEN}", text)
        if "@" in text:
            text = USER.sub(f"{HIDDEN}@", text)
        return AUTHORIZATION.sub(rf"\1 {HIDDEN}", text) if " " in text else text

    return hide


class Sentence(logging.Formatter):
    """A line for people."""

    def __init__(self, hide: Callable[[str], str]) -> None:
        super().__init__(SENTENCE, datefmt="%H:%M:%S")
        self.hide = hide

    def format(self, record: logging.LogRecord) -> str:
        """Time, level, logger, message, and a traceback where there is one."""
        return self.hide(super().format(record))


class Json(logging.Formatter):
    """A line for machines: time, level, logger, message, and whatever is known of the request or job in hand."""

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
    return record.levelno != logging.INFO or not record.name.startswith(CHATTY)


def _is_for_people(record: logging.LogRecord) -> bool:
    """Not the page's refreshing, probes and pictures: what was asked for by GET and went well."""
    trace = getattr(record, "trace", None)
    return not (isinstance(trace, dict) and trace.get("method") == "GET" and trace.get("outcome") == "ok")
