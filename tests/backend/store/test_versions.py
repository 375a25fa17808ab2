"""Versions: published whole or not at all, and which one is served."""

import hashlib
import shutil
from pathlib import Path

import pytest

from skylight.backend.store.samples import SampleStore
from skylight.backend.store.versions import Versions
from skylight.model.storage.checksums import seal
from skylight.model.storage.file_store import FolderStore

P = "1.1795340435"


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    return Versions(SampleStore(FolderStore(tmp_path)))


def publish(versions: Versions, content: bytes = b"weights") -> int:
    return versions.publish(P, lambda path: path.write_bytes(content) and None, {"labels": ["Pit"]})


def test_there_is_none_before_the_first(versions):
    assert (versions.numbers(P), versions.current(P)) == ([], 0)
    with pytest.raises(FileNotFoundError):
        versions.card(P, 1)


def test_a_published_version_is_complete_and_not_yet_served(versions):
    assert (publish(versions, b"one"), publish(versions, b"two")) == (1, 2)
    assert versions.numbers(P) == [1, 2]
    sha256 = hashlib.sha256(b"two").hexdigest()
    assert versions.card(P, 2) == {"version": 2, "labels": ["Pit"], "sha256": sha256}
    assert (versions.weights(P, 1), versions.weights(P, 2)) == (b"one", b"two")
    assert versions.current(P) == 0


def test_numbers_are_sorted_as_numbers(versions):
    for _ in range(11):
        publish(versions)
    assert versions.numbers(P) == list(range(1, 12))


def test_a_version_that_cannot_be_saved_leaves_nothing(versions):
    publish(versions)

    def fail(path: Path) -> None:
        path.write_bytes(b"half of")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        versions.publish(P, fail, {})
    assert [path.name for path in versions.files.path(versions.folder(P)).iterdir()] == ["1"]
    assert publish(versions) == 2


def test_promoting_and_rolling_back(versions):
    publish(versions), publish(versions), publish(versions)
    versions.promote(P, 1)
    versions.promote(P, 3)
    assert versions.current(P) == 3
    assert (versions.roll_back(P), versions.current(P)) == (1, 1)
    assert (versions.roll_back(P), versions.current(P)) == (0, 0)
    assert versions.numbers(P) == [1, 2, 3]


def test_promoting_what_is_served_already_does_not_forget_the_one_before(versions):
    publish(versions), publish(versions)
    for number in (1, 2, 2):
        versions.promote(P, number)
    assert versions.roll_back(P) == 1


def test_what_does_not_exist_is_not_promoted(versions):
    with pytest.raises(FileNotFoundError):
        versions.promote(P, 1)
    assert versions.current(P) == 0


def test_a_promotion_is_seen_by_every_process(versions):
    other = Versions(versions.store)
    assert other.current(P) == 0
    publish(versions)
    versions.promote(P, 1)
    assert other.current(P) == 1


def test_a_version_whose_training_was_killed_before_it_promoted_it_is_promoted_later(versions):
    versions.publish(P, lambda path: path.write_bytes(b"weights"), {"promoted": True})
    versions.settle(P)
    assert versions.current(P) == 1
    versions.publish(P, lambda path: path.write_bytes(b"weights"), {"promoted": False})  # kept back
    versions.settle(P)
    assert versions.current(P) == 1


def test_what_was_rolled_back_is_not_promoted_again(versions):
    for _ in range(2):
        versions.promote(P, versions.publish(P, lambda path: path.write_bytes(b"weights"), {"promoted": True}))
    versions.roll_back(P)
    versions.settle(P)
    assert versions.current(P) == 1


def test_a_choice_made_by_an_earlier_release_stands(versions):
    versions.publish(P, lambda path: path.write_bytes(b"weights"), {"promoted": True})
    versions.files.write(f"projects/{P}/current.json", seal({"version": 0, "before": 0}))
    versions.settle(P)
    assert versions.current(P) == 0


@pytest.mark.parametrize("broken", ["card.json", ""])
def test_a_version_whose_files_cannot_be_read_is_set_aside(versions, broken):
    for _ in range(2):
        publish(versions)
    versions.promote(P, 1)
    versions.promote(P, 2)
    path = versions.files.path(versions.folder(P)) / "2" / broken
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if broken:
        path.mkdir()
    else:
        path.write_bytes(b"a file where a folder should be")
    assert [card["version"] for card in versions.cards(P)] == [1]
    assert versions.current(P) == 1
    assert len(list((versions.files.folder / "damaged").iterdir())) == 1
