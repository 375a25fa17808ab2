"""Packs of real images: read as they are, and parted once and for all."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from skylight.model.datasets.packs import HELD_OUT_REGIONS, PackImage, images

DATA = os.environ.get("SKYLIGHT_DATA", "")

RNG = np.random.default_rng(0)


def add_pack(folder: Path, name: str, entries: list[dict[str, str]], mask: NDArray[np.integer] | None = None) -> None:
    """A pack with one small gray JPEG and mask per entry of meta.json."""
    for part in ("images", "masks"):
        (folder / name / part).mkdir(parents=True)
    for entry in entries:
        gray = Image.fromarray(RNG.integers(0, 256, (20, 30)).astype(np.uint8))
        gray.save(folder / name / "images" / f"{entry['stem']}.jpg")
        instances = np.zeros((20, 30), np.uint8) if mask is None else mask
        Image.fromarray(instances).save(folder / name / "masks" / f"{entry['stem']}.png")
    (folder / name / "meta.json").write_text(json.dumps({"images": entries}))


def test_all_packs_are_listed_in_order_with_their_groups(tmp_path: Path) -> None:
    add_pack(tmp_path, "rocks", [{"stem": "b", "kind": "basalt"}, {"stem": "a"}])
    add_pack(tmp_path, "craters", [{"stem": "c", "region": "elysium"}])
    (tmp_path / "notes").mkdir()
    found = [(item.pack, item.stem, item.group) for item in images(tmp_path)]
    assert found == [("craters", "c", "elysium"), ("rocks", "a", ""), ("rocks", "b", "basalt")]
    assert [item.stem for item in images(tmp_path, names=("rocks",))] == ["a", "b"]


def test_an_image_is_read_as_rgb_with_its_instances(tmp_path: Path) -> None:
    mask = RNG.integers(0, 4, (20, 30)).astype(np.uint8)
    add_pack(tmp_path, "rocks", [{"stem": "a"}], mask)
    (item,) = images(tmp_path)
    picture, instances = item.read()
    assert picture.shape == (20, 30, 3) and picture.dtype == np.uint8 and picture.std() > 0
    assert instances.dtype == np.uint16
    np.testing.assert_array_equal(instances, mask)


def test_more_than_255_instances_are_kept_apart(tmp_path: Path) -> None:
    mask = np.arange(600).reshape(20, 30).astype(np.uint16)
    add_pack(tmp_path, "nuclei", [{"stem": "a"}], mask)
    (item,) = images(tmp_path)
    np.testing.assert_array_equal(item.read()[1], mask)


def test_a_folder_without_packs_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=tmp_path.name):
        list(images(tmp_path))


def item(pack: str, stem: str, group: str = "") -> PackImage:
    return PackImage(pack, stem, group, Path("image"), Path("mask"))


def test_whole_themis_regions_are_held_out() -> None:
    for region in (*HELD_OUT_REGIONS, "noachis", "hellas"):
        sides = {item("mars_craters_themis", f"{region}_{i}_{i + 7}", region).held_out for i in range(20)}
        assert sides == {region in HELD_OUT_REGIONS}


def test_a_fifth_of_other_packs_is_held_out_always_the_same() -> None:
    held_out = [i for i in range(2000) if item("rocks", str(i)).held_out]
    assert 0.17 < len(held_out) / 2000 < 0.23
    assert held_out[:5] == [8, 9, 39, 46, 47]  # another split than this would mix training images into evaluation


def test_a_picture_that_two_packs_share_is_on_the_same_side_in_both() -> None:
    assert all(item("leaf", str(i)).held_out == item("leaf_lesions", str(i)).held_out for i in range(200))


@pytest.fixture(scope="module")
def real() -> list[PackImage]:
    """The real packs, where they are."""
    if not DATA:
        pytest.skip("SKYLIGHT_DATA does not name a folder of packs")
    return list(images(Path(DATA)))


def test_every_listed_image_of_the_real_packs_is_there_once(real: list[PackImage]) -> None:
    assert len({(item.pack, item.stem) for item in real}) == len(real) > 100
    for one in real:
        with Image.open(one.image_path) as picture, Image.open(one.mask_path) as mask:
            assert picture.size == mask.size, one


def test_no_region_of_themis_is_on_both_sides(real: list[PackImage]) -> None:
    themis = [one for one in real if one.pack == "mars_craters_themis"]
    held_out, training = ({one.group for one in themis if one.held_out == side} for side in (True, False))
    assert held_out == HELD_OUT_REGIONS
    assert training and not training & held_out
    assert sum(one.held_out for one in themis) == 77 and len(themis) == 133
    assert all(one.stem.startswith(one.group) for one in themis)


def test_every_real_pack_has_images_to_train_on_and_its_masks_number_objects(real: list[PackImage]) -> None:
    for pack in {one.pack for one in real}:
        training = [one for one in real if one.pack == pack and not one.held_out]
        assert training, pack
        picture, instances = training[0].read()
        assert picture.shape == (*instances.shape, 3)
        ids = np.unique(instances)
        assert ids[0] == 0 and ids[-1] >= 1, pack


def test_the_real_packs_that_share_pictures_hold_out_the_same_ones(real: list[PackImage]) -> None:
    sides: dict[str, set[bool]] = {}
    for one in real:
        if one.pack in ("coffee_leaf", "coffee_leaf_lesions"):
            sides.setdefault(one.stem, set()).add(one.held_out)
    shared = {one.stem for one in real if one.pack == "coffee_leaf_lesions"}
    assert {len(side) for side in sides.values()} == {1}
    assert len(shared) > 100 and {True} in [sides[stem] for stem in shared]
