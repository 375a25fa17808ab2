"""Files are there whole or not at all."""

import threading
from pathlib import Path

import pytest

from model import files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_into_folders_that_are_made_for_it(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.bin"
    files.write(path, b"first")
    assert path.read_bytes() == b"first"
    files.write(path, b"second, longer")
    assert path.read_bytes() == b"second, longer"
    assert names(path.parent) == ["file.bin"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    files.write(path, b"old")
    with pytest.raises(TypeError):
        files.write(path, None)  # type: ignore[arg-type]  # fails once the new file is already open
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file.bin"]


def test_a_write_that_cannot_take_its_place_leaves_nothing_beside_it(tmp_path: Path) -> None:
    place = tmp_path / "taken"
    place.mkdir()
    with pytest.raises(OSError, match="taken"):
        files.write(place, b"data")
    assert names(tmp_path) == ["taken"] and place.is_dir()


def test_readers_never_see_half_of_a_file_that_several_threads_replace(tmp_path: Path) -> None:
    path, size = tmp_path / "file.bin", 1 << 20
    files.write(path, b"a" * size)

    def keep_writing(letter: bytes) -> None:
        for _ in range(30):
            files.write(path, letter * size)

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


def test_two_writers_of_a_file_have_names_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    with files.replacing(path) as one:
        one.write_bytes(b"one")
        with files.replacing(path) as other:
            other.write_bytes(b"other")
        assert path.read_bytes() == b"other"
    assert path.read_bytes() == b"one" and names(tmp_path) == ["file.bin"]
    with pytest.raises(ZeroDivisionError), files.replacing(path) as part:
        part.write_bytes(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == b"one" and names(tmp_path) == ["file.bin"]
