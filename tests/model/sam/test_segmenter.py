"""Segment Anything without state: segment-anything's own answers, from many threads, and what the tiny SAM can do."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from skylight.model.datasets.synthetic_scenes import scene
from skylight.model.evaluation.metrics import iou
from skylight.model.evaluation.simulated_clicks import any_point, correction_click, loose_box
from skylight.model.masks.clicked_parts import clicked_parts
from skylight.model.masks.geometry import interior_point
from skylight.model.sam.checkpoints import CHECKPOINTS, CheckpointError, verify
from skylight.model.sam.loading import TINY_WEIGHTS, SamError, identify, identify_on, load, load_network
from skylight.model.sam.mobile_sam import build_mobile_sam
from skylight.model.sam.segment_anything_import import Sam, sam_model_registry
from skylight.model.sam.segmenter import Segmenter
from skylight.model.sam.types import Embedding, Prompt
from tests.support.random_weights import random_weights

if TYPE_CHECKING:
    from segment_anything import SamPredictor

IMAGE = scene(3).image[100:300, 50:370]  # (200, 320, 3)


def small_vit_b(checkpoint: None = None) -> Sam:
    """Two blocks of 64 channels in place of 12 of 768: the rest, and so all that a `Segmenter` does, is ViT-B's."""
    from segment_anything.build_sam import _build_sam  # with it comes torchvision, for seconds

    return _build_sam(64, 2, 2, [1], checkpoint)


@dataclass(frozen=True)
class Loaded:
    """A SAM as `load` gives it, an embedded image, and segment-anything's predictor on the same weights and image."""

    file: Path
    segmenter: Segmenter
    embedding: Embedding
    predictor: "SamPredictor"
    official_features: NDArray[np.float32]


@pytest.fixture(scope="module")
def vit_b(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sam_model_registry, "vit_b", small_vit_b)
        return loaded("vit_b", small_vit_b(checkpoint=None), tmp_path_factory.mktemp("vit_b") / "vit_b.pth", seed=1)


@pytest.fixture(scope="module")
def mobile_sam(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return loaded("mobile_sam", build_mobile_sam(), tmp_path_factory.mktemp("mobile_sam") / "mobile_sam.pt", seed=3)


def loaded(name: str, network: Sam, file: Path, seed: int) -> Loaded:
    from segment_anything import SamPredictor  # with it comes torchvision, for seconds

    network.load_state_dict(random_weights(network, seed))
    torch.save(network.state_dict(), file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skylight.model.sam.precision.has_bfloat16", lambda: False)  # in float32 on every machine
        segmenter, predictor = load(name, file, "cpu"), SamPredictor(network)
    predictor.set_image(IMAGE)
    return Loaded(file, segmenter, segmenter.embed(IMAGE), predictor, predictor.features[0].numpy())


@pytest.mark.parametrize("name", ["vit_b", "mobile_sam"])
def test_the_embedding_is_that_of_segment_anything_in_half_precision(request: pytest.FixtureRequest, name: str) -> None:
    sam: Loaded = request.getfixturevalue(name)
    theirs = sam.official_features
    assert sam.embedding.features.shape == (256, 64, 64) and sam.embedding.features.dtype == np.float16
    assert theirs.max() > 1
    assert np.abs(sam.embedding.features - theirs).max() < 2e-3 * np.abs(theirs).max()


def test_a_large_encoder_is_computed_in_bfloat16_where_the_processor_has_bfloat16(
    vit_b: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sam_model_registry, "vit_b", small_vit_b)
    monkeypatch.setattr("skylight.model.sam.precision.has_bfloat16", lambda: True)
    segmenter = load("vit_b", vit_b.file, "cpu")
    features, exact = (each.features.astype(np.float32) for each in (segmenter.embed(IMAGE), vit_b.embedding))
    assert 1e-3 < (features - exact).std() / exact.std() < 2e-2  # 8 bits of mantissa
    assert all(weight.dtype == torch.float32 for weight in segmenter.network.parameters())
    assert load("tiny", device="cpu").half is None  # what decoders learn from is the same on every machine
    assert (
        segmenter.encoder_id
        == f"{vit_b.segmenter.encoder_id}-bfloat16"
        == identify_on("vit_b", vit_b.file, "cpu", "auto")
    )
    exact_again = load("vit_b", vit_b.file, "cpu", None, "float32")
    assert exact_again.half is None and exact_again.encoder_id == vit_b.segmenter.encoder_id == identify(
        "vit_b", vit_b.file
    )
    assert identify_on("vit_b", vit_b.file, "cpu", "float32") == vit_b.segmenter.encoder_id


@pytest.mark.parametrize("suffix", ["", "-float16", "-bfloat16"])
def test_the_weights_of_an_id_are_verified_whatever_its_precision(suffix: str) -> None:
    sha256 = CHECKPOINTS["vit_b"].sha256
    verify("vit_b", f"vit_b-{sha256[:12]}{suffix}")
    with pytest.raises(CheckpointError, match="damaged"):
        verify("vit_b", f"vit_b-{sha256[1:13]}{suffix}")


def test_several_images_at_once_are_encoded_as_one_by_one() -> None:
    network = load_network("tiny")
    alone, several = Segmenter(network, "tiny", torch.device("cpu")), Segmenter(network, "tiny", torch.device("cpu"))
    several.batch, several._batched.max_batch = 3, 3
    pictures = [scene(seed).image for seed in range(3)]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(several.embed, pictures))
    for embedding, picture in zip(found, pictures, strict=True):
        wanted = alone.embed(picture)
        for name in ("features", "context", "detail", "thumbnail"):
            one, other = getattr(embedding, name), getattr(wanted, name)
            assert np.abs(one.astype(np.float32) - other).max() <= 2e-3 * np.abs(other).max()


CASES = {
    "one point": Prompt.of([(150, 90, True)]),
    "one negative point": Prompt.of([(30, 170, False)]),
    "several points": Prompt.of([(150, 90, True), (200, 30, False), (10, 180, True)]),
    "box": Prompt.of(box=(60, 40, 220, 150)),
    "box with points": Prompt.of([(150, 90, True), (80, 60, False)], box=(60, 40, 220, 150)),
}


def expected(predictor: "SamPredictor", features: NDArray[np.float16], prompt: Prompt, **options: object) -> tuple:
    """Masks, scores and logits of segment-anything for the same half-precision embedding, most trusted first."""
    predictor.features = torch.from_numpy(features).float()[None]
    given = {} if not len(prompt.points) else {"point_coords": prompt.points, "point_labels": prompt.positive}
    masks, scores, logits = predictor.predict(**given, box=prompt.box, **options)
    order = np.argsort(-scores)
    return masks[order], scores[order], logits[order]


def clicked(masks: NDArray[np.bool_], prompt: Prompt) -> NDArray[np.bool_]:
    """Of masks (K, H, W) what belongs to the positive points."""
    return np.stack([clicked_parts(each, prompt.points[prompt.positive]) for each in masks])


@pytest.mark.parametrize("case", CASES)
def test_masks_and_scores_are_those_of_segment_anything(vit_b: Loaded, case: str) -> None:
    assert_same_answers(vit_b, CASES[case], several="one" in case)


def assert_same_answers(loaded: Loaded, prompt: Prompt, several: bool) -> None:
    found = loaded.segmenter.segment(loaded.embedding, prompt)
    masks, scores, logits = expected(loaded.predictor, loaded.embedding.features, prompt, multimask_output=several)
    assert found.masks.shape == (3 if several else 1, 200, 320) and found.masks.dtype == bool
    assert 0.02 < masks.mean() < 0.98
    np.testing.assert_array_equal(found.masks, clicked(masks, prompt))
    np.testing.assert_allclose(found.scores, scores, atol=1e-5)
    np.testing.assert_allclose(found.logits, logits, atol=1e-4)


def test_an_earlier_answer_s_logits_go_in_as_segment_anything_s_mask_input(vit_b: Loaded) -> None:
    first = vit_b.segmenter.segment(vit_b.embedding, CASES["one point"])
    found = vit_b.segmenter.segment(vit_b.embedding, CASES["one point"], first.logits[0])
    masks, scores, _ = expected(
        vit_b.predictor,
        vit_b.embedding.features,
        CASES["one point"],
        mask_input=first.logits[:1],
        multimask_output=False,
    )
    np.testing.assert_array_equal(found.masks, clicked(masks, CASES["one point"]))
    np.testing.assert_allclose(found.scores, scores, atol=1e-5)
    plain = vit_b.segmenter.segment(vit_b.embedding, CASES["one point"])
    assert not np.allclose(found.scores[0], plain.scores, atol=1e-4)


@pytest.mark.parametrize("case", ["one point", "box with points"])
def test_mobile_sam_answers_as_segment_anything_with_its_network(mobile_sam: Loaded, case: str) -> None:
    assert_same_answers(mobile_sam, CASES[case], several="one" in case)


def test_candidates_are_sorted_and_can_be_limited(vit_b: Loaded) -> None:
    three = vit_b.segmenter.segment(vit_b.embedding, CASES["one point"])
    assert (np.diff(three.scores) <= 0).all() and len(three.scores) == 3
    two = vit_b.segmenter.segment(vit_b.embedding, CASES["one point"], candidates=2)
    np.testing.assert_array_equal(two.masks, three.masks[:2])
    np.testing.assert_array_equal(two.scores, three.scores[:2])


def test_the_encoder_s_id_is_the_name_and_the_hash_of_its_file(vit_b: Loaded, mobile_sam: Loaded) -> None:
    for name, path, segmenter in (
        ("vit_b", vit_b.file, vit_b.segmenter),
        ("mobile_sam", mobile_sam.file, mobile_sam.segmenter),
        ("tiny", TINY_WEIGHTS, load("tiny", device="cpu")),
    ):
        assert segmenter.encoder_id == f"{name}-{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"


def test_weights_of_another_sam_are_refused_by_file_name(vit_b: Loaded) -> None:
    for name, file in (("vit_b", TINY_WEIGHTS), ("mobile_sam", vit_b.file), ("tiny", vit_b.file)):
        with pytest.raises(SamError, match=f"{file.name} does not hold weights of SAM {name}"):
            load(name, file, "cpu")


@dataclass(frozen=True)
class Pit:
    """A pit of a procedural scene that was embedded, and a click at its centre."""

    image: NDArray[np.uint8]
    embedding: Embedding
    truth: NDArray[np.bool_]
    click: tuple[float, float, bool]


@pytest.fixture(scope="module")
def tiny(segmenter: Segmenter) -> Segmenter:
    return segmenter


def centre(mask: NDArray[np.bool_]) -> tuple[float, float, bool]:
    return *interior_point(mask, np.random.default_rng(0), central=True), True


@pytest.fixture(scope="module")
def pits(tiny: Segmenter) -> list[Pit]:
    """All pits of ten scenes, none left out; pretraining draws its scenes from seeds above a million."""
    made = []
    for drawn in map(scene, range(10)):
        embedding = tiny.embed(drawn.image)
        masks = [item.mask for item in drawn.objects if item.kind == "pit"]
        made += [Pit(drawn.image, embedding, mask, centre(mask)) for mask in masks]
    return made


def test_a_click_at_its_centre_finds_a_pit(tiny: Segmenter, pits: list[Pit]) -> None:
    answers = [tiny.segment(pit.embedding, Prompt.of([pit.click])) for pit in pits]
    assert np.mean([iou(answer.masks[0], pit.truth) for answer, pit in zip(answers, pits, strict=True)]) >= 0.5


def test_after_a_click_anywhere_in_a_pit_one_where_that_was_wrong_finds_it_better(
    tiny: Segmenter, pits: list[Pit]
) -> None:
    rng, reached = np.random.default_rng(0), []
    for pit in pits:
        click = (*any_point(pit.truth, rng), True)
        first = tiny.segment(pit.embedding, Prompt.of([click]))
        more = correction_click(first.masks[0], pit.truth, rng)
        assert more is not None
        second = tiny.segment(pit.embedding, Prompt.of([click, more]), first.logits[0])
        reached.append([iou(answer.masks[0], pit.truth) for answer in (first, second)])
    one, two = np.mean(reached, axis=0)
    assert one >= 0.4
    assert two > one


def test_a_loose_box_around_a_pit_finds_it(tiny: Segmenter, pits: list[Pit]) -> None:
    rng = np.random.default_rng(0)
    boxes = [Prompt.of(box=loose_box(pit.truth, rng)) for pit in pits]
    answers = [tiny.segment(pit.embedding, box) for pit, box in zip(pits, boxes, strict=True)]
    assert np.mean([iou(answer.masks[0], pit.truth) for answer, pit in zip(answers, pits, strict=True)]) >= 0.6


def test_the_tiny_sam_offers_three_masks_for_every_prompt(tiny: Segmenter, pits: list[Pit]) -> None:
    for prompt in CASES.values():
        answer = tiny.segment(pits[0].embedding, prompt)
        assert answer.masks.shape == (3, 512, 512) and answer.logits.shape == (3, 128, 128)
        assert (np.diff(answer.scores) <= 0).all()


@pytest.mark.parametrize(("rows", "columns"), [(slice(128, 384), slice(None)), (slice(None), slice(200, 400))])
def test_masks_lie_right_in_images_that_are_not_square(tiny: Segmenter, rows: slice, columns: slice) -> None:
    drawn = scene(6)  # its largest pit is near the middle
    truth = max((item.mask for item in drawn.objects if item.kind == "pit"), key=np.count_nonzero)
    image, part = np.ascontiguousarray(drawn.image[rows, columns]), truth[rows, columns]
    answer = tiny.segment(tiny.embed(image), Prompt.of([centre(part)]))
    assert answer.masks.shape == (3, *image.shape[:2])
    assert iou(answer.masks[0], part) > 0.6


@pytest.mark.parametrize("size", [(1, 1), (37, 1200), (1031, 757), (5, 3)])
def test_masks_have_exactly_the_image_s_size(tiny: Segmenter, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    embedding = tiny.embed(image)
    assert embedding.size == size and embedding.features.shape == (256, 32, 32)
    answer = tiny.segment(embedding, Prompt.of([(size[1] / 2, size[0] / 2, True)]), candidates=1)
    assert answer.masks.shape == (1, *size)


def test_a_thumbnail_is_the_image_small_with_black_padding(tiny: Segmenter) -> None:
    image = np.zeros((300, 600, 3), np.uint8)
    image[:, 300:] = (200, 100, 50)
    embedding = tiny.embed(image)
    assert embedding.thumbnail.shape == (256, 256, 3) and embedding.extent(256) == (128, 256)
    assert embedding.thumbnail[:128, 128:].reshape(-1, 3).tolist() == [[200, 100, 50]] * 128 * 128
    assert not embedding.thumbnail[:128, :128].any() and not embedding.thumbnail[128:].any()


def test_two_threads_with_two_images_get_what_one_alone_gets(tiny: Segmenter, pits: list[Pit]) -> None:
    others = [Prompt.of(box=(50, 60, 200, 300)), Prompt.of([(9, 9, False), (300, 200, True)])]
    two = (pits[0], pits[-1])
    prompts = [[Prompt.of([pit.click]), *others] for pit in two]
    alone = [[tiny.segment(pit.embedding, prompt) for prompt in asked] for pit, asked in zip(two, prompts, strict=True)]

    def ask(i: int) -> list[bool]:
        same = []
        for turn in range(50):
            known = alone[i][turn % 3]
            found = tiny.segment(two[i].embedding, prompts[i][turn % 3])
            fields = [name for name in vars(known) if name != "mask_logits"]
            same.append(all(np.array_equal(vars(found)[name], vars(known)[name]) for name in fields))
            cuts = zip(found.mask_logits, known.mask_logits, strict=True)
            same.append(all(np.array_equal(a.logits, b.logits) and a.window == b.window for a, b in cuts))
        return same

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(ask, range(2))
    assert len(first) == len(second) == 100 and all(first) and all(second)
    assert not np.array_equal(alone[0][1].masks, alone[1][1].masks)


def test_two_threads_embed_what_one_alone_embeds(tiny: Segmenter, pits: list[Pit]) -> None:
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda pit: tiny.embed(pit.image), pits[:6]))
    for pit, embedding in zip(pits, found, strict=False):
        np.testing.assert_array_equal(embedding.features, pit.embedding.features)
