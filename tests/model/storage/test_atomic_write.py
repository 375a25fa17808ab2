"""Files are there whole or not at all."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from skylight.model.storage import atomic_write


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_into_folders_that_are_made_for_it(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.bin"
    atomic_write.write(path, b"first")
    assert path.read_bytes() == b"first"
    atomic_write.write(path, b"second, longer")
    assert path.read_bytes() == b"second, longer"
    assert names(path.parent) == ["file.bin"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    atomic_write.write(path, b"old")
    with pytest.raises(TypeError):
        atomic_write.write(path, None)  # type: ignore[arg-type]  # fails once the new file is already open
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file.bin"]


def test_a_write_that_cannot_take_its_place_leaves_nothing_beside_it(tmp_path: Path) -> None:
    place = tmp_path / "taken"
    place.mkdir()
    with pytest.raises(OSError, match="taken"):
        atomic_write.write(place, b"data")
    assert names(tmp_path) == ["taken"] and place.is_dir()


def test_readers_never_see_half_of_a_file_that_several_threads_replace(tmp_path: Path) -> None:
    path, size = tmp_path / "file.bin", 1 << 20
    atomic_write.write(path, b"a" * size)

    def keep_writing(letter: bytes) -> None:
        for _ in range(30):
            atomic_write.write(path, letter * size)

    writers = [threading.Thread(target=keep_writing, args=(letter,)) for letter in (b"b", b"c")]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        data = path.read_bytes()
        assert len(data) == size and data.count(data[:1]) == size
        seen.add(data[:1])
    for writer in writers:
        writer.join()
    assert seen & {b"b", b"c"}
    assert names(tmp_path) == ["file.bin"]


class Calls:
    """What was synced and renamed, in order, by the names of the files."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[str, str]] = []
        fsync = os.fsync

        def synced(handle: int) -> None:
            self.seen.append(("fsync", Path(os.readlink(f"/proc/self/fd/{handle}")).name))
            fsync(handle)

        monkeypatch.setattr(os, "fsync", synced)
        for name in ("replace", "rename"):
            monkeypatch.setattr(os, name, self._renaming(getattr(os, name)))

    def _renaming(self, original: Callable[[Path, Path], None]) -> Callable[[Path, Path], None]:
        def renamed(part: Path, path: Path) -> None:
            self.seen.append(("rename", Path(path).name))
            original(part, path)

        return renamed


def test_a_file_is_on_the_disk_before_it_has_its_name_and_so_is_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    calls = Calls(monkeypatch)
    atomic_write.write(tmp_path / "folder" / "file.bin", b"data")
    (_, part), *rest = calls.seen
    assert part.startswith(".file.bin.")
    assert rest == [("rename", "file.bin"), ("fsync", "folder")]
    calls.seen.clear()
    atomic_write.write(tmp_path / "new" / "below" / "file.bin", b"data")
    assert calls.seen[:2] == [("fsync", tmp_path.name), ("fsync", "new")]  # where the new folders' names are
    calls.seen.clear()
    atomic_write.write(tmp_path / "folder" / "file.bin", b"again", durable=False)
    assert calls.seen == [("rename", "file.bin")]


def test_a_folder_is_on_the_disk_whole_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = tmp_path / ".part"
    part.mkdir()
    for name in ("one", "two"):
        (part / name).write_bytes(b"data")
    calls = Calls(monkeypatch)
    atomic_write.move_folder(part, tmp_path / "whole")
    assert set(calls.seen[:2]) == {("fsync", "one"), ("fsync", "two")}
    assert calls.seen[2:] == [("fsync", ".part"), ("rename", "whole"), ("fsync", tmp_path.name)]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_syncs_no_folders_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fsync = os.fsync

    def refuse(handle: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(number, os.strerror(number))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", refuse)
    atomic_write.write(tmp_path / "new" / "file.bin", b"data")
    assert (tmp_path / "new" / "file.bin").read_bytes() == b"data"


def test_a_disk_that_fails_as_it_is_synced_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(handle: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    atomic_write.write(tmp_path / "file.bin", b"old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        atomic_write.write(tmp_path / "file.bin", b"new")
    assert (tmp_path / "file.bin").read_bytes() == b"old"
    assert names(tmp_path) == ["file.bin"]


def test_two_writers_of_a_file_have_names_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    with atomic_write.replacing(path) as one:
        one.write_bytes(b"one")
        with atomic_write.replacing(path) as other:
            other.write_bytes(b"other")
        assert path.read_bytes() == b"other"
    assert path.read_bytes() == b"one" and names(tmp_path) == ["file.bin"]
    with pytest.raises(ZeroDivisionError), atomic_write.replacing(path) as part:
        part.write_bytes(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == b"one" and names(tmp_path) == ["file.bin"]
