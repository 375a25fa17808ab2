"""Made-up samples of few cells, whose features say which label is where."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skylight.model.decoder.network import DecoderConfig, DomainDecoder
from skylight.model.decoder.samples import Sample, cell_shares, dense_targets
from skylight.model.decoder.training import Trained
from skylight.model.sam.types import PER_CELL, Embedding

GRID = 8  # cells of the made-up embeddings; 16 times fewer than the tiny SAM's, so that a step takes milliseconds

SIDE = PER_CELL * GRID  # of their thumbnails and targets


def made_up(seed: int, labels: int = 1, size: tuple[int, int] = (64, 64)) -> Sample:
    """A sample whose features say which label is where: channel k is 3 in the cells of class k; one object each."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(256, GRID, GRID)).astype(np.float16) * 0.3
    embedding = Embedding(features, size, np.zeros((SIDE, SIDE, 3), np.uint8))
    rows, columns = embedding.extent(GRID)
    cells = np.zeros((rows, columns), np.uint8)
    for k in range(1, labels + 1):
        y, x = (2 * rng.integers(n // 2 - 1) for n in (rows, columns))
        cells[y : y + 3, x : x + 3] = k
    for k in range(labels + 1):
        embedding.features[k, :rows, :columns] += 3 * (cells == k)
    label_map = cells.repeat(-(-size[0] // rows), 0).repeat(-(-size[1] // columns), 1)[: size[0], : size[1]]
    return Sample(f"task {seed}", embedding, label_map, label_map.astype(np.uint16))


def soft_targets(sample: Sample, labels: int) -> NDArray[np.float32]:
    """Each cell's share of every class, (labels + 1, 8h, 8w)."""
    known = (torch.from_numpy(each)[None] for each in cell_shares(sample))
    return dense_targets(*known, torch.arange(labels + 1), labels)[0].numpy()


def sample_of(label_map: NDArray[np.uint8], instances: NDArray[np.uint16] | None = None) -> Sample:
    embedding = Embedding(np.zeros((256, GRID, GRID), np.float16), label_map.shape, np.zeros((SIDE, SIDE, 3), np.uint8))
    return Sample("t", embedding, label_map, instances)


def config(*labels: str) -> DecoderConfig:
    return DecoderConfig(labels or ("pit",), "made-up", channels=32)


def weights(trained: Trained) -> dict[str, Tensor]:
    return trained.decoder.state_dict()


class Overconfident(DomainDecoder):
    """Says label 1 everywhere, by 8 in the logits."""

    def forward(self, features: Tensor, picture: Tensor, detail: Tensor | None = None) -> tuple[Tensor, Tensor]:
        logits = torch.full((1, 2, *picture.shape[2:]), -4.0)
        logits[:, 1] = 4
        return logits, logits[:, :1]


def right_in(share: float, wrong: int = 0) -> Sample:
    label_map = np.full((64, 64), wrong, np.uint8)
    label_map[: round(64 * share)] = 1
    return Sample(f"right in {share}", made_up(0).embedding, label_map)
