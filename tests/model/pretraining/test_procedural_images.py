"""Procedural pictures of many kinds: from a seed alone, with maps that say what can be seen."""

import numpy as np
import pytest
from numpy.typing import NDArray

from skylight.model.masks.instance_map import object_numbers
from skylight.model.pretraining.procedural_images import SMALLEST, ProceduralImage, procedural_image

SIZE = 160


@pytest.fixture(scope="module")
def drawn() -> list[ProceduralImage]:
    return [procedural_image(seed, SIZE) for seed in range(40)]


def test_a_picture_follows_from_its_seed(drawn: list[ProceduralImage]) -> None:
    np.random.default_rng(5).random(9)  # what others drew in between does not matter
    again = procedural_image(3, SIZE)
    np.testing.assert_array_equal(again.image, drawn[3].image)
    np.testing.assert_array_equal(again.objects, drawn[3].objects)
    assert not np.array_equal(drawn[3].image, drawn[4].image) and not np.array_equal(drawn[3].objects, drawn[4].objects)


def test_pictures_are_rgb_bytes_with_ids_of_the_same_size(drawn: list[ProceduralImage]) -> None:
    for made in drawn:
        assert made.image.shape == (SIZE, SIZE, 3) and made.image.dtype == np.uint8
        for ids in (made.objects, made.parts):
            assert ids is None or (ids.shape == (SIZE, SIZE) and ids.dtype == np.uint16)
    assert procedural_image(0).image.shape == (384, 384, 3)


def test_every_id_is_large_enough_to_be_seen(drawn: list[ProceduralImage]) -> None:
    maps = [ids for made in drawn for ids in (made.objects, made.parts) if ids is not None]
    counts = np.concatenate([np.unique(ids[ids > 0], return_counts=True)[1] for ids in maps])
    assert len(counts) > 200 and counts.min() >= SMALLEST


def test_parts_lie_within_the_one_thing_they_belong_to(drawn: list[ProceduralImage]) -> None:
    with_parts = [made for made in drawn if made.parts is not None]
    assert 5 < len(with_parts) < 40
    several = 0
    for made in with_parts:
        assert made.parts is not None
        for part in object_numbers(made.parts):
            assert len(owners := np.unique(made.objects[made.parts == part])) == 1 and owners[0] > 0
        inside = [np.unique(made.parts[made.objects == thing]) for thing in object_numbers(made.objects)]
        several += any(np.count_nonzero(ids) > 1 for ids in inside)
        assert np.count_nonzero(made.parts) < np.count_nonzero(made.objects)
    assert several  # things with spots, not only with one core


def touch(things: NDArray[np.uint16]) -> bool:
    """Whether two things share a vertical stretch of rim."""
    left, right = things[:, :-1], things[:, 1:]
    return bool(((left != right) & (left > 0) & (right > 0)).any())


def test_there_are_few_and_many_large_and_small_touching_and_lone_things(drawn: list[ProceduralImage]) -> None:
    counts = [len(object_numbers(made.objects)) for made in drawn]
    assert min(counts) <= 5 and max(counts) >= 40
    areas = np.concatenate([np.bincount(made.objects.ravel())[1:] for made in drawn])
    assert areas[areas > 0].min() < 40 and areas.max() > 0.1 * SIZE**2
    touching = [touch(made.objects) for made in drawn]
    assert any(touching) and not all(touching)


def test_most_things_look_unlike_the_ground_beside_them(drawn: list[ProceduralImage]) -> None:
    """By the jump in gray over their rims, against jumps elsewhere in the ground."""
    clearer = []
    for made in drawn:
        gray, ids = made.image.mean(2), made.objects.astype(int)
        jump = np.abs(np.diff(gray, axis=1))
        rim = (ids[:, 1:] > 0) != (ids[:, :-1] > 0)
        ground = (ids[:, 1:] == 0) & (ids[:, :-1] == 0)
        if rim.any() and ground.any():
            clearer.append(jump[rim].mean() > jump[ground].mean())
    assert len(clearer) > 30 and np.mean(clearer) > 0.7
