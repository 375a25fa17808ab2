"""Names of pictures, in label files and in Label Studio."""

import base64

import pytest

from backend.matching import Index, path_of, spelled


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("/data/upload/3/1a2b3c4d-a_b.png", "/data/upload/3/1a2b3c4d-a_b.png"),
        ("http://studio:8080/data/local-files/?d=maps/a%20b.png", "maps/a b.png"),
        ("s3://bucket/maps/a.png", "/maps/a.png"),
        ("https://example.org/maps/a%20b.png?size=9#top", "/maps/a b.png"),
        (f"/tasks/5/resolve/?fileuri={base64.urlsafe_b64encode(b's3://bucket/maps/a.png').decode()}", "/maps/a.png"),
        ("/tasks/5/resolve/?fileuri=abcde", ""),
    ],
)
def test_the_path_in_an_address(address, path):
    assert path_of(address) == path


def test_a_name_is_spelled_as_label_studio_keeps_it():
    assert spelled(" cafe\u0301 (1).png") == "caf\xe9_1.png"


def index(*paths, stem=False):
    return Index([(path, path) for path in paths], stem)


def test_an_upload_is_found_by_the_name_before_it_was_uploaded_and_after():
    one = "/data/upload/3/1a2b3c4d-a_b.png"
    found = index(one, "/data/upload/3/1a2b3c4e-c.png")
    for name in ("a b.png", "train/a b.png", "1a2b3c4d-a_b.png", "images\\1a2b3c4d-a_b.png", "99999999-a_b.png", one):
        assert found.best(name) == [one]
    assert found.best("b.png") == found.best("a_b.jpg") == found.best("") == []


def test_the_longest_path_decides_and_if_none_does_all_are_given():
    found = index("/maps/one/a.png", "/maps/two/a.png", "/data/upload/3/1a2b3c4d-a.png")
    assert found.best("one/a.png") == ["/maps/one/a.png"]
    assert found.best("set/maps/two/a.png") == ["/maps/two/a.png"]
    assert len(found.best("three/a.png")) == 3
    assert found.best("/data/upload/3/1a2b3c4d-a.png") == ["/data/upload/3/1a2b3c4d-a.png"]


def test_a_mask_is_found_by_the_stem():
    assert index("/maps/a.b.jpg", stem=True).best("x/a.b.png") == ["/maps/a.b.jpg"]
    assert index("/maps/a.jpg", "/maps/a.tif", stem=True).best("a.png") == ["/maps/a.jpg", "/maps/a.tif"]
