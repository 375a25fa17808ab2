"""One normalisation per project: settled by its pictures or set by somebody, and kept with what was trained by it."""

import io
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from rasterio import Affine
from rasterio.io import MemoryFile

from skylight.backend.admin.actions import set_normalization
from skylight.backend.admin.status import all_as_json, lines
from skylight.backend.cli import main
from skylight.backend.inference.click import click
from skylight.backend.inference.preannotation import preannotation
from skylight.backend.labelstudio.label_config import parse_config
from skylight.backend.learning.coverage import readiness
from skylight.backend.learning.precompute import embed_project, precompute
from skylight.backend.learning.reconcile import reconcile
from skylight.backend.learning.training import train_version
from skylight.backend.web.page.gallery import Gallery
from skylight.model.decoder.training import TrainConfig
from skylight.model.decoder.validation_split import in_validation
from skylight.model.images.decoding import content_hash
from skylight.model.images.normalization import PER_IMAGE, Normalization
from tests.backend.learning.test_precompute import address
from tests.support.label_studio_double import CONFIG
from tests.support.planted_embeddings import STEP, brush, key_point, png, square

LABELING = parse_config(CONFIG)
DIM, BRIGHT = 10, 40  # by which gray levels are multiplied: two pictures of one sensor, one in the shade


@pytest.fixture
def project(planted, studio) -> str:
    key = studio.add_project()
    planted.store.save_config(key, CONFIG)
    planted.recipe = TrainConfig(steps=30, batch=4, check_every=10)
    return key


def deep(numbers: np.ndarray) -> bytes:
    """A PNG of 16 bits."""
    buffer = io.BytesIO()
    Image.fromarray(numbers.astype(np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


def bands(*levels: int, dtype=np.uint16) -> bytes:
    """A GeoTIFF whose bands have one number each, but for the last row, which is 0."""
    array = np.stack([np.full((64, 64), level, dtype) for level in levels])
    array[:, 63:] = 0
    with MemoryFile() as memory:
        how = {"height": 64, "width": 64, "count": len(levels), "dtype": dtype, "transform": Affine(1, 0, 9, 0, -1, 9)}
        with memory.open(driver="GTiff", **how) as file:
            file.write(array)
        return memory.read()


def add(studio, project, *factors: int) -> None:
    """A task of 16 bits for each factor: a square of 200 to 219 times it, on 60 to 79 times it."""
    for seed, factor in enumerate(factors):
        studio.add_task(project, deep(square(seed)[0][..., 0].astype(np.int64) * factor))


def annotate(service, studio, project) -> None:
    for seed, task in enumerate(list(studio.tasks)):
        if not studio.tasks[task]["annotations"]:
            studio.annotate(task, [brush(LABELING, square(seed)[1])])
    reconcile(service, project)


def embed(service, project) -> None:
    """As workers do until nothing is wanted."""
    service.prefetch_requests.request_all(project)
    while service.prefetch_requests.newest(project):
        embed_project(service, project)


def level(service, studio, project, task: int) -> float:
    """The brightest cell of a task's picture, as its embedding has it."""
    _, embedding = service.embedder_for(project).embedding(address(studio, task))
    return float(embedding.features[0].max()) * STEP


def test_pictures_of_one_project_are_seen_by_one_range(planted, studio, project):
    add(studio, project, DIM, BRIGHT)
    embed(planted, project)
    own = [planted.embedder.embedding(address(studio, task))[1].features.max() for task in (1, 2)]
    assert own[0] == pytest.approx(own[1], abs=0.2)  # as it was before there was one
    low, high = planted.normalizations.of(project).range
    assert low < 80 * DIM and high > 200 * BRIGHT
    dim, bright = (level(planted, studio, project, task) for task in (1, 2))
    assert dim == pytest.approx((210 * DIM - low) * 255 / (high - low), abs=8)
    assert bright == pytest.approx((210 * BRIGHT - low) * 255 / (high - low), abs=8)
    assert readiness(planted, project).ready == 2
    add(studio, project, 4 * BRIGHT)
    embed(planted, project)
    assert planted.normalizations.of(project).range == (low, high)


def test_after_some_pictures_it_is_settled_and_only_those_are_embedded_twice(planted, studio, project, monkeypatch):
    monkeypatch.setattr("skylight.backend.learning.precompute.ENOUGH", 2)
    add(studio, project, *[DIM, BRIGHT] * 3)
    encoded = counted(planted, monkeypatch)
    embed(planted, project)
    assert len(encoded) == 6 + 2 and readiness(planted, project).ready == 6


def test_the_command_that_embeds_all_ends_with_all_embedded_alike(planted, studio, project):
    add(studio, project, DIM, BRIGHT, BRIGHT)
    *_, tally = precompute(planted, 1)
    assert (tally.done, tally.failed) == (3, []) and readiness(planted, project).ready == 3


def counted(service, monkeypatch) -> list:
    """What the encoder is given from now on."""
    encoder, given = service.embedder.segmenter.embed, []
    monkeypatch.setattr(service.embedder.segmenter, "embed", lambda image: given.append(1) or encoder(image))
    return given


def test_pictures_of_8_bits_keep_their_embeddings_whatever_the_normalisation(planted, studio, project, monkeypatch):
    studio.add_task(project, png(square(1)[0]))
    digest, embedding = planted.embedder.embedding(address(studio, 1))
    encoded = counted(planted, monkeypatch)
    embed(planted, project)
    assert planted.normalizations.of(project) == PER_IMAGE and planted.embedder_for(project) is planted.embedder
    set_normalization(planted, project, (3, 2, 1), (0.0, 4000.0))
    _, again = planted.embedder_for(project).embedding(address(studio, 1))
    assert (again.features == embedding.features).all() and encoded == []
    assert planted.embedder_for(project).cache_key(digest) != planted.embedder.cache_key(digest) == digest


@pytest.mark.parametrize("dtype", [np.uint16, np.uint8])
def test_the_bands_that_are_chosen_are_seen(planted, studio, project, dtype):
    studio.add_task(project, bands(20, 60, 100, 140, 180, dtype=dtype))
    set_normalization(planted, project, None, (0.0, 255.0))
    assert level(planted, studio, project, 1) == pytest.approx(20, abs=1)
    set_normalization(planted, project, (4, 2, 1), (0.0, 255.0))
    assert level(planted, studio, project, 1) == pytest.approx(140, abs=1)
    set_normalization(planted, project, (6,))
    assert planted.normalizations.of(project) == Normalization((6,))
    with pytest.raises(ValueError, match=r"the picture has 5 bands; \(6,\) are not one or three of them"):
        level(planted, studio, project, 1)


def test_a_click_is_answered_before_and_after_it_is_settled(planted, studio, project):
    add(studio, project, DIM, BRIGHT)
    point = key_point("point", "Pit", 30, 30, (64, 64))
    task = {"id": 2, "data": {"image": address(studio, 2)}}
    before, _ = click(planted, LABELING, task, {"result": [point]}, planted.normalizations.of(project))
    embed(planted, project)
    after, _ = click(planted, LABELING, task, {"result": [point]}, planted.normalizations.of(project))
    assert before and after


def test_a_version_keeps_the_normalisation_it_was_trained_with(planted, studio, project, monkeypatch):
    add(studio, project, DIM, BRIGHT, DIM, BRIGHT)
    annotate(planted, studio, project)
    assert train_version(planted, project) == 1
    settled, card = planted.normalizations.of(project), planted.versions.card(project, 1)
    assert settled.range is not None and card["normalisation"] == settled.to_json()
    assert planted.decoder_for(project, LABELING).config.normalisation == settled
    assert train_version(planted, project) == 0  # nothing has changed
    said = set_normalization(planted, project, None, (0.0, 65535.0))
    assert "0 is black, 65535 white" in said and "the next training" in said
    encoded = counted(planted, monkeypatch)
    preannotation(planted, planted.decoder_for(project, LABELING), LABELING, address(studio, 1))
    Gallery(planted).draw(project, 1, "1", planted.store.samples(project))
    assert encoded == []  # the version sees it as it did
    assert train_version(planted, project) == 2
    assert planted.versions.card(project, 2)["normalisation"] == {"bands": [], "range": [0, 65535]}
    assert len(encoded) == 4 and {record.image for record in planted.store.samples(project)}


def test_the_gate_shows_each_version_the_pictures_as_it_knows_them(planted, studio, project):
    planted.recipe = replace(planted.recipe, enough=2)
    files = {seed: deep(square(seed)[0][..., 0].astype(np.int64) * DIM) for seed in range(60)}
    sides = [[n for n in files if in_validation(content_hash(files[n])) == side][:3] for side in (True, False)]
    for seed in sum(sides, []):
        _, mask = square(seed)
        task = studio.add_task(project, files[seed])
        studio.annotate(task, [brush(LABELING, mask)])
    reconcile(planted, project)
    assert train_version(planted, project) == 1
    planted.recipe = replace(planted.recipe, steps=1, first_steps=1)
    set_normalization(planted, project, None, (0.0, 10.0))  # all of it is white
    assert train_version(planted, project) == 0
    assert "kept back" in planted.versions.card(project, 2)["verdict"]


def test_a_project_of_8_bits_has_none(planted, studio, project):
    for seed in range(3):
        studio.add_task(project, png(square(seed)[0]))
    annotate(planted, studio, project)
    assert train_version(planted, project) == 1
    assert planted.versions.card(project, 1)["normalisation"] is None
    assert not (planted.files.path(planted.store.folder(project)) / "normalisation.json").exists()
    assert "rasters" not in "\n".join(lines(all_as_json(planted)))


def test_a_damaged_one_is_that_of_the_newest_version(planted, studio, project):
    add(studio, project, DIM, BRIGHT, DIM)
    annotate(planted, studio, project)
    train_version(planted, project)
    settled = planted.normalizations.of(project)
    path = planted.files.path(planted.store.folder(project)) / "normalisation.json"
    path.write_bytes(path.read_bytes().replace(b"range", b"ranch"))
    assert planted.normalizations.of(project) == settled == planted.normalizations.of(project)
    assert planted.failures.of(project)


def test_each_picture_keeps_its_own_where_somebody_says_so(planted, studio, project):
    assert "until its first pictures" in set_normalization(planted, project)
    assert "until" not in set_normalization(planted, project, None, "own") and planted.queue.dirty(project) == 0
    add(studio, project, DIM, BRIGHT, DIM)
    annotate(planted, studio, project)
    assert train_version(planted, project) == 1 and planted.versions.card(project, 1)["normalisation"] is None
    assert planted.normalizations.of(project) == PER_IMAGE
    set_normalization(planted, project, None, "auto")
    assert train_version(planted, project) == 2 and planted.normalizations.of(project).range is not None
    set_normalization(planted, project, (1,), "own")
    assert planted.normalizations.of(project) == Normalization((1,)) and planted.normalizations.is_own(project)


def test_black_pictures_settle_nothing(planted, studio, project):
    add(studio, project, 0, 0)
    embed(planted, project)
    assert planted.normalizations.of(project) == PER_IMAGE and level(planted, studio, project, 1) == 0


def test_the_command_shows_and_sets_it_and_the_page_shows_it(planted, project, client, monkeypatch):
    monkeypatch.setattr("skylight.backend.cli.map.open_service", lambda: planted)

    def skylight(*arguments):
        return CliRunner().invoke(main.cli, ["normalise", "--project", "1", *arguments])

    assert "black and white by each picture's own percentiles" in skylight().output
    assert planted.queue.dirty(project) == 0
    assert "bands 3, 2, 1; -5 is black, 4000 white" in skylight("--bands", "3,2,1", "--range", "-5,4000").output
    assert planted.queue.dirty(project) == 1 and planted.prefetch_requests.newest(project)
    assert "  rasters: bands 3, 2, 1; -5 is black, 4000 white" in list(lines(all_as_json(planted)))
    assert "Rasters: bands 3, 2, 1; -5 is black, 4000 white." in client.get(f"/projects/{project}").text
    assert "bands 3, 2, 1; black and white by" in skylight("--range", "auto").output
    assert "the first three bands" in skylight("--bands", "").output
    for wrong in ("1", "5,5", "9,2", "nan,2", "0,inf", "a,b", "1,2,3"):
        refused = skylight("--range", wrong)
        assert refused.exit_code == 2 and "is not auto, own, or two numbers" in refused.output.replace("\n", " ")
    assert planted.normalizations.of(project) == PER_IMAGE
