"""What a domain decoder is trained on: targets by cell, and crops whose parts belong together."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from skylight.model.decoder.crops import (
    MOST_CLASSES,
    SHARES,
    UNKNOWN,
    CropSource,
    Objects,
    Sample,
    cell_shares,
    dense_targets,
    rim_distances,
)
from skylight.model.masks.label_map import IGNORE
from skylight.model.sam.segmenter import PER_CELL, Embedding

GRID = 8  # cells of the made-up embeddings; 16 times fewer than the tiny SAM's, so that a step takes milliseconds
SIDE = PER_CELL * GRID  # of their thumbnails and targets


def made_up(seed: int, labels: int = 1, size: tuple[int, int] = (64, 64)) -> Sample:
    """A sample whose features say which label is where: channel k is 3 in the cells of class k; one object each."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(256, GRID, GRID)).astype(np.float16) * 0.3
    embedding = Embedding(features, size, np.zeros((SIDE, SIDE, 3), np.uint8))
    rows, columns = embedding.extent(GRID)
    cells = np.zeros((rows, columns), np.uint8)
    for k in range(1, labels + 1):
        y, x = (2 * rng.integers(n // 2 - 1) for n in (rows, columns))
        cells[y : y + 3, x : x + 3] = k
    for k in range(labels + 1):
        embedding.features[k, :rows, :columns] += 3 * (cells == k)
    label_map = cells.repeat(-(-size[0] // rows), 0).repeat(-(-size[1] // columns), 1)[: size[0], : size[1]]
    return Sample(f"task {seed}", embedding, label_map, label_map.astype(np.uint16))


def soft_targets(sample: Sample, labels: int) -> NDArray[np.float32]:
    """Each cell's share of every class, (labels + 1, 8h, 8w)."""
    known = (torch.from_numpy(each)[None] for each in cell_shares(sample))
    return dense_targets(*known, torch.arange(labels + 1), labels)[0].numpy()


def sample_of(label_map: NDArray[np.uint8], instances: NDArray[np.uint16] | None = None) -> Sample:
    embedding = Embedding(np.zeros((256, GRID, GRID), np.float16), label_map.shape, np.zeros((SIDE, SIDE, 3), np.uint8))
    return Sample("t", embedding, label_map, instances)


def test_targets_are_shares_of_a_cell() -> None:
    label_map = np.zeros((128, 128), np.uint8)
    label_map[0:2, 0:1] = 1  # half of the first cell of 2 x 2 px
    label_map[2:4, 0:2] = 1
    targets = soft_targets(sample_of(label_map), 1)
    assert targets.shape == (2, 64, 64) and targets.dtype == np.float32
    np.testing.assert_allclose(targets[:, :3, 0].T, [[0.5, 0.5], [0, 1], [1, 0]], atol=0.003)  # in 255ths


def test_cells_that_are_mostly_ignored_have_no_target() -> None:
    label_map = np.zeros((128, 128), np.uint8)
    label_map[0:2, 0:2] = IGNORE
    label_map[2:4, 0:1] = IGNORE
    label_map[4, 0] = IGNORE
    found = soft_targets(sample_of(label_map), 1)[:, :3, 0].T
    np.testing.assert_allclose(found, [[0, 0], [0, 0], [0.75, 0]], atol=0.003)


@pytest.mark.parametrize(("size", "rows", "columns"), [((32, 64), 32, 64), ((128, 64), 64, 32)])
def test_padding_beside_an_image_has_no_target_and_no_distance(size: tuple[int, int], rows: int, columns: int) -> None:
    sample = made_up(0, size=size)
    targets, distance = soft_targets(sample, 1), rim_distances(sample)
    assert targets[:, :rows, :columns].sum(0).min() == 1 and targets.sum() == rows * columns
    inside = distance[:rows, :columns] != UNKNOWN
    assert inside.any() and np.count_nonzero(distance != UNKNOWN) == inside.sum()


def test_distances_are_known_within_objects_and_fall_to_their_rims() -> None:
    instances = np.zeros((128, 128), np.uint16)
    instances[16:80, 8:64] = 1
    instances[16:80, 64:120] = 2  # touches the first
    distance = rim_distances(sample_of((instances > 0).astype(np.uint8), instances))
    assert distance.shape == (64, 64) and distance.dtype == np.float32
    known = np.zeros((64, 64), bool)
    known[8:40, 4:60] = True
    np.testing.assert_array_equal(distance != UNKNOWN, known)
    line = distance[24]
    assert line[4] < 0.1 and line[31] < 0.1 and line[32] < 0.1 and line[59] < 0.1  # also where the two touch
    assert line[17] > 0.9 and line[46] > 0.9 and distance.max() <= 1


def test_a_cell_that_is_mostly_background_has_no_distance() -> None:
    instances = np.zeros((128, 128), np.uint16)
    instances[0:20, 0:21] = 1  # half of the cells of column 10, none of column 11
    distance = rim_distances(sample_of((instances > 0).astype(np.uint8), instances))
    assert distance[5, 9] != UNKNOWN and distance[5, 10] == UNKNOWN


def test_without_known_objects_no_distance_is_known() -> None:
    label_map = made_up(0).label_map
    assert (rim_distances(sample_of(label_map)) == UNKNOWN).all()
    assert (rim_distances(sample_of(label_map, np.zeros((64, 64), np.uint16))) == UNKNOWN).all()


def source(samples: list[Sample], batch: int = 4, crop: float = 0.5, centred: float = 0.6) -> CropSource:
    return CropSource(samples, 1, np.random.default_rng(0), batch, crop, centred)


def test_crops_have_the_batch_and_side_that_are_asked_for() -> None:
    batch = source([made_up(0)], batch=3, crop=0.25).draw()
    assert batch.features.shape == (3, 256, 2, 2) and batch.picture.shape == (3, 3, 16, 16)
    assert batch.targets.shape == (3, 2, 16, 16) and batch.distance.shape == (3, 1, 16, 16)
    assert {tensor.dtype for tensor in vars(batch).values() if tensor is not None} == {torch.float32}


def test_embeddings_are_not_copied() -> None:
    sample = made_up(0)
    held = source([sample]).items[0]
    for mine, theirs in ((held[0], sample.embedding.features), (held[2], sample.embedding.thumbnail)):
        assert np.shares_memory(mine.numpy(), theirs)


def test_crops_lie_within_the_image() -> None:
    crops = source([made_up(i, size=(40, 80)) for i in range(3)])
    for _ in range(20):
        batch = crops.draw()
        assert (batch.targets.sum(1) == 1).all() and batch.picture.abs().max() <= 1


def test_all_parts_of_a_crop_are_turned_and_mirrored_together() -> None:
    sample = made_up(0)
    cells = sample.label_map[::8, ::8]
    depth = torch.from_numpy(rim_distances(sample)[::8, ::8].copy()).half().float().reshape(-1)
    sample.embedding.features[0] = np.arange(GRID * GRID).reshape(GRID, GRID)  # which cell it was
    sample.embedding.thumbnail[:] = 128 * cells.repeat(PER_CELL, 0).repeat(PER_CELL, 1)[..., None]
    crops = source([sample], batch=1, crop=0.5)
    orders = set()
    for _ in range(60):
        batch = crops.draw()
        came_from = batch.features[0, 0].long()
        orders.add(tuple((came_from - came_from.min()).flatten().tolist()))
        expected = torch.from_numpy(cells.reshape(-1))[came_from].bool()
        assert torch.equal(batch.targets[0, 1, ::8, ::8].bool(), expected)
        assert torch.equal(batch.distance[0, 0, ::8, ::8] >= 0, expected)
        assert torch.equal(batch.picture[0, 0, ::8, ::8] >= -0.5, expected)
        if torch.equal(came_from, came_from.sort(0).values.sort(1).values):  # this one was left as it is
            assert torch.equal(batch.distance[0, 0, ::8, ::8], depth[came_from])
    assert len(orders) == 8


def test_contrast_and_brightness_vary_by_crop() -> None:
    sample = made_up(0)
    sample.embedding.thumbnail[:, ::2] = 170
    pictures = source([sample], batch=40).draw().picture.flatten(1)
    contrast, brightness = pictures.amax(1) - pictures.amin(1), pictures.mean(1)
    for values in (contrast, brightness):
        assert values.std() > 0.03 and len(values.unique()) > 30


@pytest.mark.parametrize("where", [0, 56])
def test_crops_hold_an_object_as_often_as_asked_to(where: int) -> None:
    label_map = np.zeros((64, 64), np.uint8)
    label_map[where : where + 8, where : where + 8] = 1  # one of 64 cells, in a corner
    held = {}
    for share in (0.0, 0.5, 1.0):
        targets = source([sample_of(label_map)], batch=60, crop=0.25, centred=share).draw().targets
        held[share] = float((targets[:, 1].amax((1, 2)) > 0).float().mean())
    assert held[0.0] < 0.3 < held[0.5] < 0.8 and held[1.0] == 1


def test_a_sample_without_objects_is_cropped_anywhere() -> None:
    sample = sample_of(np.zeros((64, 64), np.uint8))
    sample.embedding.features[0] = np.arange(GRID * GRID).reshape(GRID, GRID)
    features = source([sample], batch=60, crop=0.25, centred=1.0).draw().features
    assert len({float(crop.min()) for crop in features[:, 0]}) > 20  # of 49 places


def test_the_picture_rather_than_the_task_is_what_must_not_be_on_both_sides() -> None:
    one = made_up(0)
    assert one.group == one.task and replace(one, image="abc").group == "abc"


@pytest.mark.parametrize("known", [True, False])
def test_a_small_object_is_the_middle_of_a_crop_as_often_as_a_large_one(known: bool) -> None:
    label_map = np.zeros((512, 512), np.uint8)
    label_map[:256] = 1  # 128 times as wide as
    label_map[400:402, 100:102] = 1  # of a sixteenth of a cell
    label_map[500:508, 500:508] = 1
    instances = np.where(label_map > 0, 1, 0).astype(np.uint16)
    instances[400:402, 100:102], instances[500:508, 500:508] = 2, 3
    objects = Objects(sample_of(label_map, instances if known else None))
    assert objects.labels.tolist() == [1, 1, 1]
    rng = np.random.default_rng(0)
    cells = [objects.draw(1, rng) for _ in range(600)]
    assert all(150 < cells.count(cell) < 250 for cell in ((6, 1), (7, 7)))
    assert {row for row, _ in cells} == {0, 1, 2, 3, 6, 7}


def test_a_rare_label_is_the_middle_of_a_crop_as_often_as_a_common_one() -> None:
    common, rare = np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint8)
    common[0:8, 0:8] = 1
    rare[56:64, 56:64] = 2
    samples = [sample_of(common) for _ in range(9)] + [sample_of(rare)]
    crops = CropSource(samples, 2, np.random.default_rng(0), 1, 0.25, 1.0)
    drawn = [crops._place() for _ in range(300)]
    assert 100 < sum(i == 9 for i, _ in drawn) < 200
    assert all(centre == ((7, 7) if i == 9 else (0, 0)) for i, centre in drawn)


def test_an_object_has_the_label_that_its_pixels_have() -> None:
    label_map, instances = np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint16)
    label_map[0:8], label_map[8:16], label_map[16:24] = 1, 2, IGNORE
    instances[0:24] = 5  # drawn over by another label, and where nothing is to be learned
    assert Objects(sample_of(label_map, instances)).labels.tolist() == [1, 2]


def many_labels(labels: int, seed: int = 0) -> Sample:
    """A sample in which each of many labels has a few pixels."""
    label_map = np.random.default_rng(seed).permutation(np.arange(64 * 64) % (labels + 1)).reshape(64, 64)
    return sample_of(label_map.astype(np.uint8).repeat(2, 0).repeat(2, 1))


def test_what_a_sample_and_a_batch_take_does_not_grow_with_the_labels() -> None:
    taken = {}
    for labels in (10, MOST_CLASSES - 1, 150, 254):
        crops = CropSource([many_labels(labels)], labels, np.random.default_rng(0), 2, 0.5, 0.3)
        batch = crops.draw()
        taken[labels] = sum(part.nbytes for part in crops.items[0]), batch.targets.shape[1]
    assert len({size for size, _ in taken.values()}) == 1
    assert [planes for _, planes in taken.values()] == [11, MOST_CLASSES, MOST_CLASSES, MOST_CLASSES]


def test_of_many_labels_those_in_the_batch_are_told_apart_and_others_stand_for_the_rest() -> None:
    sample = made_up(0, labels=3)
    batch = CropSource([sample], 150, np.random.default_rng(0), 4, 1.0, 0.3).draw()
    assert batch.classes is not None and batch.offsets is not None
    assert batch.classes[:4].tolist() == [0, 1, 2, 3] and len(set(batch.classes.tolist())) == MOST_CLASSES
    assert (batch.classes.diff() > 0).all() and batch.classes.max() <= 150
    assert (batch.targets.sum(1) - 1).abs().max() < 0.01 and batch.targets[:, 4:].sum() == 0
    assert batch.offsets[:4].tolist() == [0] * 4
    assert batch.offsets[4:].exp().sum() == pytest.approx(147)  # as many as there are others


def test_few_labels_are_all_told_apart() -> None:
    batch = source([made_up(0)]).draw()
    assert batch.classes is None and batch.offsets is None


def test_of_a_cell_the_two_largest_classes_are_known() -> None:
    label_map = np.zeros((256, 256), np.uint8)
    label_map[0:4, 0:4] = [[7, 7, 3, 3], [7, 7, 3, 3], [7, 7, 3, 3], [7, 9, 0, 3]]
    classes, shares = cell_shares(sample_of(label_map))
    assert classes.shape == shares.shape == (SHARES, 64, 64)
    assert classes[:, 0, 0].tolist() in ([7, 3], [3, 7]) and shares[:, 0, 0].tolist() == [112, 112]
