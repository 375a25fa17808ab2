"""`skylight import-annotations`: labels that exist become annotations, once, of the right tasks."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from skylight.backend.cli import main
from skylight.backend.demo.demo import label_config
from skylight.backend.errors import BadRequest, LabelStudioError, Unavailable
from skylight.backend.importing.coco_and_masks import MaskLabels
from skylight.backend.importing.importer import MAX_FILE_NAME, Options, plan
from skylight.backend.labelstudio.region_reader import label_map, parse_config, read_mask
from skylight.backend.settings import Settings
from skylight.model.masks.bitmask import encode_rle
from tests.support.label_studio_double import CONFIG, KEY
from tests.support.planted_embeddings import png, square

TWO = label_config(["Pit", "Crater"])


@pytest.fixture
def project(studio):
    """A project with two tasks of 64 x 64 px, a.png and b.png."""
    key = studio.add_project()
    for number, name in enumerate(("a.png", "b.png"), 1):
        studio.add_task(key, png(square(number)[0]), name=name)
    return key


@pytest.fixture
def run(service):
    """Imports sources to the end; gives the last progress."""

    def go(*sources, **options):
        return [progress for progress, _ in plan(service, 1, sources, Options(**options)).run()][-1]

    return go


def coco(path, *pictures, label="Pit"):
    """A COCO file of pictures, each its file name and masks (64, 64)."""
    images, annotations = [], []
    for number, (name, *masks) in enumerate(pictures):
        images.append({"id": number, "file_name": name, "height": 64, "width": 64})
        for mask in masks:
            counts = [len(run) for run in np.split(mask.T.ravel(), np.flatnonzero(np.diff(mask.T.ravel())) + 1)]
            segmentation = {"size": [64, 64], "counts": counts if not mask[0, 0] else [0, *counts]}
            annotations.append({"id": 1, "image_id": number, "category_id": 5, "segmentation": segmentation})
    categories = [{"id": 5, "name": label}, {"id": 6, "name": "nothing of ours"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def results(studio, task):
    return [one["result"] for one in studio.tasks[task]["annotations"]]


def masks_of(result):
    return [read_mask(region, (64, 64)) for region in result]


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


def test_tasks_with_annotations_are_left_alone_unless_asked(run, studio, project, tmp_path):
    source = coco(tmp_path / "c.json", ("a.png", square(1)[1]), ("b.png", square(2)[1]))
    studio.annotate(2, [], skip=True)
    assert (run(source).annotated, run(source).annotated_before) == (1, 2)
    assert len(results(studio, 1)) == len(results(studio, 2)) == 1
    assert run(source, again=True).annotated == 2
    assert len(results(studio, 1)) == len(results(studio, 2)) == 2


def test_ended_early_the_same_command_goes_on(run, service, studio, project, tmp_path):
    source = coco(tmp_path / "c.json", ("a.png", square(1)[1]), ("b.png", square(2)[1]))
    steps = plan(service, 1, [source], Options()).run()
    next(steps), next(steps)
    steps.close()
    assert len(results(studio, 1)) == 1 and results(studio, 2) == []
    progress = run(source)
    assert (progress.annotated_before, progress.annotated) == (1, 1)
    assert len(results(studio, 1)) == len(results(studio, 2)) == 1


def test_a_label_that_the_project_lacks_is_refused_before_anything_is_written(run, studio, project, tmp_path):
    source = coco(tmp_path / "c.json", ("a.png",), ("b.png", square(2)[1]), label="crater")
    with pytest.raises(BadRequest, match=r"labels that the project does not have, 'crater', only Pit; add them"):
        run(source, images=tmp_path)
    assert results(studio, 1) == []
    run(source, rename=(("Crater", "PIT"),))
    assert results(studio, 2)[0][0]["value"]["brushlabels"] == ["Pit"]
    run(source, rename=(("crater", ""),), again=True)
    assert results(studio, 2)[1] == []


def test_a_dry_run_reads_everything_and_writes_nothing(run, studio, project, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "new.png").write_bytes(png(square(4)[0]))
    Image.new("L", (30, 30)).save(tmp_path / "in" / "small.png")
    source = coco(tmp_path / "c.json", ("a.png", square(1)[1]), ("new.png", square(4)[1]), ("small.png",))
    progress = run(source, images=tmp_path / "in", dry=True)
    assert (progress.annotated, progress.uploaded, progress.regions) == (2, 1, 2)
    assert progress.failed == [("small.png", "its labels are for 64 x 64 px, but the picture has 30 x 30")]
    assert results(studio, 1) == [] and len(studio.tasks) == 2


def test_pictures_of_no_task_are_uploaded_once(run, studio, project, tmp_path):
    folder = tmp_path / "in" / "train"
    folder.mkdir(parents=True)
    (folder / "my scene (1).png").write_bytes(png(square(4)[0]))
    source = coco(tmp_path / "c.json", ("train/my scene (1).png", square(4)[1]), ("a.png", square(1)[1]))
    progress = run(source, images=tmp_path / "in")
    assert (progress.uploaded, progress.annotated) == (1, 2)
    assert studio.pictures[studio.tasks[3]["data"]["image"]] == png(square(4)[0])
    assert (masks_of(results(studio, 3)[0])[0] == square(4)[1]).all()
    assert (run(source, images=tmp_path / "in").annotated_before, len(studio.tasks)) == (2, 3)


@pytest.mark.parametrize(
    ("pictures", "said"),
    [
        (["c.png"], "no task shows it; nor is it in"),
        (["twice.png"], "several tasks have a picture of this name, 3, 4; which one it is, is not guessed"),
        (["in.png"], "several pictures have this name"),
        (["1/a.png", "2/a.png"], "another picture of the sources means the same task or file"),
        (["x" * MAX_FILE_NAME + ".png"], "Label Studio would cut its name"),
    ],
)
def test_what_cannot_be_told_apart_is_named_and_left_out(run, studio, project, tmp_path, pictures, said):
    for _ in range(2):
        studio.add_task(project, png(square(5)[0]), name="twice.png")
    for name in ("one/in.png", "two/in.png", "x" * MAX_FILE_NAME + ".png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(png(square(5)[0]))
    source = coco(tmp_path / "c.json", *((name, square(1)[1]) for name in pictures), ("b.png",))
    progress = run(source, images=tmp_path / "in")
    assert [name for name, _ in progress.failed] == pictures and all(said in reason for _, reason in progress.failed)
    assert progress.annotated == 1 and len(studio.tasks) == 4


def test_a_task_that_shows_several_pictures_is_named(run, studio, project, tmp_path):
    studio.tasks[1]["data"]["image"] = [studio.tasks[1]["data"]["image"]]
    progress = run(coco(tmp_path / "c.json", ("a.png",)))
    assert progress.failed == [("a.png", "task 1 shows several pictures; import an export of Label Studio")]


def test_without_images_the_message_says_how_to_upload(run, project, tmp_path):
    progress = run(coco(tmp_path / "c.json", ("c.png",)))
    assert progress.failed == [("c.png", "no task shows it; give --images FOLDER to have it uploaded")]


def test_another_size_a_damaged_mask_and_a_lost_picture_are_named_and_the_rest_goes_on(run, studio, project, tmp_path):
    studio.add_task(project, png(square(3, 80)[0]), name="big.png")
    studio.add_task(project, b"no picture", name="no.png")
    source = coco(tmp_path / "c.json", ("a.png", square(1)[1]), ("big.png",), ("no.png",), ("b.png",))
    body = json.loads(source.read_text())
    body["annotations"][0]["segmentation"]["counts"][0] += 1
    source.write_text(json.dumps(body))
    progress = run(source)
    reasons = dict(progress.failed)
    assert "annotation 1: its counts are of 4097 pixels, but 64 x 64 are 4096" in reasons["a.png"]
    assert reasons["big.png"] == "its labels are for 64 x 64 px, but the picture has 80 x 80"
    assert "are not a whole" in reasons["no.png"]
    assert progress.annotated == 1 and results(studio, 2) == [[]]


def test_objects_without_a_pixel_are_counted(run, studio, project, tmp_path):
    body = json.loads(coco(tmp_path / "c.json", ("a.png", square(1)[1])).read_text())
    body["annotations"][0]["segmentation"] = [[1.1, 1.1, 1.2, 1.1, 1.2, 1.2]]
    (tmp_path / "c.json").write_text(json.dumps(body))
    progress = run(tmp_path / "c.json")
    assert (progress.without_pixels, progress.regions, results(studio, 1)) == (1, 0, [[]])


def test_too_many_objects_are_refused(run, project, tmp_path, monkeypatch):
    monkeypatch.setattr("skylight.backend.importing.targets.MAX_REGIONS", 1)
    progress = run(coco(tmp_path / "c.json", ("a.png", square(1)[1], square(2)[1])))
    assert "more than 1 regions" in progress.failed[0][1]


@pytest.mark.parametrize("here", [True, False])
def test_label_studio_down_ends_it_rather_than_to_blame_the_pictures(service, studio, project, tmp_path, here):
    source = coco(tmp_path / "c.json", ("a.png", square(1)[1]), ("b.png", square(2)[1]))
    if here:
        (tmp_path / "a.png").write_bytes(png(square(1)[0]))
    steps = plan(service, 1, [source], Options(images=tmp_path)).run()
    next(steps)
    studio.stop()
    with pytest.raises(LabelStudioError, match="did not answer"):
        list(steps)


NUMBERS = np.zeros((64, 64), np.uint8)
NUMBERS[2:9, 3:12], NUMBERS[20:30, 20:30], NUMBERS[40:50, 8:9] = 1, 2, 2


def mask(folder, name, numbers=NUMBERS):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(numbers).save(folder / name)
    return folder


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


def export(studio, path, *tasks):
    """What Label Studio exports as JSON."""
    path.write_text(json.dumps([{**studio.tasks[number], "predictions": []} for number in tasks or studio.tasks]))
    return path


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


def test_the_kind_may_be_said_and_other_files_are_refused(run, project, tmp_path):
    source = coco(tmp_path / "c.json", ("a.png",))
    with pytest.raises(BadRequest, match="is not an export of Label Studio"):
        run(source, format="label-studio")
    (tmp_path / "e.json").write_text('[{"data": {}')
    with pytest.raises(BadRequest, match=r"e.json is not an export of Label Studio as JSON: a value at character 1"):
        run(tmp_path / "e.json")
    (tmp_path / "x.txt").write_text("hello")
    with pytest.raises(BadRequest, match="is neither a folder of masks"):
        run(tmp_path / "x.txt")
    with pytest.raises(BadRequest, match="is not a COCO file of instances"):
        run(tmp_path / "x.txt", format="coco")


def test_a_region_without_a_label_is_not_taken_for_one_that_is_left_out(run, studio, project, tmp_path):
    _, path = exported(run, studio, tmp_path, lambda text: text.replace('"brushlabels": ["Pit"]', '"brushlabels": []'))
    studio.projects[1]["label_config"] = CONFIG.replace('name="mask"', 'name="other"')
    with pytest.raises(BadRequest, match="brushlabels of 'mask', which the project does not have"):
        run(path)


@pytest.fixture
def skylight(service, studio, monkeypatch):
    """Runs the command beside the fake Label Studio."""
    for variable in Settings.table():
        monkeypatch.delenv(variable.env, raising=False)
    monkeypatch.setenv("SKYLIGHT_HOME", str(service.settings.home))
    monkeypatch.setenv("LABEL_STUDIO_URL", studio.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", KEY)
    return lambda *arguments: CliRunner().invoke(main.cli, ["import-annotations", *map(str, arguments)])


def test_the_command_says_what_it_did_and_what_it_left_out(skylight, studio, project, tmp_path):
    lost = [(f"{number}.png",) for number in range(6)]
    source = coco(tmp_path / "c.json", ("a.png", square(1)[1]), ("b.png",), *lost)
    dry = skylight(source, "--project", 1, "--dry-run")
    assert "2 would be annotated (1 regions, 1 without any), 0 of them would be uploaded" in dry.output
    done = skylight(source, "--project", 1)
    assert done.exit_code == 1
    assert (
        "2 annotated (1 regions, 1 without any), 0 of them uploaded, 0 had annotations, 6 left out, of 8" in done.output
    )
    assert "4.png: no task shows it" in done.output and "5.png: " not in done.output
    assert done.output.endswith("... and 1 more\n")
    assert len(results(studio, 1)) == 1


def test_the_command_ends_with_0_if_all_is_there(skylight, project, tmp_path):
    source = coco(tmp_path / "c.json", ("a.png", square(1)[1]), label="hole")
    assert skylight(source, "--project", 1, "--rename", "hole=pit").exit_code == 0
    again = skylight(source, "--project", 1, "--rename", "hole=pit")
    assert again.exit_code == 0 and "0 annotated" in again.output and "1 had annotations" in again.output


def test_values_of_the_command_are_labels(skylight, studio, project, tmp_path):
    done = skylight(mask(tmp_path / "m", "a.png"), "--project", 1, "--values", "1=Pit, 2=")
    assert done.exit_code == 0 and "1 annotated (1 regions" in done.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--rename", "Pit"), "'Pit' is not OLD=NEW"),
        (("--values", "0=Pit"), "is not a list of numbers from 1 on"),
        (("--values", "Pit"), "is not a list of numbers from 1 on"),
        (("--values", "1=Pit", "--label", "Pit"), "give one"),
        (("--format", "yolo"), "'yolo' is not one of"),
    ],
)
def test_wrong_options_are_refused(skylight, project, tmp_path, arguments, said):
    done = skylight(coco(tmp_path / "c.json", ("a.png",)), "--project", 1, *arguments)
    assert done.exit_code == 2 and said in done.output


def test_it_needs_label_studio(service, project, tmp_path, monkeypatch):
    monkeypatch.setattr(service, "settings", replace(service.settings, label_studio_api_key=""))
    with pytest.raises(Unavailable, match="set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY"):
        plan(service, 1, [coco(tmp_path / "c.json", ("a.png",))], Options())


def write(path, body):
    path.write_text(json.dumps(body))
    return path


def coco_of(path, *items, size=None):
    """A COCO file of pictures and rings, (name, ring, ..) each, of sizes as said."""
    images = [
        {"id": k, "file_name": name, **(size or {"height": 64, "width": 64})} for k, (name, *_) in enumerate(items)
    ]
    rings = [(k, ring) for k, (_, *found) in enumerate(items) for ring in found]
    annotations = [
        {"id": n, "image_id": k, "category_id": 1, "segmentation": [ring]} for n, (k, ring) in enumerate(rings)
    ]
    return write(path, {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "Pit"}]})


TRIANGLE = [2, 2, 40, 2, 40, 40]


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


def test_tasks_are_found_by_the_addresses_in_a_coco_file(run, studio, project, tmp_path):
    path = "/data/upload/1/0000000f-q one.png"
    studio.pictures[path] = png(square(1)[0])
    studio.tasks[1]["data"]["image"] = f" {path.replace(' ', '%20')}\r\n"
    progress = run(coco_of(tmp_path / "c.json", (path.replace(" ", "%20"), TRIANGLE)))
    assert (progress.failed, len(results(studio, 1)[0])) == ([], 1)


@pytest.mark.parametrize(
    ("value", "data"),
    [
        ("$meta.url", lambda path: {"meta": {"url": path}}),
        ("$images[0].url", lambda path: {"images": [{"url": path}]}),
        ("$meta.url", lambda path: {"meta.url": path}),
        ("$image", lambda path: {"$undefined$": path}),
    ],
)
def test_pictures_at_a_path_in_the_data_are_found(run, studio, project, tmp_path, value, data):
    studio.projects[1]["label_config"] = CONFIG.replace('value="$image"', f'value="{value}"')
    for task in studio.tasks.values():
        task["data"] = data(task["data"]["image"])
    assert run(coco_of(tmp_path / "c.json", ("a.png", TRIANGLE))).regions == 1
    path = export(studio, tmp_path / "e.json", 1)
    studio.tasks[1]["annotations"] = []
    assert run(path).failed == [] and len(results(studio, 1)[0]) == 1


def test_names_with_accents_are_found_however_they_are_encoded(run, studio, project, tmp_path):
    composed, apart = "Kr\u00e4ter", "Kra\u0308ter"
    studio.projects[1]["label_config"] = label_config(["Pit", composed])
    studio.add_task(project, png(square(3)[0]), name=f"{composed}.png")
    mask(tmp_path / "m", f"{apart}/{apart}.png")
    assert run(tmp_path / "m").regions == 2
    assert {region["value"]["brushlabels"][0] for region in results(studio, 3)[0]} == {composed}
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "u\u0308.png").write_bytes(png(square(4)[0]))
    body = json.loads(coco_of(tmp_path / "c.json", ("\u00fc.png", TRIANGLE)).read_text())
    body["categories"][0]["name"] = f"alt{apart}"
    progress = run(write(tmp_path / "c.json", body), rename=((f"ALT{composed}", apart),), images=tmp_path / "in")
    assert (progress.uploaded, progress.regions, progress.failed) == (1, 1, [])


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


def shape(kind, control, value, **more):
    """A region of a picture of 64 x 64 px, as it is exported."""
    value = {**value, **({kind: ["Pit"]} if kind.endswith("labels") else {})}
    size = {"original_width": 64, "original_height": 64, "image_rotation": 0}
    return {"id": kind, "from_name": control, "to_name": "image", "type": kind, "value": value, **size, **more}


def test_left_over_prompts_are_left_out_and_counted(skylight, studio, project, tmp_path):
    brush = {**shape("brushlabels", "brush", {"format": "rle", "rle": encode_rle(square(1)[1])})}
    prompts = [
        shape("keypointlabels", "KeyPointLabels", {"x": 9, "y": 9, "width": 1}, is_positive=True),
        shape("keypointlabels", "KeyPointLabels", {"x": 50, "y": 9, "width": 1}, is_positive=False),
        shape("keypoint", "k", {"x": 5, "y": 9, "width": 1}),
        shape("rectangle", "r", {"x": 5, "y": 9, "width": 10, "height": 10}),
        shape("vectorlabels", "line", {"vertices": [{"x": 1, "y": 1}, {"x": 9, "y": 9}, {"x": 1, "y": 9}]}),
    ]
    relation = {"type": "relation", "from_id": "brushlabels", "to_id": "keypointlabels", "direction": "right"}
    studio.annotate(1, [brush, *prompts, relation])
    studio.annotate(2, prompts[:1])
    path = export(studio, tmp_path / "e.json")
    for task in studio.tasks.values():
        task["annotations"] = []
    done = skylight(path, "--project", 1)
    assert done.exit_code == 0, done.output
    ((region,),) = results(studio, 1)
    assert (region["from_name"], region["type"]) == ("mask", "brushlabels")
    assert (read_mask(region, (64, 64)) == square(1)[1]).all()
    assert results(studio, 2) == []  # an empty annotation would say that nothing is there
    assert "left out: 3 keypointlabels of 'KeyPointLabels', 1 keypoint of 'k', 1 rectangle of 'r'" in done.output
    assert "1 pictures have nothing else, and get no annotation from it" in done.output


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
