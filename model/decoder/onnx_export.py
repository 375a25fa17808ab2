"""Export of a trained decoder with its encoder, to an ONNX graph or safetensors that need no Skylight.

The graph takes an image of any size and gives probabilities of that size: scaling, normalization and padding are in it.
It scales by matrices that it computes from the image's size, as Pillow does, which ONNX's Resize does not.
"""

import io
import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn

from skylight.model.decoder import edge_refinement
from skylight.model.decoder.inference import predict_pixels
from skylight.model.decoder.network import DecoderConfig, DomainDecoder
from skylight.model.runtime.onnx import OPSET
from skylight.model.sam.segment_anything_import import Sam
from skylight.model.sam.segmenter import Segmenter
from skylight.model.sam.tiny_sam import TinySam
from skylight.model.sam.types import PER_CELL
from skylight.model.storage import atomic_write

LARGEST = 500_000_000  # weights: an ONNX file holds 2 GB, 4 bytes each
CELL = 16  # px of the scaled image along a side of an embedding's cell
EXAMPLE = 96, 128  # H, W of the image that the graph is traced with
OUTPUTS = "probabilities", "distance"


class ExportError(ValueError):
    """A model cannot be exported to this format; the message says why and what to do."""


@dataclass(frozen=True)
class ExportDifference:
    """Differences between the exported graph and PyTorch on some images.

    `module`: the largest difference of a probability from the same float32 network run by PyTorch; `skylight`: from
    Skylight's own prediction, whose embeddings are float16; `classes`: the share of pixels whose likeliest class
    differs from Skylight's.
    """

    module: float
    skylight: float
    classes: float


class ExportedModel(nn.Module):
    """Encoder and decoder, from an image of any size to probabilities."""

    def __init__(self, network: Sam, decoder: DomainDecoder) -> None:
        super().__init__()
        self.encoder = network.image_encoder
        self.decoder = decoder
        self.side = int(network.image_encoder.img_size)
        self.taps = isinstance(network, TinySam)
        self.mean: Tensor = network.pixel_mean.clone()
        self.deviation: Tensor = network.pixel_std.clone()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(H, W, 3) uint8 RGB -> probabilities (labels + 1, H, W) float32, 0 is background, and the distance to the
        object's boundary (H, W) float32, 0 there and 1 at its deepest.
        """
        height, width = torch._shape_as_tensor(image)[:2].double()
        longest = torch.maximum(height, width)
        planes = image.permute(2, 0, 1).float()
        scale = self.side / longest
        rows, columns = ((length * scale + 0.5).floor().clamp(min=1) for length in (height, width))  # as `longest`
        pixels = _scaled(planes, height, width, rows, columns, self.side, box=False)
        inside = (torch.arange(self.side) < rows)[:, None] & (torch.arange(self.side) < columns)
        pixels = (pixels - self.mean) / self.deviation * inside
        cells = self.side // CELL * PER_CELL
        rows, columns = ((cells * length / longest).round().clamp(min=1) for length in (height, width))
        thumbnail = _scaled(planes, height, width, rows, columns, cells, box=True)
        logits, distance = self._decode(pixels[None], thumbnail[None] / 127.5 - 1)
        log_odds = (logits[0, 1:] - logits[0, :1]) / self.decoder.config.temperature
        in_columns, in_rows = (torch.arange(cells) < count for count in (columns, rows))
        luma = edge_refinement.luma(thumbnail)
        slope, intercept = edge_refinement.fit_lines(log_odds, luma, (in_rows[:, None] & in_columns).float())
        down, across = _enlarging(rows, height, cells), _enlarging(columns, width, cells)
        coarse = torch.cat([slope, intercept, distance[0], luma[None]])
        enlarged = torch.matmul(torch.matmul(down, coarse), across.T)
        slope, intercept = enlarged[:-2].chunk(2)
        fine = edge_refinement.luma(planes) if self.taps else enlarged[-1]  # as an embedding has it, or has not
        return edge_refinement.probabilities(slope, intercept, fine), enlarged[-2].sigmoid()

    def _decode(self, pixels: Tensor, thumbnail: Tensor) -> Any:
        if not self.taps:
            return self.decoder(self.encoder(pixels), thumbnail)
        features, context, detail = self.encoder.with_taps(pixels)
        return self.decoder(torch.cat([features, context], 1), thumbnail, detail)


def _scaled(
    planes: Tensor, height: Tensor, width: Tensor, rows: Tensor, columns: Tensor, side: int, box: bool
) -> Tensor:
    """Planes (3, H, W) scaled to `rows` x `columns` in the corner of (3, side, side), 0 elsewhere, as Pillow does:
    across, then down, each rounded to whole levels.
    """
    across = torch.matmul(planes, _reducing(width, columns, side, box).T)
    down = torch.matmul(_reducing(height, rows, side, box), (across + 0.5).floor())
    return (down + 0.5).floor()


def _reducing(inputs: Tensor, outputs: Tensor, side: int, box: bool) -> Tensor:
    """Weights (side, inputs) float32 of Pillow's BILINEAR or BOX filter, 0 in the rows from `outputs` on.

    https://github.com/python-pillow/Pillow/blob/main/src/libImaging/Resample.c
    """
    scale, row = inputs / outputs, torch.arange(side).double()
    at = _counted(inputs) + 0.5
    x = (at - ((row + 0.5) * scale)[:, None]) / scale.clamp(min=1)
    weights = ((x > -0.5) & (x <= 0.5)).double() if box else (1 - x.abs()).clamp(min=0)
    weights = weights * (row < outputs)[:, None]
    return (weights / weights.sum(1, keepdim=True).clamp(min=1e-9)).float()


def _enlarging(inputs: Tensor, outputs: Tensor, side: int) -> Tensor:
    """Weights (outputs, side) float32 of a bilinear interpolation of the first `inputs` of `side` cells, as torch's."""
    at = ((_counted(outputs) + 0.5) * (inputs / outputs) - 0.5).clamp(min=0)
    at = torch.minimum(at, inputs - 1)
    return (1 - (at[:, None] - torch.arange(side).double()).abs()).clamp(min=0).float()


def _counted(end: Tensor) -> Tensor:
    """0, 1, ... to before `end`, float64; traced, as many as the picture asks for."""
    numbers: Tensor = torch.arange(end.long())  # type: ignore[call-overload]
    return numbers.double()


def to_onnx(model: ExportedModel, about: Mapping[str, Any]) -> bytes:
    """The content of an ONNX file; `about` becomes its metadata, anything but text as JSON.

    Raises ExportError for a network that is larger than an ONNX file may be.
    """
    if (weights := sum(parameter.numel() for parameter in model.parameters())) > LARGEST:
        raise ExportError(f"{weights / 1e6:.0f} million weights do not fit into an ONNX file; use --format safetensors")
    buffer = io.BytesIO()
    # torch warns that this exporter is the older one, and of every shape that it takes for fixed.
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            model.eval(),
            (torch.zeros(*EXAMPLE, 3, dtype=torch.uint8),),
            buffer,  # type: ignore[arg-type]  # this exporter takes a file as well
            input_names=["image"],
            output_names=list(OUTPUTS),
            dynamic_axes={
                "image": {0: "height", 1: "width"},
                "probabilities": {1: "height", 2: "width"},
                "distance": {0: "height", 1: "width"},
            },
            opset_version=OPSET,
            dynamo=False,
        )
    return with_metadata(buffer.getvalue(), about)


def with_metadata(content: bytes, about: Mapping[str, Any]) -> bytes:
    """An ONNX file's content with its metadata replaced."""
    graph = onnx.load_from_string(content)
    onnx.helper.set_model_props(graph, _texts(about))
    described: bytes = graph.SerializeToString()
    return described


def to_safetensors(model: ExportedModel, about: Mapping[str, Any]) -> bytes:
    """The content of a safetensors file: the weights of `encoder.` and `decoder.`, metadata as of `to_onnx`."""
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    return save(weights, metadata=_texts({**about, "config": asdict(model.decoder.config)}))


def differences(
    content: bytes, model: ExportedModel, segmenter: Segmenter, images: Iterable[NDArray[np.uint8]]
) -> ExportDifference:
    """Compare an ONNX file's content with PyTorch on images (H, W, 3) uint8 RGB."""
    import onnxruntime  # here, as it takes long to import

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    rows = []
    for image in images:
        exported = session.run(["probabilities"], {"image": image})[0]
        with torch.inference_mode():
            module = model(torch.from_numpy(image))[0].numpy()
        served = predict_pixels(model.decoder, segmenter.embed(image)).probabilities
        classes = (exported.argmax(0) != served.argmax(0)).mean()
        rows.append((np.abs(exported - module).max(), np.abs(exported - served).max(), classes))
    return ExportDifference(*(float(value) for value in np.max(rows, 0)))


def write(path: Path, content: bytes) -> None:
    """Write an exported file, whole or not at all."""
    atomic_write.write(path, content)


def _texts(about: Mapping[str, Any]) -> dict[str, str]:
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in about.items()}


def describe(config: DecoderConfig, project: str, version: int, card: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of an exported version: inputs and outputs, labels, origin, and measured quality.

    Images of more than 8 bits must be converted as `normalisation` says, as those it was trained on were.
    """
    kept = ("encoder_id", "created_at", "training_images", "validation", "separate", "temperature")
    return {
        "skylight": "domain decoder with its encoder",
        "input": "image: (H, W, 3) uint8 RGB, any size",
        "output": "probabilities: (classes, H, W) float32, 0 is background; distance: (H, W) float32, 0 at a rim",
        "classes": ["background", *config.labels],
        "normalisation": config.normalisation.to_json(),
        "project": project,
        "version": version,
        **{name: card[name] for name in kept if name in card},
    }
