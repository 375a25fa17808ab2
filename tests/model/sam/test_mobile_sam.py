"""MobileSAM's network: the same numbers as its authors' code, and what must hold where that is missing."""

import io
import warnings
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from skylight.model.sam.checkpoints import CHECKPOINTS
from skylight.model.sam.mobile_sam import Attention, Block, build_mobile_sam, offset_index
from skylight.model.sam.segment_anything_import import Sam
from tests.support.random_weights import random_weights


@pytest.fixture(scope="module")
def sam() -> Sam:
    network = build_mobile_sam()
    network.load_state_dict(random_weights(network, seed=1))
    return network


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def embedding(sam: Sam, image: Tensor) -> Tensor:
    with torch.no_grad():
        encoded: Tensor = sam.image_encoder(image)
    return encoded


@pytest.fixture(scope="module")
def official() -> Sam:
    """The authors' network (packages mobilesam-mirror and timm), with its own random weights."""
    with warnings.catch_warnings():  # it imports names that timm deprecates, and registers timm's names again
        warnings.simplefilter("ignore")
        mobile_sam = pytest.importorskip("mobile_sam", reason="needs mobilesam-mirror and timm, the authors' code")
    return mobile_sam.sam_model_registry["vit_t"]()


def test_the_state_dict_has_the_keys_and_shapes_of_the_authors_network(official: Sam) -> None:
    ours = {key: value.shape for key, value in build_mobile_sam().state_dict().items()}
    assert ours == {key: value.shape for key, value in official.state_dict().items()}


@torch.no_grad()
def test_embedding_and_masks_are_those_of_the_authors_network(
    official: Sam, sam: Sam, image: Tensor, embedding: Tensor
) -> None:
    official.load_state_dict(sam.state_dict())
    official.eval()  # their copy of the attention biases is renewed only here
    theirs = official.image_encoder(image)
    assert theirs.std() > 0.1
    assert (embedding - theirs).abs().max() < 1e-4
    for expected, actual in zip(_decode(official, theirs), _decode(sam, embedding), strict=True):
        assert (actual - expected).abs().max() < 1e-4 * expected.abs().max()


def _decode(network: Sam, embedding: Tensor) -> tuple[Tensor, Tensor]:
    """Masks and scores for a positive click at (300, 500)."""
    points = torch.tensor([[[300.0, 500.0]]]), torch.tensor([[1]])
    sparse, dense = network.prompt_encoder(points=points, boxes=None, masks=None)
    position = network.prompt_encoder.get_dense_pe()
    masks, scores = network.mask_decoder(embedding, position, sparse, dense, multimask_output=True)
    return masks, scores


@torch.no_grad()
def test_an_image_becomes_256_channels_on_a_64_by_64_grid(sam: Sam, embedding: Tensor) -> None:
    assert embedding.shape == (1, 256, 64, 64)
    masks, scores = _decode(sam, embedding)
    assert masks.shape == (1, 3, 256, 256) and scores.shape == (1, 3)


def test_it_is_built_for_inference() -> None:
    assert not any(module.training for module in build_mobile_sam().modules())


def test_the_weights_fill_the_published_file() -> None:
    file = io.BytesIO()
    torch.save(build_mobile_sam().state_dict(), file)
    # Not to the byte: the archive's own entries depend on the file's name and the version of torch.
    assert abs(len(file.getvalue()) - CHECKPOINTS["mobile_sam"].size_bytes) < 8_000


@torch.no_grad()
def test_saved_weights_give_the_same_embedding_in_another_network(
    sam: Sam, image: Tensor, embedding: Tensor, tmp_path: Path
) -> None:
    torch.save(sam.state_dict(), tmp_path / "weights.pt")
    other = build_mobile_sam()
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.allclose(other.image_encoder(image), embedding, atol=1e-5)


@pytest.mark.parametrize("side", [7, 14])
def test_distances_are_numbered_as_they_first_occur(side: int) -> None:
    numbers: dict[tuple[int, int], int] = {}
    cells = list(product(range(side), repeat=2))
    expected = [[numbers.setdefault((abs(a - c), abs(b - d)), len(numbers)) for c, d in cells] for a, b in cells]
    assert torch.equal(offset_index(side), torch.tensor(expected))


@torch.no_grad()
def test_attention_is_softmax_of_scaled_products_plus_the_bias_of_the_distance() -> None:
    attention = Attention(dim=8, heads=2, side=2)
    attention.load_state_dict(random_weights(attention, seed=3))
    x = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(4))
    columns = attention.qkv(attention.norm(x))[0]
    mixed = []
    for head in range(2):
        query, key, value = (columns[:, 12 * head + 4 * part :][:, :4] for part in range(3))
        scores = query @ key.T / 2  # the square root of 4 channels a head
        for a, b in product(range(4), repeat=2):
            down, right = abs(a // 2 - b // 2), abs(a % 2 - b % 2)
            scores[a, b] += attention.attention_biases[head, 2 * down + right]
        mixed.append(scores.softmax(1) @ value)
    assert torch.allclose(attention(x)[0], attention.proj(torch.cat(mixed, 1)), atol=1e-5)


@torch.no_grad()
def test_windows_do_not_see_each_other_but_see_the_zeros_that_fill_them() -> None:
    block = Block(dim=8, heads=2, side=3)
    block.load_state_dict(random_weights(block, seed=5))
    x = torch.randn(1, 8, 5, 4, generator=torch.Generator().manual_seed(6))
    before = block.attend(x)
    assert before.shape == x.shape
    changed = x.clone()
    changed[:, 0, 1, 3] += 1.0  # upper right window: rows 0-2, column 3, and two columns of zeros
    differs = (block.attend(changed) - before).abs().sum(1)[0] > 1e-6
    assert differs[:3, 3].all() and differs.sum() == 3
    filled = torch.zeros(1, 8, 6, 6)
    filled[..., :5, :4] = x
    assert torch.allclose(block.attend(filled)[..., :5, :4], before, atol=1e-6)
