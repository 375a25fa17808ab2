"""Labels from exports of Label Studio as JSON."""

import json

import pytest

from skylight.backend.errors import BadRequest
from skylight.backend.labelstudio.label_config import parse_config
from skylight.backend.labelstudio.label_map import label_map
from skylight.backend.labelstudio.region_reader import read_mask
from skylight.model.masks.brush_rle import encode_rle
from tests.support.label_files import (
    coco,
    export,
    results,
    shape,
)
from tests.support.label_studio_double import CONFIG
from tests.support.planted_embeddings import square


def exported(run, studio, tmp_path, change=lambda text: text):
    """The results of the first task's annotation before and after export and import into a new, empty project."""
    truth = square(1)[1]
    run(coco(tmp_path / "c.json", ("a.png", truth)))
    before = results(studio, 1)[0]
    path = export(studio, tmp_path / "e.json")
    path.write_text(change(path.read_text()))
    for task in studio.tasks.values():
        task["annotations"] = []
    return before, path


def test_an_export_comes_back_as_it_was(run, studio, project, tmp_path):
    run(coco(tmp_path / "c.json", ("a.png", square(1)[1])))
    studio.tasks[1]["annotations"][0]["ground_truth"] = True
    studio.annotate(1, [])
    studio.annotate(2, [], skip=True)
    before = results(studio, 1)
    path = export(studio, tmp_path / "e.json")
    for task in studio.tasks.values():
        task["annotations"] = []
    progress = run(path)
    assert (progress.total, progress.annotated) == (1, 1)  # nothing was exported of a skipped one
    assert results(studio, 1) == before
    assert [one["ground_truth"] for one in studio.tasks[1]["annotations"]] == [True, False]


def test_an_export_finds_its_pictures_in_another_project(run, studio, project, tmp_path):
    before, path = exported(run, studio, tmp_path)
    for number in (1, 2):
        task = studio.tasks[number]
        picture = studio.pictures.pop(task["data"]["image"])
        task["data"]["image"] = f"/data/upload/1/fedcba9{number}-{'ab'[number - 1]}.png"
        studio.pictures[task["data"]["image"]] = picture
    run(path)
    assert results(studio, 1) == [before]


def test_a_mask_of_another_control_is_drawn_anew_and_other_labels_are_renamed(run, studio, project, tmp_path):
    _, path = exported(run, studio, tmp_path, lambda text: text.replace('"Pit"', '"Hole"'))
    with pytest.raises(BadRequest, match=r"brushlabels of 'mask' with 'Hole', which the project does not have"):
        run(path)
    studio.projects[1]["label_config"] = (
        '<View><Image name="image" value="$image"/><PolygonLabels name="p" toName="image"><Label value="Pit"/>'
        "</PolygonLabels></View>"
    )
    run(path, rename=(("hole", "pit"),))
    ((region,),) = results(studio, 1)
    assert (region["from_name"], region["type"]) == ("p", "polygonlabels")
    assert (read_mask(region, (64, 64)) == square(1)[1]).all()


def test_what_is_not_a_mask_stays_if_the_project_has_it(run, studio, project, tmp_path):
    choice = {"id": "c", "from_name": "q", "to_name": "image", "type": "choices", "value": {"choices": ["good"]}}
    region = {**make_brush(studio, run, tmp_path), "id": "r"}
    relation = {"type": "relation", "from_id": "r", "to_id": "c", "direction": "right"}
    studio.annotate(1, [region, choice, relation])
    path = export(studio, tmp_path / "e.json")
    studio.tasks[1]["annotations"] = []
    with pytest.raises(BadRequest, match="choices of 'q' with 'good', which the project does not have"):
        run(path)
    extra = '<Choices name="q" toName="image"><Choice value="good"/></Choices></View>'
    studio.projects[1]["label_config"] = CONFIG.replace("</View>", extra)
    run(path)
    assert results(studio, 1) == [[region, choice, relation]]
    run(path, rename=(("Pit", ""),), again=True)
    assert results(studio, 1)[1] == [choice]


def make_brush(studio, run, tmp_path):
    """A brush region of a.png."""
    run(coco(tmp_path / "c.json", ("a.png", square(1)[1])))
    return studio.tasks[1]["annotations"].pop()["result"][0]


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([{"id": 1, "image": "/a.png", "annotator": 1, "annotation_id": 1}], "is JSON_MIN, which lacks"),
        ([{"id": 1}], "is not an export of Label Studio as JSON"),
        ([{"data": {"image": "a.png"}, "annotations": [{"result": None}]}], "is not an export of Label Studio as JSON"),
        ([{"data": {"picture": "a.png"}, "annotations": [{"result": []}]}], "has no 'image' in its data"),
        ([{"data": {"image": "a.png"}, "annotations": [{"result": [3]}]}], "a region that is no object, '3'"),
        ([], "there are no labels"),
    ],
)
def test_what_is_no_export_of_this_kind_of_project_is_refused(run, project, tmp_path, items, said):
    (tmp_path / "e.json").write_text(json.dumps(items))
    with pytest.raises(BadRequest, match=said):
        run(tmp_path / "e.json")


def test_regions_of_another_size_are_refused_by_name(run, studio, project, tmp_path):
    _, path = exported(run, studio, tmp_path, lambda text: text.replace('"original_width": 64', '"original_width": 65'))
    progress = run(path)
    assert "its labels are for 65 x 64 px, but the picture has 64 x 64" in progress.failed[0][1]


def test_a_region_without_a_label_is_not_taken_for_one_that_is_left_out(run, studio, project, tmp_path):
    _, path = exported(run, studio, tmp_path, lambda text: text.replace('"brushlabels": ["Pit"]', '"brushlabels": []'))
    studio.projects[1]["label_config"] = CONFIG.replace('name="mask"', 'name="other"')
    with pytest.raises(BadRequest, match="brushlabels of 'mask', which the project does not have"):
        run(path)


def test_what_is_no_region_is_left_out_only_if_that_is_asked_for(run, studio, project, tmp_path):
    choice = {"id": "c", "from_name": "q", "to_name": "image", "type": "choices", "value": {"choices": ["good"]}}
    brush = shape("brushlabels", "mask", {"format": "rle", "rle": encode_rle(square(1)[1])})
    studio.annotate(1, [brush, choice])
    path = export(studio, tmp_path / "e.json", 1)
    studio.tasks[1]["annotations"] = []
    with pytest.raises(BadRequest, match="choices of 'q' with 'good'.*--leave-out CONTROL"):
        run(path)
    progress = run(path, leave_out=("q",))
    assert results(studio, 1) == [[brush]] and progress.left_out == {"choices of 'q'": 1}


def test_an_ellipse_of_an_export_becomes_a_mask_or_stays_where_the_project_has_its_control(
    run, studio, project, tmp_path
):
    ellipse = shape("ellipselabels", "ell", {"x": 50, "y": 50, "radiusX": 30, "radiusY": 15, "rotation": 30})
    studio.annotate(1, [ellipse])
    path = export(studio, tmp_path / "e.json", 1)
    studio.tasks[1]["annotations"] = []
    assert run(path).failed == []
    ((region,),) = results(studio, 1)
    assert (region["type"], region["id"]) == ("brushlabels", "ellipselabels")
    assert (read_mask(region, (64, 64)) == read_mask(ellipse, (64, 64))).all()
    control = '<EllipseLabels name="ell" toName="image"><Label value="Pit"/></EllipseLabels></View>'
    studio.projects[1]["label_config"] = CONFIG.replace("</View>", control)
    run(path, again=True)
    assert results(studio, 1)[1] == [ellipse]
    other = path.read_text().replace('"Pit"', '"Dune"')
    path.write_text(other)
    with pytest.raises(BadRequest, match="ellipselabels of 'ell' with 'Dune', which the project does not have"):
        run(path)


SIZELESS = [
    shape("polygonlabels", "poly", {"points": [[10, 10], [50, 10], [50, 50]], "closed": True}),
    shape("rectanglelabels", "flat", {"x": 10, "y": 10, "width": 30, "height": 30}),
    shape("brushlabels", "mask", {"format": "rle", "rle": encode_rle(square(1)[1])}),
    shape("brushlabels", "other", {"format": "rle", "rle": encode_rle(square(1)[1])}),
]


@pytest.mark.parametrize("sizes", [{}, {"original_width": None, "original_height": None}, {"original_width": 64.0}])
@pytest.mark.parametrize("region", SIZELESS, ids=lambda region: str(region["from_name"]))
def test_regions_without_sizes_are_imported_with_the_pictures_own(run, studio, project, tmp_path, region, sizes):
    labeling = parse_config(CONFIG)
    polygons = '<PolygonLabels name="poly" toName="image"><Label value="Pit"/></PolygonLabels></View>'
    studio.projects[1]["label_config"] = CONFIG.replace("</View>", polygons)
    bare = {key: value for key, value in region.items() if not key.startswith("original_")} | sizes
    studio.annotate(1, [bare])
    path = export(studio, tmp_path / "e.json", 1)
    studio.tasks[1]["annotations"] = []
    assert run(path).failed == []
    ((made,),) = results(studio, 1)
    assert (made["original_width"], made["original_height"]) == (64, 64)
    assert type(made["original_width"]) is int
    if made["type"] != "rectanglelabels":
        assert label_map([made], labeling, (64, 64)).array.any()


def test_shapes_that_were_never_drawn_are_left_out_of_an_export_and_counted(run, studio, project, tmp_path):
    brush = shape("brushlabels", "mask", {"format": "rle", "rle": encode_rle(square(1)[1])})
    empty = [
        shape("polygonlabels", "poly", {"points": []}),
        shape("polygonlabels", "gone", {"points": [[1, 1], [9, 9]]}),
        shape("brushlabels", "mask", {"format": "rle", "rle": []}),
        shape("vectorlabels", "v", {"vertices": [{"x": 1, "y": 1}], "closed": True}),
    ]
    studio.annotate(1, [brush, *empty])
    path = export(studio, tmp_path / "e.json", 1)
    studio.tasks[1]["annotations"] = []
    progress = run(path)
    assert (progress.failed, progress.without_pixels, results(studio, 1)) == ([], 4, [[brush]])
