"""The image behind each URL."""

from skylight.backend.store.url_index import UrlIndex
from skylight.model.storage.file_store import FolderStore


def test_an_address_keeps_the_digest_of_what_it_showed_last(tmp_path):
    index = UrlIndex(FolderStore(tmp_path))
    assert index.digest("/data/a.png") == ""
    assert not (tmp_path / "addresses").exists()
    index.note("/data/a.png", "1" * 64)
    index.note("/data/b.png?x=../../etc", "2" * 64)
    index.note("/data/a.png", "3" * 64)
    again = UrlIndex(FolderStore(tmp_path))
    assert again.digest("/data/a.png") == "3" * 64
    assert again.digest("/data/b.png?x=../../etc") == "2" * 64
    assert len([path for path in (tmp_path / "addresses").rglob("*") if path.is_file()]) == 2


def test_nothing_is_written_for_what_is_known(tmp_path):
    index = UrlIndex(FolderStore(tmp_path))
    index.note("/a", "1" * 64)
    (path,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    before = path.stat().st_ino
    index.note("/a", "1" * 64)
    assert path.stat().st_ino == before
