"""Samples that lie on disk while they are learned from: the same ones, in less memory."""

import mmap
import tempfile
from pathlib import Path

import numpy as np
import pytest

from skylight.model.decoder.sample_spill import SampleSpill
from skylight.model.decoder.samples import Sample
from skylight.model.sam.types import Embedding


def sample(seed: int, whole: bool = True) -> Sample:
    rng = np.random.default_rng(seed)
    features, context = (rng.normal(size=(channels, 4, 4)).astype(np.float16) for channels in (256, 3))
    detail = rng.normal(size=(5, 8, 8)).astype(np.float16)
    thumbnail = rng.integers(256, size=(32, 32, 3)).astype(np.uint8)
    picture = rng.integers(256, size=501).astype(np.uint8)  # a file's bytes
    embedding = Embedding(features, (33, 29), thumbnail, *((context, detail, picture) if whole else ()))
    label_map, instances = (rng.integers(3, size=(33, 29)).astype(kind) for kind in (np.uint8, np.uint16))
    return Sample(f"{seed}", embedding, label_map, instances if whole else None)


def parts(of: Sample) -> list[np.ndarray | None]:
    embedding = of.embedding
    return [
        embedding.features,
        embedding.thumbnail,
        embedding.picture,
        embedding.context,
        embedding.detail,
        of.label_map,
        of.instances,
    ]


def test_the_first_samples_stay_in_memory_and_the_others_are_read_from_disk(tmp_path: Path) -> None:
    given = [sample(0), sample(1), sample(2, whole=False)]
    with SampleSpill(tmp_path / "scratch", sum(part.nbytes for part in parts(given[0]) if part is not None)) as spill:
        kept = [spill.put(each) for each in given]
    assert kept[0] is given[0]
    for _ in range(2):
        for found, wanted in zip(kept[1:], given[1:], strict=True):
            assert (found.task, found.embedding.size) == (wanted.task, wanted.embedding.size)
            for one, other in zip(parts(found), parts(wanted), strict=True):
                assert (one is None) == (other is None)
                if one is not None and other is not None:
                    np.testing.assert_array_equal(one, other)
                    assert one.dtype == other.dtype and isinstance(one.base.base.obj, mmap.mmap)
        spill.release_memory()
    assert not list((tmp_path / "scratch").iterdir())  # the file has no name that could be left behind


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells what of a file is in memory")
def test_what_was_read_does_not_stay_in_memory(tmp_path: Path) -> None:
    large = np.ones((4096, 4096), np.uint8)
    with SampleSpill(tmp_path, 0) as spill:
        found = spill.put(Sample("1", sample(0).embedding, large)).label_map
    assert found.all()
    before = mapped()
    spill.release_memory()
    assert before - mapped() > 15_000
    assert found.all()


def mapped() -> int:
    """kB of files that are in this process's memory."""
    return int(Path("/proc/self/status").read_text().partition("RssFile:")[2].split()[0])


def test_without_room_on_the_disk_they_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    given = sample(0)
    assert SampleSpill(tmp_path, 0).put(given) is given
    assert "No space left on device" in caplog.text
