"""COCO files of instances: images, and objects as polygons or as runs of pixels.

https://cocodataset.org/#format-data
"""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skylight.backend.importing.json_items import JsonError, item_at, read_text, walk
from skylight.backend.labelstudio.whole_numbers import whole
from skylight.model.masks.coco_rle import decode_runs
from skylight.model.masks.contours import Ring
from skylight.model.masks.errors import MaskError
from skylight.model.masks.rasterize import polygon_mask
from skylight.model.masks.region import MaskRegion

MAX_SIDE = 1_000_000  # px

Size = tuple[int, int]  # H, W px
Id = int | str  # of an image, a category or an annotation: compared, and nothing else


class CocoError(ValueError):
    """A file that is not COCO's, or an annotation in it that cannot be read."""


@dataclass(frozen=True)
class CocoImage:
    """An image that a COCO file lists: its id in the file, its name, folders included, and H, W px."""

    id: Id | None
    name: str
    size: tuple[int | None, int | None]  # None where the file does not say it
    problem: str = ""  # why its labels cannot be used


@dataclass(frozen=True)
class PolygonRegion(MaskRegion):
    """An object drawn as polygons: `rings`, in px from its mask's upper left corner, none if they leave the image."""

    rings: tuple[Ring, ...] = ()


class Coco:
    """A COCO file of instances. `labels` are the names of the categories that occur; `images` are all there are.

    `problems` are annotations of no image in the file: which, and what is wrong. What is wrong with an image's
    labels affects that image only. Numbers may be floats or texts; sizes may be missing.
    """

    def __init__(self, path: Path) -> None:
        """Raises CocoError, which names the file, if it is not one of COCO's, OSError if it cannot be read."""
        self.images: list[CocoImage] = []
        self.problems: list[tuple[str, str]] = []
        self.labels: list[str] = []
        self._at: dict[Id | None, list[int]] = {}  # offsets of an image's annotations in the text
        self._label: dict[Id, int] = {}  # index of a category's label
        self._ambiguous: dict[Id, str] = {}  # categories listed more than once, by their names
        try:
            self._text = read_text(path)
            self._index()
        except (JsonError, CocoError) as error:
            raise CocoError(f"{path} is not a COCO file of instances: {error}") from error

    def objects(self, image: CocoImage, boxes: Collection[str] = (), shown: Size | None = None) -> Iterator[MaskRegion]:
        """An image's objects, `PolygonRegion` if they are polygons; a crowd is one; what has no area has no pixel.

        Of the labels in `boxes` one that has only a bbox is that box. `shown`, H, W px of the image itself, is needed
        where the file does not say its size.

        Raises CocoError, which names the annotation, if it is damaged, of another size than the image, or of a
        category that is not listed; of the image if that has a problem.
        """
        if image.problem:
            raise CocoError(image.problem)
        height, width = (own or side for own, side in zip(image.size, shown or (None, None), strict=True))
        for at in self._at.get(image.id, ()):
            annotation = item_at(self._text, at)
            try:
                if height is None or width is None:
                    raise CocoError("its image has no height and width")
                label = self._label_of(annotation)
                yield _region(annotation, label, (height, width), self.labels[label] in boxes)
            except (CocoError, MaskError) as error:
                raise CocoError(f"annotation {annotation.get('id')}: {error}") from error

    def _label_of(self, annotation: dict[str, Any]) -> int:
        category = _id(annotation, "category_id")
        if category in self._ambiguous:
            raise CocoError(f"its category {category} is listed more than once, as {self._ambiguous[category]}")
        if category is None or category not in self._label:
            raise CocoError(
                f"it is of category {str(annotation.get('category_id'))[:40]}, which the file does not list"
            )
        return self._label[category]

    def _index(self) -> None:
        names: dict[Id, dict[str, None]] = {}
        used: set[Id] = set()
        images: list[dict[str, Any]] = []
        listed = False
        for key, item, at in walk(self._text):
            listed |= key == "images"
            if key not in ("images", "annotations", "categories") or item is None:
                continue
            if not isinstance(item, dict):
                raise CocoError(f"{key} holds {str(item)[:40]!r}, not objects")
            if key == "images":
                images.append(item)
            elif key == "categories":
                if (category := _id(item, "id")) is not None:
                    names.setdefault(category, {})[str(item.get("name"))] = None
            else:
                if (category := _id(item, "category_id")) is not None:
                    used.add(category)
                self._at.setdefault(_id(item, "image_id"), []).append(at)
        if not listed:
            raise CocoError("it lists no images")
        self._add_images(images)
        occurring = [category for category in names if category in used]
        self._ambiguous = {id_: ", ".join(map(repr, names[id_])) for id_ in occurring if len(names[id_]) > 1}
        label_names = {id_: next(iter(names[id_])) for id_ in occurring if id_ not in self._ambiguous}
        self.labels = list(dict.fromkeys(label_names.values()))
        self._label = {id_: self.labels.index(name) for id_, name in label_names.items()}

    def _add_images(self, images: Sequence[dict[str, Any]]) -> None:
        """Set the images, each once, and note the annotations that are of none of them."""
        by_id: dict[Id | None, list[dict[str, Any]]] = {}
        for item in images:
            same = by_id.setdefault(_id(item, "id"), [])
            if item not in same:
                same.append(item)
        for number, items in by_id.items():
            twice = f"{len(items)} images of the file have the id {number}; whose annotations are whose is not known"
            for item in items:
                problem = "it has no id in the file" if number is None else twice if len(items) > 1 else ""
                self._add_image(item, number, problem)
        for number, offsets in self._at.items():
            if number is not None and number in by_id:
                continue
            count = len(offsets)
            who = "without an image_id" if number is None else f"of image {number}, which the file does not list"
            self.problems.append((f"annotations ({count})", f"they are {who}"))

    def _add_image(self, item: dict[str, Any], number: Id | None, problem: str) -> None:
        name = item.get("file_name")
        if not isinstance(name, str) or not name.strip("/\\. \t\r\n"):
            self.problems.append((f"image {number}", "it has no file_name"))
            return
        given = item.get("height"), item.get("width")
        sides = [side if side is not None and 1 <= side <= MAX_SIDE else None for side in map(whole, given)]
        wrong = any(own is not None and side is None for own, side in zip(given, sides, strict=True))
        if wrong and number in self._at and not problem:
            problem = f"its height and width are {given[0]!r:.40}, {given[1]!r:.40} in the file, not px"
        self.images.append(CocoImage(number, name, (sides[0], sides[1]), problem))


def _id(item: dict[str, Any], key: str) -> Id | None:
    """An id; 1, 1.0 and "1" are one. None if it is missing or nothing that can be compared."""
    given = item.get(key)
    number = whole(given)
    if number is not None and (not isinstance(given, str) or given == str(number)):
        return number
    return given if isinstance(given, str) else str(given) if isinstance(given, float) else None


def _region(annotation: dict[str, Any], label: int, size: Size, box: bool) -> MaskRegion:
    shape = annotation.get("segmentation")
    if isinstance(shape, dict):
        if shape.get("counts") in ([], ""):
            return _empty_region(label)
        return MaskRegion.of(_run_length_mask(shape, size), label)
    if isinstance(shape, list) and shape:
        return _polygons(shape, label, size)
    if annotation.get("keypoints"):  # of an export whose key points have been prompts
        return _empty_region(label)
    if not box:
        raise CocoError("it has no segmentation, and a box is no mask: only a RectangleLabels control takes it")
    try:
        x, y, width, height = (float(number) for number in annotation["bbox"])
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise CocoError("it has neither a segmentation nor a bbox of x, y, width, height") from error
    return _polygons([[x, y, x + width, y, x + width, y + height, x, y + height]], label, size)


def _empty_region(label: int) -> MaskRegion:
    return MaskRegion(label, 0, 0, np.zeros((0, 0), bool), 1.0)


def _polygons(rings: Sequence[Any], label: int, size: Size) -> MaskRegion:
    """The pixels in any of some polygons, [x, y, x, y, ..] px each, drawn in their bounding box alone.

    Those of fewer than three points have no inside, and are left out.
    """
    points = [ring for ring in map(_ring, rings) if len(ring) >= 3]
    if not points:
        return _empty_region(label)
    limits = np.array(size[::-1])
    x0, y0 = np.clip(np.floor(np.min([ring.min(0) for ring in points], 0)), 0, limits).astype(int).tolist()
    x1, y1 = np.clip(np.ceil(np.max([ring.max(0) for ring in points], 0)), 0, limits).astype(int).tolist()
    mask = np.zeros((y1 - y0, x1 - x0), bool)
    if mask.size:
        for ring in points:
            mask |= polygon_mask((ring - (x0, y0)) * 100 / (x1 - x0, y1 - y0), *mask.shape)
    part = MaskRegion.of(mask, label)
    top, left = part.top + y0, part.left + x0
    inside = all(((ring >= 0) & (ring <= limits)).all() for ring in points) and bool(part.mask.size)
    return PolygonRegion(
        label, top, left, part.mask, 1.0, tuple(ring - (left, top) for ring in points) if inside else ()
    )


def _ring(ring: Any) -> NDArray[np.float64]:
    """(N, 2) float64 xy px of a polygon."""
    if not isinstance(ring, list) or len(ring) % 2:
        raise CocoError("a polygon must be a list of x, y, x, y, ..")
    numbers = ring if all(type(number) in (int, float) for number in ring) else [_number(value) for value in ring]
    if not all(abs(number) <= MAX_SIDE for number in numbers):
        raise CocoError(f"a polygon's points must be finite numbers, within {MAX_SIDE} px")
    return np.array(numbers, np.float64).reshape(-1, 2)


def _number(value: Any) -> float:
    """A number, or the number that a text holds; infinite if it is neither."""
    if type(value) not in (int, float, str):
        return math.inf
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.inf


def _run_length_mask(segmentation: dict[str, Any], size: Size) -> NDArray[np.bool_]:
    """The (H, W) bool mask of {"size": [H, W], "counts": ..}. Raises CocoError if it is of another size, MaskError."""
    drawn, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(drawn, list) or [whole(side) for side in drawn] != list(size):
        raise CocoError(f"its size {str(drawn)[:40]} is not the image's, height {size[0]}, width {size[1]}")
    if isinstance(counts, list) and not all(type(count) is int for count in counts):
        counts = [-1 if (number := whole(count)) is None else number for count in counts]
    return decode_runs(counts, size)
