"""Folders for sockets, wherever temporary files go."""

import os
import socket
import tempfile
from pathlib import Path

import pytest
import redis

from skylight.backend.errors import Unavailable
from skylight.backend.process import socket_folder as module
from skylight.backend.process.socket_folder import MAX_PATH, socket_folder, socket_url

NAME = "broker.sock"


def temporary(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))


@pytest.mark.parametrize("length", [60, 73, 78, 79, 120, 250])
def test_a_socket_can_be_made_in_it_however_long_tmpdir_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    temporary(monkeypatch, folder / ("x" * (length - len(str(folder)) - 1)))
    with socket_folder(NAME) as made, socket.socket(socket.AF_UNIX) as bound:
        path = Path(made) / NAME
        assert len(os.fsencode(path)) <= MAX_PATH
        assert (path.parent.parent == Path(tempfile.gettempdir())) == (length < 74)
        assert path.parent.stat().st_mode & 0o777 == 0o700
        bound.bind(str(path))
    assert not Path(made).exists()
    (folder / ("x" * (length - len(str(folder)) - 1))).rmdir()
    folder.rmdir()


def test_without_a_short_folder_tmpdir_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary(monkeypatch, tmp_path / ("x" * 100))
    monkeypatch.setattr(module, "SHORT_PARENTS", (str(tmp_path / "none"),))
    with pytest.raises(Unavailable, match="x is too long for a socket.*set TMPDIR to a shorter folder"):
        socket_folder(NAME)
    assert list((tmp_path / ("x" * 100)).iterdir()) == []


@pytest.mark.parametrize("name", ["run#12", "what?", "100%25", "50%", "a b", "süß", "a@b:c&d;e\"'", "+"])
def test_redis_reads_the_path_of_a_socket_as_it_is(name: str) -> None:
    path = Path("/tmp") / name / NAME
    assert redis.connection.parse_url(socket_url(path))["path"] == str(path)
