"""An embedding's file: safetensors, with eight bits a number for the large tensors, and a checksum.

docs/decisions/embedding-storage.md has the measurements.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from skylight.model.embeddings.quantization import dequantize, quantize
from skylight.model.sam.types import Embedding
from skylight.model.storage import checksums

LAYOUT = "5"  # 1 had a smaller thumbnail, 2 no detail and no picture, 3 two bytes a number, 4 no checksum
LAYOUT_WITHOUT_CHECKSUM = "4"  # is still read, and then written with a checksum
# The name of a tensor that marks files whose image was decoded as it is now; counted up when decoding changes. Files
# without it are of a release that decoded some images otherwise than browsers do.
READER = "reader.2"
QUANTIZED = ("features", "context", "detail")
SCALE = ".scale"  # after a quantized tensor's name: that of its channels' ranges
UNQUANTIZED = ("thumbnail", "picture", "quantiles", "known")

# What a damaged file may raise: a wrong checksum, or, in a file without one, whatever is missing or odd.
DAMAGE_ERRORS = (checksums.CorruptFileError, SafetensorError, LookupError, ValueError, TypeError)


class EmbeddingLayoutError(ValueError):
    """An embedding's file has the layout of an earlier release."""


def nbytes(embedding: Embedding) -> int:
    """The bytes that an embedding takes in memory."""
    parts = (getattr(embedding, name) for name in (*QUANTIZED, *UNQUANTIZED))
    return sum(part.nbytes for part in parts if part is not None)


def pack(embedding: Embedding) -> tuple[bytes, Embedding]:
    """The content of an embedding's file, and the embedding as `parse` reads it."""
    tensors: dict[str, NDArray[Any]] = {READER: np.ones(1, np.uint8)}
    for name in QUANTIZED:
        if (values := getattr(embedding, name)) is not None:
            tensors[name], tensors[name + SCALE] = quantize(values)
    for name in UNQUANTIZED:
        if (values := getattr(embedding, name)) is not None:
            tensors[name] = np.ascontiguousarray(values)
    metadata = {"height": str(embedding.size[0]), "width": str(embedding.size[1]), "layout": LAYOUT}
    return checksums.save_tensors(tensors, metadata), _unpack(tensors, embedding.size)


def _unpack(tensors: Mapping[str, NDArray[Any]], size: tuple[int, int]) -> Embedding:
    parts: dict[str, Any] = {name: tensors[name] for name in UNQUANTIZED if name in tensors}
    for name in QUANTIZED:
        if name in tensors:
            parts[name] = dequantize(tensors[name], tensors[name + SCALE])
    if not {"features", "thumbnail"} <= parts.keys():
        raise ValueError("it has no features or no thumbnail")
    return Embedding(size=size, **parts)


def has_reader(data: bytes) -> bool:
    """Whether a file's content has the mark `READER`."""
    return f'"{READER}"'.encode() in data[8 : 8 + int.from_bytes(data[:8], "little")]


def parse(data: bytes) -> Embedding:
    """The embedding in a file's content. Raises EmbeddingLayoutError, or one of `DAMAGE_ERRORS`."""
    sealed, metadata = checksums.has_valid_crc(data), checksums.read_metadata(data)
    layout, keys = metadata.get("layout"), {"height", "width", "layout"} | ({checksums.CRC_KEY} if sealed else set())
    if layout not in (LAYOUT, LAYOUT_WITHOUT_CHECKSUM):
        raise EmbeddingLayoutError(f"an embedding of layout {layout}, not {LAYOUT}; embed it anew")
    # Only a file of the layout without checksums may lack one.
    if sealed != (layout == LAYOUT) or metadata.keys() != keys:
        raise checksums.CorruptFileError("its checksum is missing")
    return _unpack(load(data), (int(metadata["height"]), int(metadata["width"])))
