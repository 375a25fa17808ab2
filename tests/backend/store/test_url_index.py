"""Which image was behind which address."""

from skylight.backend.store.url_index import Addresses


def test_an_address_keeps_the_digest_of_what_it_showed_last(tmp_path):
    addresses = Addresses(tmp_path / "addresses")
    assert addresses.digest("/data/a.png") == ""
    assert not addresses.folder.exists()
    addresses.note("/data/a.png", "1" * 64)
    addresses.note("/data/b.png?x=../../etc", "2" * 64)
    addresses.note("/data/a.png", "3" * 64)
    again = Addresses(addresses.folder)
    assert again.digest("/data/a.png") == "3" * 64
    assert again.digest("/data/b.png?x=../../etc") == "2" * 64
    assert len([path for path in addresses.folder.rglob("*") if path.is_file()]) == 2


def test_nothing_is_written_for_what_is_known(tmp_path):
    addresses = Addresses(tmp_path)
    addresses.note("/a", "1" * 64)
    (path,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    before = path.stat().st_ino
    addresses.note("/a", "1" * 64)
    assert path.stat().st_ino == before
