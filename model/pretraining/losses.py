"""Loss of the tiny SAM's masks and of its predicted IoUs."""

import torch.nn.functional as F
from torch import Tensor

TRUST = 0.05  # temperature of the softmax over predicted IoUs that weights the mask with the highest one


def mask_loss(
    logits: Tensor, predicted: Tensor, truth: Tensor, alternative: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Loss of a batch of prompts' three masks, and the mean IoU of the masks with the highest predicted IoU.

    `logits` (B, 3, h, w), `predicted` IoU (B, 3), `truth` (B, 1, h, w) in [0, 1]. 20 x focal + Dice of the best
    mask, as SAM (arXiv 2304.02643, appendix A), and half of that of the mask with the highest predicted IoU; plus 2 x
    squared error of all predicted IoUs (a weight of 1 let the IoU head lag behind). `alternative`, as `truth`, is
    another correct answer, all 0 where there is none: half of the loss of the mask that fits it best is added.
    """
    target = truth.expand_as(logits)
    losses = _focal_and_dice(logits, target)
    answered, correct = logits > 0, target > 0.5
    iou = (answered & correct).sum((2, 3)) / (answered | correct).sum((2, 3)).clamp(min=1)
    trusted = (losses * (predicted.detach() / TRUST).softmax(1)).sum(1)
    loss = losses.min(1).values.mean() + 0.5 * trusted.mean() + 2 * ((predicted - iou) ** 2).mean()
    if alternative is not None:
        exists = alternative.amax((1, 2, 3)) > 0
        loss = loss + 0.5 * (_focal_and_dice(logits, alternative.expand_as(logits)).min(1).values * exists).mean()
    return loss, iou.gather(1, predicted.argmax(1, keepdim=True)).mean()


def _focal_and_dice(logits: Tensor, target: Tensor) -> Tensor:
    """20 x focal loss + Dice loss of each mask: (B, 3, h, w) logits and targets in [0, 1] -> (B, 3)."""
    p = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    weight = 0.25 * target + 0.75 * (1 - target)
    focal = (weight * (p - target).abs() ** 2 * entropy).mean((2, 3)) * 20 * 4
    dice = 1 - (2 * (p * target).sum((2, 3)) + 1) / (p.sum((2, 3)) + target.sum((2, 3)) + 1)
    return focal + dice
