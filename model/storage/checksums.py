"""Checksums inside of files, so that bits that have turned on a disk are noticed when they are read.

A sealed JSON file begins with the sum of the rest, `{"sum":"0123456789abcdef", ...`, and is JSON like any other. A
sealed safetensors file has the CRC-32 of all its other bytes among its metadata. It is bad luck that this is against,
not a forger.
"""

import hashlib
import json
import zlib
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray
from safetensors.numpy import save

START, MIDDLE, DIGITS = b'{"sum":"', b'",', 16  # of a sealed JSON file; hexadecimal digits of the sum
MARK, OPEN = "crc32", b"00000000"  # of a safetensors file: the metadata's key, and its value while the sum is computed
# CRC-32 of 0.9 MB, an embedding of the tiny SAM, takes 0.13 ms here, SHA-256 0.43, BLAKE2b 0.63.


class Damaged(ValueError):
    """A file is not as it was written."""


def seal(content: Mapping[str, Any], indent: int | None = None) -> bytes:
    """A JSON object, not an empty one, as the content of a file that `unseal` reads."""
    rest = json.dumps(content, indent=indent).encode()[1:]
    return START + _sum(rest) + MIDDLE + rest


def unseal(data: bytes) -> dict[str, Any]:
    """The JSON object in a sealed file. Raises Damaged."""
    rest = data[len(START) + DIGITS + len(MIDDLE) :]
    if not is_sealed(data) or data != START + _sum(rest) + MIDDLE + rest:
        raise Damaged("its checksum is wrong")
    found: dict[str, Any] = json.loads(b"{" + rest)
    return found


def is_sealed(data: bytes) -> bool:
    """Whether a JSON file has a sum, right or wrong."""
    return data.startswith(START)


def _sum(rest: bytes) -> bytes:
    return hashlib.sha256(rest).hexdigest()[:DIGITS].encode()


def save_tensors(tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> bytes:
    """The content of a safetensors file with its own sum."""
    data = save(dict(tensors), {**metadata, MARK: OPEN.decode()})
    at = _place(data)
    assert at is not None
    return data[:at] + _crc(data, at) + data[at + len(OPEN) :]


def holds(data: bytes) -> bool:
    """Whether a safetensors file has its sum, False if it has none. Raises Damaged if that is wrong."""
    at = _place(data)
    if at is None:
        return False
    if data[at : at + len(OPEN)] != _crc(data, at):
        raise Damaged("its checksum is wrong")
    return True


def metadata_of(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file. Raises Damaged if there are none to be read."""
    try:
        found = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    except (ValueError, LookupError, TypeError) as error:
        raise Damaged(f"it has no metadata: {error}") from error
    if not isinstance(found, dict):
        raise Damaged("its metadata are no object")
    return found


def _place(data: bytes) -> int | None:
    """Where the sum's digits are."""
    mark = f'"{MARK}":"'.encode()
    at = data.find(mark, 8, 8 + int.from_bytes(data[:8], "little"))
    return None if at < 0 else at + len(mark)


def _crc(data: bytes, at: int) -> bytes:
    view = memoryview(data)
    return f"{zlib.crc32(view[at + len(OPEN) :], zlib.crc32(view[:at])):08x}".encode()
