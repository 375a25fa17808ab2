"""Masks in PNG files."""

import tracemalloc

import numpy as np
import pytest
from PIL import Image

from backend import imported
from backend.errors import BadRequest
from backend.labeling import controls, parse_config
from model.found import Found
from model.images import ImageError
from model.mask_files import objects, read

from .editor import CONFIG

NUMBERS = np.array([[0, 1, 1, 0], [3, 0, 0, 0], [0, 0, 3, 3]], np.uint8)


def save(path, numbers, mode=None):
    Image.fromarray(numbers, mode).save(path) if mode else Image.fromarray(numbers).save(path)
    return path


def placed(found, shape=NUMBERS.shape):
    whole = np.zeros(shape, bool)
    whole[found.top : found.top + found.mask.shape[0], found.left : found.left + found.mask.shape[1]] = found.mask
    return whole


@pytest.mark.parametrize("scale", [1, 60_000])
def test_numbers_of_8_and_16_bits_are_read_as_they_are(tmp_path, scale):
    numbers = NUMBERS.astype(np.uint16) // 3 * scale if scale > 1 else NUMBERS
    assert (read(save(tmp_path / "a.png", numbers), (3, 4), 100) == numbers).all()


def test_a_palettes_indices_a_bitmap_and_gray_colours_are_numbers(tmp_path):
    palette = Image.fromarray(NUMBERS, "L").convert("L")
    palette.putpalette([9, 9, 9, 50, 60, 70, 0, 0, 0, 200, 100, 0])
    palette.save(tmp_path / "p.png")
    Image.fromarray(NUMBERS > 0).save(tmp_path / "b.png")
    gray = save(tmp_path / "g.png", np.repeat(NUMBERS[..., None], 3, 2))
    assert (read(tmp_path / "p.png", (3, 4), 100) == NUMBERS).all()
    assert (read(tmp_path / "b.png", (3, 4), 100) == (NUMBERS > 0)).all()
    assert (read(gray, (3, 4), 100) == NUMBERS).all()


def test_colours_another_size_too_many_pixels_and_other_files_are_refused(tmp_path):
    colours = np.zeros((3, 4, 3), np.uint8)
    colours[0, 0, 1] = 9
    with pytest.raises(ImageError, match=r"c.png has colours; a mask must have one number a pixel"):
        read(save(tmp_path / "c.png", colours), (3, 4), 100)
    with pytest.raises(ImageError, match="it has 4 x 3 pixels, not 3 x 4"):
        read(save(tmp_path / "a.png", NUMBERS), (4, 3), 100)
    with pytest.raises(ImageError, match="more than the 11 allowed"):
        read(tmp_path / "a.png", (3, 4), 11)
    (tmp_path / "x.png").write_bytes(b"GIF89a")
    with pytest.raises(ImageError, match="not a whole PNG"):
        read(tmp_path / "x.png", (3, 4), 100)


def test_each_number_is_an_object_also_in_pieces():
    first, second = objects(NUMBERS, classes=False)
    assert (first.label, second.label) == (1, 3)
    assert (placed(first) == (NUMBERS == 1)).all() and (placed(second) == (NUMBERS == 3)).all()


def test_a_binary_masks_parts_are_objects_as_are_those_of_classes():
    binary = 255 * (NUMBERS > 0).astype(np.uint8)
    assert sorted(int(each.mask.sum()) for each in objects(binary, classes=False)) == [2, 3]  # touching by a corner
    parts = list(objects(NUMBERS, classes=True))
    assert [each.label for each in parts] == [1, 3, 3]
    assert (sum(placed(each) for each in parts) == (NUMBERS > 0)).all()


def test_a_mask_without_background_is_one_object_and_an_empty_one_none():
    (only,) = objects(np.full((3, 4), 7, np.uint16), classes=False)
    assert only.label == 7 and only.mask.all() and only.mask.shape == (3, 4)
    assert list(objects(np.zeros((3, 4), np.uint8), classes=False)) == []


@pytest.mark.parametrize("classes", [False, True])
def test_thousands_of_objects_take_little_memory(classes):
    side, pitch = 512, 8
    numbers = np.zeros((side, side), np.uint8)
    numbers.reshape(side // pitch, pitch, side // pitch, pitch)[:, 1:5, :, 1:5] = 1
    tracemalloc.start()
    areas = [found.area for found in objects(numbers, classes)]
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert areas == [16] * 4096 and most < 60 * side**2  # bytes; 4096 of the picture's size would be 4096 a pixel


def test_brushes_that_take_too_much_together_are_refused(monkeypatch):
    labeling = parse_config(CONFIG)
    monkeypatch.setattr(imported, "MAX_CHARACTERS", 1000)
    project = imported.Project(labeling, controls(CONFIG), {})
    many = (("Dog", Found(0, row, 3, np.ones((2, 2), bool), 1.0)) for row in range(0, 500, 4))
    with pytest.raises(BadRequest, match=r"its first \d+ regions take more than .* use PolygonLabels"):
        project.made(many, (600, 800))
