"""A decoder and its encoder as one file: the same answers as PyTorch's, without Skylight."""

import copy
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load

from skylight.backend.mapping.export import export_version
from skylight.model.datasets.synthetic_scenes import scene
from skylight.model.decoder import onnx_export
from skylight.model.decoder.inference import predict_pixels
from skylight.model.decoder.network import DecoderConfig, DomainDecoder
from skylight.model.images.normalization import Normalization
from skylight.model.sam import loading
from tests.support.trained_versions import publish, train_pits

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[3] / "examples" / "run_onnx.py"


@pytest.fixture(scope="module")
def decoder(segmenter):
    return train_pits(segmenter)


@pytest.fixture(scope="module")
def whole(decoder):
    return onnx_export.ExportedModel(loading.load_network("tiny"), decoder)


@pytest.fixture(scope="module")
def content(whole):
    return onnx_export.to_onnx(whole, {"classes": ["background", "Pit"]})


@pytest.fixture(autouse=True)
def small_test_scenes(monkeypatch):
    """What an export compares ONNX and PyTorch on: the sizes are `test_the_graph_answers_...`'s."""
    monkeypatch.setattr("skylight.backend.mapping.export.TEST_SCENES", ((1, 128), (2, 96)))


@pytest.mark.parametrize("side", [(96, 128), (700, 300), (1, 40)])
def test_the_graph_answers_as_pytorch_does_for_a_picture_of_any_size(content, whole, segmenter, side):
    picture = scene(9, max(side)).image[: side[0], : side[1]]
    found = onnx_export.differences(content, whole, segmenter, [picture])
    assert found.module < 0.01 and found.skylight < 0.1 and found.classes < 0.002


def test_scaling_is_pillows(segmenter):
    """To a level where a half is rounded; in the module itself, as the embedding's thumbnail tells."""
    picture = scene(4, 300).image[:200]
    planes = torch.from_numpy(picture.copy()).permute(2, 0, 1).float()
    sizes = [torch.tensor(float(each), dtype=torch.float64) for each in (200, 300, 171, 256)]
    scaled = onnx_export._scaled(planes, *sizes, 256, box=True).permute(1, 2, 0).numpy()
    off = np.abs(scaled - segmenter.embed(picture).thumbnail)
    assert off.max() <= 1 and (off > 0).mean() < 1e-3


def test_the_script_runs_an_exported_version_with_onnxruntime_alone(service, decoder, segmenter, tmp_path):
    publish(service, decoder)
    said = export_version(service, "1", None, "onnx", tmp_path / "pits.onnx")
    picture = scene(7, 200).image
    Image.fromarray(picture).save(tmp_path / "picture.png")
    alone = f"""
import sys, runpy
class Refuse:
    def find_spec(self, name, *_):
        assert name.partition(".")[0] not in ("torch", "model", "backend", "cv2", "scipy"), name
sys.meta_path.insert(0, Refuse())
sys.argv = ["run_onnx.py", "pits.onnx", "picture.png", "classes.png"]
runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", alone], cwd=tmp_path, capture_output=True, text=True, check=True)
    with Image.open(tmp_path / "classes.png") as image:
        classes = np.asarray(image)
    expected = predict_pixels(decoder, segmenter.embed(picture)).probabilities.argmax(0)
    assert expected.sum() > 0 and (classes != expected).mean() < 0.002
    assert done.stdout.splitlines()[1] == f"Pit: {(classes == 1).mean():.2%} of the picture"
    about = {each.key: each.value for each in onnx.load(tmp_path / "pits.onnx").metadata_props}
    assert (about["version"], json.loads(about["classes"])) == ("1", ["background", "Pit"])
    stated = json.loads(about["differences"])
    assert 0 <= stated["module"] < 0.01 and f"at most {stated['module']:.1e} from PyTorch's" in said


def test_the_script_sees_16_bits_as_the_version_did(service, decoder, segmenter, tmp_path):
    how = Normalization((), (1000.0, 1000.0 + 255 * 20))
    made = copy.deepcopy(decoder)
    made.config = replace(decoder.config, normalisation=how)
    publish(service, made)
    export_version(service, "1", None, "onnx", tmp_path / "pits.onnx")
    gray = scene(7, 200).image[..., 0]
    for name, picture in (("plain", gray), ("deep", gray.astype(np.uint16) * 20 + 1000)):
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
        command = [sys.executable, str(SCRIPT), "pits.onnx", f"{name}.png", f"{name}-classes.png"]
        subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    plain, deep = ((tmp_path / f"{name}-classes.png").read_bytes() for name in ("plain", "deep"))
    assert plain == deep
    about = {each.key: each.value for each in onnx.load(tmp_path / "pits.onnx").metadata_props}
    assert json.loads(about["normalisation"]) == how.to_json()


def test_a_safetensors_file_holds_encoder_and_decoder(service, decoder, whole, tmp_path):
    publish(service, decoder)
    export_version(service, "1", 1, "safetensors", tmp_path / "pits.safetensors")
    with safe_open(tmp_path / "pits.safetensors", "pt") as file:
        config = json.loads(file.metadata()["config"])
    assert config["labels"] == ["Pit"]
    torch.manual_seed(1)
    again = DomainDecoder(DecoderConfig(**{**config, "labels": ("Pit",), "separate": tuple(config["separate"])}))
    rebuilt = onnx_export.ExportedModel(loading.load_network("tiny"), again)
    rebuilt.load_state_dict(load((tmp_path / "pits.safetensors").read_bytes()))
    picture = torch.from_numpy(scene(3, 64).image)
    # Not to the bit: how sums are split depends on where in memory they lie.
    torch.testing.assert_close(rebuilt.eval()(picture)[0], whole.eval()(picture)[0], rtol=0, atol=1e-6)


def test_what_an_onnx_file_cannot_hold_is_refused(whole, monkeypatch):
    monkeypatch.setattr(onnx_export, "LARGEST", 1000)
    with pytest.raises(onnx_export.ExportError, match="million weights do not fit .* --format safetensors"):
        onnx_export.to_onnx(whole, {})
