"""Simulated prompts of a pretraining step: a first click or box on each object, then correction clicks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from skylight.model.evaluation.simulated_clicks import any_point, correction_click, human_click, loose_box
from skylight.model.pretraining.config import PretrainConfig
from skylight.model.pretraining.data import usable_objects


@dataclass
class Prompts:
    """The prompts of one image's objects, as tensors for `TinySam.decode`; either clicks or boxes."""

    truth: Tensor  # (B, 1, s / 4, s / 4) float32
    masks: NDArray[np.bool_]  # (B, s, s)
    points: Tensor | None  # (B, N, 2)
    labels: Tensor | None  # (B, N)
    boxes: Tensor | None  # (B, 4)
    alternative: Tensor | None = None  # as `truth`: another correct answer to the first click, 0 where there is none


def first_prompts(
    instances: NDArray[np.uint16],
    config: PretrainConfig,
    rng: np.random.Generator,
    alternatives: NDArray[np.uint16] | None = None,
) -> Prompts:
    """A click or a box (one kind for the whole image, so that they make one batch) on some objects.

    `instances` and `alternatives` (s, s) as in `TrainingImage`.
    """
    ids = rng.choice(usable_objects(instances), config.prompts)
    masks = instances[None] == ids[:, None, None]
    truth = _quarter(masks)
    if rng.random() < config.boxes:
        return Prompts(truth, masks, None, None, torch.tensor([loose_box(m, rng) for m in masks]))
    clicks = [human_click(mask, rng) for mask in masks]
    points = torch.tensor(clicks)[:, None]
    alternative = torch.zeros_like(truth)
    if alternatives is not None:
        clicked = np.array([alternatives[int(y), int(x)] for x, y in clicks])
        others = (alternatives[None] == clicked[:, None, None]) & (clicked > 0)[:, None, None]
        alternative = _quarter(others)
    return Prompts(truth, masks, points, torch.ones(len(ids), 1), None, alternative)


def _quarter(masks: NDArray[np.bool_]) -> Tensor:
    """(B, s, s) -> (B, 1, s / 4, s / 4) float32: the share of each cell that a mask covers."""
    return F.avg_pool2d(torch.from_numpy(masks[:, None].astype(np.float32)), 4)


def concatenate(prompts: Sequence[Prompts]) -> Prompts:
    """The prompts of several images, all clicks or all boxes, as one batch."""

    def joined(parts: Sequence[Tensor | None]) -> Tensor | None:
        given = [part for part in parts if part is not None]
        return torch.cat(given) if given else None

    return Prompts(
        torch.cat([part.truth for part in prompts]),
        np.concatenate([part.masks for part in prompts]),
        joined([part.points for part in prompts]),
        joined([part.labels for part in prompts]),
        joined([part.boxes for part in prompts]),
        joined([part.alternative for part in prompts]),
    )


def add_corrections(prompts: Prompts, logits: Tensor, rng: np.random.Generator) -> Prompts:
    """One more click each, in the larger of the two errors of the answer. `logits` (B, s / 4, s / 4)."""
    answers = (F.interpolate(logits[:, None], scale_factor=4.0, mode="bilinear")[:, 0] > 0).cpu().numpy()
    clicks = [
        correction_click(answer, mask, rng, central=rng.random() < 0.5) or (*any_point(mask, rng), True)
        for answer, mask in zip(answers, prompts.masks, strict=True)
    ]
    more = torch.tensor([click[:2] for click in clicks])[:, None]
    sign = torch.tensor([float(click[2]) for click in clicks])[:, None]
    if prompts.points is None or prompts.labels is None:
        return Prompts(prompts.truth, prompts.masks, more, sign, prompts.boxes)
    points, signs = torch.cat([prompts.points, more], 1), torch.cat([prompts.labels, sign], 1)
    return Prompts(prompts.truth, prompts.masks, points, signs, prompts.boxes)
