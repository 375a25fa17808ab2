"""The pictures of pretraining: windows of packs and of procedural pictures, with their objects where they belong."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from skylight.model.datasets.packs import images
from skylight.model.pretraining import data
from skylight.model.pretraining.data import PADDING, ImageSampler, TrainingImage, pack_weights, rotated, usable_objects


def rectangles(*places: tuple[int, int, int, int], shape: tuple[int, int]) -> NDArray[np.uint16]:
    """Instances 1, 2, ... at y0, x0, y1, x1."""
    instances = np.zeros(shape, np.uint16)
    for number, (y0, x0, y1, x1) in enumerate(places, 1):
        instances[y0:y1, x0:x1] = number
    return instances


def add_pack(folder: Path, name: str, instances: NDArray[np.uint16], count: int = 1) -> None:
    """A pack of gray pictures, bright where their objects are."""
    for part in ("images", "masks"):
        (folder / name / part).mkdir(parents=True)
    for i in range(count):
        gray = np.where(instances > 0, 220, 60).astype(np.uint8)
        Image.fromarray(gray).save(folder / name / "images" / f"{i}.png")
        Image.fromarray(instances.astype(np.uint8)).save(folder / name / "masks" / f"{i}.png")
    (folder / name / "meta.json").write_text(json.dumps({"images": [{"stem": str(i)} for i in range(count)]}))


def source_of(folder: Path, instances: NDArray[np.uint16], seed: int = 0) -> ImageSampler:
    add_pack(folder, "rocks", instances)
    return ImageSampler(list(images(folder)), np.random.default_rng(seed), made=0.0)


@pytest.mark.parametrize("side", [256, 512])
def test_pictures_have_the_side_that_is_asked_for_and_an_object(side: int) -> None:
    source = ImageSampler([], np.random.default_rng(0), made=0.0)  # without packs, procedural all the same
    for _ in range(4):
        image, instances, _ = source.draw(side)
        assert image.shape == (side, side, 3) and image.dtype == np.uint8
        assert instances.shape == (side, side) and instances.dtype == np.uint16
        assert len(usable_objects(instances))


def test_the_same_generator_state_gives_the_same_pictures() -> None:
    def drawn(seed: int) -> list[TrainingImage]:
        source = ImageSampler([], np.random.default_rng(seed), 1.0)
        return [source.draw(256) for _ in range(3)]

    one, same, other = drawn(1), drawn(1), drawn(2)
    assert all(np.array_equal(a, b) for x, y in zip(one, same, strict=True) for a, b in zip(x, y, strict=True))
    assert not np.array_equal(one[0][0], other[0][0])


def test_each_kind_weighs_alike_and_its_packs_by_the_square_root_of_their_size() -> None:
    weights = pack_weights({"dogs": 9, "pigs": 1, "teeth": 400, "roads": 1})
    assert weights.tolist() == pytest.approx([0.75 / 3, 0.25 / 3, 1 / 3, 1 / 3])
    assert not len(pack_weights({}))


def test_parts_come_with_what_they_are_parts_of_and_the_other_way_round() -> None:
    source = ImageSampler([], np.random.default_rng(3), 1.0)
    whole, part = rectangles((4, 4, 60, 60), shape=(64, 64)), rectangles((20, 20, 50, 50), shape=(64, 64))
    source.scenes = source.procedural = [lambda: (np.zeros((64, 64, 3), np.uint8), (whole, part))]
    asked_parts = 0
    for _ in range(20):
        _, instances, alternatives = source.draw(64)
        assert alternatives is not None and (instances > 0).sum() != (alternatives > 0).sum()
        asked_parts += int((instances > 0).sum() < (alternatives > 0).sum())
    assert 2 < asked_parts < 18


def test_windows_hold_the_object_whole_at_many_sizes(tmp_path: Path) -> None:
    source = source_of(tmp_path, rectangles((300, 480, 380, 560), shape=(800, 800)))
    shares = []
    for _ in range(60):
        _, instances, _ = source.draw(256)
        rows, columns = np.nonzero(instances)
        assert abs(np.ptp(rows) - np.ptp(columns)) <= 2  # a square, cut nowhere
        shares.append((np.ptp(rows) + 1) / 256)
    assert min(shares) < 0.13 and max(shares) > 0.5  # the whole picture shows it at 0.1, a close window at 0.8
    assert max(shares) < 0.85


def test_what_a_picture_does_not_fill_is_padded_with_the_mean_colour(tmp_path: Path) -> None:
    source = source_of(tmp_path, rectangles((30, 40, 70, 100), shape=(100, 150)))
    padded = zoomed = 0
    for _ in range(40):
        image, instances, _ = source.draw(256)
        if (image[-50:] == PADDING).all():
            assert not instances[-50:].any()
            assert not (image[:150] == PADDING).all(2).all(1).any()
            padded += 1
        zoomed += np.count_nonzero(instances) > 1.5 * (60 * 40) * (256 / 150) ** 2
    assert padded and zoomed


def test_an_object_and_its_pixels_stay_together(tmp_path: Path) -> None:
    source = source_of(tmp_path, 50 * rectangles((20, 130, 60, 230), (200, 40, 260, 80), shape=(300, 300)))
    seen = set()
    for _ in range(40):
        image, instances, _ = source.draw(256)
        assert set(np.unique(instances)) <= {0, 50, 100}  # no id is mixed from its neighbours
        gray, inside = image.mean(2), instances > 0
        middle = (gray[inside].mean() + gray[~inside].mean()) / 2
        bright = (gray > middle) if gray[inside].mean() > middle else (gray < middle)
        assert (bright & inside).sum() / (bright | inside).sum() > 0.75  # noise and blur blur the rims
        seen.add(bool(gray[inside].mean() > middle))
    assert seen == {True, False}  # bright, or dark in a picture that was inverted


def test_parts_are_asked_for_instead_of_things_and_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    things = rectangles((10, 10, 90, 90), shape=(100, 100))
    parts = 8 * rectangles((30, 30, 50, 50), shape=(100, 100))
    image = np.full((100, 100, 3), 90, np.uint8)
    source = ImageSampler([], np.random.default_rng(0), 1.0)
    source.scenes = source.procedural = [lambda: (image, (things, parts.astype(np.uint16)))]
    asked = {}
    for share in (0.0, 0.5, 1.0):
        monkeypatch.setattr(data, "PARTS_SHARE", share)
        asked[share] = np.mean([source.draw(64)[1].max() == 8 for _ in range(60)])
    assert asked[0.0] == 0 and 0.25 < asked[0.5] < 0.75 and asked[1.0] == 1


def test_a_picture_without_objects_is_drawn_again(tmp_path: Path) -> None:
    add_pack(tmp_path, "empty", rectangles(shape=(60, 60)))
    add_pack(tmp_path, "rocks", rectangles((10, 10, 40, 40), shape=(60, 60)))
    source = ImageSampler(list(images(tmp_path)), np.random.default_rng(0), 0.0)
    assert all(source.draw(64)[1].max() == 1 for _ in range(12))


def test_a_picture_is_made_only_once() -> None:
    made = []

    def make() -> data.SourceImage:
        made.append(1)
        return np.full((60, 60, 3), 90, np.uint8), (rectangles((10, 10, 40, 40), shape=(60, 60)),)

    source = ImageSampler([], np.random.default_rng(0), 1.0)
    source.scenes = source.procedural = [make]
    for _ in range(5):
        source.draw(64)
    assert len(made) == 1


def test_objects_of_40_pixels_to_85_percent_are_used() -> None:
    instances = rectangles((0, 0, 5, 8), (20, 0, 23, 13), (100, 100, 200, 200), shape=(512, 512))
    assert usable_objects(instances).tolist() == [1, 3]
    assert usable_objects(rectangles((0, 0, 435, 512), shape=(512, 512))).tolist() == [1]
    assert usable_objects(rectangles((0, 0, 436, 512), shape=(512, 512))).tolist() == []
    assert usable_objects(rectangles(shape=(64, 64))).tolist() == []


@pytest.mark.parametrize("flip", [False, True])
def test_turning_is_by_quarters_then_mirrored(flip: bool) -> None:
    picture = np.arange(12).reshape(2, 3, 2)
    assert np.array_equal(rotated(picture, 0, flip), picture[:, ::-1] if flip else picture)
    quarter = rotated(picture, 1, flip)
    assert quarter.shape == (3, 2, 2)
    assert quarter[0, -1 if flip else 0].tolist() == picture[0, -1].tolist()  # the upper right corner turns to the left
