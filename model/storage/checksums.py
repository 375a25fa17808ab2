"""Checksums inside of files, which detect damage on a disk when a file is read; they do not protect against forgery.

A sealed JSON file begins with the checksum of the rest, `{"sum":"0123456789abcdef", ...`, and is valid JSON. A sealed
safetensors file has the CRC-32 of all its other bytes in its metadata.
"""

import hashlib
import json
import zlib
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray
from safetensors.numpy import save

START, MIDDLE, DIGITS = b'{"sum":"', b'",', 16  # of a sealed JSON file; hexadecimal digits of the sum
CRC_KEY, EMPTY_CRC = "crc32", b"00000000"  # in a safetensors file's metadata, and its value while it is computed


class CorruptFileError(ValueError):
    """A file is not as it was written."""


def seal(content: Mapping[str, Any], indent: int | None = None) -> bytes:
    """The content of a sealed file with a JSON object, which must not be empty."""
    rest = json.dumps(content, indent=indent).encode()[1:]
    return START + _sum(rest) + MIDDLE + rest


def unseal(data: bytes) -> dict[str, Any]:
    """The JSON object in a sealed file. Raises CorruptFileError."""
    rest = data[len(START) + DIGITS + len(MIDDLE) :]
    if not is_sealed(data) or data != START + _sum(rest) + MIDDLE + rest:
        raise CorruptFileError("its checksum is wrong")
    content: dict[str, Any] = json.loads(b"{" + rest)
    return content


def is_sealed(data: bytes) -> bool:
    """Whether a JSON file has a checksum, right or wrong."""
    return data.startswith(START)


def _sum(rest: bytes) -> bytes:
    return hashlib.sha256(rest).hexdigest()[:DIGITS].encode()


def save_tensors(tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> bytes:
    """The content of a sealed safetensors file."""
    data = save(dict(tensors), {**metadata, CRC_KEY: EMPTY_CRC.decode()})
    at = _crc_offset(data)
    assert at is not None
    return data[:at] + _crc(data, at) + data[at + len(EMPTY_CRC) :]


def has_valid_crc(data: bytes) -> bool:
    """Whether a safetensors file has a checksum. Raises CorruptFileError if it is wrong."""
    at = _crc_offset(data)
    if at is None:
        return False
    if data[at : at + len(EMPTY_CRC)] != _crc(data, at):
        raise CorruptFileError("its checksum is wrong")
    return True


def read_metadata(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file. Raises CorruptFileError if it cannot be read."""
    try:
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    except (ValueError, LookupError, TypeError) as error:
        raise CorruptFileError(f"it has no metadata: {error}") from error
    if not isinstance(metadata, dict):
        raise CorruptFileError("its metadata are no object")
    return metadata


def _crc_offset(data: bytes) -> int | None:
    """The offset of the CRC's digits."""
    mark = f'"{CRC_KEY}":"'.encode()
    at = data.find(mark, 8, 8 + int.from_bytes(data[:8], "little"))
    return None if at < 0 else at + len(mark)


def _crc(data: bytes, at: int) -> bytes:
    view = memoryview(data)
    return f"{zlib.crc32(view[at + len(EMPTY_CRC) :], zlib.crc32(view[:at])):08x}".encode()
