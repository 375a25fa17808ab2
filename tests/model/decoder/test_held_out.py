"""Scores on held-out images, and their standard error."""

from dataclasses import replace

import numpy as np
import pytest

from skylight.model.decoder.held_out import HeldOut
from tests.model.decoder.made_up import Overconfident, config, right_in


def test_scores_are_known_by_task_and_over_all() -> None:
    held = HeldOut(("pit",))
    for share in (0.25, 0.75):
        held.add(Overconfident(config()), right_in(share))
    assert held.per_task == {"right in 0.25": 0.25, "right in 0.75": 0.75}
    assert held.scores.mean == 0.5 and held.scores.images == 2


def test_the_error_is_that_of_leaving_each_image_out() -> None:
    held = HeldOut(("pit",))
    shares = (0.25, 0.5, 1.0)
    for share in shares:
        held.add(Overconfident(config()), right_in(share))
    without = [sum(shares) - share for share in shares]  # as all have one size: of twice its pixels
    assert held.error == pytest.approx(np.sqrt(2 * np.var(np.array(without) / 2)), abs=1e-6)
    alone = HeldOut(("pit",))
    alone.add(Overconfident(config()), right_in(0.5))
    assert alone.error is None


def test_an_image_in_two_tasks_is_one_of_those_that_the_error_is_of() -> None:
    held = HeldOut(("pit",))
    for task in "ab":
        held.add(Overconfident(config()), replace(right_in(0.5), task=task, image="same"))
    assert held.error is None and held.per_task.keys() == {"a", "b"} and held.images == {"same"}
