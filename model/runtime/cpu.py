"""The CPU's instructions for bfloat16, and malloc's unused memory."""

import ctypes
import time
from contextlib import suppress
from pathlib import Path

import torch

TRIM_SECONDS = 1.0
BFLOAT16_FLAGS = frozenset({"amx_bf16", "avx512_bf16", "bf16"})  # in /proc/cpuinfo; the last on ARM

_trimmed = -TRIM_SECONDS  # when memory was last returned


def has_bfloat16(processors: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor has instructions for bfloat16 that PyTorch uses.

    These are AMX (Intel since 2023), AVX-512 BF16 (AMD since 2022) and ARM's BF16. oneDNN also claims support where
    AVX-512 converts to float32 and back, which is slower than float32; PyTorch without oneDNN, as on macOS, has none.
    """
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if supported is None or not available or not supported():
        return False
    with suppress(OSError):
        return not BFLOAT16_FLAGS.isdisjoint(processors.read_text().split())
    return False  # not Linux


def trim_malloc() -> None:
    """Return freed memory to the operating system, where malloc is glibc's; at most once in `TRIM_SECONDS`.

    80 MB after a SAM is loaded; without it a hundred encoded images leave holes of 0.3 GB. Not more often, as the next
    click has to request the memory again, page by page.
    """
    global _trimmed
    now = time.monotonic()
    if now < _trimmed + TRIM_SECONDS:
        return
    _trimmed = now
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
