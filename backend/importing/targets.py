"""What labels from elsewhere become in a project: its names for them, and regions of its controls."""

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from skylight.backend.errors import BadRequest
from skylight.backend.importing.coco_file import PolygonRegion
from skylight.backend.labelstudio.label_config import Control, Labeling, find_label
from skylight.backend.labelstudio.region_writer import Placement, RegionDict, draw_regions, encoded_length
from skylight.backend.limits import MAX_CHARACTERS, MAX_REGIONS
from skylight.model.masks.region import MaskRegion

MAX_NAMES_SHOWN = 5  # labels, tasks or files that a message names

Size = tuple[int, int]  # H, W px


@dataclass(frozen=True)
class NewAnnotation:
    """An annotation to be created, and what it leaves out."""

    result: list[RegionDict]
    ground_truth: bool = False
    without_pixels: int = 0  # objects that cover no pixel's center
    left_out: tuple[str, ...] = ()  # what each region is that has no place in the project, such as a prompt


@dataclass(frozen=True)
class LabeledImage:
    """An image that a source has labels of."""

    source: Path
    name: str  # its path or address, as the source has it; of a mask the mask's
    annotations: Callable[[Size], list[NewAnnotation]]  # on an image of H, W px; raises SkylightError, ValueError, ..
    any_suffix: bool = False  # whether the image's name may end in another way
    whole_task: bool = False  # whether it is a whole task, whatever images that has
    problem: str = ""  # why its labels cannot be used


class TargetProject:
    """A project's labels and controls, and how names from elsewhere map to them."""

    def __init__(
        self,
        labeling: Labeling,
        controls: Mapping[str, Control],
        rename: Mapping[str, str],
        leave_out: frozenset[str] = frozenset(),
    ) -> None:
        """`rename`: from names of elsewhere, in any case, to those here, "" for what is to be left out.

        `leave_out`: controls of elsewhere whose regions are left out.
        """
        self.labeling = labeling
        self.controls = controls
        self.leave_out = leave_out
        self._rename = {_fold(old): new for old, new in rename.items()}

    def renamed(self, name: str) -> str:
        """The name that replaces a name of elsewhere, "" if it is to be left out."""
        return self._rename.get(_fold(name), name)

    def label(self, name: str) -> str | None:
        """The project's label for a name of elsewhere, "" if it is to be left out, None if there is none."""
        new = self.renamed(name)
        if name and not new:
            return ""
        index = find_label(new, self.labeling.labels, self.labeling.other_names)
        return None if index is None else self.labeling.labels[index]

    def check(self, source: Path, names: Sequence[str], hint: str = "") -> None:
        """Raise BadRequest, which names them, if the project lacks a label; `hint` is why that may be."""
        missing = [name for name in names if self.label(name) is None]
        if missing:
            shown = ", ".join(map(repr, missing[:MAX_NAMES_SHOWN])) + (", .." if len(missing) > MAX_NAMES_SHOWN else "")
            raise BadRequest(
                f"{source} has labels that the project does not have, {shown}, only {', '.join(self.labeling.labels)}; "
                f"add them to its labeling configuration, or give --rename '{missing[0]}=LABEL', or '{missing[0]}=' "
                f"to leave its objects out{hint}"
            )

    def annotation(self, objects: Iterable[tuple[str, MaskRegion]], size: Size) -> NewAnnotation:
        """An annotation of objects, each with its name of elsewhere. Raises BadRequest if they are too many."""
        result: list[RegionDict] = []
        without_pixels = characters = 0
        for name, instance in objects:
            if label := self.label(name):
                regions = self.regions(label, instance, size)
                result += regions
                without_pixels += not regions
                characters += sum(encoded_length(region["value"]) for region in regions)
            if len(result) > MAX_REGIONS:
                raise BadRequest(f"it has more than {MAX_REGIONS} regions; split the picture")
            if characters > MAX_CHARACTERS:
                much = f"its first {len(result)} regions take more than {MAX_CHARACTERS // 10**6} MB as they are drawn"
                raise BadRequest(f"{much}; use PolygonLabels, or split the picture")
        return NewAnnotation(result, without_pixels=without_pixels)

    def regions(self, label: str, instance: MaskRegion, size: Size) -> list[RegionDict]:
        """The regions of an object on an image of H, W px, as if drawn by hand; none if it has no pixel."""
        output = self.labeling.output(label)
        part = Placement(instance.top, instance.left, size)
        rings = instance.rings if isinstance(instance, PolygonRegion) else ()
        regions = draw_regions(output, instance.mask, output.own_label(label), 1.0, placement=part, rings=rings)
        return [{**{k: v for k, v in region.items() if k != "score"}, "origin": "manual"} for region in regions]


def _fold(name: str) -> str:
    """A name regardless of case and of how its accents are encoded."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def size_mismatch(labeled: Size, shown: Size) -> str:
    """The sentence that labels are for another size (H, W px) than the image has."""
    return f"its labels are for {labeled[1]} x {labeled[0]} px, but the picture has {shown[1]} x {shown[0]}"
