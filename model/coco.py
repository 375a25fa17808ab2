"""COCO's instances: pictures, and objects as polygons or as runs of pixels.

A run-length encoding goes down the columns and begins with background. Compressed, each number is written in digits of
5 bits, the lowest first, as characters from "0" on, 32 more if another follows; the last digit's highest bit is the
sign, and from the fourth number on it is the difference to the one two before.
https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.c
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from model.json_items import JsonError, item_at, read_text, walk
from model.masks import MaskError, polygon_mask
from model.objects import Found
from model.outlines import Ring

MAX_DIGITS = 12  # of a compressed number, 60 bits
MAX_SIDE = 1_000_000  # px

Size = tuple[int, int]  # H, W px


class CocoError(ValueError):
    """A file that is not COCO's, or an annotation in it that cannot be read."""


@dataclass(frozen=True)
class Picture:
    """A picture that a COCO file lists: its number in the file, its name, folders included, and H, W px."""

    id: int
    name: str
    size: Size


@dataclass(frozen=True)
class Drawn(Found):
    """An object drawn as polygons: `rings`, in px from its mask's upper left corner, none if they leave the image."""

    rings: tuple[Ring, ...] = ()


class Coco:
    """A COCO file of instances. `labels` are the names of the categories that occur; `pictures` are all there are."""

    def __init__(self, path: Path) -> None:
        """Raises CocoError, which names the file, if it is not one of COCO's, OSError if it cannot be read."""
        self.pictures: list[Picture] = []
        self.labels: list[str] = []
        self._at: dict[int, list[int]] = {}  # where the annotations of a picture begin
        self._label: dict[int, int] = {}  # of a category, which of the labels it is
        try:
            self._text = read_text(path)
            self._index()
        except (JsonError, CocoError) as error:
            raise CocoError(f"{path} is not a COCO file of instances: {error}") from error

    def objects(self, picture: Picture, boxes: Collection[str] = ()) -> Iterator[Found]:
        """A picture's objects, `Drawn` if they are polygons; a crowd is one.

        Of the labels in `boxes` one that has only a bbox is that box.

        Raises CocoError, which names the annotation, if it is damaged, or of another size than the file says.
        """
        for at in self._at.get(picture.id, ()):
            annotation = item_at(self._text, at)
            label = self._label[annotation["category_id"]]
            try:
                yield _found(annotation, label, picture.size, self.labels[label] in boxes)
            except (CocoError, MaskError) as error:
                raise CocoError(f"annotation {annotation.get('id')}: {error}") from error

    def _index(self) -> None:
        names: dict[int, str] = {}
        used: dict[int, None] = {}
        seen = set()
        for key, item, at in walk(self._text):
            seen.add(key)
            if key not in ("images", "annotations", "categories"):
                continue
            if not isinstance(item, dict):
                raise CocoError(f"{key} holds {str(item)[:40]!r}, not objects")
            if key == "images":
                self.pictures.append(_picture(item))
            elif key == "categories":
                names[_id(item, "id")] = str(item.get("name"))
            else:
                used[_id(item, "category_id")] = None
                self._at.setdefault(_id(item, "image_id"), []).append(at)
        if "images" not in seen:
            raise CocoError("it lists no images")
        known = {picture.id for picture in self.pictures}
        if len(known) < len(self.pictures):
            raise CocoError("two of its images have one id")
        if missing := self._at.keys() - known:
            raise CocoError(f"annotations are of image {min(missing)}, which it does not list")
        if unknown := used.keys() - names.keys():
            raise CocoError(f"annotations are of category {min(unknown)}, which it does not list")
        self.labels = list(dict.fromkeys(names[each] for each in sorted(used)))
        self._label = {each: self.labels.index(names[each]) for each in used}


def _picture(item: dict[str, Any]) -> Picture:
    number, name = _id(item, "id"), item.get("file_name")
    size = item.get("height"), item.get("width")
    if not isinstance(name, str) or not name.strip("/\\. "):
        raise CocoError(f"image {number} has no file_name")
    if not all(type(side) is int and 1 <= side <= MAX_SIDE for side in size):
        raise CocoError(f"image {number} has height and width {size[0]!r:.40}, {size[1]!r:.40}, not px")
    return Picture(number, name, size)  # type: ignore[arg-type]


def _id(item: dict[str, Any], key: str) -> int:
    number = item.get(key)
    if type(number) is not int:
        raise CocoError(f"an item has {key} {str(number)[:40]!r}, not a whole number")
    return number


def _found(annotation: dict[str, Any], label: int, size: Size, box: bool) -> Found:
    shape = annotation.get("segmentation")
    if isinstance(shape, dict):
        return cut(runs_mask(shape, size), label)
    if isinstance(shape, list) and shape:
        return _polygons(shape, label, size)
    if not box:
        raise CocoError("it has no segmentation, and a box is no mask: only a RectangleLabels control takes it")
    try:
        x, y, width, height = (float(number) for number in annotation["bbox"])
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise CocoError("it has neither a segmentation nor a bbox of x, y, width, height") from error
    return _polygons([[x, y, x + width, y, x + width, y + height, x, y + height]], label, size)


def cut(mask: NDArray[np.bool_], label: int) -> Found:
    """An object of a (H, W) bool mask, cut to what it covers; (0, 0) of an empty one."""
    windows = ndimage.find_objects(mask.view(np.uint8)) if mask.size else []
    rows, columns = windows[0] if windows else (slice(0, 0), slice(0, 0))
    return Found(label, rows.start, columns.start, mask[rows, columns].copy(), 1.0)


def _polygons(rings: Sequence[Any], label: int, size: Size) -> Found:
    """The pixels in any of some polygons, [x, y, x, y, ..] px each, drawn in their bounding box alone."""
    points = [_ring(ring) for ring in rings]
    limits = np.array(size[::-1])
    x0, y0 = np.clip(np.floor(np.min([ring.min(0) for ring in points], 0)), 0, limits).astype(int).tolist()
    x1, y1 = np.clip(np.ceil(np.max([ring.max(0) for ring in points], 0)), 0, limits).astype(int).tolist()
    mask = np.zeros((y1 - y0, x1 - x0), bool)
    if mask.size:
        for ring in points:
            mask |= polygon_mask((ring - (x0, y0)) * 100 / (x1 - x0, y1 - y0), *mask.shape)
    whole = cut(mask, label)
    top, left = whole.top + y0, whole.left + x0
    inside = all(((ring >= 0) & (ring <= limits)).all() for ring in points) and bool(whole.mask.size)
    return Drawn(label, top, left, whole.mask, 1.0, tuple(ring - (left, top) for ring in points) if inside else ())


def _ring(ring: Any) -> NDArray[np.float64]:
    if not isinstance(ring, list) or len(ring) < 6 or len(ring) % 2:
        raise CocoError("a polygon must be a list of x, y, x, y, .. of three points at least")
    if not all(type(number) in (int, float) and abs(number) <= MAX_SIDE for number in ring):
        raise CocoError(f"a polygon's points must be finite numbers, within {MAX_SIDE} px")
    return np.array(ring, np.float64).reshape(-1, 2)


def runs_mask(segmentation: dict[str, Any], size: Size) -> NDArray[np.bool_]:
    """The (H, W) bool mask of {"size": [H, W], "counts": ..}, compressed (a text) or not (a list).

    Raises CocoError if it is not of `size`, or its runs are not of just as many pixels; then no array was made.
    """
    drawn, given = segmentation.get("size"), segmentation.get("counts")
    if drawn != list(size):
        raise CocoError(f"its size {str(drawn)[:40]} is not the image's, height {size[0]}, width {size[1]}")
    counts = decompress(given) if isinstance(given, str) else given
    if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
        raise CocoError("its counts must be a text, or whole numbers from 0 on")
    if sum(counts) != size[0] * size[1]:
        raise CocoError(f"its counts are of {sum(counts)} pixels, but {size[1]} x {size[0]} are {size[0] * size[1]}")
    return np.repeat(np.arange(len(counts)) % 2 > 0, counts).reshape(size[1], size[0]).T


def decompress(text: str) -> list[int]:
    """The numbers in a compressed run-length encoding. Raises CocoError if it breaks off or holds another character."""
    counts: list[int] = []
    number = digits = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or digits == MAX_DIGITS:
            raise CocoError(f"its counts are damaged after {len(counts)} numbers")
        number |= (code & 31) << 5 * digits
        digits += 1
        if code & 32:
            continue
        if code & 16:
            number -= 1 << 5 * digits
        counts.append(number + (counts[-2] if len(counts) > 2 else 0))
        number = digits = 0
    if digits:
        raise CocoError(f"its counts break off after {len(counts)} numbers")
    return counts
