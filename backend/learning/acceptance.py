"""Which annotations are learned from, by the settings `accept` and `consensus`."""

from collections.abc import Sequence

from skylight.backend.store.samples import SampleRecord


def accepted(records: Sequence[SampleRecord], accept: str) -> list[SampleRecord]:
    """The samples that count, by `Settings.accept`; all of them were submitted."""
    if accept == "submitted":
        return list(records)
    return [record for record in records if (record.reviewed if accept == "reviewed" else record.ground_truth)]


def by_task(records: Sequence[SampleRecord], consensus: str) -> list[list[SampleRecord]]:
    """Each task's samples that are learned from, the newest first: that one alone, unless the majority counts.

    A task whose image was replaced has samples of two images; those of the newest one's image vote.
    """
    tasks: dict[int, list[SampleRecord]] = {}
    for record in sorted(records, key=lambda each: (each.updated_at, each.annotation), reverse=True):
        tasks.setdefault(record.task, []).append(record)
    voting = [[each for each in task if each.image == task[0].image] for _, task in sorted(tasks.items())]
    return voting if consensus == "majority" else [task[:1] for task in voting]
