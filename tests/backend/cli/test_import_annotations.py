"""The command `skylight import-annotations`."""

import pytest
from click.testing import CliRunner

from skylight.backend.cli import main
from skylight.backend.labelstudio.region_reader import read_mask
from skylight.backend.settings import Settings
from skylight.model.masks.brush_rle import encode_rle
from tests.support.label_files import add_two_tasks, coco, export, mask, results, shape
from tests.support.label_studio_double import KEY
from tests.support.planted_embeddings import square


@pytest.fixture
def project(studio):
    return add_two_tasks(studio)


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
