"""Annotations of a Label Studio export, for a project that has their labels."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from skylight.backend.errors import BadRequest
from skylight.backend.importing.json_items import item_at, read_text, walk
from skylight.backend.importing.targets import NAMED, Labelled, Made, Project, Size, other_size
from skylight.backend.labelstudio.image_urls import value_at
from skylight.backend.labelstudio.label_config import POINT, Control, find_label
from skylight.backend.labelstudio.region_reader import (
    READABLE,
    EmptyRegion,
    Item,
    has_shape,
    is_open,
    is_region,
    label_of,
    read_mask,
    size_of,
)
from skylight.backend.labelstudio.region_writer import Region
from skylight.model.masks.region import MaskRegion

RELATION = "relation"


def exported(source: Path, project: Project) -> list[Labelled]:
    """The tasks of an export as JSON that have annotations; skipped ones are none.

    A region stays as it is where the project has its control and label; a mask of another control is drawn anew. Other
    regions of controls that the project lacks, such as key points that have been prompts, are left out. Raises
    BadRequest, which says what it is, if anything else has no place in the project, or it is no such export, JsonError,
    and OSError.
    """
    text, found = read_text(source), []
    problems: dict[str, None] = {}

    def made(at: int, size: Size) -> list[Made]:
        return [_made(one, project, size) for one in _annotations(source, item_at(text, at))]

    for _, task, at in walk(text):
        annotations = _annotations(source, task)
        for one in annotations:
            problems.update((each, None) for region in one["result"] if (each := _problem(region, project)))
        if annotations:
            found.append(Labelled(source, _address(source, task, project), partial(made, at), whole=True))
    if problems:
        shown = "; ".join(list(problems)[:NAMED]) + ("; .." if len(problems) > NAMED else "")
        raise BadRequest(
            f"{source} has {shown}. Add it to the labeling configuration, or give --rename OLD=NEW for a label, or "
            "--leave-out CONTROL"
        )
    return found


def _annotations(source: Path, task: Any) -> list[dict[str, Any]]:
    """A task's annotations that were not skipped."""
    if isinstance(task, dict) and isinstance(task.get("data"), dict) and isinstance(task.get("annotations"), list):
        given = task["annotations"]
        if all(isinstance(one, dict) and isinstance(one.get("result"), list) for one in given):
            return [one for one in given if not one.get("was_cancelled")]
    if isinstance(task, dict) and "data" not in task and "annotator" in task:
        raise BadRequest(f"{source} is JSON_MIN, which lacks the regions' controls and sizes; export it as JSON")
    raise BadRequest(f"{source} is not an export of Label Studio as JSON: each item must have data and annotations")


def _address(source: Path, task: Mapping[str, Any], project: Project) -> str:
    """Where a task's picture is, of several the first."""
    key = project.labeling.data_key
    found = value_at(task["data"], key)
    found = found[0] if isinstance(found, list) and found else found
    if not isinstance(found, str):
        raise BadRequest(
            f"{source}: task {task.get('id')} has no {key!r} in its data, where the project's pictures are"
        )
    return found


def _problem(region: Any, project: Project) -> str:
    """What of a region has no place in the project, "" if all has, or if it may be left out."""
    if not isinstance(region, dict):
        return f"a region that is no object, {str(region)[:40]!r}"
    kind = region.get("type")
    if kind == RELATION or _control(region, project) or _left_out(region, project):
        return ""
    if kind in READABLE and project.label(label_of(region)) is not None:
        return ""
    shown = f" with {', '.join(map(repr, names))}" if (names := _names(region)) else ""
    return f"{kind} of {region.get('from_name')!r}{shown}, which the project does not have"


def _left_out(region: Item, project: Project) -> str:
    """What a region is that is not imported, "" if it is: a prompt or a line that no control of the project takes."""
    kind, control = str(region.get("type")), str(region.get("from_name"))
    what = f"{kind} of {control!r}"
    if control in project.leave_out:
        return what
    if _control(region, project) or not is_region(kind):
        return ""
    return what if kind not in READABLE or is_open(region) else ""


def _control(region: Item, project: Project) -> Control | None:
    """The project's control that a region can stay with: of its name, type and image, with all its labels."""
    control = project.controls.get(str(region.get("from_name")))
    if control is None or control.type != region.get("type") or region.get("to_name") not in control.to:
        return None
    return control if all(_spelled(name, control, project) is not None for name in _names(region)) else None


def _names(region: Item) -> list[str]:
    """A region's labels or choices."""
    kind, value = str(region.get("type")), region.get("value")
    names = value.get(kind) if isinstance(value, Mapping) and kind.endswith(("labels", "choices")) else None
    return [str(name) for name in names] if isinstance(names, list) else []


def _spelled(name: str, control: Control, project: Project) -> str | None:
    """The control's own name of a label, "" if it is to be left out, None if it does not have it."""
    name = project.renamed(name)
    if not name or not control.labels:  # those without labels of their own take them from the task
        return name
    at = find_label(name, control.labels, [()] * len(control.labels))
    return None if at is None else control.labels[at]


def _made(annotation: Mapping[str, Any], project: Project, size: Size) -> Made:
    result: list[Region] = []
    left_out = []
    lost = 0
    for region in annotation["result"]:
        if region.get("type") == RELATION:
            result.append(region)
        elif what := _left_out(region, project):
            left_out.append(what)
        else:
            try:
                placed = _placed(region, project, size)
            except EmptyRegion:
                placed = None
            lost += placed is None
            result += placed or ()
    ids = {region.get("id") for region in result}
    kept = [one for one in result if one.get("type") != RELATION or {one.get("from_id"), one.get("to_id")} <= ids]
    return Made(kept, bool(annotation.get("ground_truth")), lost, tuple(left_out))


def _placed(region: Region, project: Project, size: Size) -> Sequence[Region] | None:
    """A region as it is, if it can stay, else drawn anew by the control that has its label here; None without a pixel.

    Raises EmptyRegion, too, if it was never drawn.
    """
    own = region.get("to_name") == project.labeling.image and not region.get("item_index")
    if own and ("original_width" in region or "original_height" in region or is_region(str(region.get("type")))):
        if size_of(region, size) != size:
            raise BadRequest(f"region {region.get('id')!r}: {other_size(size_of(region, size), size)}")
        region = _sized(region, size)
    if control := _control(region, project):
        if region.get("type") in READABLE and not has_shape(region):
            return None
        names = _names(region)
        kept = [name for each in names if (name := _spelled(each, control, project))]
        if kept == names:
            return [region]
        return [{**region, "value": {**region["value"], str(region["type"]): kept}}] if kept else []
    label = project.label(label_of(region))
    if not label:
        return []
    drawn = project.regions(label, MaskRegion.of(read_mask(region, size), 0), size)
    return [{**each, "id": region.get("id") or each["id"]} if k == 0 else each for k, each in enumerate(drawn)] or None


def _sized(region: Region, size: Size) -> Region:
    """A region with its picture's size, which scripts leave out; what is no shape or point stays as it is."""
    if region.get("type") not in (*READABLE, POINT):
        return region
    return {**region, "original_height": size[0], "original_width": size[1]}
