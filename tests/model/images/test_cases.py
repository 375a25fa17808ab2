"""Pictures of kinds that were read wrong, each with the values that are right.

`cases/<kind>` holds some inputs of each kind; `SKYLIGHT_CASES` names a folder with all of them, as `<number>-<kind>`.
`expected.json` has sizes as width, height, places as x, y px from the upper left, as a browser shows the picture.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from skylight.backend.cli.main import cli
from skylight.backend.demo.demo import label_config
from skylight.backend.images.embedder import ImageEmbedder
from skylight.backend.images.large_images import LargeImageStore
from skylight.backend.importing.coco_and_masks import MaskLabels
from skylight.backend.importing.importer import Options, plan
from skylight.backend.inference.click import click
from skylight.backend.labelstudio.events import webhook_events
from skylight.backend.labelstudio.label_config import parse_config
from skylight.backend.labelstudio.region_reader import read_mask
from skylight.backend.learning.ingest import apply_event
from skylight.backend.mapping.inputs import list_images
from skylight.backend.service import Service
from skylight.model.embeddings.cache import EmbeddingCache
from skylight.model.images.opening import open_raster, read_size
from skylight.model.images.raster import MemoryRaster, Raster
from skylight.model.sam import loading
from skylight.model.sam.segmenter import Segmenter
from skylight.model.sam.types import Embedding
from skylight.model.storage.file_store import FolderStore
from tests.model.images.test_as_the_browser import Watched
from tests.support.label_files import coco
from tests.support.planted_embeddings import brush, key_point, png, square

OWN = Path(__file__).parents[2] / "cases"
ALL = os.environ.get("SKYLIGHT_CASES", "")
A = "/data/upload/1/a.png"
LABELING = parse_config(label_config(["Pit"]), preferred="")


@dataclass(frozen=True)
class Case:
    """An input and what is expected of it."""

    path: Path
    right: dict[str, Any]

    @property
    def size(self) -> tuple[int, int]:
        return self.right["shown"][1], self.right["shown"][0]

    @property
    def light(self) -> list[list[int]]:
        """Discs x, y, radius of what is light."""
        return [*self.right.get("discs", ()), *([self.right["disc"]] if "disc" in self.right else [])]


def cases(kind: str) -> list[Any]:
    """The inputs of a kind, as parameters; one is skipped where `SKYLIGHT_CASES` does not say where more are."""
    found = []
    for folder in [OWN / kind, *(Path(ALL).glob(f"*-{kind}") if ALL else ())]:
        expected = json.loads((folder / "expected.json").read_text())["inputs"]
        there = {name: right for name, right in expected.items() if (folder / name).exists()}
        where = "" if folder.parent == OWN else "all-"
        found += [pytest.param(Case(folder / name, right), id=where + name) for name, right in there.items()]
    if not ALL:
        skip = pytest.mark.skip(reason="SKYLIGHT_CASES does not name a folder of cases: only some are tried")
        found.append(pytest.param(None, id="all", marks=skip))
    return found


def pictures(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [each for kind in kinds for each in cases(kind)])


@pytest.fixture
def looked(service: Service, segmenter: Segmenter) -> Service:
    """A service whose tiles have 1024 px."""
    cache = EmbeddingCache(service.files, segmenter.encoder_id, 10**7)
    large = LargeImageStore(service.settings.home / "pictures", 1024)
    service._embedder = ImageEmbedder(segmenter, cache, service._fetch, 10**7, large=large)
    return service


def every_way(case: Case, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Raster]:
    """The picture as it is seen at a click, by windows, by map, and by the command segment."""
    data = case.path.read_bytes()
    assert read_size(data) == case.size
    seen: dict[str, Raster] = {"map": open_raster(case.path)}
    for side in (1024, 200):
        watched = Watched()
        cache = EmbeddingCache(FolderStore(folder), str(side), 0)
        large = LargeImageStore(folder / str(side), side)
        found = ImageEmbedder(watched, cache, lambda _: data, 10**8, large=large).open(A)[1]  # type: ignore[arg-type]
        small = isinstance(found, Embedding)
        assert small == (max(case.size) <= side)
        there = found.known_mask() if isinstance(found, Embedding) else None
        seen[f"tiles of {side} px"] = (
            MemoryRaster(watched.shown[0], known_pixels=there) if isinstance(found, Embedding) else found
        )
    watched = Watched()
    monkeypatch.setattr(loading, "load", lambda *_: watched)
    arguments = ["segment", str(case.path), "--point", "0,0", "--out", str(folder / "mask.png")]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return {**seen, "segment": MemoryRaster(watched.shown[0])}


@pictures(
    "orientation-not-as-the-browser",
    "photo-with-an-odd-exif-tag",
    "tiff-read-by-windows-has-other-values",
    "transparency-of-large-pictures-is-black",
    "nodata-of-8-bit-geotiffs",
    "jpeg2000-of-8-bit-colours",
    "jpeg-without-its-end",
)
def test_a_picture_is_shown_as_it_is_right_by_every_way(case, tmp_path, monkeypatch):
    right = case.right
    for way, raster in every_way(case, tmp_path, monkeypatch).items():
        assert raster.size == case.size, way
        pixels = raster.read((0, 0, *raster.size)).astype(int)
        for place, colour in right.get("pixels", {}).items():
            x, y = map(int, place.split(","))
            assert np.abs(pixels[y, x] - colour).max() <= 1, f"{way} at {place}: {pixels[y, x]}"
        ground = np.median(pixels, (0, 1)).mean()
        for x, y, radius in case.light:
            part = pixels[y - radius // 2 : y + radius // 2, x - radius // 2 : x + radius // 2]
            assert part.mean() > ground + 50, f"{way}: no disc at {x}, {y}"
        if "rectangle" in right:
            left, top, end, bottom = right["rectangle"]
            inside = np.zeros(case.size, bool)
            inside[top + 2 : bottom - 2, left + 2 : end - 2] = True
            assert pixels[inside].min() > 230 and pixels[: top - 2].max() < 200 and pixels[:, : left - 2].max() < 200, (
                way
            )
        known = raster.known((0, 0, *raster.size))
        assert way == "segment" or (known is None) == ("holes" not in right), way
        for x, y, radius in right.get("holes", ()):
            part = np.s_[y - radius // 2 : y + radius // 2, x - radius // 2 : x + radius // 2]
            assert not pixels[part].any(), f"{way}: something at {x}, {y}"
            assert known is None or not known[part].any(), way
        raster.close()


def disc(case: Case, x: int, y: int, radius: int) -> np.ndarray:
    rows, columns = np.mgrid[: case.size[0], : case.size[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


@pictures("orientation-not-as-the-browser", "photo-with-an-odd-exif-tag", "jpeg2000-of-8-bit-colours")
def test_a_click_on_what_is_light_gets_it(case, looked, studio):
    studio.pictures[A] = case.path.read_bytes()
    if "rectangle" in case.right:
        left, top, right, bottom = case.right["rectangle"]
        truth = np.zeros(case.size, bool)
        truth[top:bottom, left:right] = True
        x, y = (left + right) / 2, (top + bottom) / 2
    else:
        truth, (x, y, _) = disc(case, *case.light[0]), case.light[0]
    prompt = key_point("point", "Pit", x, y, case.size)
    regions, _ = click(looked, LABELING, {"id": 1, "data": {"image": A}}, {"result": [prompt]})
    mask = read_mask(regions[0], case.size)
    assert (mask & truth).sum() / (mask | truth).sum() > 0.75


@pictures("very-narrow-pictures")
def test_a_narrow_picture_is_answered_by_segment_a_click_and_an_annotation(
    case, looked, studio, segmenter, tmp_path, monkeypatch
):
    x, y = case.right["click"]
    monkeypatch.setattr(loading, "load", lambda *_: segmenter)
    out = tmp_path / "mask.png"
    arguments = ["segment", str(case.path), "--point", f"{x},{y}", "--out", str(out)]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    with Image.open(out) as mask:
        assert mask.size == tuple(case.right["shown"]) and np.asarray(mask).any()
    key = studio.add_project()
    task = studio.add_task(key, case.path.read_bytes())
    shown = {"id": task, "data": studio.tasks[task]["data"]}
    regions, _ = click(looked, LABELING, shown, {"result": [key_point("point", "Pit", x, y, case.size)]})
    assert read_mask(regions[0], case.size).any()
    looked.store.save_config(key, studio.projects[1]["label_config"])
    annotation = studio.annotate(task, [brush(LABELING, np.ones(case.size, bool))])
    (event,) = webhook_events(studio.webhook("ANNOTATION_CREATED", key, annotation))
    assert apply_event(looked, key, event)
    (record,) = looked.store.samples(key)
    assert record.size == case.size and looked.store.label_map(key, record).all()


@pictures("mac-sidecar-files")
def test_a_macs_notes_about_masks_are_passed_over(case, service, studio, tmp_path):
    key = studio.add_project(label_config(["Pit"]))
    studio.add_task(key, png(np.zeros((120, 200, 3), np.uint8)), name="one.png")
    importing = plan(service, 1, [case.path], Options(masks=MaskLabels("Pit")))
    progress = [progress for progress, _ in importing.run()][-1]
    assert (progress.regions, progress.failed, progress.total) == (case.right["regions"], [], 1)
    assert len(list_images([case.path])) == case.right.get("mapped", 1)


def test_masks_in_folders_of_labels_beside_folders_of_notes_are_imported(service, studio, tmp_path):
    key = studio.add_project(label_config(["Pit", "Crater"]))
    image, truth = square(1)
    studio.add_task(key, png(image), name="a.png")
    mask = png(np.repeat(truth[..., None], 3, 2).astype(np.uint8) * 255)
    for name in ("Pit/a.png", "__MACOSX/Pit/._a.png", "Pit/.ipynb_checkpoints/a-checkpoint.png", "Pit/._a.png"):
        (tmp_path / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "masks" / name).write_bytes(mask if "._" not in name else b"\0\5\x16\7 Mac OS X")
    progress = [progress for progress, _ in plan(service, 1, [tmp_path / "masks"], Options()).run()][-1]
    assert (progress.regions, progress.failed, progress.total) == (1, [], 1)


@pictures("jfif-and-avif-in-folders")
def test_every_picture_of_a_folder_is_found(case):
    names = [each.place.name for each in list_images([case.path.parent])]
    assert names.count(case.path.name) == case.right["mapped"]


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JFIF"])
def test_a_jfif_is_uploaded_under_a_name_that_label_studio_takes_and_found_again(service, studio, tmp_path, suffix):
    studio.add_project(label_config(["Pit"]))
    image, truth = square(1)
    (tmp_path / "in").mkdir()
    Image.fromarray(image).save(tmp_path / "in" / f"scene{suffix}", "JPEG")
    (tmp_path / "in" / f"._scene{suffix}").write_bytes(b"\0\5\x16\7")
    file = coco(tmp_path / "c.json", (f"scene{suffix}", truth))
    for expected in ((1, 1, 0), (0, 0, 1)):  # uploaded, annotated; then both are there
        progress = [progress for progress, _ in plan(service, 1, [file], Options(images=tmp_path / "in")).run()][-1]
        assert (progress.uploaded, progress.annotated, progress.annotated_before, progress.failed) == (*expected, [])
    assert [task["data"]["image"].rpartition("-")[2] for task in studio.tasks.values()] == ["scene.jpg"]
