"""Loss functions of the domain decoder."""

from torch import Tensor


def crop_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy plus soft Dice loss of the labels, a scalar.

    `logits` (B, L + 1, h, w); `targets` (B, L + 1, h, w): each cell's share of every class, all zero where ignored.
    """
    known = targets.sum(1, keepdim=True)
    entropy = -(targets * logits.log_softmax(1)).sum() / known.sum().clamp(min=1)
    p, t = (logits.softmax(1) * known)[:, 1:], targets[:, 1:]
    dice = 1 - (2 * (p * t).sum((0, 2, 3)) + 1) / (p.sum((0, 2, 3)) + t.sum((0, 2, 3)) + 1)
    return entropy + dice.mean()


def distance_loss(logits: Tensor, distance: Tensor) -> Tensor:
    """Mean absolute error of the distance to the boundary over the cells of known objects, a scalar.

    `logits` (B, 1, h, w); `distance` (B, 1, h, w) in [0, 1], negative where it is not known.
    """
    known = distance >= 0
    error = (logits.sigmoid() - distance).abs() * known
    return error.sum() / known.sum().clamp(min=1)
