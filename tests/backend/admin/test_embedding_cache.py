"""What the cache's command says and deletes."""

import os
from datetime import datetime
from pathlib import Path

import pytest

from skylight.backend.admin import embedding_cache
from skylight.backend.errors import BadRequest
from skylight.backend.settings import Settings
from skylight.model.sam import loading

MEGABYTE = 2**20


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A home with three embeddings of the SAM in use, and two of another."""
    for hour, encoder in enumerate([loading.identify("tiny")] * 3 + ["vit_b-0123456789ab"] * 2):
        path = tmp_path / "embeddings" / encoder / "00" / f"{hour}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(MEGABYTE))
        os.utime(path, (datetime(2024, 5, 1, hour).timestamp(),) * 2)
    return Settings(home=tmp_path, disk_mb=100)


def test_each_encoder_has_a_line_and_all_have_one(settings, tmp_path):
    day = ["2024-05-01"]
    head, tiny, other, total, free = embedding_cache.report(settings)
    assert head.split() == ["encoder", "images", "MB", "oldest", "use", "newest", "use"]
    assert tiny.split() == [loading.identify("tiny"), "3", "3.0", *day, "00:00", *day, "02:00", "in", "use"]
    assert other.split() == ["vit_b-0123456789ab", "2", "2.0", *day, "03:00", *day, "04:00"]
    assert total == f"{tmp_path}/embeddings: 5 images, 5.0 MB of at most 100 MB (SKYLIGHT_DISK_MB)"
    assert free.endswith(" MB are free on this disk") and int(free.split()[0]) > 0


def test_large_pictures_have_a_line_if_there_are_any(settings, tmp_path):
    folder = tmp_path / "pictures" / "ab"
    folder.mkdir(parents=True)
    (folder / "abcd.tif").write_bytes(bytes(3 * MEGABYTE // 2))
    *_, line, _ = embedding_cache.report(settings)
    assert line == f"{tmp_path}/pictures: 1 large pictures, 1.5 MB of at most 10240 MB"


def test_an_empty_home_without_a_cap(tmp_path):
    home = tmp_path / "not" / "there"
    total, _ = embedding_cache.report(Settings(home=home, disk_mb=0))
    assert total == f"{home}/embeddings: 0 images, 0.0 MB and no limit (SKYLIGHT_DISK_MB)"


def test_trimming_deletes_those_not_used_for_longest(settings):
    assert embedding_cache.trim(settings, 3) == "deleted 2 embeddings, 2.0 MB; 3.0 MB are left"
    assert sorted(path.stem for path in embedding_cache.folder(settings).rglob("*.safetensors")) == ["2", "3", "4"]
    assert embedding_cache.trim(settings, 0) == "deleted 3 embeddings, 3.0 MB; 0.0 MB are left"


def test_clearing_deletes_an_encoder_s(settings):
    assert (
        embedding_cache.clear(settings, "vit_b-0123456789ab")
        == "deleted all of vit_b-0123456789ab: 2 embeddings, 2.0 MB"
    )
    assert [path.name for path in embedding_cache.folder(settings).iterdir()] == [loading.identify("tiny")]


@pytest.mark.parametrize("name", ["vit_b", "../embeddings", "..", "", "/"])
def test_only_an_encoder_s_folder_can_be_cleared(settings, name):
    with pytest.raises(BadRequest, match="only of: tiny-.*, vit_b-0123456789ab"):
        embedding_cache.clear(settings, name)


def test_the_encoder_in_use_is_not_cleared(settings):
    with pytest.raises(BadRequest, match="is in use .SKYLIGHT_SAM=tiny."):
        embedding_cache.clear(settings, loading.identify("tiny"))


def test_a_sam_whose_checkpoint_is_not_there_is_not_in_use(tmp_path):
    assert embedding_cache.in_use(Settings(home=tmp_path, sam="vit_b")) == ""
    assert embedding_cache.in_use(Settings(home=tmp_path, sam="best")) == ""


def test_the_encoder_s_id_is_that_of_the_loaded_sam(segmenter):
    assert embedding_cache.in_use(Settings()) == segmenter.encoder_id
