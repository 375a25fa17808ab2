"""A version's validation images."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from skylight.backend.errors import Unavailable
from skylight.backend.store.samples import SampleRecord
from skylight.backend.web.page.gallery import Gallery, PictureNotFound, drawing_name, gallery_items
from skylight.model.decoder import network
from skylight.model.decoder.network import DecoderConfig, DomainDecoder
from tests.support.label_studio_double import CONFIG
from tests.support.planted_embeddings import Planted, png, square


def record(annotation, task, updated_at="1", label_map="1-abcd.png") -> SampleRecord:
    return SampleRecord(annotation, task, updated_at, "/a", "0" * 64, (4, 4), ("Pit",), 1, label_map)


def test_the_worst_image_comes_first():
    card = {"per_task": {"7": 0.9, "12": 0.1, "9": 0.5}, "annotations": {"1": "1"}}
    assert [(item.task, item.iou) for item in gallery_items(card, [])] == [("12", 0.1), ("9", 0.5), ("7", 0.9)]


def test_an_image_says_when_its_annotation_has_changed_or_is_gone():
    card = {"per_task": {"7": 0.1, "8": 0.2, "9": 0.3}, "annotations": {"1": "a", "2": "a"}}
    found = gallery_items(card, [record(1, 7, "a"), record(2, 8, "b")])
    assert [(item.drawing, item.changed) for item in found] == [("abcd", False), ("abcd", True), ("", False)]


def test_of_several_annotations_of_a_task_one_that_was_learned_from_is_drawn():
    card = {"per_task": {"7": 0.1}, "annotations": {"1": "a"}}
    (item,) = gallery_items(card, [record(1, 7, "a", "1-old.png"), record(2, 7, "b", "2-new.png")])
    assert (item.drawing, item.changed) == ("old", False)


def test_a_version_without_figures_has_no_images():
    assert gallery_items({"version": 1}, [record(1, 7)]) == []


@pytest.fixture
def project(planted, studio) -> str:
    """One sample of a bright square, and a version that finds pits everywhere."""
    key = studio.add_project()
    planted.store.save_config(key, CONFIG)
    image, mask = square(1)
    task = studio.add_task(key, png(image))
    url = studio.tasks[task]["data"]["image"]
    digest, embedding = planted.embedder.embedding(url)
    made = SampleRecord(1, task, "a", url, digest, embedding.size, ("Pit",), 1)
    planted.store.put(key, made, mask.astype(np.uint8))
    publish(planted, key, task)
    studio.fetched.clear()
    return key


def publish(service, key, task, encoder_id=Planted.encoder_id, labels=("Pit",)):
    decoder = DomainDecoder(DecoderConfig(labels, encoder_id))
    decoder.head.bias.data[:] = 0
    decoder.head.bias.data[4:8] = 1000  # of the four quarters of a cell
    card = {"per_task": {str(task): 0.5}, "annotations": {"1": "a"}}
    service.versions.publish(key, lambda path: network.save(decoder, path), card)


def test_a_drawing_is_made_once_and_fetches_nothing(planted, studio, project, monkeypatch):
    gallery, records = Gallery(planted), planted.store.samples(project)
    data = gallery.draw(project, 1, "1", records)
    assert Image.open(io.BytesIO(data)).format == "WEBP"
    monkeypatch.setattr(Gallery, "_draw", lambda *_: pytest.fail("it is drawn already"))
    assert gallery.draw(project, 1, "1", records) == data
    assert studio.fetched == []


def test_a_drawing_shows_the_annotation_as_it_is_now(planted, project):
    gallery = Gallery(planted)
    (before,) = planted.store.samples(project)
    first = gallery.draw(project, 1, "1", [before])
    planted.store.put(project, replace(before, updated_at="b"), np.zeros((64, 64), np.uint8))
    (after,) = planted.store.samples(project)
    assert drawing_name(after) != drawing_name(before)
    assert gallery.draw(project, 1, "1", [after]) != first


def test_a_label_that_the_version_does_not_know_is_left_out(planted, studio, project):
    publish(planted, project, 1, labels=("Crater",))
    assert Gallery(planted).draw(project, 2, "1", planted.store.samples(project))


def test_only_so_many_drawings_are_kept(planted, project, monkeypatch):
    monkeypatch.setattr("skylight.backend.web.page.gallery.MAX_CACHED", 1)
    publish(planted, project, 1)
    gallery, records = Gallery(planted), planted.store.samples(project)
    gallery.draw(project, 1, "1", records)
    gallery.draw(project, 2, "1", records)
    assert [key[1] for key in gallery._pictures] == [2]


def test_what_cannot_be_drawn_says_why(planted, studio, project, monkeypatch):
    gallery, records = Gallery(planted), planted.store.samples(project)
    with pytest.raises(PictureNotFound, match="task 5 has no accepted annotation"):
        gallery.draw(project, 1, "5", records)
    publish(planted, project, 1, encoder_id="other")
    with pytest.raises(Unavailable, match="another SAM"):
        gallery.draw(project, 2, "1", records)
    with monkeypatch.context() as patched:
        patched.setattr(planted, "decoder_of_version", lambda *_: None)
        with pytest.raises(Unavailable, match="another release"):
            gallery.draw(project, 1, "1", records)
    planted.embedder.cache.path(records[0].image).unlink()
    planted.embedder.cache._memory.clear()
    with pytest.raises(Unavailable, match="not embedded"):
        gallery.draw(project, 1, "1", records)
    assert studio.fetched == []
