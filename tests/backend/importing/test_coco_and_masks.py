"""Labels from COCO files and masks."""

import json

import numpy as np
import pytest
from PIL import Image

from skylight.backend.errors import BadRequest
from skylight.backend.importing.coco_and_masks import MaskLabels
from skylight.backend.labelstudio.label_config import parse_config
from skylight.backend.labelstudio.label_map import label_map
from skylight.backend.labelstudio.region_reader import read_mask
from tests.support.label_files import (
    NUMBERS,
    TRIANGLE,
    TWO,
    coco,
    coco_of,
    mask,
    masks_of,
    results,
    write,
)
from tests.support.label_studio_double import CONFIG
from tests.support.planted_embeddings import png, square


def test_coco_becomes_one_region_per_object_of_the_projects_own_control(run, studio, project, tmp_path):
    far = np.zeros((64, 64), bool)
    far[:5, :7] = True
    truth = square(1)[1]
    progress = run(coco(tmp_path / "c.json", ("train/a.png", truth, far), label="pit"))
    assert (progress.annotated, progress.regions, progress.empty, progress.failed) == (1, 2, 0, [])
    ((first, second),) = results(studio, 1)
    assert (first["from_name"], first["to_name"], first["type"]) == ("mask", "image", "brushlabels")
    assert first["value"]["brushlabels"] == ["Pit"] and first["origin"] == "manual" and "score" not in first
    assert first["id"] != second["id"]
    assert (masks_of([first, second]) == np.array([truth, far])).all()
    assert results(studio, 2) == []


@pytest.mark.parametrize("tag", ["BrushLabels", "BitmaskLabels", "PolygonLabels", "VectorLabels", "RectangleLabels"])
def test_every_control_gets_the_objects_pixels(run, studio, tmp_path, tag):
    config = f"""<View><Image name="i" value="$image"/>
      <{tag} name="m" toName="i" smart="false" closable="true"><Label value="Pit"/></{tag}></View>"""
    image, truth = square(3)
    studio.add_task(studio.add_project(config), png(image), name="a.png")
    run(coco(tmp_path / "c.json", ("a.png", truth)))
    ((region,),) = results(studio, 1)
    assert region["type"] == tag.lower() and (read_mask(region, (64, 64)) == truth).all()


def test_polygons_stay_as_they_were_drawn_where_polygons_are_wanted(run, studio, project, tmp_path):
    body = json.loads(coco(tmp_path / "c.json", ("a.png", square(1)[1])).read_text())
    rings = [[2, 2, 20, 2, 11, 17.5], [30.25, 30, 34, 30, 34, 34]]
    body["annotations"] = [
        {**body["annotations"][0], "segmentation": rings},
        {**body["annotations"][0], "segmentation": [[60, 60, 70, 60, 70, 70]]},
    ]
    (tmp_path / "c.json").write_text(json.dumps(body))
    studio.projects[1]["label_config"] = CONFIG.replace("BrushLabels", "PolygonLabels")
    run(tmp_path / "c.json")
    (first, second, last) = results(studio, 1)[0]
    for region, ring in zip((first, second), rings, strict=True):
        assert np.allclose(np.array(region["value"]["points"]) * 0.64, np.reshape(ring, (-1, 2)), atol=1e-5)
    assert np.array(last["value"]["points"]).max() == 100  # of one that left the picture what is in it


def test_a_box_without_a_mask_is_taken_by_a_rectangle_alone(run, studio, project, tmp_path):
    body = json.loads(coco(tmp_path / "c.json", ("a.png", square(1)[1])).read_text())
    body["annotations"][0].update(segmentation=[], bbox=[4, 8, 16, 32])
    (tmp_path / "c.json").write_text(json.dumps(body))
    progress = run(tmp_path / "c.json")
    assert "a box is no mask" in progress.failed[0][1] and progress.annotated == 0
    studio.projects[1]["label_config"] = CONFIG.replace("BrushLabels", "RectangleLabels")
    run(tmp_path / "c.json")
    (((mask,)),) = [masks_of(result) for result in results(studio, 1)]
    assert mask.sum() == 16 * 32 and mask[8:40, 4:20].all()


def test_pictures_without_objects_become_empty_annotations(run, studio, project, tmp_path):
    progress = run(coco(tmp_path / "c.json", ("a.png",), ("b.png", square(2)[1])))
    assert (progress.annotated, progress.empty) == (2, 1)
    assert results(studio, 1) == [[]] and len(results(studio, 2)[0]) == 1


def test_objects_without_a_pixel_are_counted(run, studio, project, tmp_path):
    body = json.loads(coco(tmp_path / "c.json", ("a.png", square(1)[1])).read_text())
    body["annotations"][0]["segmentation"] = [[1.1, 1.1, 1.2, 1.1, 1.2, 1.2]]
    (tmp_path / "c.json").write_text(json.dumps(body))
    progress = run(tmp_path / "c.json")
    assert (progress.without_pixels, progress.regions, results(studio, 1)) == (1, 0, [[]])


def test_masks_of_a_project_with_one_label_are_its_objects(run, studio, project, tmp_path):
    studio.tasks[1]["data"]["image"] = studio.tasks[1]["data"]["image"].replace(".png", ".jpg")
    studio.pictures = {path.replace("a.png", "a.jpg"): each for path, each in studio.pictures.items()}
    mask(tmp_path / "m", "a.png")
    mask(tmp_path / "m", "sub/b.png", np.zeros_like(NUMBERS))
    progress = run(tmp_path / "m")
    assert (progress.annotated, progress.empty, progress.regions) == (2, 1, 2)
    assert (masks_of(results(studio, 1)[0]) == np.array([NUMBERS == 1, NUMBERS == 2])).all()
    assert results(studio, 2) == [[]]


def test_one_mask_file_is_a_source_too(run, studio, project, tmp_path):
    mask(tmp_path / "m", "a.png", NUMBERS // 2 * 255)  # binary: two objects
    assert run(tmp_path / "m" / "a.png").regions == 2


def test_labels_of_masks_come_from_folders_values_or_the_option(run, studio, project, tmp_path):
    studio.projects[1]["label_config"] = TWO
    labeling = parse_config(TWO)
    mask(tmp_path / "m", "pit/x/a.png", (NUMBERS == 1).astype(np.uint8))
    mask(tmp_path / "m", "Crater/x/a.png", (NUMBERS == 2).astype(np.uint8))
    mask(tmp_path / "flat", "a.png")
    run(tmp_path / "m")
    run(tmp_path / "flat", masks=MaskLabels(values={1: "pit", 2: "crater"}), again=True)
    for result in results(studio, 1):
        assert len(result) == 3  # the classes' parts, and binary masks'
        assert (label_map(result, labeling, (64, 64)).array == NUMBERS).all()
    run(tmp_path / "flat", masks=MaskLabels(label="crater"), again=True)
    assert [region["value"]["brushlabels"] for region in results(studio, 1)[2]] == [["Crater"], ["Crater"]]
    run(tmp_path / "flat", masks=MaskLabels(values={1: "pit", 2: ""}), again=True)
    assert len(results(studio, 1)[3]) == 1


@pytest.mark.parametrize(
    ("name", "how", "said"),
    [
        ("a.png", MaskLabels(), "which label its masks are of is not said: Pit, Crater; give --label NAME"),
        ("train/a.png", MaskLabels(), "folder 'train' is none of the labels Pit, Crater; give"),
        ("a.png", MaskLabels(label="Rock"), "'Rock', only Pit, Crater"),
        ("a.png", MaskLabels(values={1: "Pit", 2: "Rock"}), "'Rock', only Pit, Crater"),
        ("a.txt", MaskLabels(), "holds no PNG file"),
    ],
)
def test_masks_without_a_label_of_the_project_are_refused(run, studio, project, tmp_path, name, how, said):
    studio.projects[1]["label_config"] = TWO
    mask(tmp_path / "m", "x.png").joinpath("x.png").unlink()
    (tmp_path / "m" / name).parent.mkdir(exist_ok=True)
    Image.fromarray(NUMBERS).save(tmp_path / "m" / name, "PNG")
    with pytest.raises(BadRequest, match=said):
        run(tmp_path / "m", masks=how)


def test_masks_of_another_size_or_with_a_number_unnamed_are_named(run, project, tmp_path):
    mask(tmp_path / "m", "a.png", NUMBERS[:60])
    mask(tmp_path / "m", "b.png")
    progress = run(tmp_path / "m", masks=MaskLabels(values={1: "Pit"}))
    assert dict(progress.failed) == {
        "a.png": "it has 64 x 60 pixels, not 64 x 64",
        "b.png": "b.png has the number 2, which --values does not name",
    }


def test_one_bad_picture_or_annotation_of_a_coco_file_takes_no_other_with_it(run, studio, project, tmp_path):
    body = json.loads(coco_of(tmp_path / "c.json", ("a.png", TRIANGLE), ("b.png", TRIANGLE), ("c.png",)).read_text())
    body["annotations"] += [{**body["annotations"][0], "image_id": 99}, {**body["annotations"][1], "category_id": 7}]
    body["images"] += [{"id": 4, "file_name": None}, {**body["images"][2], "file_name": "d.png"}]
    progress = run(write(tmp_path / "c.json", body))
    assert progress.annotated == 1 and len(results(studio, 1)[0]) == 1 and results(studio, 2) == []
    reasons = dict(progress.failed)
    assert "annotation 1: it is of category 7, which the file does not list" in reasons["b.png"]
    assert "2 images of the file have the id 2" in reasons["c.png"] == reasons["d.png"]
    assert reasons["annotations (1)"] == "they are of image 99, which the file does not list"
    assert reasons["image 4"] == "it has no file_name"


@pytest.mark.parametrize("size", [{}, {"height": None, "width": None}, {"height": 64.0, "width": "64"}])
def test_coco_sizes_may_be_missing_or_of_another_type(run, studio, project, tmp_path, size):
    progress = run(coco_of(tmp_path / "c.json", ("a.png", TRIANGLE), ("b.png",), size=size or {"x": 1}))
    assert (progress.annotated, progress.regions, progress.empty, progress.failed) == (2, 1, 1, [])


def test_objects_without_a_shape_are_counted_and_the_others_imported(run, studio, project, tmp_path):
    progress = run(coco_of(tmp_path / "c.json", ("a.png", [], TRIANGLE, [1, 1, 9, 9]), ("b.png", [5, 5])))
    assert (progress.without_pixels, progress.regions, progress.annotated, progress.failed) == (3, 1, 2, [])


def test_a_coco_file_of_the_one_category_default_has_a_hint(run, studio, project, tmp_path):
    studio.projects[1]["label_config"] = TWO
    body = json.loads(coco_of(tmp_path / "c.json", ("a.png", TRIANGLE)).read_text())
    body["categories"][0]["name"] = "default"
    with pytest.raises(BadRequest, match="'default', only Pit, Crater.*export as JSON, and import that"):
        run(write(tmp_path / "c.json", body))
    body["categories"][0]["name"] = "rock"
    with pytest.raises(BadRequest) as error:
        run(write(tmp_path / "c.json", body))
    assert "JSON" not in str(error.value)
    body["categories"][0]["name"] = "default"
    assert run(write(tmp_path / "c.json", body), rename=(("default", "Crater"),)).regions == 1


def test_masks_by_their_transparency_and_with_soft_rims(run, studio, project, tmp_path):
    drawn = np.zeros((64, 64, 4), np.uint8)
    drawn[4:14, 4:14, 3] = drawn[30:50, 30:50, 3] = 255
    drawn[14, 4:14, 3] = 100
    mask(tmp_path / "clear", "a.png", drawn)
    run(tmp_path / "clear")
    assert sorted(int(each.sum()) for each in masks_of(results(studio, 1)[0])) == [100, 400]
    soft = drawn[..., 3].copy()
    soft[29, 30:50], soft[50, 30:50] = 200, 37
    mask(tmp_path / "soft", "b.png", soft)
    run(tmp_path / "soft")
    assert sorted(int(each.sum()) for each in masks_of(results(studio, 2)[0])) == [100, 420]
    progress = run(tmp_path / "soft", masks=MaskLabels(values={255: "Pit"}), again=True)
    assert progress.regions == 2
    named = run(tmp_path / "soft", masks=MaskLabels(values={255: "Pit", 200: "", 100: "", 37: ""}), again=True)
    assert sorted(int(each.sum()) for each in masks_of(results(studio, 2)[2])) == [100, 400] and not named.failed
