"""Packs parted into what is annotated and what is tested on."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from skylight.model.experiments import splits
from skylight.model.experiments.splits import PROCEDURAL, PoolError, ProceduralImage, part
from skylight.model.masks.instance_map import object_numbers
from tests.support.bright_pictures import add_pack


@dataclass(frozen=True)
class Named:
    """A source by name alone."""

    stem: str
    group: str = ""
    pack: str = "p"


def test_no_image_is_on_both_sides_and_the_test_set_is_half_or_what_is_wanted() -> None:
    images = [Named(str(i)) for i in range(50)]
    for wanted, tested in ((20, 20), (100, 25), (1, 1)):
        pool = part("p", images, wanted)
        assert len(pool.test) == tested and len(pool.annotate) == 50 - tested
        assert {each.stem for each in (*pool.test, *pool.annotate)} == {each.stem for each in images}


def test_the_split_follows_from_the_names_not_from_their_order() -> None:
    images = [Named(str(i)) for i in range(30)]
    there, back = part("p", images, 10), part("p", images[::-1], 10)
    assert there == back and there.split == back.split
    assert there.split != part("p", images, 11).split


def test_no_group_is_on_both_sides() -> None:
    images = [
        Named(f"{group}{i}", group)
        for group, count in zip("abcdef", (25, 13, 4, 9, 6, 20), strict=True)
        for i in range(count)
    ]
    pool = part("p", images, 20, by_group=True)
    assert not {each.group for each in pool.test} & {each.group for each in pool.annotate}
    assert 10 <= len(pool.test) <= 20 and len(pool.annotate) >= 30


def test_a_single_group_is_parted_by_image() -> None:
    pool = part("p", [Named(str(i), "only") for i in range(10)], 20, by_group=True)
    assert len(pool.test) == len(pool.annotate) == 5


@pytest.mark.parametrize("sizes", [(1, 1), (9, 1), (1, 9), (5, 5, 1)])
def test_both_sides_have_images_however_groups_are_sized(sizes: tuple[int, ...]) -> None:
    images = [Named(f"{group}{i}", group) for group, count in zip("abc", sizes, strict=False) for i in range(count)]
    pool = part("p", images, 20, by_group=True)
    assert pool.test and pool.annotate


def test_one_image_cannot_be_parted() -> None:
    with pytest.raises(PoolError, match="p has 1 image"):
        part("p", [Named("a")], 20)


def test_held_out_images_alone_are_taken_unless_every_one_is_wanted(tmp_path: Path) -> None:
    add_pack(tmp_path, "squares", 40)
    few, all_of_them = (splits.pools(tmp_path, ("squares",), 20, every)[0] for every in (False, True))
    assert all(each.held_out for each in (*few.test, *few.annotate))
    assert 2 <= len(few.test) + len(few.annotate) < 20
    assert len(all_of_them.test) == len(all_of_them.annotate) == 20


def test_regions_are_parted_as_wholes_but_kinds_are_not(tmp_path: Path) -> None:
    add_pack(tmp_path, "regional", 4, region="tharsis")
    add_pack(tmp_path, "kinds", 4, kind="fluo")
    assert splits.has_regions(tmp_path / "regional" / "meta.json")
    assert not splits.has_regions(tmp_path / "kinds" / "meta.json")


def test_without_a_folder_there_are_procedural_pits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "SCENES", 6)
    (pool,) = splits.pools(None, (), 2)
    assert (pool.pack, len(pool.test), len(pool.annotate)) == (PROCEDURAL, 2, 4)


def test_a_procedural_image_has_its_pits_as_instances() -> None:
    image, instances = ProceduralImage(3, 128).read()
    assert image.shape == (128, 128, 3) and instances.shape == (128, 128) and instances.dtype == np.uint16
    assert 1 <= len(object_numbers(instances)) <= 5


def test_tiles_make_up_their_image_and_stay_on_one_side(tmp_path: Path) -> None:
    add_pack(tmp_path, "squares", 8)
    (whole,) = splits.pools(tmp_path, ("squares",), 20, every=True)
    side = whole.test[0].read()[1].shape[0] // 3
    (cut,) = splits.pools(tmp_path, ("squares",), 20, every=True, side=side)
    assert cut.pack == f"squares-{side}px" and len(cut.annotate) % 9 == 0
    assert cut.test and not {tile.group for tile in cut.test} & {tile.group for tile in cut.annotate}
    image, instances = whole.annotate[0].read()
    pieces = [piece.read() for piece in splits.tiles(whole.annotate[0], side)]
    rows = [np.concatenate([pieces[3 * row + column][0] for column in range(3)], 1) for row in range(3)]
    assert np.array_equal(np.concatenate(rows), image)
    assert sum(int((found > 0).sum()) for _, found in pieces) == (instances > 0).sum()


@pytest.mark.parametrize(("length", "side", "parts"), [(320, 160, 2), (416, 160, 3), (100, 160, 1), (10, 160, 1)])
def test_a_length_is_cut_into_equal_parts(length: int, side: int, parts: int) -> None:
    found = splits.cuts(length, side)
    assert (found[0], found[-1], len(found)) == (0, length, parts + 1)
    assert np.ptp(np.diff(found)) <= 1


def test_unknown_packs_and_packs_too_small_are_refused_by_name(tmp_path: Path) -> None:
    add_pack(tmp_path, "tiny_pack", 1)
    with pytest.raises(PoolError, match="called nonsense; there are procedural, tiny_pack"):
        splits.pools(tmp_path, ("nonsense",), 20)
    with pytest.raises(PoolError, match="tiny_pack: fewer than 2"):
        splits.pools(tmp_path, ("tiny_pack",), 20, every=True)
    assert [pool.pack for pool in splits.pools(tmp_path, (), 20, every=True)] == [PROCEDURAL]


def test_a_folder_without_packs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match="holds no pack"):
        splits.pools(tmp_path, (), 20)


def test_a_thinned_pool_has_all_empty_images_and_few_others(tmp_path: Path) -> None:
    add_pack(tmp_path, "squares", 12)
    side = ProceduralImage(3).side // 4
    (whole,) = splits.pools(tmp_path, ("squares",), 20, every=True, side=side // 8)
    thin = splits.thinned(whole, 0.25)
    holding = [each for each in thin.annotate if each.read()[1].any()]
    assert 0 < len(holding) <= len(thin.annotate) / 4
    assert len(thin.annotate) - len(holding) == sum(not each.read()[1].any() for each in whole.annotate)
    assert thin.test == whole.test and thin == splits.thinned(whole, 0.25)
    with pytest.raises(PoolError, match="too few for a share of 0.25"):
        splits.thinned(splits.pools(tmp_path, ("squares",), 20, every=True)[0], 0.25)
