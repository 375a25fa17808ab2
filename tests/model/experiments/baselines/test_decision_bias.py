"""The odds of rare labels."""

import numpy as np

from skylight.model.experiments.baselines.decision_bias import best_bias


def test_odds_lift_a_label_that_argmax_never_chooses() -> None:
    found = np.array([[0.9, 0.1]] * 90 + [[0.7, 0.3]] * 10)
    classes = np.repeat([0, 1], [90, 10]).astype(np.uint8)
    odds, reached = best_bias(found, classes, np.ones(100))
    assert reached == 1
    np.testing.assert_array_equal((found * odds).argmax(1), classes)


def test_odds_weigh_rows_by_what_they_stand_for() -> None:
    """One in ten of the doubtful rows is the label's; where each of these stands for 50, they are worth choosing."""
    found = np.array([[0.6, 0.4]] * 10 + [[0.1, 0.9]] * 5)
    classes = np.array([1] + [0] * 9 + [1] * 5, np.uint8)
    for weight, doubtful in ((1.0, 0), (50.0, 1)):
        odds, _ = best_bias(found, classes, np.where(np.arange(15) == 0, weight, 1.0))
        assert (found[0] * odds).argmax() == doubtful
