"""Pictures of any size, read by windows."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from model.images import ImageError, decode
from model.rasters import Whole, Windowed, open_raster
from model.synthetic import scene

MARS = "IAU_2015:49910"


def tiff(path: Path, bands: np.ndarray, driver: str = "GTiff", **how) -> Path:
    """A raster of bands (N, H, W)."""
    where = {"transform": rasterio.Affine(2, 0, 100, 0, -2, 500), "crs": MARS, **how}
    with rasterio.open(path, "w", driver, *bands.shape[:0:-1], len(bands), dtype=bands.dtype, **where) as file:
        file.write(bands)
    return path


@pytest.fixture
def gray():
    return scene(1, 96).image[:64, :, 0]


def test_a_tiff_of_8_bits_is_what_the_browser_shows(tmp_path):
    picture = scene(1, 96).image[:64]
    path = tiff(tmp_path / "a.tif", np.moveaxis(picture, 2, 0))
    raster = open_raster(path)
    assert isinstance(raster, Windowed) and raster.size == (64, 96)
    assert (raster.read((0, 0, 64, 96)) == decode(path.read_bytes())).all()
    assert (raster.read((10, 20, 5, 7)) == picture[10:15, 20:27]).all()
    assert raster.place.transform == (2, 0, 100, 0, -2, 500) and "Mars" in raster.place.crs
    assert raster.known((0, 0, 64, 96)) is None
    raster.close()


@pytest.mark.parametrize("dtype", ["uint16", "float32", "int16"])
def test_deep_values_are_stretched_alike_in_every_window_and_missing_ones_are_black(tmp_path, gray, dtype):
    deep = (gray.astype(np.float64) * 90 + 1000).astype(dtype)
    nodata = -32768 if dtype == "int16" else 0
    deep[:, :10] = nodata
    if dtype == "float32":
        deep[0, 50], deep[1, 50], deep[2, 50] = np.nan, -3.4e38, np.inf
    raster = open_raster(tiff(tmp_path / "a.tif", deep[None], nodata=nodata))
    whole = raster.read((0, 0, 64, 96))
    assert (raster.read((5, 8, 20, 30)) == whole[5:25, 8:38]).all()
    assert (whole[:, :10] == 0).all() and (whole[:3, 50] == 0).all() == (dtype == "float32")
    right = deep[:, 60:]
    low, high = np.percentile(deep[:, 10:][np.abs(deep[:, 10:].astype(float)) < 1e38], (1, 99))
    expected = np.clip((right.astype(float) - low) * 255 / (high - low), 0, 255)
    assert np.abs(whole[:, 60:, 0] - expected).max() <= 1.5
    assert (raster.known((0, 0, 64, 96))[:, 10:49]).all() and not raster.known((0, 0, 64, 10)).any()
    raster.close()


def test_bands_are_chosen_and_those_that_are_not_there_refused(tmp_path):
    bands = np.stack([np.full((8, 8), 10 * k, np.uint8) for k in range(1, 6)])
    path = tiff(tmp_path / "a.tif", bands)
    for chosen, shown in (((), (10, 20, 30)), ((4, 2, 1), (40, 20, 10)), ((5,), (50, 50, 50))):
        raster = open_raster(path, bands=chosen)
        assert raster.read((0, 0, 1, 1)).tolist() == [[list(shown)]]
        raster.close()
    for wrong in ((6,), (1, 2)):
        with pytest.raises(ImageError, match=r"has 5 bands; \(.*\) are not one or three of them"):
            open_raster(path, bands=wrong)


def test_jpeg_2000_is_read(tmp_path, gray):
    path = tiff(tmp_path / "a.jp2", gray[None], "JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES")
    raster = open_raster(path)
    assert (raster.read((0, 0, 64, 96))[..., 0] == gray).all() and raster.place is not None
    raster.close()


def test_any_other_picture_is_read_whole_and_bands_of_it_are_refused(tmp_path):
    picture = scene(1, 96).image
    Image.fromarray(picture).save(tmp_path / "a.png")
    raster = open_raster(tmp_path / "a.png")
    assert isinstance(raster, Whole) and raster.place is None and raster.known((0, 0, 96, 96)) is None
    assert (raster.read((1, 2, 3, 4)) == picture[1:4, 2:6]).all()
    assert max(raster.small(40).shape) == 40
    with pytest.raises(ImageError, match="no bands can be chosen"):
        open_raster(tmp_path / "a.png", bands=(1,))
    with pytest.raises(ImageError, match="more than the 100 allowed"):
        open_raster(tmp_path / "a.png", 100)
    with pytest.raises(ImageError, match="cannot be read: No such file"):
        open_raster(tmp_path / "b.png")


def test_a_damaged_raster_is_refused_by_name(tmp_path, gray):
    (tmp_path / "a.tif").write_bytes(b"no raster")
    with pytest.raises(ImageError, match=r"a\.tif is not a raster that can be read"):
        open_raster(tmp_path / "a.tif")
    path = tiff(tmp_path / "b.tif", np.random.default_rng(0).integers(0, 255, (1, 300, 300)).astype(np.uint8))
    path.write_bytes(path.read_bytes()[:40_000])
    raster = open_raster(path)
    with pytest.raises(ImageError, match=r"b\.tif is damaged"):
        raster.read((200, 0, 100, 300))
    raster.close()
