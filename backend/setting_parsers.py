"""Parsers of the values of settings. Each raises ValueError with a text that shows no password."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

NO_PORT = re.compile(r"(://(?:\[[^]/?#]*\]|[^\[:/?#]*):)(?![0-9]*(?:[/?#]|$)).*", re.DOTALL)  # so perhaps a password
SECRETS = re.compile(r"(?i)([?&](?:password|token|secret|signature)=).*", re.DOTALL)
ENCODE = "signs that its user and password must have percent-encoded: @ as %40, / as %2F, # as %23, ? as %3F, % as %25"


def redact_url(url: str) -> str:
    """Return the URL with its password, in the authority or in the query, replaced by `***`.

    Whatever stands before the last @ may be of a password in which somebody forgot to percent-encode @, /, # or ?, and
    whatever follows a secret of the query may be of that; so neither is shown.
    """
    url = SECRETS.sub(r"\1***", url)
    before, at, host = url.rpartition("@")
    if not at:
        return NO_PORT.sub(r"\1***", url)
    scheme, colon, credentials = before.partition("://") if "://" in before else ("", "", before)
    user, given, _ = credentials.partition(":")
    shown = f"{user}:***" if given and not re.search(r"[/?#@%]", user) else "***"
    return f"{scheme}{colon}{shown}@{host}"


def text(value: str) -> str:
    """Any text."""
    return value


def integer(low: int, high: int) -> Callable[[str], int]:
    """A parser of whole numbers from `low` to `high`."""

    def parse(value: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]+", value) or not low <= int(value) <= high:
            raise ValueError(f"'{value}' is not a whole number from {low} to {high}")
        return int(value)

    return parse


def tile_side(value: str) -> int:
    """The side of a tile in pixels, or 0."""
    side = integer(0, 16384)(value)
    if 0 < side < 256:
        raise ValueError(f"'{value}' is neither 0 nor at least 256")
    return side


def url(*schemes: str, credentials: bool = True) -> Callable[[str], str]:
    """A parser of URLs with one of these schemes; without `credentials`, a user name in one is refused."""

    def parse(value: str) -> str:
        try:
            parts = urlsplit(value)
        except ValueError:
            raise ValueError(f"it is not a URL, or has {ENCODE}") from None
        if parts.scheme not in schemes or not (parts.netloc or parts.path.strip("/")):
            wanted = ", ".join(f"{scheme}://" for scheme in schemes)
            raise ValueError(f"'{redact_url(value)}' is not a URL that begins with one of {wanted}")
        if not credentials and "@" in parts.netloc:
            raise ValueError(f"'{redact_url(value)}' carries a user name; give the key in LABEL_STUDIO_API_KEY")
        return value.rstrip("/")

    return parse


def redis_url(value: str) -> str:
    """A URL that redis-py reads as it was meant. Its own errors would quote pieces of the password."""
    address = url("redis", "rediss", "unix")(value)
    parts = urlsplit(address)
    path = parts.path if parts.netloc else ""  # that of a socket may have an @
    try:
        broken = "@" in path + parts.query.partition("=")[0] + parts.fragment or parts.port == 0
    except ValueError:
        broken = True
    if broken:
        raise ValueError(f"'{redact_url(value)}' has no number as its port, or {ENCODE}")
    return address


def device(value: str) -> str:
    """The name of a PyTorch device, or auto."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]+)?", value):
        raise ValueError(f"'{value}' is none of auto, cpu, mps, cuda, cuda:<number>")
    return value


def one_of(*names: str) -> Callable[[str], str]:
    """A parser of a fixed few words, in any case."""

    def parse(value: str) -> str:
        if value.lower() not in names:
            raise ValueError(f"'{value}' is none of {', '.join(names)}")
        return value.lower()

    return parse


def switch(value: str) -> bool:
    """on or off."""
    if value.lower() not in ("on", "off"):
        raise ValueError(f"'{value}' is neither on nor off")
    return value.lower() == "on"


def log_level(value: str) -> str:
    """The name of a log level, in capitals."""
    if value.upper() not in LOG_LEVELS:
        raise ValueError(f"'{value}' is none of {', '.join(LOG_LEVELS)}")
    return value.upper()


def webhook_secret(value: str) -> str:
    """A secret that fits into a header."""
    if not re.fullmatch(r"[!-~]{16,200}", value):
        raise ValueError("it has other characters than letters, digits and signs of ASCII, or not 16 to 200 of them")
    return value


def user(value: str) -> str:
    """A user name of basic auth."""
    if not re.fullmatch(r"[!-9;-~]{1,100}", value):
        raise ValueError("it has other characters than letters, digits and signs of ASCII, a colon, or more than 100")
    return value


def password(value: str) -> str:
    """A password of basic auth."""
    if not re.fullmatch(r"[ -~]{8,200}", value):
        raise ValueError("it has other characters than letters, digits and signs of ASCII, or not 8 to 200 of them")
    return value


def home(value: str) -> Path | str:
    """A folder of this machine, or s3://bucket/prefix as text."""
    if re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]*[a-z0-9](/[^\s?#]+)?", value):
        return value.rstrip("/")  # becomes `bucket`, and `home` the folder for copies
    return folder(value)


def folder(value: str) -> Path:
    """A folder of this machine."""
    if "://" in value:
        raise ValueError(f"'{redact_url(value)}' is not a folder on this machine")
    return Path(value).expanduser()
