"""Rasters read by windows: their levels, what is known of them, and where they lie."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from PIL import Image

from skylight.model.datasets.synthetic_scenes import scene
from skylight.model.images.decoding import ImageError, decode
from skylight.model.images.geotiff import RasterioRaster
from skylight.model.images.normalization import PER_IMAGE, Normalization
from skylight.model.images.opening import load_raster, open_raster
from skylight.model.images.orientation import TURNS
from tests.support.picture_kinds import with_orientation

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
    assert isinstance(raster, RasterioRaster) and raster.size == (64, 96)
    assert (raster.read((0, 0, 64, 96)) == decode(path.read_bytes())).all()
    assert (raster.read((10, 20, 5, 7)) == picture[10:15, 20:27]).all()
    assert raster.georeference.transform == (2, 0, 100, 0, -2, 500) and "Mars" in raster.georeference.crs
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
    assert (raster.read((0, 0, 64, 96))[..., 0] == gray).all() and raster.georeference is not None
    raster.close()


def test_one_range_is_for_all_rasters(tmp_path, gray):
    how = Normalization((), (-1000.0, 24500.0))
    for name, shift in (("a.tif", 0), ("b.tif", -50)):
        deep = ((gray.astype(np.int32) + shift) * 100 - 1000).astype(np.int32)
        path = tiff(tmp_path / name, deep[None])
        for raster in (open_raster(path, normalization=how), load_raster(path.read_bytes(), normalization=how)):
            expected = np.clip(gray.astype(int) + shift, 0, 255)
            assert np.abs(raster.read((0, 0, 64, 96))[..., 0] - expected).max() <= 1
            assert raster.quantiles is None and not raster.fixed_levels
            raster.close()
    picture = scene(1, 96).image
    path = tiff(tmp_path / "c.tif", np.moveaxis(picture, 2, 0))
    assert (open_raster(path, normalization=how).read((0, 0, 96, 96)) == picture).all()


def test_what_is_no_number_is_not_known(tmp_path, gray):
    bands = np.stack([gray, gray]).astype(np.float32)
    bands[0, :, :5], bands[:, 10] = np.nan, np.inf
    raster = open_raster(tiff(tmp_path / "a.tif", bands))
    known = raster.known((0, 0, 64, 96))
    assert not known[:, :5].any() and not known[10].any() and known[11:, 5:].all()
    assert raster.known((20, 20, 10, 10)) is None
    raster.close()
    Image.fromarray(bands[0]).save(tmp_path / "b.tiff")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skylight.model.images.opening.has_rasterio", lambda: False)
        whole = open_raster(tmp_path / "b.tiff")
    assert (whole.known((0, 0, 64, 96)) == known).all() and whole.known((20, 20, 10, 10)) is None


@pytest.mark.parametrize("dtype", ["int16", "float32"])
@pytest.mark.parametrize("value", [-9, -5])
def test_a_raster_of_one_number_or_none_is_black(tmp_path, dtype, value):
    path = tiff(tmp_path / "a.tif", np.full((1, 8, 8), value, dtype), nodata=-9)
    for how in (PER_IMAGE, Normalization((), (-4.0, 4.0))):
        raster = open_raster(path, normalization=how)
        assert not raster.read((0, 0, 8, 8)).any()
        assert (raster.known((0, 0, 8, 8)) is None) == (value == -5)
        raster.close()


@pytest.mark.parametrize("number", range(1, 9))
def test_a_turned_raster_is_turned_in_every_window_and_lies_where_it_lay(tmp_path, number):
    picture = scene(1, 96).image[:64]
    path = tiff(tmp_path / "a.tif", np.moveaxis(picture, 2, 0))
    path.write_bytes(with_orientation(path.read_bytes(), number))
    raster = open_raster(path)
    right = TURNS[number](picture)
    assert raster.size == right.shape[:2]
    assert (raster.read((0, 0, *raster.size)) == right).all()
    assert (raster.read((10, 20, 5, 7)) == right[10:15, 20:27]).all()
    small = raster.thumbnail(32)
    assert small.shape[:2] == ((21, 32) if number < 5 else (32, 21))
    assert np.corrcoef(small[1:-1, 1:-1].ravel(), cv2_resized(right, small.shape[:2])[1:-1, 1:-1].ravel())[0, 1] > 0.8
    lies = rasterio.Affine(*raster.georeference.transform)
    rows, columns = (TURNS[number](each) for each in np.mgrid[:64, :96])
    for row, column in ((0, 0), (3, 50), (40, 7)):
        stored = rasterio.Affine(2, 0, 100, 0, -2, 500) @ (columns[row, column] + 0.5, rows[row, column] + 0.5)
        assert lies @ (column + 0.5, row + 0.5) == pytest.approx(stored)
    raster.close()


def cv2_resized(image, shape):
    return cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA)


def test_of_8_bits_a_pixel_is_there_if_one_of_its_bands_is(tmp_path):
    bands = np.full((3, 4, 5), 255, np.uint8)
    bands[:, 0, 0] = 255, 40, 30  # a saturated red
    bands[:, 1, 1] = 9, 8, 7
    path = tiff(tmp_path / "a.tif", bands, nodata=255)
    by_windows, whole = open_raster(path), load_raster(path.read_bytes())
    for raster in (by_windows, whole):
        pixels, known = raster.read((0, 0, 4, 5)), raster.known((0, 0, 4, 5))
        assert pixels[0, 0].tolist() == [255, 40, 30] and pixels[1, 1].tolist() == [9, 8, 7]
        assert known.sum() == 2 and known[0, 0] and known[1, 1] and not pixels[~known].any()
        assert raster.known((0, 0, 1, 1)) is None
    by_windows.close()
