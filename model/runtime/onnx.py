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
        """Export the module, or load the export from `file`.

        `inputs` are examples, in the order of the module's arguments; `arena`: memory is kept between calls. `file`
        must have another name for every release of PyTorch and every version of the module.
        """
        import onnxruntime  # not at import: the web server forks, and the fork would wait for threads it lacks

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Threads that spin while they wait take the cores from other processes.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # The arena keeps the peak, 0.5 GB after 8 threads have encoded; with it a mask decoder takes a fifth less time.
        options.enable_cpu_mem_arena = arena
        self.names = list(inputs)
        model = load_or_export(file, lambda: export(module, inputs, outputs, axes))
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        arrays = {name: tensor.contiguous().numpy() for name, tensor in zip(self.names, inputs, strict=True)}
        return tuple(torch.from_numpy(output) for output in self._session.run(None, arrays))


def export(module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], axes: Axes) -> bytes:
    """A module in the ONNX format; arguments as for `Session`."""
    buffer = io.BytesIO()
    names = {name: {axis: f"{name}{axis}" for axis in free} for name, free in axes.items()}
    # PyTorch's newer exporter takes longer and needs another package. It warns of this one's deprecation, and of each
    # shape that becomes fixed.
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            buffer,  # type: ignore[arg-type]  # this exporter accepts a file object, too
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=names,
            opset_version=OPSET,
            dynamo=False,
        )
    return buffer.getvalue()


def load_or_export(file: Path | None, export: Callable[[], bytes]) -> bytes:
    """The export in a file, after its sha256; if it is missing or damaged, the result of `export`, which is stored."""
    if file is None:
        return export()
    with suppress(OSError):
        content = file.read_bytes()
        if hashlib.sha256(content[DIGEST:]).digest() == content[:DIGEST]:
            return content[DIGEST:]
    model = export()
    try:
        atomic_write.write(file, hashlib.sha256(model).digest() + model)
    except OSError as error:  # a full or read-only disk
        log.warning("%s is not kept, and will be made again at the next start: %s", file, error)
    return model
