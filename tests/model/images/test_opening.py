"""Images opened by windows or whole, whatever their files are called."""

import numpy as np
import pytest
from PIL import Image

from skylight.model.datasets.synthetic_scenes import scene
from skylight.model.images.decoding import ImageError
from skylight.model.images.normalization import Normalization
from skylight.model.images.opening import load_raster, open_raster
from skylight.model.images.raster import MemoryRaster
from tests.model.images.test_geotiff import tiff


@pytest.fixture
def gray():
    return scene(1, 96).image[:64, :, 0]


def test_any_other_picture_is_read_whole_and_bands_of_it_are_refused(tmp_path):
    picture = scene(1, 96).image
    Image.fromarray(picture).save(tmp_path / "a.png")
    raster = open_raster(tmp_path / "a.png")
    assert isinstance(raster, MemoryRaster) and raster.georeference is None and raster.known((0, 0, 96, 96)) is None
    assert (raster.read((1, 2, 3, 4)) == picture[1:4, 2:6]).all()
    assert max(raster.thumbnail(40).shape) == 40
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


def test_a_small_raster_is_read_as_a_large_one_is(tmp_path, gray):
    for count, dtype, nodata in ((1, "int16", -32768), (2, "float32", None), (4, "uint16", 0), (7, "float64", -9999)):
        bands = np.stack([gray.astype(np.float64) * 30 * (k + 1) for k in range(count)]).astype(dtype)
        if nodata is not None:
            bands[:, :, :20] = nodata
        path = tiff(tmp_path / f"{count}.tif", bands, nodata=nodata)
        by_windows, whole = open_raster(path), load_raster(path.read_bytes())
        assert (by_windows.read((0, 0, 64, 96)) == whole.read((0, 0, 64, 96))).all() and whole.pixels.any()
        assert (by_windows.quantiles == whole.quantiles).all() and whole.quantiles.min() >= 0
        by_windows.close()


def test_complex_numbers_and_bands_without_rasterio_are_refused_by_name(tmp_path, gray, monkeypatch):
    with pytest.raises(ImageError, match=r"a\.tif holds complex64 numbers; save their magnitude"):
        open_raster(tiff(tmp_path / "a.tif", gray[None].astype(np.complex64)))
    path = tiff(tmp_path / "b.tif", gray[None])
    with pytest.raises(ImageError, match="the picture has 1 bands"):
        load_raster(path.read_bytes(), normalization=Normalization((2,)))
    monkeypatch.setattr("skylight.model.images.opening.has_rasterio", lambda: False)
    with pytest.raises(
        ImageError, match=r"bands of a raster are read by rasterio only: pip install 'label-studio-skylight\[geo\]'"
    ):
        load_raster(path.read_bytes(), normalization=Normalization((1,)))
    assert (load_raster(path.read_bytes()).pixels[..., 0] == gray).all()


def test_a_raster_in_memory_has_its_size_looked_at_first(tmp_path):
    path = tiff(tmp_path / "a.tif", np.zeros((5, 20, 20), np.float32))
    with pytest.raises(ImageError, match="20 x 20 pixels, more than the 399 allowed"):
        load_raster(path.read_bytes(), 399)


def test_a_file_is_what_its_content_is_whatever_it_is_called(tmp_path):
    colours = scene(1, 64).image
    picture = Image.fromarray(np.dstack([colours, np.zeros((64, 64), np.uint8)]))
    picture.save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.tif")
    raster = open_raster(tmp_path / "a.tif")
    assert (raster.read((0, 0, 64, 64)) == colours).all() and raster.known((0, 0, 64, 64)) is None
    raster.close()
