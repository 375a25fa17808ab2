"""Labels that exist already, in files: COCO, masks, exports of Label Studio."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from skylight.backend.errors import BadRequest
from skylight.backend.importing import mask_png
from skylight.backend.importing.coco_file import Coco, CocoError, Picture
from skylight.backend.importing.formats import MASKS, Kind
from skylight.backend.importing.json_items import JsonError
from skylight.backend.importing.labelstudio_json import exported
from skylight.backend.importing.targets import Labelled, Made, Project, Size, other_size
from skylight.backend.labelstudio.label_config import BOX
from skylight.model.images.file_names import files_below
from skylight.model.masks.region import MaskRegion

MERGED = "default"  # the only category of Label Studio's COCO exports where key points have the labels of the masks
MERGED_HINT = (
    ". Is it an export of Label Studio? As COCO it merges all labels that key points have, too, into "
    f"{MERGED!r}: export as JSON, and import that"
)


@dataclass(frozen=True)
class Masks:
    """How masks are to be read: all objects of a label, or the labels of numbers, "" for one that is left out."""

    label: str = ""
    values: Mapping[int, str] | None = None


def labelled(source: Path, kind: Kind, project: Project, masks: Masks, max_pixels: int) -> list[Labelled]:
    """The pictures that a source has labels of.

    Raises BadRequest if it cannot be used, or has a label that the project does not, OSError if it cannot be read.
    """
    if kind == "masks":
        return _masks(source, project, masks, max_pixels)
    try:
        return _coco(source, project) if kind == "coco" else exported(source, project)
    except CocoError as error:
        raise BadRequest(str(error)) from error
    except JsonError as error:
        raise BadRequest(f"{source} is not an export of Label Studio as JSON: {error}") from error


def _coco(source: Path, project: Project) -> list[Labelled]:
    coco = Coco(source)
    lost = coco.labels == [MERGED] and project.label(MERGED) is None
    project.check(source, coco.labels, MERGED_HINT if lost else "")
    own = {name: project.label(name) for name in coco.labels}
    boxes = [name for name, label in own.items() if label and project.labeling.output(label).type == BOX]

    def made(picture: Picture, size: Size) -> list[Made]:
        height, width = (size[k] if side is None else side for k, side in enumerate(picture.size))
        if (height, width) != size:
            raise BadRequest(other_size((height, width), size))
        return [project.made(((coco.labels[each.label], each) for each in coco.objects(picture, boxes, size)), size)]

    found = [Labelled(source, each.name, partial(made, each), problem=each.problem) for each in coco.pictures]
    return found + [Labelled(source, who, lambda _: [], problem=problem) for who, problem in coco.problems]


def _masks(source: Path, project: Project, how: Masks, max_pixels: int) -> list[Labelled]:
    root = source if source.is_dir() else source.parent
    files = [source]
    if source.is_dir():
        files = [each for each in files_below(root) if each.suffix.lower() == MASKS]
    if not files:
        raise BadRequest(f"{source} holds no PNG file")
    named = how.values.values() if how.values is not None else [how.label]
    project.check(source, [name for name in named if name])
    found: dict[str, list[tuple[Path, str]]] = {}
    for each in files:
        folders, label = each.relative_to(root).parts[:-1], how.label
        if not label and how.values is None:
            label, folders = _by_folder(source, folders, project)
        found.setdefault("/".join((*folders, each.stem + MASKS)), []).append((each, label))

    def objects(each: Path, label: str, size: Size) -> Iterator[tuple[str, MaskRegion]]:
        numbers = mask_png.read(each, size, max_pixels)
        if how.values is None or not set(np.unique(numbers).tolist()) <= {0, *how.values}:
            numbers = mask_png.harden(numbers)
        for one in mask_png.objects(numbers, how.values is not None):
            if how.values is not None and one.label not in how.values:
                raise BadRequest(f"{each.name} has the number {one.label}, which --values does not name")
            yield label if how.values is None else how.values[one.label], one

    def made(parts: Sequence[tuple[Path, str]], size: Size) -> list[Made]:
        return [project.made((one for each, label in parts for one in objects(each, label, size)), size)]

    return [Labelled(source, name, partial(made, parts), stem=True) for name, parts in found.items()]


def _by_folder(source: Path, folders: tuple[str, ...], project: Project) -> tuple[str, tuple[str, ...]]:
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
