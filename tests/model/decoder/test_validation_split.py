"""The validation split."""

from skylight.model.decoder.validation_split import in_validation


def test_validation_is_about_a_fifth_of_all_tasks_and_always_the_same() -> None:
    chosen = [task for task in range(5000) if in_validation(str(task))]
    assert 0.18 < len(chosen) / 5000 < 0.23
    assert chosen[:5] == [8, 9, 39, 46, 47]  # another split than this would mix training images into validation
