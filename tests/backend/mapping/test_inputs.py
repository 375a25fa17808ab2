"""What `skylight map` takes for pictures, what they are called, and that of a bucket nothing is left here."""

from pathlib import Path

import pytest

from skylight.backend.mapping import bucket_inputs
from skylight.backend.mapping.bucket_inputs import RemoteObject
from skylight.backend.mapping.inputs import MAX_NAME_BYTES, Input, list_images
from skylight.model.images.decoding import ImageError


def test_names_are_made_of_folders_and_are_each_one_picture_s(tmp_path):
    for name in ("a/b.png", "a_b.png", "a_b.jpg", "c.tif", "deep/er/d.png", "readme.txt", ".png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = list_images([tmp_path, tmp_path / "a/b.png", tmp_path / "readme.txt"])
    names = [each.name for each in found]
    assert len(set(names)) == len(names) == 6
    assert {"a_b-jpg", "c", "deep_er_d", "readme"} < set(names)  # what is named as a file is a picture
    assert names == [each.name for each in list_images([tmp_path, tmp_path / "a/b.png", tmp_path / "readme.txt"])]


def test_what_is_hidden_or_a_macs_note_is_passed_over_at_any_depth_and_every_picture_is_taken(tmp_path, monkeypatch):
    there = ("a.jfif", "b.JPE", "c/d.avif", "c/e.AVIF", "c/__macosx.png", "f.Jpeg")
    hidden = (
        "._a.png",
        ".b.png",
        "c/._d.tif",
        "__MACOSX/a.png",
        "c/__MACOSX/._d.png",
        ".ipynb_checkpoints/a.png",
        "n.txt",
    )
    for name in (*there, *hidden):
        (tmp_path / ".in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / ".in" / name).write_bytes(b"")
    assert {each.place for each in list_images([tmp_path / ".in"])} == {tmp_path / ".in" / name for name in there}
    named = tmp_path / ".in/._a.png"
    assert [each.place for each in list_images([named])] == [named]  # what is named is taken
    objects = [RemoteObject(f"s3://maps/.in/{name}", 1, "tag") for name in (*there, *hidden)]
    monkeypatch.setattr(bucket_inputs, "list_objects", lambda address: ("s3://maps/.in/", objects))
    assert [each.place for each in list_images(["s3://maps/.in"])] == objects[: len(there)]


def test_a_long_name_still_fits_into_a_file_s(tmp_path):
    folder = tmp_path / ("ä" * 100) / ("ö" * 100)
    folder.mkdir(parents=True)
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(b"")
    names = [each.name for each in list_images([tmp_path])]
    assert len(set(names)) == 2 and all(MAX_NAME_BYTES < len(name.encode()) < MAX_NAME_BYTES + 20 for name in names)


def test_a_file_s_state_is_another_one_once_it_has_changed(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"12")
    each = Input(path, "a")
    before = each.state()
    assert each.state() == before and each.address == str(path) and not each.is_remote
    path.write_bytes(b"123")
    assert each.state() != before
    with each.local(tmp_path / "copies") as there:
        assert there == path
    assert path.exists() and not (tmp_path / "copies").exists()


def test_a_copy_is_gone_afterwards_and_errors_name_the_object(tmp_path, monkeypatch):
    monkeypatch.setattr(bucket_inputs, "copy", lambda each, path: path.write_bytes(b"content") and None)
    each = Input(RemoteObject("s3://maps/one/a.tif", 7, "tag"), "one_a")
    assert each.state() == (7, "tag") and each.address == "s3://maps/one/a.tif" and each.is_remote
    with each.local(tmp_path) as path:
        assert path.parent == tmp_path and path.suffix == ".tif" and path.read_bytes() == b"content"
        with each.local(tmp_path) as other:  # as another process may
            assert other != path
        assert path.exists()
    assert not path.exists()
    with pytest.raises(ImageError, match="^s3://maps/one/a.tif is damaged$"), each.local(tmp_path) as path:
        raise ImageError(f"{path} is damaged")
    assert list(tmp_path.iterdir()) == []
    vrt = Input(RemoteObject("s3://maps/a.VRT", 7, "tag"), "a")
    with pytest.raises(ImageError, match="^s3://maps/a.VRT is a list of other files"), vrt.local(tmp_path):
        pytest.fail("it is not copied")
    assert list(Path(tmp_path).iterdir()) == []
