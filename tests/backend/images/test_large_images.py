"""Pictures larger than a tile: clicked on, pre-annotated and learned from by tile_windows."""

import io
import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import rasterio
from cachetools import LRUCache
from PIL import Image
from rasterio.io import MemoryFile

from skylight.backend.demo.demo import label_config
from skylight.backend.images import large_images
from skylight.backend.images.embedder import ImageEmbedder
from skylight.backend.images.large_images import LargeImageStore
from skylight.backend.inference import click as click_module
from skylight.backend.inference import preannotation as preannotation_module
from skylight.backend.inference.click import click
from skylight.backend.inference.preannotation import preannotation, preannotation_large
from skylight.backend.labelstudio.label_config import parse_config
from skylight.backend.labelstudio.region_reader import read_mask
from skylight.backend.learning.dataset import choose_tiles, split_into_tiles
from skylight.backend.service import Service
from skylight.backend.store.samples import SampleRecord
from skylight.model.datasets.synthetic_scenes import scene
from skylight.model.decoder.samples import Sample
from skylight.model.embeddings.cache import EmbeddingCache
from skylight.model.embeddings.file_format import has_reader
from skylight.model.images import tiling
from skylight.model.images.decoding import ImageError, content_hash
from skylight.model.images.normalization import Normalization
from skylight.model.images.opening import load_raster
from skylight.model.images.raster import MemoryRaster
from skylight.model.images.tiling import enlarged_window, nearest_window, tile_windows, window_around
from skylight.model.mapping import tiled_inference as tiles
from skylight.model.masks.bitmask import decode_png, encode_png, encode_png_in
from skylight.model.masks.brush_rle import encode_rle, encode_rle_in
from skylight.model.masks.errors import MaskError
from skylight.model.sam.types import Embedding, Prompt
from tests.support.picture_kinds import raster as raster_file
from tests.support.planted_embeddings import key_point, png, write_as_before
from tests.support.trained_versions import train_pits

SIDE = 256
A, B = "/data/upload/1/a.png", "/data/upload/1/b.png"
LABELING = parse_config(label_config(["Pit"]), preferred="")


@pytest.fixture(scope="module")
def decoder(segmenter):
    return train_pits(segmenter)


@pytest.fixture(scope="module")
def mosaic():
    """3 x 4 scenes of a tile's size, (768, 1024, 3), and their pits."""
    scenes = [[scene(60 + 4 * i + j, SIDE) for j in range(4)] for i in range(3)]
    image = np.concatenate([np.concatenate([each.image for each in row], 1) for row in scenes])
    return image, np.concatenate([np.concatenate([each.truth() for each in row], 1) for row in scenes])


@pytest.fixture
def tiled(service: Service, segmenter) -> Service:
    """A service whose tiles have 256 px."""
    service.settings = replace(service.settings, tile=SIDE)
    cache = EmbeddingCache(service.files, segmenter.encoder_id, 10**7)
    large = LargeImageStore(service.settings.home / "pictures", SIDE)
    service._embedder = ImageEmbedder(segmenter, cache, service._fetch, 10**7, large=large)
    return service


def geotiff(image: np.ndarray) -> bytes:
    with MemoryFile() as memory:
        how = {"crs": "EPSG:32632", "transform": rasterio.Affine(1, 0, 9, 0, -1, 9), "tiled": True}
        with memory.open(
            driver="GTiff", height=image.shape[0], width=image.shape[1], count=3, dtype="uint8", **how
        ) as f:
            f.write(np.moveaxis(image, 2, 0))
        return memory.read()


def jpeg(image: np.ndarray, **more) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95, **more)
    return buffer.getvalue()


@pytest.mark.parametrize("make", [png, geotiff, jpeg])
def test_a_large_picture_is_read_by_windows_and_fetched_once(tiled, studio, mosaic, make):
    image, _ = mosaic
    studio.pictures[A] = make(image)
    digest, raster = tiled.embedder.open(A)
    assert digest == content_hash(studio.pictures[A]) and raster.size == image.shape[:2]
    off = np.abs(raster.read((300, 500, 40, 50)).astype(int) - image[300:340, 500:550])
    assert off.max() <= (40 if make is jpeg else 0)
    assert tiled.embedder.open(A)[1] is raster
    whole = tiled.embedder.embedding(A)[1]
    assert whole.size == image.shape[:2] and studio.fetched == [A]
    assert len(list((tiled.settings.home / "pictures").iterdir())) == 1


def test_a_small_picture_stays_what_it_was(tiled, studio):
    studio.pictures[A] = png(scene(1, SIDE).image)
    digest, embedding = tiled.embedder.open(A)
    assert isinstance(embedding, Embedding) and tiled.embedder.open(A) == (digest, embedding)
    assert tiled.embedder.embedding(A) == (digest, embedding) and studio.fetched == [A]
    assert not (tiled.settings.home / "pictures").exists()


def test_a_picture_that_exif_turns_is_turned(tiled, studio):
    image = scene(1, 512).image[:300]
    exif = Image.Exif()
    exif[0x0112] = 6
    studio.pictures[A] = jpeg(image, exif=exif)
    _, raster = tiled.embedder.open(A)
    assert raster.size == (512, 300)
    assert np.abs(raster.read((0, 0, 512, 300)).astype(int) - np.rot90(image, -1)).mean() < 10


def test_files_give_way_and_are_fetched_again(tiled, studio, mosaic, monkeypatch):
    image, _ = mosaic
    monkeypatch.setattr(large_images, "KEPT_BYTES", image.nbytes + 1000)
    monkeypatch.setattr(tiled.embedder.large, "_open", LRUCache(1))
    for name in (A, B):
        studio.pictures[name] = png(np.roll(image, len(studio.pictures), 0))
        tiled.embedder.embedding(name)
    assert len(list((tiled.settings.home / "pictures").iterdir())) == 1
    assert not isinstance(tiled.embedder.open(A)[1], Embedding)
    assert studio.fetched == [A, B, A]


def test_too_many_pixels_are_refused_before_any_is_decoded(tiled, studio, mosaic):
    studio.pictures[A] = png(mosaic[0])
    tiled.embedder.max_pixels = 700_000
    with pytest.raises(ImageError, match="1024 x 768 pixels, more than the 700000 of SKYLIGHT_MAX_PIXELS"):
        tiled.embedder.open(A)
    assert not (tiled.settings.home / "pictures").exists()


def test_a_click_in_a_large_picture_answers_as_in_its_own_tile(tiled, studio, mosaic, segmenter):
    image, truth = mosaic
    studio.pictures[A] = png(image)
    own = scene(66, SIDE)  # row 1, column 2
    pit = max((each.mask for each in own.objects if each.kind == "pit"), key=np.count_nonzero)
    rows, columns = np.nonzero(pit)
    x, y = columns.mean() + 2 * SIDE, rows.mean() + SIDE
    prompt = key_point("point", "Pit", x, y, truth.shape)
    task = {"id": 1, "data": {"image": A}}
    regions, score = click(tiled, LABELING, task, {"result": [prompt]})
    mask = read_mask(regions[0], truth.shape)
    there = np.zeros_like(truth)
    there[SIDE : 2 * SIDE, 2 * SIDE : 3 * SIDE] = pit
    assert (mask & there).sum() / (mask | there).sum() > 0.8 and score > 0.5
    assert studio.fetched == [A]


def test_an_object_larger_than_the_widest_window_is_drawn_where_that_window_lies(tiled, studio, mosaic, monkeypatch):
    image, truth = mosaic
    studio.pictures[A] = png(image)
    monkeypatch.setattr(click_module, "WIDER", 1)
    further = iter([(0, 0, 512, 512), (256, 512, 512, 512), (0, 0, 768, 768)])
    monkeypatch.setattr(tiling, "enlarged_window", lambda *_: next(further))
    prompt = key_point("point", "Pit", 300, 300, truth.shape)
    regions, _ = click(tiled, LABELING, {"id": 1, "data": {"image": A}}, {"result": [prompt]})
    embedding = tiled.embedder.tile_embedding(*tiled.embedder.open(A), (0, 0, 512, 512))
    found = tiled.embedder.segmenter.segment(embedding, Prompt.of([(300, 300, True)]), candidates=1)
    wanted = np.zeros_like(truth)
    wanted[:512, :512] = found.masks[0]
    assert wanted.any() and (read_mask(regions[0], truth.shape) == wanted).all()


def test_a_mask_that_goes_on_is_looked_at_from_further_away():
    mask = np.zeros((100, 100), bool)
    mask[40:60, 90:] = True
    assert enlarged_window((1000, 1000), (0, 0, 100, 100), mask) == (0, 0, 200, 200)
    assert enlarged_window((1000, 1000), (450, 450, 100, 100), mask) == (400, 444, 200, 200)
    assert enlarged_window((100, 100), (0, 0, 100, 100), mask) is None  # the picture ends there
    assert enlarged_window((1000, 1000), (0, 0, 100, 100), mask[:, ::-1]) is None


def test_the_tile_nearest_to_a_prompt_is_looked_at_unless_the_prompt_is_larger():
    at = np.array([600, 300], np.float32)
    row, column, height, width = nearest_window((2000, 3000), 256, at, at)
    assert (height, width) == (256, 256) and abs(row + 128 - 300) <= 128 and abs(column + 128 - 600) <= 128
    assert (row, column, height, width) in tile_windows((2000, 3000), 256)
    low, high = np.array([100, 100], np.float32), np.array([900, 500], np.float32)
    assert (
        nearest_window((2000, 3000), 256, low, high)
        == window_around((2000, 3000), 500, 300, 1600)
        == (0, 0, 1600, 1600)
    )


def test_pre_annotations_of_a_large_picture_are_those_of_its_tiles(tiled, studio, mosaic, decoder):
    image, truth = mosaic
    studio.pictures[A] = png(image)
    regions, score = preannotation(tiled, decoder, LABELING, A)
    found = np.any([read_mask(each, truth.shape) for each in regions], axis=0)
    assert (found & truth).sum() / (found | truth).sum() > 0.5 and 0 < score < 1
    assert {each["original_width"] for each in regions} == {1024}
    files = len(list((tiled.settings.home / "embeddings").rglob("*.safetensors")))
    digest, raster = tiled.embedder.open(A)
    assert tiled.embedder.tile_count(A) == len(tile_windows(raster.size, SIDE)) > 12
    assert preannotation_large(tiled, decoder, LABELING, digest, raster)[1] == score
    assert len(list((tiled.settings.home / "embeddings").rglob("*.safetensors"))) == files  # nothing is encoded twice


@pytest.mark.parametrize("kind", ["BrushLabels", "BitmaskLabels", "PolygonLabels"])
def test_of_brushes_and_bitmasks_no_more_are_sent_than_fit_into_an_answer(
    tiled, studio, mosaic, decoder, monkeypatch, caplog, kind
):
    studio.pictures[A] = png(mosaic[0])
    labeling = parse_config(label_config(["Pit"]).replace("BrushLabels", kind), preferred="")
    digest, raster = tiled.embedder.open(A)
    every, score = preannotation_large(tiled, decoder, labeling, digest, raster)
    one = len(json.dumps(every[0]["value"]))
    monkeypatch.setattr(preannotation_module, "MAX_CHARACTERS", one)
    some, same = preannotation_large(tiled, decoder, labeling, digest, raster)
    assert score == same and len(every) > 5
    if kind == "PolygonLabels":
        assert len(some) == len(every)
        return
    assert 1 <= len(some) <= 3 and "the others are not sent: use PolygonLabels" in caplog.text
    assert [each["score"] for each in some] == [each["score"] for each in every][: len(some)]


def test_of_too_many_objects_in_a_large_picture_the_surest_go(tiled, studio, mosaic, decoder, monkeypatch, caplog):
    studio.pictures[A] = png(mosaic[0])
    digest, raster = tiled.embedder.open(A)
    every, _ = preannotation_large(tiled, decoder, LABELING, digest, raster)
    scores = [each["score"] for each in every]
    assert len(scores) > 5 and scores == sorted(scores, reverse=True)
    monkeypatch.setattr(preannotation_module, "MAX_ANSWERED_LARGE", 3)
    some, _ = preannotation_large(tiled, decoder, LABELING, digest, raster)
    assert [each["score"] for each in some] == scores[:3] and "more than 3 objects" in caplog.text


def test_what_is_learned_from_a_large_picture_are_tiles_with_something_and_some_without(tiled, studio, mosaic):
    image, truth = mosaic
    studio.pictures[A] = png(image)
    only = np.zeros(truth.shape, np.uint8)
    only[300:330, 500:530] = 1
    record = SampleRecord(1, 1, "", A, content_hash(studio.pictures[A]), truth.shape, ("Pit",), 1)
    _, embedding = tiled.embedder.embedding(A)
    made = split_into_tiles(tiled.embedder, record, Sample("1", embedding, only, only.astype(np.uint16)))
    full = [each for each in made if each.label_map.any()]
    assert 1 <= len(full) <= 4 and len(made) == len(full) + max(len(full), 2)
    assert all(each.embedding.size == each.label_map.shape == each.instances.shape == (SIDE, SIDE) for each in made)
    assert {each.task for each in made} == {"1"}
    assert split_into_tiles(tiled.embedder, replace(record, image="ab" * 32), Sample("1", embedding, only)) == []
    assert split_into_tiles(tiled.embedder, replace(record, size=(200, 200)), made[0]) == [made[0]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_large_picture_of_16_bits_is_seen_by_each_normalisation_and_kept_once(tiled, studio, mosaic, kind):
    gray = mosaic[0][..., 0]
    buffer = io.BytesIO()
    Image.fromarray(gray.astype(np.uint16) * 20).save(buffer, kind)
    studio.pictures[A] = buffer.getvalue()
    whole = (0, 0, *gray.shape)
    for high, levels in ((20 * 255, gray), (40 * 255, gray / 2)):
        digest, raster = tiled.embedder.with_normalization(Normalization((), (0.0, high))).open(A)
        assert np.abs(raster.read(whole)[..., 0] - levels).max() <= 1
        assert np.abs(raster.thumbnail(64).astype(float).mean() - levels.mean()) < 3
    _, own = tiled.embedder.open(A)
    assert np.abs(own.quantiles[[1, 99]] / 20 - np.percentile(gray, (1, 99))).max() < 3
    assert own.read(whole).min() == 0 and own.read(whole).max() == 255
    assert studio.fetched == [A] and len(list((tiled.settings.home / "pictures").iterdir())) == 1


def with_gaps(image: np.ndarray, there: np.ndarray) -> bytes:
    """A GeoTIFF of 8 bits whose nodata, 255, is where nothing is `there`, (H, W) bool."""
    bands = np.where(there, np.minimum(np.moveaxis(image, 2, 0), 254), 255).astype(np.uint8)
    return raster_file(bands, place=True, nodata=255)


def test_of_a_small_picture_nothing_is_learned_or_said_where_there_is_no_data(tiled, studio, decoder):
    made = scene(60, SIDE)
    there = np.ones((SIDE, SIDE), bool)
    there[:, :100] = False
    studio.pictures[A] = with_gaps(made.image, there)
    digest, embedding = tiled.embedder.embedding(A)
    record = SampleRecord(1, 1, "", A, digest, (SIDE, SIDE), ("Pit",), 1)
    (sample,) = split_into_tiles(tiled.embedder, record, Sample("1", embedding, made.truth().astype(np.uint8)))
    assert (sample.label_map[~there] == 255).all() and (sample.label_map[there] == made.truth()[there]).all()
    regions, score = preannotation(tiled, decoder, LABELING, A)
    found = np.any([read_mask(each, there.shape) for each in regions], axis=0)
    assert found.any() and not found[~there].any() and 0 < score < 1
    studio.pictures[B] = with_gaps(made.image, ~there & there)
    assert preannotation(tiled, decoder, LABELING, B) == ([], 1.0)


UNPACKER = """
import pathlib, sys, time
import numpy as np
from skylight.backend.images.large_images import LargeImageStore
folder, go = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
data, right = (folder / "picture").read_bytes(), np.load(folder / "right.npy")
print("ready", flush=True)
while not go.exists():
    time.sleep(0.001)
for k in range(10):
    raster = LargeImageStore(folder / str(k), 64).add("ab" * 32, data, 10**8)
    assert (raster.read((0, 0, *raster.size)) == right).all(), k
"""


@pytest.mark.parametrize("make", [png, jpeg])
def test_several_processes_unpack_one_picture_at_the_same_time(tmp_path, mosaic, make):
    data = make(mosaic[0])
    (tmp_path / "picture").write_bytes(data)
    np.save(tmp_path / "right.npy", load_raster(data).pixels)
    command = [sys.executable, "-c", UNPACKER, str(tmp_path), str(tmp_path / "go")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [each.stdout.readline() for each in running] == ["ready\n"] * 3
    (tmp_path / "go").touch()
    ended = [each.communicate() for each in running]
    assert [each.returncode for each in running] == [0] * 3, ended
    assert {path.name for k in range(10) for path in (tmp_path / str(k)).iterdir()} == {f"{'ab' * 32}.pixels.npy"}


def test_what_was_left_half_written_is_removed(tmp_path, mosaic):
    large = LargeImageStore(tmp_path, 64)
    for name, age in ((".old.pixels.npy.1", 7200), (".new.pixels.npy.2", 60)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    large.add("ab" * 32, png(mosaic[0]), 10**8)
    assert not (tmp_path / ".old.pixels.npy.1").exists() and (tmp_path / ".new.pixels.npy.2").exists()


def test_tiles_that_the_release_before_saw_otherwise_are_made_anew(tiled, studio, mosaic):
    image = mosaic[0]
    index = Image.fromarray(image).quantize(64)
    palette = {k: (*map(int, colour), 255) for k, colour in enumerate(np.reshape(index.getpalette(), (-1, 3)))}
    numbers = np.asarray(index)
    studio.pictures[A] = raster_file(numbers[None], photometric="palette", palette=palette)
    digest, raster = tiled.embedder.open(A)
    window, other = (0, 0, SIDE, SIDE), (SIDE, SIDE, SIDE, SIDE)
    right = tiled.embedder.tile_embedding(digest, raster, window)
    path, kept = (tiled.embedder.cache.path(f"{digest}-{'-'.join(map(str, each))}") for each in (window, other))
    seen = MemoryRaster(np.repeat(numbers[..., None], 3, 2))  # as palettes were read
    write_as_before(path, tiles.embed(tiled.embedder.segmenter, seen, window))
    write_as_before(kept, tiles.embed(tiled.embedder.segmenter, raster, other))
    fresh = tiled.embedder.with_normalization(
        Normalization((), (0.0, 1.0))
    )  # its key is another, so it is not in memory
    fresh.cache._memory.clear()
    assert (fresh.tile_embedding(digest, raster, window).thumbnail == right.thumbnail).all()
    assert not has_reader(kept.read_bytes()) and has_reader(path.read_bytes())
    fresh.tile_embedding(digest, raster, other)
    assert has_reader(kept.read_bytes())


def test_nothing_is_learned_from_where_there_is_no_data(tiled, studio, mosaic):
    image, truth = mosaic
    bands = np.moveaxis(image, 2, 0).astype(np.uint16) * 9 + 1
    bands[:, :, :500] = 0
    with MemoryFile() as memory:
        how = {"height": 768, "width": 1024, "count": 3, "dtype": "uint16", "nodata": 0, "crs": "EPSG:32632"}
        how["transform"] = rasterio.Affine(1, 0, 9, 0, -1, 9)
        with memory.open(driver="GTiff", **how) as file:
            file.write(bands)
        studio.pictures[A] = memory.read()
    drawn = np.zeros(truth.shape, np.uint8)
    drawn[300:330, 490:530] = 1
    record = SampleRecord(1, 1, "", A, content_hash(studio.pictures[A]), truth.shape, ("Pit",), 1)
    _, embedding = tiled.embedder.embedding(A)
    made = split_into_tiles(tiled.embedder, record, Sample("1", embedding, drawn))
    shares = [(each.label_map == 255).mean() for each in made]
    assert max(shares) < 1 and any(share > 0 for share in shares)  # tiles at the edge, with the rest ignored
    assert max((each.label_map == 1).any(0).sum() for each in made) == 30  # columns of 40 that were drawn on
    nothing = [window for window in tile_windows(truth.shape, SIDE) if window[1] + SIDE <= 500]
    assert nothing and choose_tiles(drawn * 0, nothing, "a", tiled.embedder.open(A)[1].known) == []


def test_tiles_are_chosen_within_bounds_and_always_alike():
    tiles = tile_windows((5_000, 5_000), 512)
    everywhere = np.ones((5_000, 5_000), np.uint8)
    assert len(choose_tiles(everywhere, tiles, "a")) == 64
    assert len(choose_tiles(everywhere * 0, tiles, "a")) == 2 and choose_tiles(everywhere * 255, tiles, "a") == []
    assert choose_tiles(everywhere * 0, tiles, "a") == choose_tiles(everywhere * 0, tiles[::-1], "a")


@pytest.mark.parametrize("seed", range(6))
def test_a_part_is_written_as_the_whole_would_be(seed):
    rng = np.random.default_rng(seed)
    size = (40, 30)
    height, width = (40, 30) if seed < 2 else rng.integers(1, 30, 2)
    top, left = rng.integers(0, 41 - height), rng.integers(0, 31 - width)
    mask = rng.random((height, width)) < (0.9, 1.0, 0.5, 0.1, 0.0, 0.7)[seed]
    whole = np.zeros(size, bool)
    whole[top : top + height, left : left + width] = mask
    assert encode_rle_in(mask, int(top), int(left), size) == encode_rle(whole)
    assert (decode_png(encode_png_in(mask, int(top), int(left), size)) == decode_png(encode_png(whole))).all()


def test_a_part_beyond_the_picture_is_refused():
    with pytest.raises(MaskError, match="does not fit into a picture of 4 x 4 px"):
        encode_rle_in(np.ones((2, 2), bool), 3, 0, (4, 4))
