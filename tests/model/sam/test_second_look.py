"""The second look at what is small: where it looks, what it sees, and that it pays."""

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from skylight.model.datasets import synthetic_scenes
from skylight.model.embeddings.file_format import nbytes, pack, parse
from skylight.model.evaluation.metrics import iou
from skylight.model.evaluation.simulated_clicks import any_point, correction_click, loose_box
from skylight.model.masks.geometry import interior_point
from skylight.model.sam import segmenter
from skylight.model.sam.mask_scoring import MaskScorer, ScoredCut, load_scorer
from skylight.model.sam.second_look import (
    PICTURE_SIDE,
    SIDE,
    SMALL,
    SMALLEST_WINDOW,
    Window,
    crop,
    pack_picture,
    segment_window,
    unpack_picture,
    window_for,
)
from skylight.model.sam.segmenter import Segmenter
from skylight.model.sam.tiny_sam import TinySam
from skylight.model.sam.types import Prompt

SIZE = (400, 600)
NONE = np.zeros((0, 2), np.float32)


@pytest.fixture(scope="module")
def tiny(segmenter: Segmenter) -> Segmenter:
    return segmenter


def mask(x0: int, y0: int, x1: int, y1: int) -> NDArray[np.bool_]:
    made = np.zeros(SIZE, bool)
    made[y0:y1, x0:x1] = True
    return made


def at(*points: tuple[float, float]) -> NDArray[np.float32]:
    return np.array(points, np.float32).reshape(-1, 2)


def test_the_window_is_larger_than_the_first_answer_and_around_it() -> None:
    assert window_for(SIZE, mask(280, 190, 320, 210), at((300, 200)), None) == (150, 250, 100, 100)


def test_it_lies_within_the_image_and_is_not_tiny() -> None:
    assert window_for(SIZE, mask(0, 390, 4, 400), at((2, 395)), None) == (
        SIZE[0] - SMALLEST_WINDOW,
        0,
        SMALLEST_WINDOW,
        SMALLEST_WINDOW,
    )
    row, column, height, width = window_for((30, 600), np.ones((30, 4), bool), at((2, 2)), None) or (0, 0, 0, 0)
    assert (row, column, height, width) == (0, 0, 30, 75)


def test_what_is_large_is_not_looked_at_again() -> None:
    side = round(SMALL * SIZE[1])
    assert window_for(SIZE, mask(100, 100, 100 + side - 1, 110), at((120, 105)), None)
    assert window_for(SIZE, mask(100, 100, 100 + side, 110), at((120, 105)), None) is None
    assert window_for(SIZE, mask(0, 0, 0, 0), NONE, np.array([0, 0, side, 5], np.float32)) is None


def test_a_box_says_more_than_the_first_answer_and_positive_points_are_in_the_window() -> None:
    box = np.array([100, 100, 119, 119], np.float32)
    everything = np.ones(SIZE, bool)
    assert window_for(SIZE, everything, NONE, box) == (84, 84, 50, 50)
    row, column, height, width = (
        window_for(SIZE, mask(100, 100, 110, 110), at((105, 105), (150, 105)), None) or (0,) * 4
    )
    assert column <= 100 and column + width > 150 and row <= 100 and row + height > 110
    assert window_for(SIZE, mask(100, 100, 110, 110), at((105, 105), (300, 105)), None) is None


def test_where_the_first_answer_is_empty_the_click_says_where_to_look() -> None:
    assert window_for(SIZE, mask(0, 0, 0, 0), at((300, 200)), None) == (176, 276, SMALLEST_WINDOW, SMALLEST_WINDOW)
    assert window_for(SIZE, mask(280, 190, 320, 210), NONE, None) is None  # negative clicks alone


def test_the_kept_picture_is_a_jpeg_of_limited_size() -> None:
    for size, kept in (((300, 200), (300, 200)), ((500, 2048), (250, 1024))):
        image = np.full((*size, 3), 90, np.uint8)
        with Image.open(io.BytesIO(pack_picture(image).tobytes())) as file:
            assert file.format == "JPEG" and (file.height, file.width) == kept and max(kept) <= PICTURE_SIDE
            assert np.abs(np.asarray(file).astype(int) - 90).max() <= 2


@pytest.mark.parametrize("scale", [1, 4])
def test_a_part_is_what_lies_in_the_window(scale: int) -> None:
    """Also of an image four times as large as the kept picture."""
    y, x = np.mgrid[: 512 * scale, : 512 * scale] / (512 * scale) * 255
    image = np.stack([x, y, 0 * x], 2).astype(np.uint8)
    row, column, height, width = 100 * scale, 40 * scale, 60 * scale, 90 * scale
    seen = crop(unpack_picture(pack_picture(image)), image.shape[:2], (row, column, height, width))
    assert seen.pixels.shape == (1, 3, SIDE, SIDE) and (seen.rows, seen.columns) == (128, 192)
    assert seen.scale == pytest.approx(SIDE / (90 * scale))
    assert (seen.pixels[..., seen.rows :, :] == 0).all()
    red, green = seen.pixels[0, 0, : seen.rows], seen.pixels[0, 1, : seen.rows]
    for found, at_pixel in ((red[0, 0], 40), (red[0, -1], 130), (green[0, 0], 100), (green[-1, 0], 160)):
        assert float(found) == pytest.approx(at_pixel / 2, abs=3)


def pits(count: int, low: float, high: float) -> list[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
    """Scenes and one pit in each, whose longest side is between two shares of the picture's."""
    found = []
    for seed in range(70_000, 70_200):
        scene = synthetic_scenes.scene(seed)
        for each in scene.objects:
            rows, columns = np.nonzero(each.mask)
            if each.kind == "pit" and low < max(np.ptp(rows), np.ptp(columns)) / 512 < high:
                found.append((scene.image, each.mask))
                break
        if len(found) == count:
            break
    return found


def test_small_objects_are_outlined_better(tiny: Segmenter) -> None:
    rng = np.random.default_rng(0)
    reached = []
    for image, truth in pits(10, 0.03, 0.08):
        embedding = tiny.embed(image)
        for prompt in (Prompt.of([(*interior_point(truth, rng, True), True)]), Prompt.of(box=loose_box(truth, rng))):
            answers = [tiny.segment(each, prompt) for each in (replace(embedding, picture=None), embedding)]
            assert all(answer.masks.shape == (3, 512, 512) for answer in answers)
            assert (np.diff(answers[1].scores) <= 0).all()
            assert np.array_equal(*(np.sort(answer.logits, 0) for answer in answers))
            reached.append([iou(answer.masks[0], truth) for answer in answers])
    without, closer = np.mean(reached, axis=0)
    assert closer > without + 0.05 and closer > 0.75


def test_a_large_object_s_answer_is_as_it_was(tiny: Segmenter) -> None:
    ((image, truth),) = pits(1, 0.2, 1)
    embedding = tiny.embed(image)
    prompt = Prompt.of([(*interior_point(truth, np.random.default_rng(0), True), True)])
    first, second = (tiny.segment(each, prompt) for each in (replace(embedding, picture=None), embedding))
    assert np.array_equal(first.masks, second.masks) and iou(first.masks[0], truth) > 0.7


def test_a_further_click_goes_on_from_the_answer_before(tiny: Segmenter) -> None:
    """Where the first mask is off a second click betters it; asked for both at once a good one was made worse."""
    rng, reached = np.random.default_rng(1), []
    for image, truth in pits(10, 0.03, 0.1):
        embedding, click = tiny.embed(image), (*any_point(truth, rng), True)
        first = tiny.segment(embedding, Prompt.of([click]))
        more = correction_click(first.masks[0], truth, rng)
        if more is not None:
            second = tiny.segment(embedding, Prompt.of([click, more]), first.logits[0])
            reached.append([iou(answer.masks[0], truth) for answer in (first, second)])
    one, two = np.mean(reached, axis=0)
    assert two > one - 0.02 and two > 0.75


@pytest.mark.parametrize("sign", [1, -1])
def test_the_second_look_goes_where_the_judge_says_not_where_sam_trusts(
    tiny: Segmenter, sign: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a lone click; also a judge who likes the worst. A further click goes on from what was chosen."""
    windows: list[Window] = []

    def looked(window: Window, *given: Any) -> Any:
        windows.append(window)
        return segment_window(window, *given)

    monkeypatch.setattr(segmenter, "segment_window", looked)
    weights = load_scorer().weights
    monkeypatch.setattr(tiny, "scorer", MaskScorer({**weights, "last": sign * weights["last"]}))
    for image, truth in pits(4, 0.03, 0.08):
        embedding = tiny.embed(image)
        prompt = Prompt.of([(*interior_point(truth, np.random.default_rng(0), True), True)])
        first, second = (tiny.segment(each, prompt) for each in (replace(embedding, picture=None), embedding))
        window = window_for((512, 512), first.masks[0], prompt.points, None)
        assert windows == ([window] if window else [])
        assert np.array_equal(first.logits, second.logits)
        windows.clear()


def test_of_further_clicks_it_goes_where_sam_trusts(tiny: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so it does of a box, which alone says where: the first look's masks are not even judged."""
    judged: list[int] = []

    def cuts(known: NDArray[np.float32]) -> list[ScoredCut]:
        judged.append(len(known))
        return load_scorer().best_cuts(known)

    judge = MaskScorer(load_scorer().weights)
    monkeypatch.setattr(judge, "best_cuts", cuts)
    monkeypatch.setattr(tiny, "scorer", judge)
    image, truth = pits(1, 0.03, 0.08)[0]
    embedding, rng = tiny.embed(image), np.random.default_rng(0)
    clicks = [(*interior_point(truth, rng, True), True), (*any_point(truth, rng), True)]
    for prompt in (Prompt.of(box=loose_box(truth, rng)), Prompt.of(clicks)):
        answer = tiny.segment(embedding, prompt)
        assert judged == [3] and iou(answer.masks[0], truth) > 0.7
        judged.clear()


def test_negative_points_count_only_within_the_window(tiny: Segmenter) -> None:
    image, truth = pits(1, 0.03, 0.08)[0]
    embedding = tiny.embed(image)
    assert isinstance(tiny.network, TinySam) and embedding.picture is not None
    x, y = interior_point(truth, np.random.default_rng(0), True)
    window = window_for((512, 512), truth, at((x, y)), None)
    assert window is not None
    far = (window[1] - 30.0) % 512, y
    near = x, window[0] + 1.0

    def masks(*points: tuple[float, float]) -> NDArray[np.bool_]:
        prompt = Prompt(at(*points), np.array([True] + [False] * (len(points) - 1)))
        with torch.inference_mode():
            network, picture = tiny.network, embedding.picture
            assert isinstance(network, TinySam) and picture is not None
            position = network.prompt_encoder.get_dense_pe()
            return segment_window(
                window, network, position, unpack_picture(picture), (512, 512), prompt, load_scorer()
            )[0]

    alone = masks((x, y))
    assert np.array_equal(masks((x, y), far), alone)
    assert not np.array_equal(masks((x, y), near), alone)


def test_the_picture_is_kept_with_the_embedding(tiny: Segmenter) -> None:
    embedding = tiny.embed(np.random.default_rng(0).integers(0, 256, (64, 48, 3)).astype(np.uint8))
    back = parse(pack(embedding)[0])
    assert embedding.picture is not None and np.array_equal(back.picture, embedding.picture)
    assert nbytes(embedding) - nbytes(replace(embedding, picture=None)) == embedding.picture.nbytes
