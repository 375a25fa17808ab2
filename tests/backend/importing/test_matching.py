"""Names of pictures, in label files and in Label Studio."""

import base64
import hashlib

import pytest

from skylight.backend.importing.matching import AddressIndex, PathIndex, likely_paths, path_of, spelled


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("/data/upload/3/1a2b3c4d-a_b.png", "/data/upload/3/1a2b3c4d-a_b.png"),
        ("http://studio:8080/data/local-files/?d=maps/a%20b.png", "maps/a b.png"),
        ("s3://bucket/maps/a.png", "/maps/a.png"),
        ("https://example.org/maps/a%20b.png?size=9#top", "/maps/a b.png"),
        (f"/tasks/5/resolve/?fileuri={base64.urlsafe_b64encode(b's3://bucket/maps/a.png').decode()}", "/maps/a.png"),
        ("/tasks/5/resolve/?fileuri=abcde", ""),
        (" http://studio:8080/data/local-files/?d=maps%2Fa%20b.png\r\n", "maps/a b.png"),
        ("/data/local-files/?d=maps%5Ca.png", "maps\\a.png"),
        ("/storage-data/uploaded/?filepath=upload/3/1a2b3c4d-a.png", "upload/3/1a2b3c4d-a.png"),
        ("http://[", "http://["),
        ("https://example.org/maps/a.png?d=3&filepath=x&fileuri=y", "/maps/a.png"),
    ],
)
def test_the_path_in_an_address(address, path):
    assert path_of(address) == path


def test_a_name_is_spelled_as_label_studio_keeps_it():
    assert spelled(" cafe\u0301 (1).png") == "caf\xe9_1.png"


def index(*paths, any_suffix=False):
    return PathIndex([(path, path) for path in paths], any_suffix)


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
    assert index("/maps/a.b.jpg", any_suffix=True).best("x/a.b.png") == ["/maps/a.b.jpg"]
    assert index("/maps/a.jpg", "/maps/a.tif", any_suffix=True).best("a.png") == ["/maps/a.jpg", "/maps/a.tif"]


def tasks(*addresses):
    """Finds a name in a label file among tasks by their addresses, as imports do."""
    exact = AddressIndex((each, each) for each in addresses)
    paths = PathIndex([(path_of(each, host=True), each) for each in addresses], any_suffix=False)
    return lambda name: exact.best(name) or next(filter(None, map(paths.best, likely_paths(name))), [])


LOCAL = "/data/local-files/?d="


@pytest.mark.parametrize(
    ("name", "address"),
    [
        (f"{LOCAL}sub/q%20one.png", f"{LOCAL}sub/q%20one.png"),
        (f"{LOCAL}sub/q%20one.png", f"http://studio:8080{LOCAL}sub/q%20one.png"),
        (f"{LOCAL}sub/q one.png", f"{LOCAL}sub/q%20one.png"),
        (f"{LOCAL}sub%2Fone.png", f"{LOCAL}sub/one.png"),
        (f"{LOCAL}sub%5Cone.png", f"{LOCAL}sub/one.png"),
        (f"{LOCAL}s%C3%BC%C3%9F/one.png", f"{LOCAL}s\u00fc\u00df/one.png"),
        (f"{LOCAL}su%CC%88/one.png", f"{LOCAL}s\u00fc/one.png"),
        (f"/label-studio{LOCAL}sub/q%20one.png", f"{LOCAL}sub/q%20one.png"),
        ("images/7003b8c0__one.png", "http://pictures.example/pics/one.png"),
        ("images\\7003b8c0__one.png", "http://pictures.example/pics/one.png"),
        ("images/0123abcd__one.png", "http://pictures.example/pics/one.png?signature=new"),
        ("images/0123abcd__q%20one.png", f"{LOCAL}sub/q%20one.png"),
        ("images/0123abcd__sub%2Fone.png", f"{LOCAL}sub/one.png"),
        ("images/0123abcd__1a2b3c4d-one.png", "/data/upload/1/1a2b3c4d-one.png"),
        ("images/0123abcd__1a2b3c4d-one.png", "/data/upload/7/99999999-one.png"),
        ("http://pictures.example/pics/one.png", "http://pictures.example/pics/one.png"),
        (
            "http://pictures.example/pics/one.png?X-Signature=old",
            "http://pictures.example/pics/one.png?X-Signature=new",
        ),
        ("https://pictures.example/a%20b.png", "http://pictures.example/a b.png"),
        ("//pictures.example/one.png", "http://pictures.example/one.png"),
        (" http://pictures.example/one.png\n", "http://pictures.example/one.png"),
        ("s3://bucket/sub/one.png", "s3://bucket/sub/one.png"),
        ("pics/a%3Ab.png", "http://pictures.example/pics/a:b.png"),
        ("run #1/one?.png", "/data/upload/1/1a2b3c4d-one.png"),
        ("100%25.png", "/data/upload/1/1a2b3c4d-10025.png"),
        ("..\\..\\media\\upload\\1\\1a2b3c4d-one.png", "/data/upload/1/1a2b3c4d-one.png"),
    ],
)
def test_a_name_that_is_an_address_is_of_the_task_that_has_it(name, address):
    others = (f"{LOCAL}other/two.png", "http://pictures.example/pics/two.png?d=3", "/data/upload/1/1a2b3c4d-two.png")
    assert tasks(*others, address)(name) == [address]


def test_what_differs_in_an_address_tells_tasks_apart():
    one, two = "http://one.example/a.png?v=1", "http://two.example/a.png?v=1"
    newer = "http://one.example/a.png?v=2"
    find = tasks(one, two, newer)
    assert find("http://two.example/a.png?v=9") == [two]
    assert find(one) == [one] and find(newer) == [newer]
    for address in (one, two, newer):
        assert find(f"images/{hashlib.md5(address.encode()).hexdigest()[:8]}__a.png") == [address]
    assert set(find("http://one.example/a.png?v=9")) == {one, newer}


def test_folders_and_names_are_one_however_their_accents_are_encoded():
    composed, apart = "kr\u00e4ter/m\u00e4rz.png", "kra\u0308ter/ma\u0308rz.png"
    for one, other in ((composed, apart), (apart, composed)):
        assert index(f"/maps/{one}", "/maps/dune/m\u00e4rz.png").best(other) == [f"/maps/{one}"]
