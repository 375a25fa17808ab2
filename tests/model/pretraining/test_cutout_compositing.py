"""Cut-out drawings for pretraining: solid ones only, laid where their ids say, on grounds of both kinds."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from skylight.model.pretraining import cutout_compositing
from skylight.model.pretraining.cutout_compositing import SIZE, VISIBLE, Cutouts, _read
from skylight.model.pretraining.data import ImageSampler


def add_drawing(path: Path, kind: str = "solid") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing = Image.new("RGBA", (120, 80), (0, 0, 0, 0))
    pen = ImageDraw.Draw(drawing)
    if kind == "solid":
        pen.ellipse((10, 5, 110, 75), fill=(250, 20, 20, 255))
    elif kind == "frame":
        pen.rectangle((0, 0, 119, 79), fill=(250, 20, 20, 255))
    elif kind == "ring":
        pen.ellipse((10, 5, 110, 75), outline=(250, 20, 20, 255), width=4)
    elif kind == "pieces":
        pen.ellipse((0, 10, 55, 70), fill=(250, 20, 20, 255))
        pen.ellipse((65, 10, 119, 70), fill=(250, 20, 20, 255))
    drawing.save(path)


@pytest.fixture
def drawings(tmp_path: Path) -> Path:
    for kind in ("solid", "frame", "ring", "pieces"):
        add_drawing(tmp_path / "food" / f"{kind}.png", kind)
    add_drawing(tmp_path / "logos" / "solid.png")
    return tmp_path


def test_only_drawings_that_are_one_solid_thing_are_used(drawings: Path) -> None:
    source = Cutouts(drawings)
    assert [path.stem for path in source.files] == ["frame", "pieces", "ring", "solid"]  # not the logo
    rng = np.random.default_rng(0)
    for _ in range(10):
        assert source._drawing(rng).size == (101, 71)  # the ellipse, without the margin around it


def test_drawings_too_large_to_read_are_left_out(drawings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutout_compositing, "MOST_PIXELS", 120 * 80)
    Image.new("RGBA", (97, 100), (9, 9, 9, 255)).save(drawings / "food" / "wide.png")
    assert _read(drawings / "food" / "wide.png") is None and _read(drawings / "food" / "solid.png") is not None
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow's own limit: it refuses twice as many
    assert _read(drawings / "food" / "solid.png") is None


def test_a_picture_has_things_of_many_sizes_with_ids_that_can_be_seen(drawings: Path) -> None:
    source, shares = Cutouts(drawings), []
    for seed in range(12):
        image, ids = source.compose(np.random.default_rng(seed))
        assert image.shape == (SIZE, SIZE, 3) and image.dtype == np.uint8 and ids.dtype == np.uint16
        counts = np.bincount(ids.ravel())[1:]
        assert counts.any() and counts[counts > 0].min() >= VISIBLE
        shares += (counts[counts > 0] / ids.size).tolist()
    assert min(shares) < 0.01 and max(shares) > 0.1


def test_a_thing_is_painted_where_its_id_is(drawings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Cutouts(drawings)
    monkeypatch.setattr(source, "_background", lambda rng: np.zeros((SIZE, SIZE, 3), np.float32))
    monkeypatch.setattr(source, "_paint", lambda rng: lambda thing: thing)
    image, ids = source.compose(np.random.default_rng(1))
    red = image[..., 0] > 100
    assert red.any() and (ids[red] > 0).mean() > 0.97 and image[..., 1].max() < 30


def test_photographs_are_grounds_and_fillings(drawings: Path) -> None:
    asked = []

    def photograph() -> NDArray[np.uint8]:
        asked.append(1)
        return np.full((200, 300, 3), (0, 255, 0), np.uint8)

    source = Cutouts(drawings, [photograph])
    green = [(source.compose(np.random.default_rng(seed))[0] == (0, 255, 0)).all(2).mean() for seed in range(12)]
    assert len(asked) > 4 and 2 < sum(share > 0.2 for share in green) < 11


def test_pictures_of_drawings_follow_from_the_seed_and_join_the_others(drawings: Path) -> None:
    def drawn(seed: int) -> list[NDArray[np.uint8]]:
        source = ImageSampler([], np.random.default_rng(seed), 1.0, drawings)
        return [source.draw(256)[0] for _ in range(6)]

    assert all(np.array_equal(a, b) for a, b in zip(drawn(0), drawn(0), strict=True))
    source = ImageSampler([], np.random.default_rng(0), 1.0, drawings)
    chosen = [source._sources(True) for _ in range(400)]
    shares = [sum(each is kind for each in chosen) / 400 for kind in (source.scenes, source.procedural, source.cutouts)]
    assert np.allclose(shares, (0.25, 0.3, 0.45), atol=0.08)


def test_a_folder_without_drawings_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no PNG"):
        Cutouts(tmp_path)
