"""`skylight map`: files that other programs read, in the right place, once."""

import copy
import csv
import json
import os
import re
import sqlite3
import sys
import time
from dataclasses import replace

import numpy as np
import obstore
import pyogrio
import pytest
import rasterio
import shapely
from click.testing import CliRunner
from PIL import Image

from skylight.backend.cli import main
from skylight.backend.importing.coco_file import Coco
from skylight.backend.mapping import bucket_inputs
from skylight.backend.mapping.mapping import plan
from skylight.backend.settings import Settings
from skylight.backend.store import bucket as buckets
from skylight.model.datasets.synthetic_scenes import scene
from skylight.model.images.normalization import Normalization
from skylight.model.images.raster import Georeference
from skylight.model.mapping import pipeline
from skylight.model.mapping.georeference import PixelCoordinates
from skylight.model.mapping.vectorize import shape
from skylight.model.mapping.writers import coco_annotation
from skylight.model.masks.coco_rle import encode_runs
from skylight.model.masks.region import MaskRegion
from skylight.model.sam import loading
from tests.model.images.test_geotiff import MARS, tiff
from tests.support.s3_double import credentials, serving_s3
from tests.support.trained_versions import publish, train_pits


@pytest.fixture(scope="module")
def decoder(segmenter):
    return train_pits(segmenter)


@pytest.fixture
def skylight(service, decoder, segmenter, monkeypatch):
    """Runs the command in the home of a service that has a trained version."""
    publish(service, decoder)
    for variable in Settings.table():
        monkeypatch.delenv(variable.env, raising=False)
    monkeypatch.setenv("SKYLIGHT_HOME", str(service.settings.home))
    monkeypatch.setenv("SKYLIGHT_TILE", "256")
    monkeypatch.setattr(loading, "load", lambda *_: segmenter)
    return lambda *arguments: CliRunner().invoke(main.cli, [str(each) for each in arguments])


@pytest.fixture
def rasters(tmp_path):
    """One in a coordinate system of Mars, 300 x 400 px, and one of the Earth."""
    picture = np.concatenate([scene(52, 300).image, scene(53, 300).image[:, :100]], 1)
    folder = tmp_path / "in"
    folder.mkdir()
    tiff(folder / "mars.tif", np.moveaxis(picture, 2, 0))
    utm = {"crs": "EPSG:32632", "transform": rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_400_000)}
    tiff(folder / "utm.tif", np.moveaxis(picture, 2, 0), **utm)
    return folder


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_every_format_holds_the_same_objects_in_the_same_place(skylight, rasters, tmp_path):
    out = tmp_path / "out"
    done = skylight("map", rasters, "--project", 1, "--out", out, "--format", "png,geojson,gpkg,coco,geotiff")
    assert done.exit_code == 0, done.output
    assert "2 mapped, 0 were already, 0 failed, of 2" in done.output
    table = rows_of(out / "objects.csv")
    for name, crs in (("mars", MARS), ("utm", "EPSG:32632")):
        mine = [row for row in table if row["input"].endswith(f"{name}.tif")]
        assert mine
        total = sum(int(row["area_px"]) for row in mine)
        with Image.open(out / f"{name}.png") as image:
            classes = np.asarray(image)
        with rasterio.open(out / f"{name}.tif") as file, rasterio.open(rasters / f"{name}.tif") as source:
            assert (file.read(1) == classes).all()
            assert (file.crs, file.transform) == (source.crs, source.transform)
        assert total <= (classes == 1).sum()
        info, _, wkb, _ = pyogrio.raw.read(out / f"{name}.gpkg")
        placed = shapely.from_wkb(wkb)
        assert shapely.is_valid(placed).all() and len(placed) == len(mine)
        assert rasterio.crs.CRS.from_user_input(info["crs"]) == rasterio.crs.CRS.from_user_input(crs)
        for row, polygon in zip(mine, placed, strict=True):
            assert polygon.area == pytest.approx(float(row["area_m2"]), rel=0.08)
            centre = shapely.Point(float(row["x"]), float(row["y"]))
            assert polygon.centroid.distance(centre) < (3 if name == "mars" else 1)
    assert sqlite3.connect(out / "mars.gpkg").execute("pragma integrity_check").fetchone() == ("ok",)
    coco = json.loads((out / "coco.json").read_bytes())
    assert len(coco["annotations"]) == len(table) and {each["name"] for each in coco["categories"]} == {"Pit"}
    read = Coco(out / "coco.json")
    areas = [found.area for image in read.images for found in read.objects(image)]
    assert read.labels == ["Pit"] and areas == pytest.approx([int(row["area_px"]) for row in table], rel=0.08)


def test_geojson_is_in_longitude_and_latitude_on_the_earth_and_in_its_own_system_on_mars(skylight, rasters, tmp_path):
    skylight("map", rasters, "--project", 1, "--out", tmp_path, "--format", "geojson")
    earth, mars = (json.loads((tmp_path / f"{name}.geojson").read_bytes()) for name in ("utm", "mars"))
    assert "crs" not in earth
    for feature in earth["features"]:
        polygon = shapely.geometry.shape(feature["geometry"])
        assert polygon.is_valid and 8.9 < polygon.centroid.x < 9.1 and 48.7 < polygon.centroid.y < 48.8
        assert shapely.LinearRing(shapely.get_parts(polygon)[0].exterior).is_ccw  # RFC 7946, 3.1.6
    assert mars["crs"]["properties"]["name"] == "urn:ogc:def:crs:IAU_2015::49910"
    assert pyogrio.read_info(tmp_path / "mars.geojson")["crs"].startswith('PROJCS["Mars (2015)')
    row = next(row for row in rows_of(tmp_path / "objects.csv") if row["input"].endswith("mars.tif"))
    centre = shapely.geometry.shape(mars["features"][0]["geometry"]).centroid
    assert abs(centre.x - float(row["x"])) < 3 and abs(centre.y - float(row["y"])) < 3
    assert float(row["longitude"]) == pytest.approx(np.degrees(float(row["x"]) / 3_396_190), abs=1e-6)


LOCAL = 'LOCAL_CS["pit",UNIT["foot",0.3048],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
FORMATS = "png,geojson,gpkg,coco,geotiff"


@pytest.mark.parametrize("crs", [None, LOCAL, "EPSG:4978", "EPSG:5773"])
def test_a_raster_that_lies_nowhere_on_a_planet_is_mapped_where_its_geotransform_says(skylight, tmp_path, crs):
    """Without a system, with an engineer's own, with a geocentric one, with one of heights."""
    place = rasterio.Affine(0.5, 0, 700, 0, -0.5, 900)
    source = tiff(tmp_path / "a.tif", np.moveaxis(scene(52, 300).image, 2, 0), crs=crs, transform=place)
    out = tmp_path / "out"
    done = skylight("map", source, "--project", 1, "--out", out, "--format", FORMATS)
    assert done.exit_code == 0, done.output
    table = rows_of(out / "objects.csv")
    assert table and {row["longitude"] for row in table} == {""}
    with rasterio.open(source) as given, rasterio.open(out / "a.tif") as made:
        assert (made.crs, made.transform) == (given.crs, place)
        assert (given.crs is None) == (crs is None)
    for row in table:
        assert float(row["x"]) == pytest.approx(700 + 0.5 * float(row["x_px"]), abs=0.01)
        assert float(row["y"]) == pytest.approx(900 - 0.5 * float(row["y_px"]), abs=0.01)
        square = (0.5 * 0.3048) ** 2
        assert crs != LOCAL or float(row["area_m2"]) == pytest.approx(square * int(row["area_px"]), rel=1e-5)
        assert crs is not None or row["area_m2"] == ""
    body = json.loads((out / "a.geojson").read_bytes())
    assert body["coordinates" if crs is None else "crs_wkt" if crs in (LOCAL, "EPSG:5773") else "crs"]
    _, _, wkb, _ = pyogrio.raw.read(out / "a.gpkg")
    for row, feature, other in zip(table, body["features"], shapely.from_wkb(wkb), strict=True):
        for polygon in (shapely.geometry.shape(feature["geometry"]), other):
            assert polygon.is_valid and polygon.distance(shapely.Point(float(row["x"]), float(row["y"]))) < 1


def test_what_is_not_known_is_no_class_in_any_format(skylight, tmp_path):
    picture = np.moveaxis(scene(52, 300).image, 2, 0).astype(np.uint16) * 9 + 1
    picture[:, :, 200:] = 0
    utm = {"crs": "EPSG:32632", "transform": rasterio.Affine(1, 0, 9, 0, -1, 9)}
    source = tiff(tmp_path / "a.tif", picture, nodata=0, **utm)
    out = tmp_path / "out"
    assert skylight("map", source, "--project", 1, "--out", out, "--format", FORMATS).exit_code == 0
    with rasterio.open(out / "a.tif") as made:
        classes = made.read(1)
        assert made.nodata == 255 and (made.dataset_mask() > 0).sum() == 300 * 200
        assert json.loads(made.tags()["labels"]) == ["background", "Pit"]
    assert (classes[:, 200:] == 255).all() and set(np.unique(classes[:, :200])) == {0, 1}
    with Image.open(out / "a.png") as image:
        assert (np.asarray(image) == classes).all()
        assert (np.asarray(image.convert("RGBA"))[..., 3] == np.where(classes == 255, 0, 255)).all()
    found = json.loads((out / "coco.json").read_bytes())["annotations"]
    assert found and all(left + width <= 200 for left, _, width, _ in (each["bbox"] for each in found))
    assert "33.3% without data" in (out / "index.html").read_text()
    known = tiff(tmp_path / "b.tif", np.moveaxis(scene(52, 300).image, 2, 0), **utm)
    assert skylight("map", known, "--project", 1, "--out", out).exit_code == 0
    assert "without data" not in (out / "index.html").read_text()


def test_a_map_is_by_the_version_s_normalisation(service, decoder, skylight, rasters, tmp_path):
    """16 bits of which a part is far brighter, bands the other way round: the same map as of the 8 bits they show."""
    how = Normalization((3, 2, 1), (1000.0, 1000.0 + 255 * 20))
    made = copy.deepcopy(decoder)
    made.config = replace(decoder.config, normalisation=how)
    publish(service, made)
    with rasterio.open(rasters / "utm.tif") as file:
        shown = file.read()
    shown[:, 240:] = 255
    numbers = shown.astype(np.uint16) * 20 + 1000
    numbers[:, 240:] = 60_000
    tiff(tmp_path / "shown.tif", shown[::-1])
    tiff(tmp_path / "bgr.tif", numbers[::-1])
    tiff(tmp_path / "rgb.tif", numbers)

    def classes(name, out, *more):
        done = skylight("map", tmp_path / f"{name}.tif", "--project", 1, "--out", tmp_path / out, *more)
        assert done.exit_code == 0
        with Image.open(tmp_path / out / f"{name}.png") as image:
            return np.asarray(image)

    right = classes("shown", "right")
    assert right.any() and (classes("bgr", "settled") == right).all()
    assert (classes("rgb", "chosen", "--bands", "1,2,3") == right).all()
    assert (classes("bgr", "own", "--version", 1) != right).mean() > 0.01


def test_a_folder_of_pictures_is_mapped_once_and_goes_on_where_it_was(skylight, tmp_path, monkeypatch):
    folder, out = tmp_path / "in", tmp_path / "out"
    (folder / "deep").mkdir(parents=True)
    for seed, name in ((52, "a.png"), (53, "deep/a.jpg"), (54, "<b>.png")):
        Image.fromarray(scene(seed, 128).image).save(folder / name)
    (folder / "c.png").write_bytes(b"no picture")
    first = skylight("map", folder, "--project", 1, "--out", out)
    assert first.exit_code == 1 and "3 mapped, 0 were already, 1 failed, of 4" in first.output
    assert "c.png: 10 bytes" in first.output.replace("\n", " ")
    assert {path.name for path in out.glob("*.png")} == {"a.png", "deep_a.png", "<b>.png"}
    page = (out / "index.html").read_text()
    assert page.count("<figure>") == 3 and "<script" not in page and "&lt;b&gt;.png" in page
    made = pipeline.map_image
    asked = []
    monkeypatch.setattr(pipeline, "map_image", lambda each, *more: asked.append(each.name) or made(each, *more))
    Image.fromarray(scene(55, 128).image).save(folder / "c.png")
    second = skylight("map", folder, "--project", 1, "--out", out)
    assert second.exit_code == 0 and "1 mapped, 3 were already, 0 failed, of 4" in second.output
    assert asked == ["c"] and (out / "index.html").read_text().count("<figure>") == 4
    skylight("map", folder, "--project", 1, "--out", out, "--format", "png,coco")
    assert len(asked) == 5  # another format is another map
    assert {row["input"] for row in rows_of(out / "summary.csv")} == {str(path) for path in folder.rglob("*.*")}


def test_ctrl_c_keeps_what_is_done(skylight, tmp_path, monkeypatch):
    for seed in range(2):
        Image.fromarray(scene(seed, 96).image).save(tmp_path / f"{seed}.png")
    made = pipeline.map_image

    def interrupted(each, *more):
        if each.name == "1":
            raise KeyboardInterrupt
        return made(each, *more)

    monkeypatch.setattr(pipeline, "map_image", interrupted)
    done = skylight("map", tmp_path / "0.png", tmp_path / "1.png", "--project", 1, "--out", tmp_path / "out")
    assert done.exit_code == 130 and done.output.endswith("Stopped; the same command goes on from here.\n")
    assert "1 mapped, 0 were already" in done.output and (tmp_path / "out" / "summary.csv").is_file()


@pytest.fixture
def bucket(monkeypatch):
    """The environment of a bucket `maps`, and its objects."""
    with serving_s3("maps") as port:
        for name, value in credentials(port).items():
            monkeypatch.setenv(name, value)
        bucket_inputs._store.cache_clear()
        yield buckets.connect("maps")
        bucket_inputs._store.cache_clear()


def test_pictures_in_a_bucket_are_mapped_as_their_files_and_only_once(skylight, rasters, bucket, tmp_path, monkeypatch):
    for path in sorted(rasters.iterdir()):
        obstore.put(bucket, f"mars/{path.name}", path.read_bytes())
    Image.fromarray(scene(54, 128).image).save(rasters / "c.png")
    obstore.put(bucket, "mars/deep/<er>/c.png", (rasters / "c.png").read_bytes())
    obstore.put(bucket, "mars/notes.txt", b"no picture")
    copied, copy_of = [], bucket_inputs.copy
    monkeypatch.setattr(bucket_inputs, "copy", lambda each, path: copied.append(each.address) or copy_of(each, path))
    here, out = tmp_path / "here", tmp_path / "out"
    skylight("map", rasters, "--project", 1, "--out", here, "--format", "png,geojson,gpkg,coco,geotiff")
    command = ("map", "s3://maps/mars/", "--project", 1, "--out", out, "--format", "png,geojson,gpkg,coco,geotiff")
    first = skylight(*command)
    assert first.exit_code == 0 and "3 mapped, 0 were already, 0 failed, of 3" in first.output
    names = {"s3://maps/mars/mars.tif", "s3://maps/mars/utm.tif", "s3://maps/mars/deep/<er>/c.png"}
    assert set(copied) == {row["input"] for row in rows_of(out / "summary.csv")} == names
    for theirs, mine in (("mars.png", "mars.png"), ("utm.tif", "utm.tif"), ("c.png", "deep_<er>_c.png")):
        assert (here / theirs).read_bytes() == (out / mine).read_bytes()
    written = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert credentials(0)["AWS_SECRET_ACCESS_KEY"].encode() not in written and str(out).encode() not in written
    assert not (out / ".copies").exists()
    again = skylight(*command)
    assert "0 mapped, 3 were already" in again.output and len(copied) == 3
    obstore.put(bucket, "mars/utm.tif", (rasters / "mars.tif").read_bytes())
    changed = skylight(*command)
    assert "1 mapped, 2 were already" in changed.output and copied[3:] == ["s3://maps/mars/utm.tif"]
    single = skylight("map", "s3://maps/mars/mars.tif", rasters / "c.png", "--project", 1, "--out", tmp_path / "single")
    assert single.exit_code == 0 and "2 mapped" in single.output


def test_an_object_that_names_other_files_is_not_followed(skylight, rasters, bucket, tmp_path):
    """GDAL knows a VRT by its content, whatever it is called."""
    vrt = (
        f'<VRTDataset rasterXSize="400" rasterYSize="300"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f"<SourceFilename>{rasters / 'utm.tif'}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    (rasters / "a.tif").write_text(vrt)
    assert skylight("map", rasters / "a.tif", "--project", 1, "--out", tmp_path / "here").exit_code == 0  # mine is mine
    obstore.put(bucket, "a.tif", vrt.encode())
    obstore.put(bucket, "b.vrt", vrt.encode())
    done = skylight("map", "s3://maps", "--project", 1, "--out", tmp_path / "out")
    assert done.exit_code == 1 and "0 mapped, 0 were already, 2 failed, of 2" in done.output
    assert "s3://maps/a.tif: s3://maps/a.tif is not a raster that can be read" in done.output
    assert "s3://maps/b.vrt is a list of other files" in done.output and ".copies" not in done.output


def test_what_cannot_be_found_in_a_bucket_is_said_in_a_sentence(skylight, bucket, tmp_path, monkeypatch):
    def said(address):
        done = skylight("map", address, "--project", 1, "--out", tmp_path / "out")
        return re.sub(r"\s+", " ", done.output + str(done.exception))

    assert "there is no bucket nowhere; AWS_ENDPOINT_URL" in said("s3://nowhere/a")
    assert "there is no picture in s3://maps/mars" in said("s3://maps/mars")
    wrong = said("s3://me:password@maps/a.tif")
    assert "an address in a bucket is s3://bucket/folder" in wrong and "password" not in wrong
    monkeypatch.setitem(sys.modules, "obstore", None)
    assert "pip install 'label-studio-skylight[s3]'" in said("s3://maps/mars")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--format", "shp"), "'shp' is not a list of some of png, geojson, gpkg, coco, geotiff"),
        (("--jobs", "0"), "'0' is neither auto nor a number from 1 to 256"),
        (("--bands", "1,2"), "'1,2' is not one band or three"),
        (("--version", "9"), "no version 9; it has 1"),
    ],
)
def test_what_cannot_be_mapped_so_is_refused(skylight, tmp_path, arguments, said):
    Image.fromarray(scene(1, 64).image).save(tmp_path / "a.png")
    done = skylight("map", tmp_path / "a.png", "--project", 1, "--out", tmp_path / "out", *arguments)
    assert said in re.sub(r"\s+", " ", done.output + str(done.exception)) and not (tmp_path / "out").exists()


def test_formats_of_maps_need_the_extra(service, decoder, tmp_path, monkeypatch):
    publish(service, decoder)
    monkeypatch.setattr("skylight.backend.mapping.mapping.has_rasterio", lambda: False)
    with pytest.raises(Exception, match=r"gpkg needs rasterio and others: pip install 'label-studio-skylight\[geo\]'"):
        plan(service, "1", None, tmp_path, ("png", "gpkg"))
    assert plan(service, "1", None, tmp_path, ("png",)).options.tile == 1024  # twice the tiny SAM's input


def test_shapes_are_valid_with_holes_and_where_pixels_touch_by_a_corner():
    ring = np.ones((9, 9), bool)
    ring[3:6, 3:6] = False
    corner = np.zeros((8, 8), bool)
    corner[:4, :4] = corner[4:, 4:] = True
    for mask, parts, holes in ((ring, 1, 1), (corner, 2, 0)):
        made = shape(MaskRegion(0, 5, 7, mask, 1.0))
        assert made.is_valid and made.area == mask.sum() and made.bounds[:2] == (7, 5)
        pieces = shapely.get_parts(made)
        assert len(pieces) == parts and sum(len(piece.interiors) for piece in pieces) == holes


def test_cocos_runs_go_down_the_columns():
    mask = np.array([[1, 0], [1, 1], [0, 1]], bool)
    size = (4, 5)
    whole = np.zeros(size, bool)
    whole[1:4, 2:4] = mask
    counts = encode_runs(MaskRegion(0, 1, 2, mask, 1.0), size)
    values = np.repeat(np.arange(len(counts)) % 2, counts)
    assert (whole == values.reshape(size[::-1]).T).all()
    ring = np.ones((9, 9), bool)
    ring[3:6, 3:6] = False
    made = coco_annotation(MaskRegion(0, 0, 0, ring, 1.0), (9, 9), {"area_px": 72, "confidence": 1.0})
    assert sum(made["segmentation"]["counts"][1::2]) == 72


def test_a_pixel_of_degrees_has_the_area_it_has_on_the_sphere():
    wkt = rasterio.crs.CRS.from_user_input("IAU_2015:49900").to_wkt()
    geo = PixelCoordinates(Georeference(wkt, (0.001, 0, 10, 0, -0.001, 60)))
    side = 3_396_190 * np.pi / 180 * 0.001
    assert not geo.on_earth and geo.square_metres(0, 0) == pytest.approx(side**2 / 2, rel=1e-6)
    assert geo.lonlat(np.array([[0.0, 0.0]])).tolist() == [[10, 60]]
    feet = PixelCoordinates(Georeference(rasterio.crs.CRS.from_epsg(2225).to_wkt(), (3.0, 0, 0, 0, -3.0, 0)))
    assert feet.square_metres(0, 0) == pytest.approx((3 * 1200 / 3937) ** 2)


def test_copies_of_another_process_stay_and_what_was_left_goes(tmp_path):
    folder = tmp_path / ".copies"
    folder.mkdir()
    for name, age in (("its.tif", 60), ("left.tif", 90_000)):
        (folder / name).touch()
        os.utime(folder / name, (time.time() - age,) * 2)
    options = pipeline.Options(tmp_path, ("png",), "skylight-1", 256, 20)
    pipeline.finish(options, ["Pit"], [])
    assert [path.name for path in folder.iterdir()] == ["its.tif"]
    (folder / "its.tif").unlink()
    pipeline.finish(options, ["Pit"], [])
    assert not folder.exists()
