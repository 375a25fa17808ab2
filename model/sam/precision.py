"""The floating-point type that an encoder computes in, and its suffix in the encoder's id."""

import torch

from skylight.model.runtime.cpu import has_bfloat16

PRECISIONS = "auto", "float32"  # of an encoder: 16 bits where that is quicker, or never
SUFFIXES = {torch.float16: "-float16", torch.bfloat16: "-bfloat16"}  # of an encoder's id


def half_type(device: torch.device, tiny: bool, precision: str = "auto") -> torch.dtype | None:
    """The 16-bit type in which a SAM's encoder is quickest on a device, None for float32.

    The `tiny` SAM's encoder computes in float32 on every machine: decoders learn from it (docs/decisions/
    encoder-precision.md).
    """
    if precision == "float32" or tiny:
        return None
    if device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if device.type == "cpu" and has_bfloat16() else None


def weights_of(encoder_id: str) -> str:
    """An encoder's id without its precision: a decoder works with the same weights in any precision."""
    for suffix in SUFFIXES.values():
        encoder_id = encoder_id.removesuffix(suffix)
    return encoder_id
