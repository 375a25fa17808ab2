"""Many labels: of each pixel the likeliest few, as a plane for each label would say; memory that does not grow."""

import tracemalloc

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from skylight.backend.web.page.gallery_overlays import predict_labels
from skylight.model.decoder import ranked_labels
from skylight.model.decoder.inference import MOST_PLANES, Prediction, instances, predict, predict_pixels
from skylight.model.decoder.network import MOST_LABELS, DecoderConfig, DomainDecoder
from skylight.model.decoder.ranked_labels import RANKS, add
from skylight.model.mapping.component_merging import LabelMap
from skylight.model.mapping.tiled_inference import Strip
from skylight.model.sam.types import Embedding

GRID = 32  # cells of the made-up embeddings, as of the tiny SAM's


def made_up(size: tuple[int, int], grid: int = GRID) -> Embedding:
    """An embedding that changes slowly from cell to cell, as of a picture."""
    rng = np.random.default_rng(0)
    features = 6 * ndimage.gaussian_filter(rng.normal(size=(256, grid, grid)), (0, 3, 3))
    thumbnail = ndimage.gaussian_filter(rng.integers(0, 255, (8 * grid, 8 * grid, 3)), (6, 6, 0))
    return Embedding(features.astype(np.float16), size, thumbnail.astype(np.uint8))


def decoder_of(labels: int, separate: tuple[str, ...] = ()) -> DomainDecoder:
    """An untrained decoder of many minds."""
    torch.manual_seed(0)
    names = tuple(f"label {k}" for k in range(labels))
    network = DomainDecoder(DecoderConfig(names, "made-up", channels=32, separate=separate, temperature=1.3)).eval()
    with torch.no_grad():
        network.head.weight.mul_(6)
    return network.requires_grad_(False)


@pytest.mark.parametrize("size", [(256, 256), (100, 171), (300, 90)])
@pytest.mark.parametrize("labels", [MOST_PLANES, 40])
def test_it_says_what_a_plane_for_each_label_would_say(size: tuple[int, int], labels: int) -> None:
    network, embedding = decoder_of(labels), made_up(size)
    said, dense = predict_pixels(network, embedding), predict(network, embedding)
    assert said.probabilities.shape == (RANKS + 1, *size) and said.classes is not None
    winner = dense.argmax(0)
    assert len(np.unique(winner)) > 1 and (said.winner == winner).mean() > 0.995
    assert np.abs(said.probabilities[0] - dense[0]).max() < 0.1
    surest = np.abs(said.probabilities.max(0) - dense.max(0))
    assert np.quantile(surest, 0.99) < 0.05
    likeliest = int(np.bincount(winner[winner > 0]).argmax())
    inside = winner == likeliest
    assert np.abs(said.of(likeliest - 1) - dense[likeliest])[inside].mean() < 0.01
    assert said.confidence == pytest.approx(Prediction(dense, said.distance, frozenset()).confidence, abs=0.01)


def test_few_labels_have_a_plane_each() -> None:
    network, embedding = decoder_of(MOST_PLANES - 1), made_up((64, 64))
    said = predict_pixels(network, embedding)
    assert said.classes is None and np.array_equal(said.probabilities, predict(network, embedding))


def peak(network: DomainDecoder, embedding: Embedding, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Bytes that a prediction holds, and the cells x labels that its enlarged planes have at most."""
    planes = [0]
    real = ranked_labels.edge_refinement.with_background

    def seen(odds: torch.Tensor) -> torch.Tensor:
        planes[0] = max(planes[0], odds.numel())
        return real(odds)

    monkeypatch.setattr(ranked_labels.edge_refinement, "with_background", seen)
    tracemalloc.start()
    said = predict_pixels(network, embedding)
    for _ in instances(said, 64):
        pass
    held = said.probabilities.nbytes + (0 if said.classes is None else said.classes.nbytes)
    top = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    monkeypatch.undo()
    return max(held, top), planes[0]


def test_memory_does_not_grow_with_the_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    embedding = made_up((512, 512))
    (few, planes), *many = (peak(decoder_of(labels), embedding, monkeypatch) for labels in (10, 150, MOST_LABELS))
    assert planes == 10 * 512 * 512
    for bytes_held, enlarged in many:
        assert bytes_held < 1.5 * few and enlarged < 1.5 * planes


def test_a_picture_for_the_page_is_drawn_of_many_labels() -> None:
    network, embedding = decoder_of(40), made_up((120, 200))
    found, dense = predict_labels(network, embedding, (120, 200)), decoder_of(40)(*inputs(embedding))[0]
    rows, columns = embedding.extent(dense.shape[-1])
    scaled = torch.nn.functional.interpolate(dense[..., :rows, :columns], (120, 200), mode="bilinear")
    assert np.array_equal(found, scaled[0].argmax(0).numpy())


def inputs(embedding: Embedding) -> tuple[torch.Tensor, torch.Tensor]:
    picture = torch.from_numpy(embedding.thumbnail).permute(2, 0, 1)[None].float() / 127.5 - 1
    return torch.from_numpy(embedding.features)[None].float(), picture


def test_more_labels_than_a_label_map_can_hold_are_refused() -> None:
    DecoderConfig(tuple(map(str, range(MOST_LABELS))), "made-up")
    with pytest.raises(ValueError, match="at most 254 labels apart, not 255"):
        DecoderConfig(tuple(map(str, range(MOST_LABELS + 1))), "made-up")


def ranks(*pairs: tuple[int, float]) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    """One pixel's planes: of the background 0.1, and some labels' probabilities."""
    shares, classes = np.zeros((RANKS + 1, 1, 1), np.float16), np.zeros((RANKS + 1, 1, 1), np.uint8)
    shares[0] = 0.1
    for k, (label, share) in enumerate(pairs, 1):
        shares[k], classes[k] = share, label
    return shares, classes


def test_where_tiles_overlap_a_label_is_added_up_and_the_likeliest_stay() -> None:
    held, classes = ranks((7, 0.3), (9, 0.05), (3, 0.04), (5, 0.01))
    more, theirs = ranks((9, 0.2), (7, 0.1), (8, 0.06), (6, 0.005))
    add(held, classes, more, theirs)
    found = dict(zip(classes[1:, 0, 0].tolist(), held[1:, 0, 0].tolist(), strict=True))
    assert found == pytest.approx({7: 0.4, 9: 0.25, 3: 0.04, 8: 0.06}, abs=1e-3)
    assert held[0, 0, 0] == pytest.approx(0.2, abs=1e-3)


def test_a_map_of_many_labels_has_their_objects(tmp_path) -> None:
    """In strips of 4 rows: one object goes through three of them, of another label there is nothing between two."""
    classes = np.zeros((12, 20), np.uint8)
    classes[:, 2:6], classes[0:3, 10:14], classes[9:12, 10:14] = 200, 7, 7
    found = LabelMap(classes.shape, MOST_LABELS, folder=tmp_path)
    strips = []
    for top in range(0, 12, 4):
        part = classes[top : top + 4]
        shares, names = np.zeros((RANKS + 1, *part.shape), np.float16), np.zeros((RANKS + 1, *part.shape), np.uint8)
        shares[0], shares[1], names[1] = part == 0, part > 0, part
        strips.append(Strip(top, shares, np.zeros(part.shape, np.float16), np.ones(part.shape, bool), names))
    list(found.fill(strips))
    assert np.array_equal(found.classes.read((0, 0, 12, 20)), classes)
    objects = sorted((each.label, each.area) for each in found.objects(1))
    assert objects == [(6, 12), (6, 12), (199, 48)]
    found.close()
