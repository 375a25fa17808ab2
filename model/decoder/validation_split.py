"""The split into training and validation images, fixed by a hash of each image, so that no image changes sides."""

import hashlib
from collections.abc import Iterable

VALIDATION_SHARE = 0.2


def sort_key(name: str) -> bytes:
    """The sha256 of a name: an order that depends on nothing else."""
    return hashlib.sha256(name.encode()).digest()


def in_validation(group: str) -> bool:
    """Whether an image, by its `Sample.group`, validates instead of trains, in however many tasks it is."""
    return sort_key(group)[0] < 256 * VALIDATION_SHARE


def parts(groups: Iterable[str], count: int) -> list[list[str]]:
    """`count` parts of the images, as equal as can be: halves, or the folds of a cross-validation."""
    order = sorted(set(groups), key=sort_key)
    return [order[part::count] for part in range(count)]
