"""What labels from elsewhere become in a project: its names for them, and regions of its controls."""

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from skylight.backend.errors import BadRequest
from skylight.backend.importing.coco_file import PolygonRegion
from skylight.backend.labelstudio.label_config import Control, Labeling, find_label
from skylight.backend.labelstudio.region_writer import Placement, Region, draw_regions, encoded_length
from skylight.backend.limits import MAX_CHARACTERS, MAX_REGIONS
from skylight.model.masks.region import MaskRegion

NAMED = 5  # labels that a message names

Size = tuple[int, int]  # H, W px


@dataclass(frozen=True)
class Made:
    """An annotation to be made, and what it leaves out."""

    result: list[Region]
    ground_truth: bool = False
    lost: int = 0  # objects that have no pixel
    left_out: tuple[str, ...] = ()  # regions that have no place in the project, such as prompts: what each is


@dataclass(frozen=True)
class Labelled:
    """A picture that a source has labels of."""

    source: Path
    name: str  # its path or address, as the source says it; of a mask that of the mask
    made: Callable[[Size], list[Made]]  # its annotations on a picture of H, W px; raises SkylightError, ValueError, ..
    stem: bool = False  # whether the picture's name may end in another way
    whole: bool = False  # whether it is a whole task, whatever pictures that has
    problem: str = ""  # why its labels cannot be used


class Project:
    """A project's labels and controls, and how names of elsewhere are to be read."""

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
        self._rename = {_key(old): new for old, new in rename.items()}

    def renamed(self, name: str) -> str:
        """A name as it is to be read, "" if it is to be left out."""
        return self._rename.get(_key(name), name)

    def label(self, name: str) -> str | None:
        """The project's label for a name of elsewhere, "" if it is to be left out, None if there is none."""
        new = self.renamed(name)
        if name and not new:
            return ""
        at = find_label(new, self.labeling.labels, self.labeling.also)
        return None if at is None else self.labeling.labels[at]

    def check(self, source: Path, names: Sequence[str], hint: str = "") -> None:
        """Raises BadRequest, which names them, if the project lacks a label; `hint` is why that may be."""
        lacking = [name for name in names if self.label(name) is None]
        if lacking:
            shown = ", ".join(map(repr, lacking[:NAMED])) + (", .." if len(lacking) > NAMED else "")
            raise BadRequest(
                f"{source} has labels that the project does not have, {shown}, only {', '.join(self.labeling.labels)}; "
                f"add them to its labeling configuration, or give --rename '{lacking[0]}=LABEL', or '{lacking[0]}=' "
                f"to leave its objects out{hint}"
            )

    def made(self, objects: Iterable[tuple[str, MaskRegion]], size: Size) -> Made:
        """An annotation of some objects, each with its name of elsewhere. Raises BadRequest if they are too many."""
        result: list[Region] = []
        lost = characters = 0
        for name, found in objects:
            if label := self.label(name):
                drawn = self.regions(label, found, size)
                result += drawn
                lost += not drawn
                characters += sum(encoded_length(region["value"]) for region in drawn)
            if len(result) > MAX_REGIONS:
                raise BadRequest(f"it has more than {MAX_REGIONS} regions; split the picture")
            if characters > MAX_CHARACTERS:
                much = f"its first {len(result)} regions take more than {MAX_CHARACTERS // 10**6} MB as they are drawn"
                raise BadRequest(f"{much}; use PolygonLabels, or split the picture")
        return Made(result, lost=lost)

    def regions(self, label: str, found: MaskRegion, size: Size) -> list[Region]:
        """The regions of an object, as if somebody had drawn it; none if it has no pixel."""
        output = self.labeling.output(label)
        part, rings = Placement(found.top, found.left, size), found.rings if isinstance(found, PolygonRegion) else ()
        drawn = draw_regions(output, found.mask, output.spelled(label), 1.0, part_of=part, rings=rings)
        return [{**{k: v for k, v in each.items() if k != "score"}, "origin": "manual"} for each in drawn]


def _key(name: str) -> str:
    """A name in any case, and with its accents encoded in one way."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def other_size(labelled: Size, shown: Size) -> str:
    """What is wrong if labels are for another size than the picture has."""
    return f"its labels are for {labelled[1]} x {labelled[0]} px, but the picture has {shown[1]} x {shown[0]}"
