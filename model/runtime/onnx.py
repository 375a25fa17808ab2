"""A PyTorch module as an ONNX Runtime session."""

import hashlib
import io
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from skylight.model.storage import atomic_write

OPSET = 17
DIGEST = 32  # bytes of a sha256

log = logging.getLogger(__name__)

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
