"""Tiles: what covers a picture, how answers are blended, and that objects are found as in a picture of their own."""

import tracemalloc

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from skylight.model.datasets.synthetic_scenes import scene
from skylight.model.decoder.inference import Prediction, instances, predict_pixels
from skylight.model.decoder.watershed import separate
from skylight.model.images.raster import MemoryRaster
from skylight.model.images.tiling import blend_weights, tile_starts, tile_windows
from skylight.model.mapping import component_merging
from skylight.model.mapping.component_merging import UNKNOWN, LabelMap
from skylight.model.mapping.tiled_inference import Strip, strips
from skylight.model.mapping.vectorize import shape
from skylight.model.mapping.writers import write_geotiff, write_png
from skylight.model.masks.coco_rle import encode_runs
from skylight.model.masks.region import StreamedRegion
from tests.support.shapes import apart
from tests.support.trained_versions import train_pits


@pytest.mark.parametrize(("length", "side"), [(10, 64), (64, 64), (65, 64), (100, 64), (1000, 64), (20_000, 1024)])
def test_tiles_cover_everything_and_overlap_by_an_eighth_or_more(length, side):
    begins = tile_starts(length, side)
    assert begins[0] == 0 and begins[-1] == max(length - side, 0)
    assert all(0 < b - a <= side - side // 8 for a, b in zip(begins, begins[1:], strict=False))


@pytest.mark.parametrize(("length", "side"), [(10, 64), (65, 64), (113, 64), (1000, 64)])
def test_weights_sum_up_to_1_and_change_smoothly_between_neighbours(length, side):
    weights, total = blend_weights(length, side), np.zeros(length)
    for begin, weight in zip(tile_starts(length, side), weights, strict=True):
        total[begin : begin + len(weight)] += weight
        assert (weight > 0).all()
    assert np.allclose(total, 1)
    if len(weights) > 1:
        assert weights[0][-1] < 0.1 and weights[1][0] < 0.1  # beside the one that sees no further


def test_all_windows_lie_in_the_picture():
    for row, column, height, width in tile_windows((300, 90), 128):
        assert (height, width) == (128, 90) and 0 <= row <= 172 and column == 0


@pytest.fixture(scope="module")
def decoder(segmenter):
    return train_pits(segmenter)


@pytest.fixture
def empty():
    """Makes maps, and closes them at the end."""
    made = []

    def make(*how):
        made.append(LabelMap(*how))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def of(empty, decoder, segmenter):
    return lambda raster, side: mapped(empty(raster.size, len(decoder.config.labels)), raster, decoder, segmenter, side)


def mapped(found, raster, decoder, segmenter, side):
    rows = list(found.fill(strips(decoder, segmenter, raster, side)))
    assert rows[-1] == raster.size[0]
    return found


def test_a_picture_of_one_tile_gives_what_a_pre_annotation_gives(of, decoder, segmenter):
    picture = scene(7, 200).image[:150]
    said = predict_pixels(decoder, segmenter.embed(picture))
    expected = list(instances(said, 20))
    found = list(of(MemoryRaster(picture), 256).objects(20))
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        whole = np.zeros_like(other.mask)  # a pixel between two labels may fall on either side, by the processor
        whole[one.top : one.top + one.mask.shape[0], one.left : one.left + one.mask.shape[1]] = one.mask
        assert one.label == other.label and one.area == one.mask.sum()
        assert (whole != other.mask).sum() <= 2 and abs(one.score - other.score) < 0.005


def test_tiles_agree_with_each_other_across_their_seams(of, decoder, segmenter):
    """A pit in four tiles is one object, as good as in a tile of its own."""
    side, big = 256, np.concatenate([scene(50 + k, 256).image for k in range(3)])
    big = np.concatenate([big, big[::-1]], 1)
    truth = np.concatenate([scene(50 + k, 256).truth() for k in range(3)])
    truth = np.concatenate([truth, truth[::-1]], 1)
    whole = of(MemoryRaster(np.roll(big, (128, 128), (0, 1))), side)
    moved = np.roll(truth, (128, 128), (0, 1))
    classes = whole.classes.read((0, 0, *whole.size)) == 1
    own = np.zeros_like(truth)
    for row in range(0, 768, side):
        for column in range(0, 512, side):
            part = np.s_[row : row + side, column : column + side]
            own[part] = predict_pixels(decoder, segmenter.embed(big[part].copy())).probabilities.argmax(0)
    iou = [(a & b).sum() / (a | b).sum() for a, b in ((classes, moved), (own, truth))]
    assert iou[0] > iou[1] - 0.05 and iou[0] > 0.5


def strip(top, classes, distance=None):
    probabilities = np.stack([classes == k for k in range(3)]).astype(np.float16)
    depth = np.zeros(classes.shape, np.float16) if distance is None else distance
    return Strip(top, probabilities, depth, np.ones(classes.shape, bool))


def in_strips(empty, classes, height, distance=None, separated=frozenset()):
    found = empty(classes.shape, 2, separated)
    tops = range(0, len(classes), height)
    parts = [strip(t, classes[t : t + height], None if distance is None else distance[t : t + height]) for t in tops]
    list(found.fill(parts))
    return found


@pytest.mark.parametrize("height", [1, 7, 64, 300])
def test_objects_are_the_same_however_high_the_strips_are(empty, height):
    noise = np.random.default_rng(3).integers(0, 3, (300, 40)).astype(np.uint8)
    said = Prediction(np.stack([noise == k for k in range(3)]).astype(np.float32), np.zeros(noise.shape), frozenset())
    expected = {(each.label, each.mask.tobytes()) for each in instances(said, 1)}
    found = set()
    for one in in_strips(empty, noise, height).objects(1):
        mask = np.zeros(noise.shape, bool)
        mask[one.top : one.top + one.mask.shape[0], one.left : one.left + one.mask.shape[1]] = one.mask
        found.add((one.label, mask.tobytes()))
    assert found == expected


@pytest.mark.parametrize("height", [7, 300])
def test_an_object_too_large_for_an_array_is_read_by_strips_and_is_the_same(empty, height, monkeypatch):
    """Blobs with holes, in each other, and such that touch by a corner."""
    noise = ndimage.gaussian_filter(np.random.default_rng(5).normal(size=(300, 90)), 3)
    classes = (noise > 0).astype(np.uint8) + (noise > np.percentile(noise, 80)).astype(np.uint8)
    classes[200:204, 10:14] = np.eye(4)
    expected = list(in_strips(empty, classes, height).objects(1))
    monkeypatch.setattr(component_merging, "LARGEST_ARRAY", 400)
    found = list(in_strips(empty, classes, height).objects(1))
    assert sum(isinstance(each, StreamedRegion) for each in found) > 3 and len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one.label, one.top, one.left, one.area) == (other.label, other.top, other.left, other.area)
        assert (one.height, one.width, one.diameter) == (other.height, other.width, other.diameter)
        assert (one.mask == other.mask).all()
        assert one.centroid == pytest.approx(other.centroid) and one.score == pytest.approx(other.score)
        assert encode_runs(one, classes.shape) == encode_runs(other, classes.shape)
        drawn, right = shape(one), shape(other)
        assert drawn.is_valid and drawn.symmetric_difference(right).area <= 0.3 * right.length


def test_the_surest_parts_of_all_labels_come_first_if_that_is_asked(empty):
    classes = np.zeros((64, 64), np.uint8)
    classes[:30, :30], classes[40:44, :4], classes[40:50, 40:50] = 1, 1, 2
    found, given = empty(classes.shape, 2), strip(0, classes)
    given.probabilities[:, :30, :30] *= 0.6
    given.probabilities[:, 40:50, 40:50] *= 0.8
    list(found.fill([given]))
    assert [(each.label, each.area) for each in found.objects(1)] == [(0, 900), (0, 16), (1, 100)]
    assert [(each.label, each.area) for each in found.objects(1, surest_first=True)] == [(0, 16), (1, 100), (0, 900)]


def test_memory_does_not_grow_with_the_area_of_a_raster(empty, tmp_path, monkeypatch):
    """One object all over it, with a hole in each strip, taken in, measured, outlined and written."""
    monkeypatch.setattr(component_merging, "LARGEST_ARRAY", 50_000)
    monkeypatch.setattr(component_merging, "LARGEST_SEPARATED", 50_000)
    peaks = []
    for height in (512, 4096):
        rows = np.ones((256, 512), np.uint8)
        rows[100:130, 100:400] = 0
        found = empty((height, 512), 2, frozenset({0}))
        tracemalloc.start()
        list(found.fill(strip(top, rows) for top in range(0, height, 256)))
        (only,) = found.objects(1)
        assert only.area == rows.sum() * height // 256 and len(encode_runs(only, found.size)) > 100
        assert shape(only).area == pytest.approx(only.area)
        write_png(tmp_path / "a.png", found.classes)
        write_geotiff(tmp_path / "a.tif", found.classes, None, ["a", "b"])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        with Image.open(tmp_path / "a.png") as image:
            assert (np.asarray(image) == np.tile(rows, (height // 256, 1))).all()
    assert peaks[1] < 1.3 * peaks[0]  # of eight times the area


def test_taking_in_a_strip_takes_little_memory_beside_it(empty):
    blocks = np.zeros((1024, 2048), np.uint8)
    blocks[100:900:20, 300:2000] = 1
    found, given = empty(blocks.shape, 2, frozenset({0})), strip(0, blocks)
    tracemalloc.start()
    list(found.fill([given]))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 6 * blocks.size  # bytes; of all rows at once it is 19


def test_touching_objects_are_told_apart_across_strips(empty):
    classes, distance = np.zeros((60, 90), np.uint8), np.zeros((60, 90), np.float16)
    y, x = np.mgrid[:60, :90]
    for centre in (30, 55):
        r = np.hypot(y - 30, x - centre)
        classes[r < 15] = 1
        distance = np.maximum(distance, np.clip(1 - r / 15, 0, 1)).astype(np.float16)
    found = list(in_strips(empty, classes, 16, distance, frozenset({0})).objects(10))
    expected = apart(separate(classes == 1, distance.astype(np.float32), 10))
    assert len(found) == len(expected) == 2
    assert sorted(one.area for one in found) == sorted(int(mask.sum()) for mask in expected)
    assert len(list(in_strips(empty, classes, 16, distance).objects(10))) == 1


def test_what_is_not_known_is_of_no_class_and_does_not_count(of):
    class Half(MemoryRaster):
        def known(self, window):
            row, column, height, width = window
            return np.broadcast_to(np.arange(column, column + width) >= 100, (height, width))

    picture = scene(7, 200).image
    found = of(Half(picture), 256)
    assert (found.classes.read((0, 0, 200, 100)) == UNKNOWN).all() and found.known == 0.5
    assert (found.classes.read((0, 100, 200, 100)) < UNKNOWN).all()
    none = of(Half(picture[:, :90].copy()), 256)
    assert none.confidence == 1 and list(none.objects(1)) == []
