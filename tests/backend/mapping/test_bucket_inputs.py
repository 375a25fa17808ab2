"""Pictures in a bucket, over real HTTP: found, copied a piece at a time, and what is said where they cannot be."""

from collections.abc import Iterator

import obstore
import pytest
from obstore.store import S3Store

from skylight.backend.mapping import bucket_inputs
from skylight.backend.mapping.bucket_inputs import ADDRESS, copy, list_objects
from skylight.backend.store import bucket as buckets
from tests.support.s3_double import Between, credentials, serving_s3


@pytest.fixture
def between(between: Between) -> Iterator[Between]:
    bucket_inputs._store.cache_clear()
    yield between
    bucket_inputs._store.cache_clear()


@pytest.fixture
def bucket(between: Between) -> S3Store:
    return buckets.connect("maps")


def test_a_prefix_is_a_folder_and_a_picture_s_address_is_that_picture(bucket):
    for key in ("one/b.tif", "one/a/ä 50% <c>.PNG", "one-more/d.tif", "one/readme.txt"):
        obstore.put(bucket, key, key.encode())
    below, found = list_objects("s3://maps/one/")
    assert below == "s3://maps/one/" and list_objects("s3://maps/one") == (below, found)
    assert [each.address[len(below) :] for each in found] == ["a/ä 50% <c>.PNG", "b.tif", "readme.txt"]
    below, (single,) = list_objects("s3://maps/one/b.tif")
    assert single == found[1] and below == "s3://maps/one/" and single.size == len("one/b.tif")
    assert list_objects("s3://maps/nothing/here.tif")[1] == []
    assert {each.address for each in found} < {each.address for each in list_objects("s3://maps")[1]}


def test_an_object_s_mark_is_another_one_once_its_content_is(bucket):
    obstore.put(bucket, "marked/a.png", b"12345")
    before = list_objects("s3://maps/marked")[1]
    obstore.put(bucket, "marked/a.png", b"12345")
    assert list_objects("s3://maps/marked")[1] == before
    obstore.put(bucket, "marked/a.png", b"54321")
    assert list_objects("s3://maps/marked")[1] != before


def test_a_copy_is_made_in_pieces_through_failures_and_of_one_content_only(bucket, between, tmp_path, monkeypatch):
    monkeypatch.setattr(bucket_inputs, "CHUNK_BYTES", 1000)
    data = bytes(range(256)) * 11
    obstore.put(bucket, "copied/a.tif", data)
    obstore.put(bucket, "copied/empty.tif", b"")
    empty, whole = sorted(list_objects("s3://maps/copied")[1], key=lambda each: each.size)
    between.failing = 2
    copy(whole, tmp_path / "a.tif")
    assert between.failed == 2 and (tmp_path / "a.tif").read_bytes() == data
    copy(empty, tmp_path / "empty.tif")
    assert (tmp_path / "empty.tif").read_bytes() == b""
    obstore.put(bucket, "copied/a.tif", data[::-1])
    with pytest.raises(OSError, match="s3://maps/copied/a.tif has changed since it was listed"):
        copy(whole, tmp_path / "a.tif")
    obstore.delete(bucket, "copied/a.tif")
    with pytest.raises(FileNotFoundError, match="s3://maps/copied/a.tif is not there any more"):
        copy(whole, tmp_path / "a.tif")


def test_a_bucket_that_is_not_there_or_refuses_or_does_not_answer_is_one_sentence(between, monkeypatch):
    for address in ("s3://nowhere/one", "s3://nowhere/one.tif"):
        with pytest.raises(
            OSError, match=r"^there is no bucket nowhere; AWS_ENDPOINT_URL and AWS_REGION say where it is$"
        ):
            list_objects(address)
    monkeypatch.setattr(buckets, "TRIES", 1)
    bucket_inputs._store.cache_clear()
    between.cut_off()
    with pytest.raises(OSError, match=r"^s3://maps/one cannot be read: ") as caught:
        list_objects("s3://maps/one")
    assert "\n" not in str(caught.value)


def test_refused_access_is_one_sentence_without_the_key(monkeypatch):
    with serving_s3("maps", INITIAL_NO_AUTH_ACTION_COUNT="1") as port:
        for name, value in credentials(port).items():
            monkeypatch.setenv(name, value)
        bucket_inputs._store.cache_clear()
        for address in ("s3://maps/one", "s3://maps/one.tif"):
            with pytest.raises(OSError, match=rf"^{address}: access is refused; it is asked for by AWS_") as caught:
                list_objects(address)
            assert credentials(port)["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)
        bucket_inputs._store.cache_clear()


@pytest.mark.parametrize(
    "text", ["s3://maps.", "s3://a b/c", "s3://me:secret@maps/a.tif", "s3:///a.tif", "gs://maps/a"]
)
def test_what_is_no_address_in_a_bucket_is_refused_without_being_repeated(text):
    assert not ADDRESS.fullmatch(text)
    with pytest.raises(ValueError) as caught:
        list_objects(text)
    assert text not in str(caught.value)
