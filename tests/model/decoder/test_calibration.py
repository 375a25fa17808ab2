"""Temperature and calibration error."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from skylight.model.decoder import calibration
from skylight.model.decoder.edge_refinement import FOREGROUND_LOGIT_BIAS
from skylight.model.decoder.held_out import HeldOut
from skylight.model.masks.label_map import IGNORE
from tests.model.decoder.made_up import Overconfident, config, right_in


@pytest.mark.parametrize("already", [1.0, 2.5])
def test_the_temperature_makes_probabilities_as_high_as_they_are_right(already: float) -> None:
    """Right in 7/8 of the pixels: odds of 7, of which the bias is given; whatever its temperature is now."""
    held = HeldOut(("pit",))
    held.add(Overconfident(replace(config(), temperature=already)), right_in(0.75))
    held.add(Overconfident(replace(config(), temperature=already)), right_in(1.0))
    assert held.temperature() == pytest.approx(8 / (np.log(7) - FOREGROUND_LOGIT_BIAS), rel=0.03)
    assert held.ece(1.0) == pytest.approx(1 / 8, abs=0.001)
    assert held.ece(held.temperature()) < 0.01


def test_ignored_pixels_do_not_count_against_the_probabilities() -> None:
    held = HeldOut(("pit",))
    held.add(Overconfident(config()), right_in(0.75, wrong=IGNORE))
    assert held.temperature() == pytest.approx(0.5) and held.ece(1.0) < 0.001


def test_of_no_known_pixel_the_temperature_is_neutral() -> None:
    nothing = HeldOut(("pit",))
    assert nothing.temperature() == 1 and nothing.ece() == 0
    nothing.add(Overconfident(config()), replace(right_in(0.5), label_map=np.full((64, 64), IGNORE, np.uint8)))
    assert nothing.temperature() == 1 and nothing.ece() == 0


def test_a_temperature_that_no_number_speaks_for_is_neutral(monkeypatch: pytest.MonkeyPatch) -> None:
    held = HeldOut(("pit",))
    held.add(Overconfident(config()), right_in(0.5))
    monkeypatch.setattr(calibration.F, "cross_entropy", lambda *_: torch.tensor(float("nan")))
    assert held.temperature() == 1


def test_calibration_is_judged_at_the_temperature_that_the_other_half_gives() -> None:
    """One image is right everywhere, the other nowhere: what fits the one is worst for the other."""
    held = HeldOut(("pit",))
    for share in (0.0, 1.0):
        held.add(Overconfident(config()), right_in(share))
    assert held.ece() > held.ece(held.temperature()) + 0.1
    assert held.ece(least=5.0) < held.ece()
