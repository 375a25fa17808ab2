"""Masks in PNG files."""

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from skylight.backend.errors import BadRequest
from skylight.backend.importing import targets
from skylight.backend.importing.mask_png import harden, objects, read
from skylight.backend.labelstudio.label_config import controls, parse_config
from skylight.model.images.decoding import ImageError
from skylight.model.masks.region import MaskRegion
from tests.support.editor import CONFIG

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


ONE, TWO = NUMBERS == 1, NUMBERS == 3
DRAWN = ONE | TWO


def rgba(colours, opaque):
    """(H, W, 4) uint8 of colours (H, W, 3) or one colour, opaque where said."""
    whole = np.zeros((*opaque.shape, 4), np.uint8)
    whole[..., :3] = colours
    whole[..., 3] = np.where(opaque, 255, 0)
    return whole


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 30, 30), (9, 9, 9)])
def test_one_colour_on_a_transparent_ground_is_the_object(tmp_path, colour):
    numbers = read(save(tmp_path / "a.png", rgba(colour, DRAWN)), (3, 4), 100)
    assert ((numbers > 0) == DRAWN).all() and len(np.unique(numbers)) == 2
    assert numbers.max() == (9 if colour == (9, 9, 9) else 255)


def test_soft_alpha_is_cut_at_half_whatever_colour_is_under_it(tmp_path):
    colours = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    colours[DRAWN] = 0
    soft = rgba(colours, DRAWN)
    soft[0, 3, 3], soft[1, 1, 3] = 127, 128
    soft[1, 1, :3] = 0
    expected = DRAWN.copy()
    expected[1, 1] = True
    assert ((read(save(tmp_path / "a.png", soft), (3, 4), 100) > 0) == expected).all()


def test_gray_with_alpha_keeps_its_numbers(tmp_path):
    pixels = np.stack([NUMBERS, np.where(DRAWN, 255, 0)], 2).astype(np.uint8)
    assert (read(save(tmp_path / "a.png", pixels, "LA"), (3, 4), 100) == NUMBERS).all()
    pixels[..., 1] = 255
    assert (read(save(tmp_path / "b.png", pixels, "LA"), (3, 4), 100) == NUMBERS).all()
    opaque = rgba(np.repeat(NUMBERS[..., None], 3, 2), np.ones((3, 4), bool))
    assert (read(save(tmp_path / "c.png", opaque), (3, 4), 100) == NUMBERS).all()


@pytest.mark.parametrize("mode", ["1", "L", "I;16", "RGB"])
def test_a_transparent_number_is_background(tmp_path, mode):
    clear = {"1": 1, "L": 77, "I;16": 40_000, "RGB": 77}[mode]
    gray = np.where(DRAWN, 0, clear).astype(np.uint16 if mode == "I;16" else np.uint8)
    if mode == "RGB":
        picture, transparency = Image.fromarray(np.repeat(gray[..., None], 3, 2)), (77, 77, 77)
    else:
        picture, transparency = Image.fromarray(gray if mode != "1" else gray * 255), clear
        picture = picture.convert("1") if mode == "1" else picture
    picture.save(tmp_path / "a.png", transparency=transparency)
    assert ((read(tmp_path / "a.png", (3, 4), 100) > 0) == DRAWN).all()


@pytest.mark.parametrize("bits", [2, 4])
def test_a_transparent_number_of_few_bits_is_background(tmp_path, bits):
    """Such PNGs are written by palettes, so this one is made of its chunks."""
    clear = 2
    rows = np.where(DRAWN, 0, clear).astype(np.uint8)
    packed = b""
    for row in rows:
        text = "".join(f"{number:0{bits}b}" for number in row)
        packed += b"\0" + int(text, 2).to_bytes(len(text) // 8, "big")
    header = struct.pack(">IIBBBBB", 4, 3, bits, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"tRNS", struct.pack(">H", clear)), (b"IDAT", zlib.compress(packed)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    assert ((read(tmp_path / "a.png", (3, 4), 100) > 0) == DRAWN).all()


@pytest.mark.parametrize("transparency", [1, b"\xff\x00", b"\xff\x64"])
def test_a_palettes_transparent_colour_is_background(tmp_path, transparency):
    palette = Image.fromarray(np.where(DRAWN, 0, 1).astype(np.uint8), "L").convert("L")
    palette.putpalette([9, 9, 9, 50, 60, 70])
    palette.save(tmp_path / "a.png", transparency=transparency)
    assert ((read(tmp_path / "a.png", (3, 4), 100) > 0) == DRAWN).all()


def test_a_palettes_transparent_background_and_one_that_does_not_occur_leave_its_numbers(tmp_path):
    palette = Image.fromarray(NUMBERS, "L").convert("L")
    palette.putpalette([9, 9, 9, 50, 60, 70, 0, 0, 0, 200, 100, 0])
    for transparency in (0, 2, b"\xff\xff\x00"):
        palette.save(tmp_path / "a.png", transparency=transparency)
        assert (read(tmp_path / "a.png", (3, 4), 100) == NUMBERS).all()


def test_an_empty_bitmask_is_empty(tmp_path):
    assert not read(save(tmp_path / "a.png", rgba((0, 0, 0), np.zeros((3, 4), bool))), (3, 4), 100).any()


def test_transparency_that_leaves_open_what_is_background_is_refused_by_name(tmp_path):
    opaque = np.ones((3, 4), bool)
    opaque[2, 0] = False
    with pytest.raises(ImageError, match="a.png has both transparent pixels and opaque ones of number 0"):
        read(save(tmp_path / "a.png", rgba(np.repeat(NUMBERS[..., None], 3, 2), opaque)), (3, 4), 100)
    with pytest.raises(ImageError, match="b.png is transparent everywhere"):
        read(save(tmp_path / "b.png", rgba(np.repeat(NUMBERS[..., None], 3, 2), opaque & False)), (3, 4), 100)
    colours = rgba(np.repeat(NUMBERS[..., None], 3, 2) + [1, 2, 3], opaque)
    with pytest.raises(ImageError, match="c.png has colours"):
        read(save(tmp_path / "c.png", colours), (3, 4), 100)


def discs(soft):
    """Two discs of 255 on 0 with rims as wide as said, (64, 64) uint8, and which pixels are more than half in them."""
    y, x = np.mgrid[:64, :64]
    inside = np.maximum(12 - np.hypot(x - 20, y - 20), 9 - np.hypot(x - 45, y - 45)) / soft + 0.5
    return np.round(255 * np.clip(inside, 0, 1)).astype(np.uint8)


@pytest.mark.parametrize("soft", [1, 2, 4])
def test_soft_rims_are_cut_at_half_and_parts_are_objects(soft):
    gray = discs(soft)
    assert len(np.unique(gray)) > 5
    hard = harden(gray)
    assert (hard == np.where(gray > 127, 255, 0)).all()
    assert sorted(int(each.mask.sum()) for each in objects(hard, classes=False)) == [253, 441]
    deep = harden(gray.astype(np.uint16) * 257)
    assert (deep == hard.astype(np.uint16) * 257).all()


def test_numbers_of_objects_are_no_soft_rims():
    numbers = np.zeros((20, 20), np.uint8)
    numbers[2:6, 2:6], numbers[2:6, 6:10], numbers[12:18, 12:18] = 1, 255, 3
    assert harden(numbers) is numbers
    thin = np.zeros((20, 20), np.uint8)
    thin[2:8, 2:8], thin[12, 2:18] = 255, 7  # by itself
    assert harden(thin) is thin
    assert harden(NUMBERS) is NUMBERS and harden(NUMBERS.astype(np.int32)).max() == 3


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
    monkeypatch.setattr(targets, "MAX_CHARACTERS", 1000)
    project = targets.TargetProject(labeling, controls(CONFIG), {})
    many = (("Dog", MaskRegion(0, row, 3, np.ones((2, 2), bool), 1.0)) for row in range(0, 500, 4))
    with pytest.raises(BadRequest, match=r"its first \d+ regions take more than .* use PolygonLabels"):
        project.annotation(many, (600, 800))
