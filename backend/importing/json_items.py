"""Iteration over a large JSON file item by item: its text is in memory, its objects are not."""

import json
import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

Item = tuple[str, Any, int]  # the member that it belongs to, the item, and the offset of its text

_decode = json.JSONDecoder().raw_decode
_SPACE = re.compile(r"[ \t\n\r]*")


class JsonError(ValueError):
    """A text that is not JSON, or neither a list nor an object."""


def read_text(path: Path) -> str:
    """Read a JSON file's text. Raises JsonError if it is not UTF-8, OSError if it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise JsonError(f"it is not UTF-8: {error}") from error


def item_at(text: str, at: int) -> Any:
    """The value that begins at an offset of the text. Raises JsonError."""
    return _read(text, at)[0]


def walk(text: str) -> Iterator[Item]:
    """The items of a list (member ""), or of an object's members that are lists; other members are one item each.

    Raises JsonError at what is not JSON; the items before it have been yielded by then.
    """
    at = _skip(text, 0)
    if text[at : at + 1] == "[":
        at = yield from _items(text, at + 1, "")
    elif text[at : at + 1] == "{":
        at = yield from _members(text, at + 1)
    else:
        raise JsonError("it is neither a list nor an object")
    if _skip(text, at) != len(text):
        raise JsonError(f"something follows its end at character {at}")


def _members(text: str, at: int) -> Generator[Item, None, int]:
    at = _skip(text, at)
    while text[at : at + 1] != "}":
        key, at = _read(text, at)
        at = _skip(text, _past(text, _skip(text, at), ":"))
        if text[at : at + 1] == "[":
            at = yield from _items(text, at + 1, str(key))
        else:
            value, end = _read(text, at)
            yield str(key), value, at
            at = end
        at = _next(text, at, "}")
    return at + 1


def _items(text: str, at: int, key: str) -> Generator[Item, None, int]:
    at = _skip(text, at)
    while text[at : at + 1] != "]":
        value, end = _read(text, at)
        yield key, value, at
        at = _next(text, end, "]")
    return at + 1


def _next(text: str, at: int, closing: str) -> int:
    """The offset of the next item, or of the closing bracket."""
    at = _skip(text, at)
    if text[at : at + 1] == closing:
        return at
    at = _skip(text, _past(text, at, ","))
    if text[at : at + 1] == closing:
        raise JsonError(f"a value is missing at character {at}")
    return at


def _past(text: str, at: int, expected: str) -> int:
    if text[at : at + 1] != expected:
        raise JsonError(f"{expected!r} is missing at character {at} of {len(text)}")
    return at + 1


def _read(text: str, at: int) -> tuple[Any, int]:
    try:
        return _decode(text, at)
    except (ValueError, RecursionError) as error:
        raise JsonError(f"a value at character {at} of {len(text)} cannot be read: {error}") from None


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at
