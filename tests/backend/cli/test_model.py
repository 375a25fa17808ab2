"""Commands about SAM: segment, checkpoints, cache."""

import numpy as np
import pytest
from PIL import Image

from skylight.model.sam.loading import NAMES


@pytest.mark.parametrize("prompt", ["--point 64,48", "--point 64,48 --point 3,3,neg", "--box 90,70,20,20"])
def test_segment_writes_a_mask_of_the_images_size_and_prints_the_figures(skylight, scene, tmp_path, prompt):
    done = skylight("segment", scene, *prompt.split(), "--out", tmp_path / "mask.png")
    assert done.exit_code == 0, done.output
    with Image.open(tmp_path / "mask.png") as mask:
        assert (mask.size, mask.mode) == ((128, 96), "L")
        values = np.unique(np.asarray(mask)).tolist()
        pixels = np.count_nonzero(np.asarray(mask))
    assert set(values) <= {0, 255}
    assert f"mask.png: {pixels} px, score " in done.output
    assert "encode " in done.output and done.output.endswith(" ms\n")


def test_a_box_means_the_same_from_either_corner(skylight, scene, tmp_path):
    for name, box in (("a", "20,20,90,70"), ("b", "90,70,20,20")):
        assert skylight("segment", scene, "--box", box, "--out", tmp_path / name).exit_code == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ((), "at least one --point or a --box"),
        (("--point", "5"), "'5' is not X,Y"),
        (("--point", "a,b"), "'a,b' is not X,Y"),
        (("--point", "1,2,3"), "is not X,Y"),
        (("--point", "nan,2"), "is not X,Y"),
        (("--box", "1,2,3"), "is not X0,Y0,X1,Y1"),
        (("--box", "1,2,3,inf"), "is not X0,Y0,X1,Y1"),
        (("--point", "128,4"), "128,4 is outside the image, which has 128 x 96 px"),
        (("--point", "4,-1"), "outside the image"),
    ],
)
def test_a_bad_prompt_is_refused(skylight, scene, tmp_path, prompt, said):
    done = skylight("segment", scene, *prompt, "--out", tmp_path / "mask.png")
    assert done.exit_code == 2
    assert said in done.output
    assert not (tmp_path / "mask.png").exists()


def test_checkpoints_are_listed_with_licence_and_what_is_here(skylight, tmp_path):
    (tmp_path / "home" / "checkpoints").mkdir(parents=True)
    (tmp_path / "home" / "checkpoints" / "sam_vit_b_01ec64.pth").touch()
    text = skylight("checkpoints", "list").output
    assert {line.split()[0] for line in text.splitlines()} == set(NAMES)
    assert text.count("Apache-2.0") == 4
    assert [line.split()[0] for line in text.splitlines() if line.endswith("(downloaded)")] == ["vit_b"]


def test_the_cache_is_shown_trimmed_and_cleared(skylight, tmp_path):
    for encoder in ("vit_b-1", "vit_b-2"):
        path = tmp_path / "home" / "embeddings" / encoder / "00" / "0.safetensors"
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(2**20))
    assert "2 images, 2.0 MB of at most 20000 MB" in skylight("cache").output.replace("\n", " ")
    done = skylight("cache", "--clear", "vit_b-1", "--trim", 0)
    assert done.output.startswith("deleted all of vit_b-1: 1 embeddings, 1.0 MB\ndeleted 1 embeddings")
    assert ": 0 images, 0.0 MB" in done.output and done.exit_code == 0
    assert skylight("cache", "--trim", "-1").exit_code == 2
