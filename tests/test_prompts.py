"""The table of how well a SAM follows prompts."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model import prompts
from model.packs import images
from model.prompts import COLUMNS, main, pictures, prompt_scores
from model.sam import load
from model.synthetic import scene


def add_pack(folder: Path) -> None:
    """A made-up pack of ten scenes' pits, of which some are held out."""
    for part in ("images", "masks"):
        (folder / "pits" / part).mkdir(parents=True)
    for i in range(10):
        drawn = scene(i, 128)
        Image.fromarray(drawn.image).save(folder / "pits" / "images" / f"{i}.png")
        Image.fromarray(drawn.truth().astype(np.uint8)).save(folder / "pits" / "masks" / f"{i}.png")
    (folder / "pits" / "meta.json").write_text(json.dumps({"images": [{"stem": str(i)} for i in range(10)]}))


def test_only_held_out_images_and_few_of_each_pack_are_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompts, "SCENES", 0)
    add_pack(tmp_path)
    held_out = [item.read() for item in images(tmp_path) if item.held_out]
    assert 1 < len(held_out) < 10
    asked = list(pictures(tmp_path, limit=len(held_out)))
    assert [pack for pack, *_ in asked] == ["pits"] * len(held_out)
    for (_, image, objects), (picture, instances) in zip(asked, held_out, strict=True):
        assert np.array_equal(image, picture) and np.array_equal(objects[0], instances == 1)
    assert len(list(pictures(tmp_path, limit=1))) == 1


def test_scores_of_one_object_are_those_of_a_click_its_candidates_three_clicks_and_a_box() -> None:
    tiny, drawn = load("tiny", device="cpu"), scene(6)
    pit = max((item.mask for item in drawn.objects if item.kind == "pit"), key=np.count_nonzero)
    one, best, three, box = prompt_scores(tiny, tiny.embed(drawn.image), pit)
    assert 0.3 < one <= min(best, three) <= max(best, three) < 1
    assert 0.3 < box < 1


def test_the_table_is_printed_and_written_as_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prompts, "SCENES", 1)
    monkeypatch.setattr(sys, "argv", ["prompts"])
    main()
    rows = json.loads((tmp_path / "build" / "prompts.json").read_text())
    assert [row["what"] for row in rows] == [f"procedural pits: {name}" for name in COLUMNS]
    assert all(0 < row["measured"] < 1 and row["unit"] == "IoU" for row in rows)
    head, line = capsys.readouterr().out.splitlines()
    assert all(name in head for name in COLUMNS)
    assert line.split()[:2] == ["procedural", "pits"] and line.split()[-1] == f"{rows[-1]['measured']:.3f}"
