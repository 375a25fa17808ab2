"""The gate: which differences in IoU hold a version back."""

from skylight.backend.learning.gate import compare_scores


def test_the_verdict_names_difference_error_and_images() -> None:
    new, served = {"1": 0.5, "2": 0.7, "3": 0.1}, {"1": 0.6, "2": 0.9, "4": 0.9}
    verdict = "kept back: mean IoU -0.1500 ± 0.0500 against the current version's, on 2 pictures"
    assert compare_scores(new, served, "pictures", 2) == (verdict, False)
    assert compare_scores(served, new, "pictures", 2) == (
        verdict.replace("kept back", "promoted").replace("-", "+"),
        True,
    )


def test_fewer_images_than_enough_decide_nothing() -> None:
    verdict, promoted = compare_scores({"1": 0.1, "2": 0.5}, {"1": 0.9, "3": 0.5}, "pictures", 2)
    assert promoted and verdict == "promoted: to compare it with the current version takes 2 pictures, not 1"
    assert not compare_scores({"1": 0.1, "2": 0.5}, {"1": 0.9, "2": 0.9}, "pictures", 2)[1]
