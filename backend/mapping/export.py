"""A project's trained version as one file for elsewhere."""

from dataclasses import asdict
from pathlib import Path

from skylight.backend.errors import BadRequest
from skylight.backend.learning.version_lookup import trained
from skylight.backend.service import Service
from skylight.model.datasets.synthetic_scenes import scene
from skylight.model.decoder import onnx_export
from skylight.model.sam import loading

FORMATS = ("onnx", "safetensors")
CHECKED = ((1, 512), (2, 300), (3, 1100))  # seed and side in px of the pictures that ONNX and PyTorch are compared on


def export_version(service: Service, project: str, number: int | None, kind: str, out: Path) -> str:
    """Write a version, the one served if `number` is None, in one of `FORMATS`; gives what there is to say of it.

    Raises SkylightError if there is no such version, or if it cannot be written so.
    """
    version = trained(service, project, number)
    network = loading.load_network(service.settings.sam, service.check_weights())
    whole = onnx_export.Whole(network, version.decoder)
    about = onnx_export.describe(version.decoder.config, version.project, version.number, version.card)
    said = f"{out}: {version.name} of project {version.project}"
    if kind == "safetensors":
        content = onnx_export.to_safetensors(whole, about)
        onnx_export.write(out, content)
        return f"{said}, {len(content) / 1e6:.1f} MB"
    try:
        content = onnx_export.to_onnx(whole, about)
    except onnx_export.ExportError as error:
        raise BadRequest(str(error)) from error
    pictures = [scene(seed, side).image[: side * 3 // 4] for seed, side in CHECKED]
    found = onnx_export.differences(content, whole, service.embedder.segmenter, pictures)
    content = onnx_export.with_metadata(content, {**about, "differences": asdict(found)})
    onnx_export.write(out, content)
    return (
        f"{said}, {len(content) / 1e6:.1f} MB\n"
        f"probabilities on {len(pictures)} pictures: at most {found.module:.1e} from PyTorch's, {found.skylight:.1e} "
        f"from Skylight's; another class on {100 * found.classes:.3f} % of the pixels at most"
    )
