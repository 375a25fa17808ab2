"""What a domain decoder is trained on: targets by cell, and crops whose parts belong together."""

import numpy as np
import pytest
import torch

from skylight.model.decoder.crop_sampler import MOST_CLASSES, CropSampler, ObjectIndex
from skylight.model.decoder.samples import Sample, boundary_distances
from skylight.model.masks.label_map import IGNORE
from skylight.model.sam.types import PER_CELL
from tests.model.decoder.made_up import GRID, made_up, sample_of


def source(samples: list[Sample], batch: int = 4, crop: float = 0.5, centred: float = 0.6) -> CropSampler:
    return CropSampler(samples, 1, np.random.default_rng(0), batch, crop, centred)


def test_crops_have_the_batch_and_side_that_are_asked_for() -> None:
    batch = source([made_up(0)], batch=3, crop=0.25).draw()
    assert batch.features.shape == (3, 256, 2, 2) and batch.thumbnail.shape == (3, 3, 16, 16)
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
        assert (batch.targets.sum(1) == 1).all() and batch.thumbnail.abs().max() <= 1


def test_all_parts_of_a_crop_are_turned_and_mirrored_together() -> None:
    sample = made_up(0)
    cells = sample.label_map[::8, ::8]
    depth = torch.from_numpy(boundary_distances(sample)[::8, ::8].copy()).half().float().reshape(-1)
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
        assert torch.equal(batch.thumbnail[0, 0, ::8, ::8] >= -0.5, expected)
        if torch.equal(came_from, came_from.sort(0).values.sort(1).values):  # this one was left as it is
            assert torch.equal(batch.distance[0, 0, ::8, ::8], depth[came_from])
    assert len(orders) == 8


def test_contrast_and_brightness_vary_by_crop() -> None:
    sample = made_up(0)
    sample.embedding.thumbnail[:, ::2] = 170
    pictures = source([sample], batch=40).draw().thumbnail.flatten(1)
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


@pytest.mark.parametrize("known", [True, False])
def test_a_small_object_is_the_middle_of_a_crop_as_often_as_a_large_one(known: bool) -> None:
    label_map = np.zeros((512, 512), np.uint8)
    label_map[:256] = 1  # 128 times as wide as
    label_map[400:402, 100:102] = 1  # of a sixteenth of a cell
    label_map[500:508, 500:508] = 1
    instances = np.where(label_map > 0, 1, 0).astype(np.uint16)
    instances[400:402, 100:102], instances[500:508, 500:508] = 2, 3
    objects = ObjectIndex(sample_of(label_map, instances if known else None))
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
    crops = CropSampler(samples, 2, np.random.default_rng(0), 1, 0.25, 1.0)
    drawn = [crops._random_place() for _ in range(300)]
    assert 100 < sum(i == 9 for i, _ in drawn) < 200
    assert all(centre == ((7, 7) if i == 9 else (0, 0)) for i, centre in drawn)


def test_an_object_has_the_label_that_its_pixels_have() -> None:
    label_map, instances = np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint16)
    label_map[0:8], label_map[8:16], label_map[16:24] = 1, 2, IGNORE
    instances[0:24] = 5  # drawn over by another label, and where nothing is to be learned
    assert ObjectIndex(sample_of(label_map, instances)).labels.tolist() == [1, 2]


def many_labels(labels: int, seed: int = 0) -> Sample:
    """A sample in which each of many labels has a few pixels."""
    label_map = np.random.default_rng(seed).permutation(np.arange(64 * 64) % (labels + 1)).reshape(64, 64)
    return sample_of(label_map.astype(np.uint8).repeat(2, 0).repeat(2, 1))


def test_what_a_sample_and_a_batch_take_does_not_grow_with_the_labels() -> None:
    taken = {}
    for labels in (10, MOST_CLASSES - 1, 150, 254):
        crops = CropSampler([many_labels(labels)], labels, np.random.default_rng(0), 2, 0.5, 0.3)
        batch = crops.draw()
        taken[labels] = sum(part.nbytes for part in crops.items[0]), batch.targets.shape[1]
    assert len({size for size, _ in taken.values()}) == 1
    assert [planes for _, planes in taken.values()] == [11, MOST_CLASSES, MOST_CLASSES, MOST_CLASSES]


def test_of_many_labels_those_in_the_batch_are_told_apart_and_others_stand_for_the_rest() -> None:
    sample = made_up(0, labels=3)
    batch = CropSampler([sample], 150, np.random.default_rng(0), 4, 1.0, 0.3).draw()
    assert batch.classes is not None and batch.offsets is not None
    assert batch.classes[:4].tolist() == [0, 1, 2, 3] and len(set(batch.classes.tolist())) == MOST_CLASSES
    assert (batch.classes.diff() > 0).all() and batch.classes.max() <= 150
    assert (batch.targets.sum(1) - 1).abs().max() < 0.01 and batch.targets[:, 4:].sum() == 0
    assert batch.offsets[:4].tolist() == [0] * 4
    assert batch.offsets[4:].exp().sum() == pytest.approx(147)  # as many as there are others


def test_few_labels_are_all_told_apart() -> None:
    batch = source([made_up(0)]).draw()
    assert batch.classes is None and batch.offsets is None
