"""Samples and configurations: whole files or none."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from skylight.backend.errors import BadRequest, DamagedFile
from skylight.backend.store.samples import SampleRecord, SampleStore
from skylight.model.storage.checksums import seal, unseal
from skylight.model.storage.file_store import FolderStore

P = "1.1795340435"
RECORD = SampleRecord(
    7, 3, "2026-11-22T10:00:00.000001Z", "/data/upload/1/a.png", "ab" * 32, (4, 6), ("Pit", "Rock"), 2
)
MAP = np.arange(24, dtype=np.uint8).reshape(4, 6)
OBJECTS = np.arange(24, dtype=np.uint16).reshape(4, 6) * 2849  # up to 65527


@pytest.fixture
def store(tmp_path: Path) -> SampleStore:
    return SampleStore(FolderStore(tmp_path))


def files(store: SampleStore) -> set[str]:
    return {path.name for path in store.files.folder.rglob("*") if path.is_file()}


def test_an_empty_store_holds_nothing(store):
    assert (store.projects(), store.samples(P), store.config(P), store.get(P, 7)) == ([], [], "", None)
    assert not store.remove(P, 7)
    assert not files(store)


def test_a_configuration_is_kept_and_another_one_noticed(store):
    assert store.save_config(P, "<View/>")
    assert not store.save_config(P, "<View/>")
    assert store.save_config(P, "<View>ä</View>")
    assert store.config(P) == "<View>ä</View>"
    assert store.projects() == [P]


def test_a_sample_comes_back_as_it_was_put(store):
    store.put(P, RECORD, MAP)
    found = store.get(P, 7)
    assert replace(found, label_map="", objects="") == RECORD
    assert store.samples(P) == [found]
    assert store.label_map(P, found).dtype == np.uint8
    assert (store.label_map(P, found) == MAP).all()


def test_single_objects_come_back_as_they_were_put(store):
    store.put(P, RECORD, MAP, OBJECTS)
    found = store.get(P, 7)
    assert store.objects(P, found).dtype == np.uint16
    assert (store.objects(P, found) == OBJECTS).all()
    assert (store.label_map(P, found) == MAP).all()
    assert len(files(store)) == 3
    store.put(P, RECORD, MAP)
    assert store.objects(P, store.get(P, 7)) is None
    assert len(files(store)) == 2


def test_a_sample_of_before_there_were_objects_is_still_read(store):
    store.put(P, RECORD, MAP)
    path = store.files.path(store.folder(P)) / "samples" / "7.json"
    body = unseal(path.read_bytes())
    del body["objects"], body["parked"]
    path.write_bytes(seal(body))
    found = store.get(P, 7)
    assert store.objects(P, found) is None
    assert (store.label_map(P, found) == MAP).all()


def test_until_the_record_is_written_the_earlier_sample_is_whole(store, monkeypatch):
    store.put(P, RECORD, MAP, OBJECTS)

    write = store.files.write

    def crash(name, data):
        if name.endswith(".json"):
            raise OSError("no space left")
        write(name, data)

    monkeypatch.setattr(store.files, "write", crash)
    with pytest.raises(OSError, match="no space"):
        store.put(P, replace(RECORD, regions=9), MAP, OBJECTS // 2)
    found = store.get(P, 7)
    assert found.regions == 2
    assert (store.objects(P, found) == OBJECTS).all()
    monkeypatch.undo()
    store.put(P, RECORD, MAP, OBJECTS)
    assert len(files(store)) == 3


def test_a_newer_annotation_takes_the_place_of_the_earlier_one(store):
    store.put(P, RECORD, MAP)
    store.put(P, replace(RECORD, annotation=71), MAP)  # begins with the same digit
    store.put(P, replace(RECORD, regions=0), MAP * 0)
    assert [(each.annotation, each.regions) for each in store.samples(P)] == [(7, 0), (71, 2)]
    assert (store.label_map(P, store.get(P, 7)) == 0).all()
    assert (store.label_map(P, store.get(P, 71)) == MAP).all()
    assert len(files(store)) == 4


def test_a_sample_exists_when_its_record_does(store):
    store.put(P, RECORD, MAP)
    (store.files.path(store.folder(P)) / "samples" / "7.json").unlink()
    assert store.samples(P) == []
    store.put(P, RECORD, MAP)
    assert len(store.samples(P)) == 1


@pytest.mark.parametrize("objects", [None, OBJECTS])
def test_a_removed_sample_leaves_no_file(store, objects):
    store.put(P, RECORD, MAP, objects)
    assert store.remove(P, 7)
    assert not store.remove(P, 7)
    assert not files(store)


def test_all_samples_of_a_task_can_be_removed(store):
    for annotation, task in ((1, 3), (2, 3), (3, 4)):
        store.put(P, replace(RECORD, annotation=annotation, task=task), MAP)
    assert store.remove_tasks(P, {3, 99}) == 2
    assert [each.annotation for each in store.samples(P)] == [3]


def test_samples_are_listed_by_number(store):
    for annotation in (10, 9, 100):
        store.put(P, replace(RECORD, annotation=annotation), MAP)
    assert [each.annotation for each in store.samples(P)] == [9, 10, 100]


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\\b", ".hidden", "1.5\n", "ä", "a b"])
def test_a_name_that_could_lead_elsewhere_is_refused(store, name):
    with pytest.raises(BadRequest, match="cannot be a project"):
        store.folder(name)


def test_a_sample_whose_file_cannot_be_read_is_set_aside_and_the_others_are_there(store):
    for number in (1, 2):
        store.put(P, replace(RECORD, annotation=number), MAP)
    broken = store.files.path(store.folder(P)) / "samples" / "1.json"
    broken.unlink()
    broken.mkdir()
    assert [each.annotation for each in store.samples(P)] == [2]
    assert not broken.exists() and len(list((store.files.folder / "damaged").iterdir())) == 1
    picture = store.files.path(store.folder(P)) / "samples" / store.get(P, 2).label_map
    picture.unlink()
    picture.mkdir()
    with pytest.raises(DamagedFile, match="cannot be read"):
        store.label_map(P, store.get(P, 2))
    assert store.samples(P) == []


def test_folders_that_are_no_projects_are_none(store):
    store.save_config(P, "<View/>")
    for name in ("lost+found", ".Trash-1000", "copy of 1.2", "@eaDir"):
        (store.files.folder / "projects" / name).mkdir()
    assert store.projects() == [P]
