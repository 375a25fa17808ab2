"""One picture, however it is read: clicks, training, pre-annotation, by windows, map, segment and import see the same
pixels, and those are what Chromium draws.
"""

import base64
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from skylight.backend.cli.main import cli
from skylight.backend.images.embedder import ImageEmbedder
from skylight.backend.images.large_images import LargeImageStore
from skylight.model.embeddings.cache import EmbeddingCache
from skylight.model.images.normalization import Normalization
from skylight.model.images.opening import load_raster, open_raster, read_size
from skylight.model.images.orientation import TURNS
from skylight.model.sam import loading
from skylight.model.sam.types import Embedding, Segmentation
from skylight.model.storage.file_store import FolderStore
from tests.support.picture_kinds import SCENE, WHITE, Kind, kinds

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--force-color-profile=srgb"]
KINDS = kinds()
LARGER, TILE = 1024, 40  # px, sides of a tile: larger than the pictures, and smaller
DRAW = """async ([mime, data]) => {
  const image = new Image();
  image.src = `data:${mime};base64,${data}`;
  await image.decode().catch(() => {});
  if (!image.naturalWidth) return null;
  const canvas = document.createElement('canvas');
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  const context = canvas.getContext('2d');
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  let text = '';
  for (let i = 0; i < pixels.length; i += 8192) text += String.fromCharCode(...pixels.subarray(i, i + 8192));
  return [canvas.width, canvas.height, btoa(text)];
}"""

Pixels = NDArray[np.uint8]


class Watched:
    """In the place of a SAM: keeps what it is shown."""

    input_size = 512
    encoder_id = "watched-1"

    def __init__(self) -> None:
        self.shown: list[Pixels] = []

    def embed(self, image: Pixels) -> Embedding:
        self.shown.append(image.copy())
        return Embedding(np.zeros((256, 4, 4), np.float16), image.shape[:2], np.zeros((32, 32, 3), np.uint8))

    def segment(self, embedding: Embedding, *args: Any, **more: Any) -> Segmentation:
        return Segmentation(
            np.ones((1, *embedding.size), bool), np.ones(1, np.float32), np.zeros((1, 4, 4), np.float32)
        )


def looked_at(folder: Path, data: bytes, side: int) -> tuple[Watched, ImageEmbedder]:
    watched = Watched()
    cache = EmbeddingCache(FolderStore(folder), watched.encoder_id, 0)
    return watched, ImageEmbedder(
        watched, cache, lambda url: data, 10**8, large=LargeImageStore(folder / "pictures", side)
    )  # type: ignore[arg-type]


def clicked(folder: Path, kind: Kind) -> Pixels:
    """What SAM sees of it at a click."""
    watched, embedder = looked_at(folder, kind.data, LARGER)
    embedder.open("/a")
    return watched.shown[0]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_way_to_read_a_picture_gives_the_same_pixels(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = clicked(tmp_path / "click", kind)
    whole = (0, 0, *expected.shape[:2])

    watched, embedder = looked_at(tmp_path / "training", kind.data, LARGER)
    embedder.embedding("/a")
    assert read_size(kind.data) == expected.shape[:2]  # as an import asks for it
    ways = {"training": watched.shown[0]}

    _, embedder = looked_at(tmp_path / "large", kind.data, TILE)
    digest, large = embedder.open("/a")
    assert not isinstance(large, Embedding) and large.size == expected.shape[:2]
    ways["a large picture"] = large.read(whole)
    ways["a tile"] = np.pad(
        large.read((7, 11, 30, 40)), ((7, expected.shape[0] - 37), (11, expected.shape[1] - 51), (0, 0))
    )
    watched, embedder = looked_at(tmp_path / "pre-annotation", kind.data, TILE)
    embedder.tile_embedding(*embedder.open("/a"), whole)
    ways["a pre-annotation by tiles"] = watched.shown[0]

    path = tmp_path / f"picture.{kind.suffix}"
    path.write_bytes(kind.data)
    mapped = open_raster(path)
    ways["map"] = mapped.read(whole)
    known = [each if each is None else each.tolist() for each in (mapped.known(whole), large.known(whole))]
    mapped.close()

    watched = Watched()
    monkeypatch.setattr(loading, "load", lambda *_: watched)
    arguments = ["segment", str(path), "--point", "5,5", "--out", str(tmp_path / "mask.png")]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    ways["segment"] = watched.shown[0]

    tile = np.zeros_like(expected)
    tile[7:37, 11:51] = expected[7:37, 11:51]
    for way, pixels in ways.items():
        off = np.abs(pixels.astype(int) - (tile if way == "a tile" else expected)).max()
        assert off == 0, f"{way} differs by {off} levels"
    assert known[0] == known[1]
    if not kind.mime:
        assert_scene(expected, kind)


def assert_scene(pixels: Pixels, kind: Kind) -> None:
    """It is the scene, but for what may be missing of it."""
    upright = TURNS[kind.turn](np.dstack([SCENE, WHITE]))
    scene, there = upright[..., :3].astype(float).mean(2), upright[..., 3] == 0
    assert pixels.shape[:2] == scene.shape
    assert np.corrcoef(pixels.astype(float).mean(2)[there], scene[there])[0, 1] > 0.5


@pytest.mark.parametrize(
    "kind", [each for each in KINDS if each.suffix == "tif" and not each.only_gdal], ids=lambda each: each.name
)
def test_without_gdal_a_tiff_is_read_alike(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load_raster(kind.data).read((0, 0, *read_size(kind.data)))
    monkeypatch.setattr("skylight.model.images.opening.has_rasterio", lambda: False)
    found = clicked(tmp_path, kind)
    assert found.shape == expected.shape == (*read_size(kind.data), 3)
    assert_scene(found, kind)
    off = np.abs(found.astype(int) - expected).max()
    assert off <= (20 if "jpeg" in kind.name else 0), f"{off} levels"  # GDAL does not smooth colours of half the size


@pytest.mark.parametrize(
    "name", ["tif palette", "tif 4 bits", "tif white is 0", "tif turned 6", "jpg exif 6", "png rgba"]
)
def test_a_picture_of_8_bits_is_the_same_by_every_normalisation(name: str, tmp_path: Path) -> None:
    data = next(kind.data for kind in KINDS if kind.name == name)
    watched, embedder = looked_at(tmp_path, data, LARGER)
    embedder.open("/a")
    embedder.with_normalization(Normalization((), (0.0, 9.0))).open("/a")
    assert len(watched.shown) == 1  # the same embedding is kept for both


LOSSLESS = (
    "png plain", "png rgba", "png rgb with transparency", "bmp plain", "webp plain", "webp rgba", "webp exif 3",
    "tif plain", "tif tiled", "tif big", "jp2 rgb", "jp2 rgb with ycc", "jp2 by Pillow", "j2k codestream",
)  # fmt: skip


@pytest.mark.parametrize("name", LOSSLESS)
def test_a_lossless_file_has_the_pixels_that_were_saved_also_where_they_are_transparent(
    name: str, tmp_path: Path
) -> None:
    (kind,) = (kind for kind in KINDS if kind.name == name)
    assert (clicked(tmp_path, kind) == SCENE).all()


@pytest.fixture(scope="module")
def page() -> Any:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: nothing is drawn")
    if not CHROMIUM:
        pytest.skip("there is no chromium: nothing is drawn")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser.new_page()
        browser.close()


def drawn(page: Any, kind: Kind) -> Pixels:
    """What Chromium draws on a canvas, (H, W, 4) RGBA."""
    found = page.evaluate(DRAW, [kind.mime, base64.b64encode(kind.data).decode()])
    assert found is not None, f"Chromium does not show {kind.name}"
    width, height, text = found
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)


def test_they_are_what_chromium_draws(page: Any, tmp_path: Path) -> None:
    shown = [kind for kind in KINDS if kind.mime]
    assert len(shown) >= 60
    wrong = []
    for kind in shown:
        canvas, pixels = drawn(page, kind), clicked(tmp_path / kind.name, kind)
        if canvas.shape[:2] != pixels.shape[:2]:
            wrong.append(f"{kind.name}: {canvas.shape} is {pixels.shape}")
        elif kind.only_size:
            levels = [each[..., :3].astype(float).mean(2).ravel() for each in (canvas, pixels)]
            if np.corrcoef(*levels)[0, 1] < 0.95:
                wrong.append(f"{kind.name} is another way up")
        else:
            solid = canvas[..., 3] == 255  # of what is transparent a canvas knows no colour
            off = np.abs(canvas[..., :3].astype(int) - pixels)[solid].max()
            missing = kind.mime == "image/jpeg" and pixels[~solid].any()  # what is not there is black
            if off > kind.off or missing:
                wrong.append(f"{kind.name} differs by {off} levels")
    assert not wrong, "\n".join(wrong)
