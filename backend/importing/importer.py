"""`skylight import-annotations`: labels that exist become annotations of a project's tasks."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from skylight.backend.errors import DATA_ERRORS, BadRequest, LabelStudioError, MediaError, SkylightError, Unavailable
from skylight.backend.images import download
from skylight.backend.importing.coco_and_masks import Masks, labelled
from skylight.backend.importing.coco_file import CocoError
from skylight.backend.importing.formats import Kind, kind_of
from skylight.backend.importing.matching import ByAddress, Index, path_of, readings, spelled, uploaded_name
from skylight.backend.importing.targets import NAMED, Labelled, Made, Project
from skylight.backend.labelstudio.client import LabelStudio, TaskSummary
from skylight.backend.labelstudio.image_urls import image_url, value_at
from skylight.backend.labelstudio.label_config import controls
from skylight.backend.service import Service
from skylight.model.images.decoding import ImageError
from skylight.model.images.file_names import files_below, is_picture
from skylight.model.images.raster import size_of
from skylight.model.masks.bitmask import MaskError

LONGEST_NAME = 75  # characters of a file's name: Label Studio keeps 100 with the path it puts before, and cuts the rest
GUESS = "which one it is, is not guessed"
TWICE = "another picture of the sources means the same task or file; rename one, or leave it out"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What is asked for."""

    kind: Kind | None = None  # of all sources, None: each by its content
    images: Path | None = None  # the folder with the pictures
    masks: Masks = Masks()
    rename: tuple[tuple[str, str], ...] = ()  # labels of elsewhere, and their names here
    leave_out: tuple[str, ...] = ()  # controls of an export whose regions are not wanted
    again: bool = False  # also tasks that have annotations
    dry: bool = False  # write nothing


@dataclass(frozen=True)
class Match:
    """A picture with labels, the task that shows it, or the file that is to become one, or why there is neither."""

    labels: Labelled
    task: TaskSummary | None = None
    file: Path | None = None
    reason: str = ""

    @property
    def target(self) -> object:
        """What is annotated."""
        return self.task.id if self.task else spelled(uploaded_name(self.file.name)) if self.file else None


@dataclass
class Tally:
    """How far the import is."""

    total: int
    there: int = 0  # had annotations
    annotated: int = 0
    empty: int = 0  # of those, how many have no region
    uploaded: int = 0
    regions: int = 0
    lost: int = 0  # objects that have no pixel
    prompts: int = 0  # pictures of which there is nothing but what is left out
    left_out: Counter[str] = field(default_factory=Counter)  # kinds of regions that have no place in the project
    failed: list[tuple[str, str]] = field(default_factory=list)  # which picture, and why

    @property
    def done(self) -> int:
        """Pictures that nothing is left to be done for."""
        return self.there + self.annotated + self.prompts + len(self.failed)


def plan(service: Service, number: int, sources: Sequence[Path], options: Options) -> "Importing":
    """What is to be done for Label Studio's project `number`; nothing is written.

    Raises BadRequest if a source cannot be used or has a label that the project lacks, ConfigError, LabelStudioError,
    Unavailable without Label Studio's address and key, and OSError if a file cannot be read.
    """
    client = service.labelstudio
    if client is None:
        raise Unavailable("set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY")
    config = str(client.project(number)["label_config"])
    labeling, rename = service.labeling(config), dict(options.rename)
    project = Project(labeling, controls(config), rename, frozenset(options.leave_out))
    pixels = service.settings.max_pixels
    found = [
        each
        for source in sources
        for each in labelled(source, options.kind or kind_of(source), project, options.masks, pixels)
    ]
    if not found:
        raise BadRequest(f"{', '.join(map(str, sources))}: there are no labels")
    tasks = list(client.tasks(number))
    return Importing(service, client, number, project, _matched(found, tasks, project, options.images), options)


def _matched(
    found: Sequence[Labelled], tasks: Sequence[TaskSummary], project: Project, images: Path | None
) -> list[Match]:
    """Each picture's task or file; two that would be one get neither."""
    key = project.labeling.data_key
    addresses = []
    for task in tasks:
        value = value_at(task.data, key)
        values: list[Any] = value if isinstance(value, list) else [value]
        addresses += [(each, task) for each in values if isinstance(each, str)]
    shown = [(path_of(address, host=True), task) for address, task in addresses]
    exact = ByAddress(addresses)
    files = files_below(images) if images else []
    inside = [(str(each), each) for each in files if images and is_picture(each.relative_to(images))]
    by_stem = {stem: (Index(shown, stem), Index(inside, stem)) for stem in {each.stem for each in found}}
    matches = [_match(each, exact, *by_stem[each.stem], images, key) for each in found]
    taken = Counter(each.target for each in matches if not each.reason)
    return [
        Match(each.labels, reason=TWICE) if taken[each.target] > 1 and not each.reason else each for each in matches
    ]


def _match(
    labels: Labelled,
    exact: ByAddress[TaskSummary],
    tasks: Index[TaskSummary],
    files: Index[Path],
    images: Path | None,
    key: str,
) -> Match:
    if labels.problem:
        return Match(labels, reason=labels.problem)
    paths = readings(labels.name, address=labels.whole)
    uploaded = [*paths, *map(uploaded_name, paths)]
    best = exact.best(labels.name) or next(filter(None, map(tasks.best, uploaded)), [])
    found = list({task.id: task for task in best}.values())
    here = next(filter(None, map(files.best, paths)), [])
    if len(found) > 1:
        return Match(
            labels, reason=f"several tasks have a picture of this name, {_shown(t.id for t in found)}; {GUESS}"
        )
    if found:
        if isinstance(value_at(found[0].data, key), list) and not labels.whole:
            return Match(labels, reason=f"task {found[0].id} shows several pictures; import an export of Label Studio")
        return Match(labels, found[0], here[0] if len(here) == 1 else None)
    if len(here) > 1:
        return Match(labels, reason=f"several pictures have this name, {_shown(here)}; {GUESS}")
    if not here:
        also = f"nor is it in {images}" if images else "give --images FOLDER to have it uploaded"
        return Match(labels, reason=f"no task shows it; {also}")
    if len(spelled(uploaded_name(here[0].name))) > LONGEST_NAME:
        return Match(labels, reason=f"Label Studio would cut its name; give it at most {LONGEST_NAME} characters")
    return Match(labels, file=here[0])


def _shown(things: Iterable[object]) -> str:
    return ", ".join(map(str, islice(things, NAMED)))


@dataclass
class Importing:
    """A plan: which picture's labels go to which task."""

    service: Service
    client: LabelStudio
    number: int
    project: Project
    matches: list[Match]
    options: Options

    def run(self) -> Iterator[tuple[Tally, str]]:
        """Annotate task by task; yields how far it is, and the next picture's name, before each and at last.

        One whose labels cannot be used is counted with its reason. Raises LabelStudioError if Label Studio is down.
        """
        tally = Tally(len(self.matches))
        for each in self.matches:
            yield tally, each.labels.name
            if each.task and (each.task.annotations or each.task.skipped) and not self.options.again:
                tally.there += 1
            elif reason := each.reason or self._annotate(each, tally):
                tally.failed.append((each.labels.name, reason))
        yield tally, ""

    def _annotate(self, match: Match, tally: Tally) -> str:
        """Annotate a picture's task; gives why it could not be, "" if it is."""
        try:
            made = match.labels.made(self._size(match))
            kept = [one for one in made if one.result or not one.left_out]
            if kept and not self.options.dry:
                self._write(match, kept)
        except (LabelStudioError, MediaError) as error:
            self.client.version()  # raises if it is down
            return str(error)
        except (SkylightError, OSError, ImageError, CocoError, MaskError) as error:
            return str(error)
        except DATA_ERRORS as error:
            log.exception("%s: an error that Skylight did not foresee", match.labels.name)
            return f"{type(error).__name__}: {error}"
        tally.lost += sum(one.lost for one in made)
        for one in made:
            tally.left_out.update(one.left_out)
        if not kept:  # an empty annotation would say that nothing is there
            tally.prompts += 1
            return ""
        tally.uploaded += match.task is None
        tally.annotated += 1
        tally.empty += not any(one.result for one in kept)
        tally.regions += sum(len(one.result) for one in kept)
        return ""

    def _size(self, match: Match) -> tuple[int, int]:
        """H, W px of the picture as the browser shows it: of the file, if it is here, else of the task's.

        Raises MediaError, ImageError, OSError.
        """
        settings = self.service.settings
        if match.file:
            data = match.file.read_bytes()
        else:
            assert match.task
            url = image_url({"id": match.task.id, "data": match.task.data}, self.project.labeling)
            data = download.fetch(url, settings, self.client)
        return size_of(data, settings.max_pixels)

    def _write(self, match: Match, made: Sequence[Made]) -> None:
        if match.task:
            task = match.task.id
        else:
            assert match.file
            name = uploaded_name(match.file.name)
            task = self.client.import_picture(self.number, name, match.file.read_bytes())
        for one in made:
            self.client.create_annotation(task, one.result, ground_truth=one.ground_truth)
