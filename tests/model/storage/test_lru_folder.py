"""The room of embeddings on disk: who gives way, who never, and how often anybody looks."""

import os
import threading
import time
from pathlib import Path

import pytest

from skylight.model.storage import lru_folder
from skylight.model.storage.lru_folder import SizeLimit, Usage, evict, list_files, touch, usage_by_encoder

KB = 1000
HOUR = 3600.0


def put(folder: Path, name: str, age: float = 0.0, size: int = KB, encoder: str = "tiny-1") -> Path:
    """A file that was last used `age` seconds ago."""
    path = folder / encoder / name[:2] / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    os.utime(path, (time.time() - age,) * 2)
    return path


def names(folder: Path) -> set[str]:
    return {each.path.name.partition(".")[0] for each in list_files(folder)}


def test_the_least_recently_used_of_all_encoders_give_way(tmp_path):
    for age, name in enumerate("abcde", 1):
        put(tmp_path, name, age * HOUR, encoder=f"tiny-{age % 2}")
    assert evict(tmp_path, 3 * KB) == (2, 2 * KB, 3 * KB)
    assert names(tmp_path) == set("abc")
    assert evict(tmp_path, 3 * KB) == (0, 0, 3 * KB)


def test_what_was_just_used_is_spared_unless_one_insists(tmp_path):
    put(tmp_path, "new", 1)
    put(tmp_path, "old", HOUR)
    assert evict(tmp_path, 0) == (1, KB, KB)
    assert names(tmp_path) == {"new"}
    assert evict(tmp_path, 0, protected=0) == (1, KB, 0)


def test_what_is_being_written_is_nobody_s_business_and_what_a_killed_process_left_is_evicted(tmp_path):
    path = put(tmp_path, "a", HOUR)
    part, left = (path.with_name(f".{path.name}.{end}") for end in ("0badcafe", "12345678"))
    for each in (part, left):
        each.write_bytes(b"half")
    os.utime(left, (1, 1))
    other = tmp_path / "notes.txt"
    other.write_text("not ours")
    assert evict(tmp_path, 0, protected=0) == (2, KB + 4, 0)
    assert part.exists() and other.exists() and not left.exists()


def test_a_file_that_another_process_evicts_first_is_no_error(tmp_path, monkeypatch):
    put(tmp_path, "a", 2 * HOUR)
    put(tmp_path, "b", HOUR)
    found = list(list_files(tmp_path))
    found[0].path.unlink()
    monkeypatch.setattr(lru_folder, "list_files", lambda folder: iter(found))
    assert evict(tmp_path, 0) == (2, 2 * KB, 0)


def test_a_file_that_may_not_be_deleted_does_not_keep_others(tmp_path, monkeypatch):
    held = put(tmp_path, "a", 2 * HOUR)
    put(tmp_path, "b", HOUR)
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path == held:
            raise PermissionError(path)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    assert evict(tmp_path, 0) == (1, KB, KB)


def test_a_use_is_noted_at_most_once_an_hour(tmp_path):
    lately, long_ago = put(tmp_path, "a", 0.9 * HOUR), put(tmp_path, "b", 1.1 * HOUR)
    before = lately.stat().st_mtime
    touch(lately)
    touch(long_ago)
    assert lately.stat().st_mtime == before
    assert time.time() - long_ago.stat().st_mtime < 60
    touch(tmp_path / "gone")  # evicted in the meantime


def test_usage_is_told_by_encoder(tmp_path):
    assert usage_by_encoder(tmp_path / "nothing") == []
    paths = [put(tmp_path, "a", HOUR, 2 * KB), put(tmp_path, "b", 1), put(tmp_path, "c", 9, encoder="vit_b-2")]
    a, b, c = (path.stat().st_mtime for path in paths)
    (tmp_path / "empty" / "00").mkdir(parents=True)
    assert usage_by_encoder(tmp_path) == [Usage("tiny-1", 2, 3 * KB, a, b), Usage("vit_b-2", 1, KB, c, c)]


def test_the_cap_evicts_to_nine_tenths_when_it_is_exceeded_and_not_before(tmp_path):
    cap = SizeLimit(tmp_path, 20 * KB)
    for number in range(20):
        cap.added(put(tmp_path, f"{number:02}", HOUR - number))
    assert len(names(tmp_path)) == 20
    cap.added(put(tmp_path, "20", HOUR - 20))
    assert names(tmp_path) == {f"{number:02}" for number in range(3, 21)}


def test_without_a_cap_nothing_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(lru_folder, "list_files", lambda folder: pytest.fail("looked"))
    SizeLimit(tmp_path, 0).added(put(tmp_path, "a", HOUR))


def test_the_folder_is_looked_at_once_a_hundredth_of_the_cap(tmp_path, monkeypatch):
    looks = []
    monkeypatch.setattr(lru_folder, "list_files", lambda folder: looks.append(folder) or list_files(folder))
    cap = SizeLimit(tmp_path, 1000 * KB)
    for number in range(110):
        cap.added(put(tmp_path, f"{number:03}", HOUR))
    assert len(looks) == 10  # of 11 files each: the first one, and the one that goes beyond the tenth


def test_a_cap_below_what_was_just_written_spares_it(tmp_path):
    cap = SizeLimit(tmp_path, KB // 2)
    for number in range(3):
        cap.added(put(tmp_path, str(number)))
    assert names(tmp_path) == {"0", "1", "2"}


def test_several_processes_stay_within_a_hundredth_each(tmp_path):
    caps = [SizeLimit(tmp_path, 100 * KB) for _ in range(3)]
    most = 0
    for number in range(300):
        caps[number % 3].added(put(tmp_path, f"{number:03}", HOUR - number))
        most = max(most, sum(each.size for each in list_files(tmp_path)))
    assert 90 * KB <= most <= 103 * KB
    assert f"{299:03}" in names(tmp_path) and "000" not in names(tmp_path)


def test_threads_that_write_at_once_evict_once(tmp_path):
    paths = [put(tmp_path, f"{number:03}", HOUR - number) for number in range(120)]
    cap = SizeLimit(tmp_path, 100 * KB)
    threads = [threading.Thread(target=cap.added, args=(path,)) for path in paths[-8:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names(tmp_path) == {f"{number:03}" for number in range(30, 120)}
