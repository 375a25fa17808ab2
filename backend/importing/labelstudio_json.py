"""Annotations of a Label Studio export as JSON, for a project that has their labels."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from skylight.backend.errors import BadRequest
from skylight.backend.importing.json_items import item_at, read_text, walk
from skylight.backend.importing.targets import (
    MAX_NAMES_SHOWN,
    LabeledImage,
    NewAnnotation,
    Size,
    TargetProject,
    size_mismatch,
)
from skylight.backend.labelstudio.image_urls import value_at
from skylight.backend.labelstudio.label_config import POINT, Control, find_label
from skylight.backend.labelstudio.region_fields import Region, image_size, label_of
from skylight.backend.labelstudio.region_reader import (
    READABLE_TYPES,
    EmptyRegion,
    has_shape,
    is_open_line,
    is_shape_type,
    read_mask,
)
from skylight.backend.labelstudio.region_writer import RegionDict
from skylight.model.masks.region import MaskRegion

RELATION = "relation"


def read_export(source: Path, project: TargetProject) -> list[LabeledImage]:
    """The tasks of an export as JSON that have annotations; skipped ones are none.

    A region stays as it is where the project has its control and label; a mask of another control is drawn anew. Other
    regions of controls that the project lacks, such as key points that have been prompts, are left out. Raises
    BadRequest, which says what it is, if anything else has no place in the project, or it is no such export, JsonError,
    and OSError.
    """
    text = read_text(source)
    images: list[LabeledImage] = []
    problems: dict[str, None] = {}  # in order, each once

    def new_annotations(at: int, size: Size) -> list[NewAnnotation]:
        task = item_at(text, at)
        return [_convert(annotation, project, size) for annotation in _annotations(source, task)]

    for _, task, at in walk(text):
        annotations = _annotations(source, task)
        for annotation in annotations:
            problems.update(dict.fromkeys(_problems(annotation, project)))
        if annotations:
            name = _image_address(source, task, project)
            images.append(LabeledImage(source, name, partial(new_annotations, at), whole_task=True))
    if problems:
        shown = "; ".join(list(problems)[:MAX_NAMES_SHOWN]) + ("; .." if len(problems) > MAX_NAMES_SHOWN else "")
        raise BadRequest(
            f"{source} has {shown}. Add it to the labeling configuration, or give --rename OLD=NEW for a label, or "
            "--leave-out CONTROL"
        )
    return images


def _annotations(source: Path, task: Any) -> list[dict[str, Any]]:
    """A task's annotations that were not skipped."""
    if isinstance(task, dict) and isinstance(task.get("data"), dict) and isinstance(task.get("annotations"), list):
        annotations = task["annotations"]
        if all(isinstance(one, dict) and isinstance(one.get("result"), list) for one in annotations):
            return [annotation for annotation in annotations if not annotation.get("was_cancelled")]
    if isinstance(task, dict) and "data" not in task and "annotator" in task:
        raise BadRequest(f"{source} is JSON_MIN, which lacks the regions' controls and sizes; export it as JSON")
    raise BadRequest(f"{source} is not an export of Label Studio as JSON: each item must have data and annotations")


def _image_address(source: Path, task: Mapping[str, Any], project: TargetProject) -> str:
    """The address of a task's image, of several the first."""
    key = project.labeling.data_key
    value = value_at(task["data"], key)
    address = value[0] if isinstance(value, list) and value else value
    if not isinstance(address, str):
        raise BadRequest(
            f"{source}: task {task.get('id')} has no {key!r} in its data, where the project's pictures are"
        )
    return address


def _problems(annotation: Mapping[str, Any], project: TargetProject) -> Iterator[str]:
    """What of an annotation's regions has no place in the project and may not be left out."""
    for region in annotation["result"]:
        if problem := _problem(region, project):
            yield problem


def _problem(region: Any, project: TargetProject) -> str:
    """What of a region has no place in the project, "" if all has, or if it may be left out."""
    if not isinstance(region, dict):
        return f"a region that is no object, {str(region)[:40]!r}"
    kind = region.get("type")
    if kind == RELATION or _control(region, project) or _left_out(region, project):
        return ""
    if kind in READABLE_TYPES and project.label(label_of(region)) is not None:
        return ""
    shown = f" with {', '.join(map(repr, names))}" if (names := _names(region)) else ""
    return f"{kind} of {region.get('from_name')!r}{shown}, which the project does not have"


def _left_out(region: Region, project: TargetProject) -> str:
    """What a region is that is not imported, "" if it is: a prompt or a line that no control of the project takes."""
    kind, control = str(region.get("type")), str(region.get("from_name"))
    what = f"{kind} of {control!r}"
    if control in project.leave_out:
        return what
    if _control(region, project) or not is_shape_type(kind):
        return ""
    return what if kind not in READABLE_TYPES or is_open_line(region) else ""


def _control(region: Region, project: TargetProject) -> Control | None:
    """The project's control that a region can stay with: of its name, type and image, with all its labels."""
    control = project.controls.get(str(region.get("from_name")))
    if control is None or control.type != region.get("type") or region.get("to_name") not in control.to:
        return None
    return control if all(_spelled(name, control, project) is not None for name in _names(region)) else None


def _names(region: Region) -> list[str]:
    """A region's labels or choices."""
    kind, value = str(region.get("type")), region.get("value")
    names = value.get(kind) if isinstance(value, Mapping) and kind.endswith(("labels", "choices")) else None
    return [str(name) for name in names] if isinstance(names, list) else []


def _spelled(name: str, control: Control, project: TargetProject) -> str | None:
    """The control's own name of a label, "" if it is to be left out, None if it does not have it."""
    name = project.renamed(name)
    if not name or not control.labels:  # those without labels of their own take them from the task
        return name
    index = find_label(name, control.labels, [()] * len(control.labels))
    return None if index is None else control.labels[index]


def _convert(annotation: Mapping[str, Any], project: TargetProject, size: Size) -> NewAnnotation:
    """An exported annotation as one of the project."""
    result: list[RegionDict] = []
    left_out = []
    without_pixels = 0
    for region in annotation["result"]:
        if region.get("type") == RELATION:
            result.append(region)
        elif what := _left_out(region, project):
            left_out.append(what)
        else:
            try:
                regions = _convert_region(region, project, size)
            except EmptyRegion:
                regions = None
            without_pixels += regions is None
            result += regions or ()
    ids = {region.get("id") for region in result}
    result = [
        region
        for region in result
        if region.get("type") != RELATION or {region.get("from_id"), region.get("to_id")} <= ids
    ]
    return NewAnnotation(result, bool(annotation.get("ground_truth")), without_pixels, tuple(left_out))


def _convert_region(region: RegionDict, project: TargetProject, size: Size) -> Sequence[RegionDict] | None:
    """A region as it is, if it can stay, else drawn anew by the control that has its label here; None without a pixel.

    Raises EmptyRegion, too, if it was never drawn.
    """
    on_image = region.get("to_name") == project.labeling.image and not region.get("item_index")
    has_size = "original_width" in region or "original_height" in region
    if on_image and (has_size or is_shape_type(str(region.get("type")))):
        if image_size(region, size) != size:
            raise BadRequest(f"region {region.get('id')!r}: {size_mismatch(image_size(region, size), size)}")
        region = _with_size(region, size)
    if control := _control(region, project):
        return _keep_region(region, control, project)
    label = project.label(label_of(region))
    if not label:
        return []
    regions = project.regions(label, MaskRegion.of(read_mask(region, size), 0), size)
    return [{**new, "id": region.get("id") or new["id"]} if k == 0 else new for k, new in enumerate(regions)] or None


def _keep_region(region: RegionDict, control: Control, project: TargetProject) -> Sequence[RegionDict] | None:
    """A region of a control that the project has, with the control's names of its labels; None if it has no shape."""
    if region.get("type") in READABLE_TYPES and not has_shape(region):
        return None
    names = _names(region)
    spelled = [new for name in names if (new := _spelled(name, control, project))]
    if spelled == names:
        return [region]
    return [{**region, "value": {**region["value"], str(region["type"]): spelled}}] if spelled else []


def _with_size(region: RegionDict, size: Size) -> RegionDict:
    """A region with its image's size, which scripts leave out; what is no shape or point stays as it is."""
    if region.get("type") not in (*READABLE_TYPES, POINT):
        return region
    return {**region, "original_height": size[0], "original_width": size[1]}
