"""SAM's two large networks by ONNX Runtime, which on a CPU gives the same numbers as PyTorch in less time.

Two quiet cores, ms by PyTorch and by ONNX Runtime (`make bench PARTS=encoders`): MobileSAM's encoder 1005 and 544, the
tiny SAM's 39 and 26. On busy ones the difference is larger, as PyTorch's threads wait for each other: 1673 and 688.
Where the processor multiplies bfloat16, which ONNX Runtime has not, PyTorch is the quicker one: MobileSAM's encoder
takes 1200 ms in float32, 984 by ONNX Runtime, 396 folded and in bfloat16 on an Intel Xeon with AMX (seven rounds in
turn), 827, 508 and 235 on an AMD EPYC with AVX-512 BF16 (five).
"""

import ctypes
import hashlib
import io
import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from skylight.model.sam.fast_mask_decoder import LeanDecoder, unfold
from skylight.model.sam.mobile_sam import TinyViT
from skylight.model.sam.segment_anything_import import Sam
from skylight.model.sam.tiny_sam import GRID, RIM_CHANNELS, TinySam
from skylight.model.storage import atomic_write

OPSET = 17
LAYOUT = 1  # of what is exported: to be raised whenever `LeanDecoder`, an encoder or the rims are written anew
DIGEST = 32  # bytes of a sha256
# Weights. Those of ViT-B, 90 million, would be in memory twice while they are exported; ViT-H's, 630 million, exceed
# the 2 GB of an ONNX file.
LARGEST_ENCODER = 20_000_000
TRIM_SECONDS = 1.0
BFLOAT16_FLAGS = frozenset({"amx_bf16", "avx512_bf16", "bf16"})  # in /proc/cpuinfo; the last on ARM

log = logging.getLogger(__name__)
_trimmed = -TRIM_SECONDS  # when malloc last gave back

Axes = Mapping[str, Sequence[int]]  # which axes of an input may differ from the example's


class Session:
    """A module as an ONNX Runtime session: called with tensors, it gives tensors. Thread-safe."""

    def __init__(
        self,
        module: nn.Module,
        inputs: Mapping[str, Tensor],
        outputs: Sequence[str],
        axes: Axes,
        arena: bool = False,
        file: Path | None = None,
    ) -> None:
        """`inputs` are examples, in the order of the module's arguments; `arena`: memory is kept between calls.

        `file` is where the exported module is kept: what another release of PyTorch or of Skylight made must have
        another name.
        """
        import onnxruntime  # not before the web server forks: the fork would wait at its end for threads it has not

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Threads that spin while they wait take the cores from whatever else the machine does.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # It keeps what the busiest moment took: 0.5 GB after 8 threads have encoded. With it MobileSAM's mask decoder
        # takes 27 ms instead of 34, the tiny SAM's encoder 49 instead of 66 at 512 px and 15 of both at 256.
        options.enable_cpu_mem_arena = arena
        self.names = list(inputs)
        model = cached(file, lambda: export(module, inputs, outputs, axes))
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given = {name: tensor.contiguous().numpy() for name, tensor in zip(self.names, inputs, strict=True)}
        return tuple(torch.from_numpy(each) for each in self._session.run(None, given))


def export(module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], axes: Axes) -> bytes:
    """A module in ONNX's format; arguments as for `Session`."""
    buffer = io.BytesIO()
    names = {name: {axis: f"{name}{axis}" for axis in free} for name, free in axes.items()}
    # torch's newer exporter takes longer and wants another package; of this one torch warns, and it warns of every
    # shape that it takes for fixed.
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            buffer,  # type: ignore[arg-type]  # this exporter takes a file as well
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=names,
            opset_version=OPSET,
            dynamo=False,
        )
    return buffer.getvalue()


def cached(file: Path | None, make: Callable[[], bytes]) -> bytes:
    """What a file holds, or what `make` gives, which it then holds, after its sha256; a damaged one is made anew."""
    if file is None:
        return make()
    with suppress(OSError):
        kept = file.read_bytes()
        if hashlib.sha256(kept[DIGEST:]).digest() == kept[:DIGEST]:
            return kept[DIGEST:]
    made = make()
    try:
        atomic_write.write(file, hashlib.sha256(made).digest() + made)
    except OSError as error:  # a full disk, or one that is only read
        log.warning("%s is not kept, and will be made again at the next start: %s", file, error)
    return made


class Encoder(nn.Module):
    """An image encoder's session: (1, 3, h, w) -> (1, 256, h / 16, w / 16), and taps if it has them."""

    def __init__(self, encoder: nn.Module, taps: Sequence[str], file: Path | None = None) -> None:
        super().__init__()
        self.img_size = int(cast(Any, encoder).img_size)
        example = {"pixels": torch.zeros(1, 3, self.img_size, self.img_size)}
        # MobileSAM's windows of attention are cut for one size.
        axes = {"pixels": (2, 3)} if taps else {}
        module = _WithTaps(encoder) if taps else encoder
        self._run = Session(module, example, ["features", *taps], axes, file=file)

    def forward(self, pixels: Tensor) -> Tensor:
        return self._run(pixels)[0]

    def with_taps(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """As `TinyEncoder.with_taps`."""
        return self._run(pixels)


class _WithTaps(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> Any:
        return cast(Any, self.encoder).with_taps(pixels)


class TinyDecoder(nn.Module):
    """The session of a `RimMaskDecoder`, for one prompt."""

    def __init__(self, decoder: nn.Module, file: Path | None = None) -> None:
        super().__init__()
        fine, middle = RIM_CHANNELS
        cells = GRID * GRID
        example = {**_cells(GRID), "rough": torch.zeros(cells, 4, middle), "sharp": torch.zeros(4 * cells, 4, fine)}
        axes: Axes = {**_CELLS_AXES, "rough": (0,), "sharp": (0,)}
        self._run = Session(LeanDecoder(decoder), example, ("masks", "scores"), axes, True, file)

    def forward(
        self, features: Tensor, position: Tensor, rims: Sequence[Tensor], sparse: Tensor, dense: Tensor
    ) -> tuple[Tensor, Tensor]:
        masks, scores = self._run(*_by_cells(features, position, sparse, dense), *rims[2:])
        return masks[None, 1:], scores[None, 1:]  # the first mask was never trained


class Rims(nn.Module):
    """The session of the tiny SAM's `Rims`, which gives them a second time as `LeanDecoder` takes them."""

    def __init__(self, rims: nn.Module, file: Path | None = None) -> None:
        super().__init__()
        example = {"thumbnail": torch.zeros(1, 3, 4 * GRID, 4 * GRID)}
        self._run = Session(rims, example, ("fine", "middle"), {"thumbnail": (2, 3)}, file=file)

    def forward(self, thumbnail: Tensor) -> tuple[Tensor, ...]:
        fine, middle = self._run(thumbnail)
        return fine, middle, *unfold(fine[0], middle[0])  # as a part of the mask decoder's session it took 3 ms more


class MaskDecoder(nn.Module):
    """The session of segment-anything's `MaskDecoder`, for one prompt."""

    def __init__(self, decoder: nn.Module, grid: int, file: Path | None = None) -> None:
        super().__init__()
        self._run = Session(LeanDecoder(decoder), _cells(grid), ("masks", "scores"), _CELLS_AXES, True, file)

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
    ) -> tuple[Tensor, Tensor]:
        masks, scores = self._run(
            *_by_cells(image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings)
        )
        # The first mask is for prompts that leave no doubt, as in segment_anything/modeling/mask_decoder.py.
        chosen = slice(1, None) if multimask_output else slice(0, 1)
        return masks[None, chosen], scores[None, chosen]


_CELLS_AXES: Axes = {"cells": (0, 1), "position": (0, 1), "sparse": (0,), "dense": (0, 1)}


def _cells(grid: int) -> dict[str, Tensor]:
    """Examples of what `LeanDecoder` is asked."""
    cells = torch.zeros(grid, grid, 256)
    return {"cells": cells, "position": cells, "sparse": torch.zeros(2, 256), "dense": cells}


def _by_cells(features: Tensor, position: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, ...]:
    """What a mask decoder is asked, as `LeanDecoder` takes it; nothing is copied that is channels_last."""
    if dense.stride(-1) == 0:  # no earlier mask: the same vector everywhere
        dense = dense[..., :1, :1]
    cells, places, given = (each[0].permute(1, 2, 0) for each in (features, position, dense))
    return cells, places, sparse[0], given


def accelerate(network: Sam, folder: Path | None = None, bfloat16: bool = False) -> None:
    """Put sessions in the place of a loaded network's mask decoder, and of its encoder if that is small.

    Whose weights cannot be trained any more then. It takes 0.9 s for the tiny SAM, 3 s for MobileSAM, and the second
    time much less if there is a `folder`, of these weights alone, to keep them in. With `bfloat16` the encoder stays
    with PyTorch, for whoever has it computed in that type.
    """

    def file(name: str) -> Path | None:
        return folder and folder / f"{name}-{LAYOUT}-{torch.__version__}.onnx"

    network.eval().requires_grad_(False)
    encoder = network.image_encoder
    tiny = isinstance(network, TinySam)
    if bfloat16:
        if isinstance(encoder, TinyViT):
            encoder.fold()
    elif sum(weight.numel() for weight in encoder.parameters()) <= LARGEST_ENCODER:
        network.image_encoder = Encoder(encoder, ("context", "detail") if tiny else (), file("encoder"))
    decoder = network.mask_decoder
    if tiny:
        network.mask_decoder = TinyDecoder(decoder, file("decoder"))
        network.rims = Rims(network.rims, file("rims"))
    else:
        grid = int(network.prompt_encoder.image_embedding_size[0])
        network.mask_decoder = MaskDecoder(decoder, grid, file("decoder"))
    give_back()


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


def give_back() -> None:
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
