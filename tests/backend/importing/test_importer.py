"""`skylight import-annotations`: labels that exist become annotations, once, of the right tasks."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from skylight.backend.demo.demo import label_config
from skylight.backend.errors import BadRequest, LabelStudioError, Unavailable
from skylight.backend.importing.importer import MAX_FILE_NAME, Options, plan
from tests.support.label_files import (
    TRIANGLE,
    coco,
    coco_of,
    export,
    mask,
    masks_of,
    results,
    write,
)
from tests.support.label_studio_double import CONFIG
from tests.support.planted_embeddings import png, square


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


def test_it_needs_label_studio(service, project, tmp_path, monkeypatch):
    monkeypatch.setattr(service, "settings", replace(service.settings, label_studio_api_key=""))
    with pytest.raises(Unavailable, match="set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY"):
        plan(service, 1, [coco(tmp_path / "c.json", ("a.png",))], Options())


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
