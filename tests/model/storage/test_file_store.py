"""Files by name in a folder."""

import pytest

from skylight.model.storage.file_store import FolderStore


def test_a_file_is_read_as_it_was_written_until_it_is_deleted(tmp_path):
    files = FolderStore(tmp_path / "home")
    assert not files.exists("a/b.json") and not files.folder.exists()
    with pytest.raises(FileNotFoundError):
        files.read("a/b.json")
    files.write("a/b.json", b"1")
    files.write("a/b.json", b"2", durable=False)
    assert files.exists("a/b.json") and files.read("a/b.json") == files.path("a/b.json").read_bytes() == b"2"
    files.delete("a/b.json")
    files.delete("a/b.json")
    assert not files.exists("a/b.json")


def test_a_folder_is_listed_without_what_is_being_written(tmp_path):
    files = FolderStore(tmp_path)
    for name in ("b.json", "c/d.json", "a.json"):
        files.write(name, b"{}")
    (tmp_path / ".a.json.part").write_bytes(b"")
    listing = files.list_folder("")
    assert (set(listing.files), set(listing.folders)) == ({"a.json", "b.json"}, {"c"})
    assert listing.names == ["a.json", "b.json", "c"]
    assert files.list_folder("none").names == files.list_folder("a.json").names == []


def test_a_tree_is_deleted_whole(tmp_path):
    files = FolderStore(tmp_path)
    files.write("a/b/c.json", b"{}")
    files.delete_tree("a")
    files.delete_tree("a")
    assert files.list_folder("").names == []


def test_a_folder_is_published_under_one_name_once(tmp_path):
    files = FolderStore(tmp_path)
    for text in (b"one", b"two"):
        part = tmp_path / "versions" / ".part"
        part.mkdir(parents=True, exist_ok=True)
        (part / "card.json").write_bytes(text)
        if text == b"one":
            files.publish(part, "versions/1", last="card.json")
    with pytest.raises(OSError):
        files.publish(part, "versions/1", last="card.json")
    assert files.published("versions", last="card.json") == ["1"] and files.read("versions/1/card.json") == b"one"


def test_a_folder_has_another_time_once_anything_in_it_has_changed(tmp_path):
    files = FolderStore(tmp_path)
    with pytest.raises(FileNotFoundError):
        files.changed_at("a")
    files.write("a/1.json", b"{}")
    before = files.changed_at("a")
    assert files.changed_at("a") == before
    files.write("a/2.json", b"{}")
    assert files.changed_at("a") != before
