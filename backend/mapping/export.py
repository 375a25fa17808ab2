"""Export of a trained version: decoder and encoder in one file that needs no Skylight."""

from dataclasses import asdict
from pathlib import Path

from skylight.backend.errors import BadRequest
from skylight.backend.learning.version_lookup import find_version
from skylight.backend.service import Service
from skylight.model.datasets.synthetic_scenes import scene
from skylight.model.decoder import onnx_export
from skylight.model.sam import loading

FORMATS = ("onnx", "safetensors")
TEST_SCENES = ((1, 512), (2, 300), (3, 1100))  # seed, side in px of the images that ONNX and PyTorch are compared on


def export_version(service: Service, project: str, number: int | None, kind: str, out: Path) -> str:
    """Write a version, the one served if `number` is None, in one of `FORMATS`; returns a sentence about the file.

    Raises SkylightError if there is no such version, or if it cannot be exported.
    """
    version = find_version(service, project, number)
    network = loading.load_network(service.settings.sam, service.check_weights())
    whole = onnx_export.ExportedModel(network, version.decoder)
    metadata = onnx_export.describe(version.decoder.config, version.project, version.number, version.card)
    summary = f"{out}: {version.name} of project {version.project}"
    if kind == "safetensors":
        content = onnx_export.to_safetensors(whole, metadata)
        onnx_export.write(out, content)
        return f"{summary}, {len(content) / 1e6:.1f} MB"
    try:
        content = onnx_export.to_onnx(whole, metadata)
    except onnx_export.ExportError as error:
        raise BadRequest(str(error)) from error
    images = [scene(seed, side).image[: side * 3 // 4] for seed, side in TEST_SCENES]
    differences = onnx_export.differences(content, whole, service.embedder.segmenter, images)
    content = onnx_export.with_metadata(content, {**metadata, "differences": asdict(differences)})
    onnx_export.write(out, content)
    return (
        f"{summary}, {len(content) / 1e6:.1f} MB\n"
        f"probabilities on {len(images)} pictures: at most {differences.module:.1e} from PyTorch's, "
        f"{differences.skylight:.1e} from Skylight's; another class on {100 * differences.classes:.3f} % of the pixels "
        "at most"
    )
