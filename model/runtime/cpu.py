"""What the processor and the C library offer: instructions for bfloat16, and freed memory handed back."""

import ctypes
import time
from contextlib import suppress
from pathlib import Path

import torch

TRIM_SECONDS = 1.0
BFLOAT16_FLAGS = frozenset({"amx_bf16", "avx512_bf16", "bf16"})  # in /proc/cpuinfo; the last on ARM

_trimmed = -TRIM_SECONDS  # when malloc last gave back


def has_bfloat16(processors: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether PyTorch multiplies bfloat16 with instructions that the processor has for it.

    These are AMX (Intel since 2023), AVX-512 BF16 (AMD since 2022) and ARM's BF16. oneDNN alone, which PyTorch asks,
    also says yes where AVX-512 has to take the numbers for float32 and back, which is slower than float32; and a build
    of PyTorch without oneDNN, as for macOS, has no such question to ask.
    """
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    built = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if supported is None or not built or not supported():
        return False
    with suppress(OSError):
        return not BFLOAT16_FLAGS.isdisjoint(processors.read_text().split())
    return False  # not Linux


def trim_malloc() -> None:
    """Have malloc give back to the system what was freed, where it is glibc's; others do, or have no such call.

    80 MB after a SAM is loaded; without it a hundred encoded images leave holes of 0.3 GB. Not more than once in
    `TRIM_SECONDS`: the next click has to ask for all of it again, page by page.
    """
    global _trimmed
    now = time.monotonic()
    if now < _trimmed + TRIM_SECONDS:
        return
    _trimmed = now
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
