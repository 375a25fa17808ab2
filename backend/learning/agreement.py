"""A project's history: its learning curve, and how well pre-annotations agreed with the annotations made from them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from skylight.backend.errors import DATA_ERRORS, SkylightError
from skylight.backend.labelstudio.label_config import Labeling
from skylight.backend.labelstudio.label_map import LabelMap, label_map
from skylight.backend.store.samples import SampleRecord
from skylight.model.evaluation.metrics import LabelScores

RECENT = 10  # accepted annotations of which the agreement is averaged
UNCHANGED = 0.98  # IoU from which an annotation counts as accepted as it was: a stroke's rim is redrawn now and then


@dataclass(frozen=True)
class VersionSummary:
    """A version in brief; `mean_iou` and `per_label` in [0, 1], None and empty if it was not measured."""

    number: int
    created_at: datetime
    annotations: int
    mean_iou: float | None
    per_label: Mapping[str, float]
    validated: int  # images it was measured on
    cross_validated: bool
    seconds: float  # of training
    verdict: str
    promoted: bool
    labels: tuple[str, ...]
    error: float | None = None  # standard error of `mean_iou`, None where it is not known


@dataclass(frozen=True)
class Agreement:
    """One accepted annotation and the version whose pre-annotation it began with; IoU in [0, 1]."""

    annotation: int
    task: int
    at: datetime
    version: str
    iou: float


def agreement(shown: Mapping[str, Any] | None, accepted: LabelMap, labeling: Labeling) -> float | None:
    """Mean foreground IoU of an accepted annotation with the pre-annotation shown, in [0, 1]; 1 if both are empty.

    `shown` as by `shown_prediction`. None if nothing was shown, or nothing that can be read.
    """
    if not shown:
        return None
    height, width = accepted.array.shape
    try:
        predicted = label_map(shown["result"], labeling, (height, width))
    except (SkylightError, *DATA_ERRORS):  # a prediction that somebody else wrote, say
        return None
    scores = LabelScores(labeling.labels)
    scores.add(predicted.array, accepted.array)
    return round(scores.mean, 4)


def agreements(records: Iterable[SampleRecord]) -> list[Agreement]:
    """The accepted annotations that began with a pre-annotation, the oldest first."""
    made_from_predictions = [
        Agreement(record.annotation, record.task, moment(record.updated_at), record.shown, record.agreement)
        for record in records
        if record.agreement is not None
    ]
    return sorted(made_from_predictions, key=lambda one: (one.at, one.annotation))


def summarize(card: Mapping[str, Any]) -> VersionSummary:
    """A version in brief, from its card; a card may lack anything but the number."""
    measured = card.get("validation") or {}
    return VersionSummary(
        number=int(card["version"]),
        created_at=moment(card.get("created_at")),
        annotations=len(card.get("annotations") or ()),
        mean_iou=measured.get("mean_iou"),
        per_label=measured.get("iou") or {},
        validated=len(card.get("per_task") or ()),
        cross_validated=bool(card.get("cross_validated")),
        seconds=float(card.get("seconds") or 0),
        verdict=str(card.get("verdict") or ""),
        promoted=bool(card.get("promoted")),
        labels=tuple(card.get("labels") or ()),
        error=measured.get("error"),
    )


def learning_curve(versions: Iterable[VersionSummary]) -> list[VersionSummary]:
    """The measured versions by rising number of annotations."""
    measured = (version for version in versions if version.mean_iou is not None)
    return sorted(measured, key=lambda version: (version.annotations, version.number))


def running_mean(values: Sequence[float], window: int = RECENT) -> list[float]:
    """The mean of each value and up to `window` - 1 before it."""
    return [sum(part) / len(part) for i in range(len(values)) for part in [values[max(i + 1 - window, 0) : i + 1]]]


def moment(text: Any) -> datetime:
    """A time as Label Studio or a card writes it, in UTC; the year 1 for what is none."""
    try:
        when = datetime.fromisoformat(str(text))
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
    return when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)
