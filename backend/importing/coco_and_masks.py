"""Readers of files with labels: COCO and masks here, exports of Label Studio by `labelstudio_json`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from skylight.backend.errors import BadRequest
from skylight.backend.importing import mask_png
from skylight.backend.importing.coco_file import Coco, CocoError, CocoImage
from skylight.backend.importing.formats import MASK_SUFFIX, Format
from skylight.backend.importing.json_items import JsonError
from skylight.backend.importing.labelstudio_json import read_export
from skylight.backend.importing.targets import LabeledImage, NewAnnotation, Size, TargetProject, size_mismatch
from skylight.backend.labelstudio.label_config import BOX
from skylight.model.images.file_names import list_files
from skylight.model.masks.region import MaskRegion

# The only category of Label Studio's COCO exports where key points have the labels of the masks.
MERGED_LABEL = "default"
MERGED_HINT = (
    ". Is it an export of Label Studio? As COCO it merges all labels that key points have, too, into "
    f"{MERGED_LABEL!r}: export as JSON, and import that"
)


@dataclass(frozen=True)
class MaskLabels:
    """What masks' objects are labeled: all with one label, or by their numbers, "" for a number that is left out."""

    label: str = ""
    values: Mapping[int, str] | None = None


def read_labels(
    source: Path, format: Format, project: TargetProject, mask_labels: MaskLabels, max_pixels: int
) -> list[LabeledImage]:
    """The images that a source has labels of.

    Raises BadRequest if it cannot be used, or has a label that the project does not, OSError if it cannot be read.
    """
    if format == "masks":
        return _read_masks(source, project, mask_labels, max_pixels)
    try:
        return _read_coco(source, project) if format == "coco" else read_export(source, project)
    except CocoError as error:
        raise BadRequest(str(error)) from error
    except JsonError as error:
        raise BadRequest(f"{source} is not an export of Label Studio as JSON: {error}") from error


def _read_coco(source: Path, project: TargetProject) -> list[LabeledImage]:
    coco = Coco(source)
    merged = coco.labels == [MERGED_LABEL] and project.label(MERGED_LABEL) is None
    project.check(source, coco.labels, MERGED_HINT if merged else "")
    labels = {name: project.label(name) for name in coco.labels}
    boxes = [name for name, label in labels.items() if label and project.labeling.output(label).type == BOX]

    def annotations(image: CocoImage, size: Size) -> list[NewAnnotation]:
        height, width = (size[k] if side is None else side for k, side in enumerate(image.size))
        if (height, width) != size:
            raise BadRequest(size_mismatch((height, width), size))
        objects = ((coco.labels[instance.label], instance) for instance in coco.objects(image, boxes, size))
        return [project.annotation(objects, size)]

    images = [
        LabeledImage(source, image.name, partial(annotations, image), problem=image.problem) for image in coco.images
    ]
    return images + [LabeledImage(source, which, lambda _: [], problem=problem) for which, problem in coco.problems]


def _read_masks(source: Path, project: TargetProject, mask_labels: MaskLabels, max_pixels: int) -> list[LabeledImage]:
    root = source if source.is_dir() else source.parent
    files = [source]
    if source.is_dir():
        files = [path for path in list_files(root) if path.suffix.lower() == MASK_SUFFIX]
    if not files:
        raise BadRequest(f"{source} holds no PNG file")
    by_value = mask_labels.values
    names = [mask_labels.label] if by_value is None else by_value.values()
    project.check(source, [name for name in names if name])
    masks: dict[str, list[tuple[Path, str]]] = {}  # the masks of an image, each with its label, by the image's name
    for path in files:
        folders, label = path.relative_to(root).parts[:-1], mask_labels.label
        if not label and by_value is None:
            label, folders = _label_of_folder(source, folders, project)
        masks.setdefault("/".join((*folders, path.stem + MASK_SUFFIX)), []).append((path, label))

    def annotations(parts: Sequence[tuple[Path, str]], size: Size) -> list[NewAnnotation]:
        objects = (named for path, label in parts for named in _mask_objects(path, label, by_value, size, max_pixels))
        return [project.annotation(objects, size)]

    return [LabeledImage(source, name, partial(annotations, parts), any_suffix=True) for name, parts in masks.items()]


def _mask_objects(
    path: Path, label: str, by_value: Mapping[int, str] | None, size: Size, max_pixels: int
) -> Iterator[tuple[str, MaskRegion]]:
    """The objects of a mask, each with its label: `label`, or the name of its number."""
    numbers = mask_png.read(path, size, max_pixels)
    if by_value is None or not set(np.unique(numbers).tolist()) <= {0, *by_value}:
        numbers = mask_png.harden(numbers)
    for instance in mask_png.objects(numbers, by_value is not None):
        if by_value is not None and instance.label not in by_value:
            raise BadRequest(f"{path.name} has the number {instance.label}, which --values does not name")
        yield label if by_value is None else by_value[instance.label], instance


def _label_of_folder(source: Path, folders: tuple[str, ...], project: TargetProject) -> tuple[str, tuple[str, ...]]:
    """The label that a mask's first folder names, and the other folders; of a project with one label that one."""
    labels = project.labeling.labels
    if folders and project.label(folders[0]) is not None:
        return folders[0], folders[1:]
    if len(labels) == 1:
        return labels[0], folders
    where = f"folder {folders[0]!r} is none of the labels" if folders else "which label its masks are of is not said:"
    raise BadRequest(
        f"{source}: {where} {', '.join(labels)}; give --label NAME if all are of one, --values "
        "'1=NAME,2=NAME' if their numbers are labels, or put those of each label into a folder of its name"
    )
