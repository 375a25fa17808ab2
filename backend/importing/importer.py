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
from skylight.backend.importing.coco_and_masks import MaskLabels, read_labels
from skylight.backend.importing.coco_file import CocoError
from skylight.backend.importing.formats import Format, detect_format
from skylight.backend.importing.matching import AddressIndex, PathIndex, likely_paths, path_of, spelled, uploaded_name
from skylight.backend.importing.targets import MAX_NAMES_SHOWN, LabeledImage, NewAnnotation, TargetProject
from skylight.backend.labelstudio.client import LabelStudio
from skylight.backend.labelstudio.image_urls import image_url, value_at
from skylight.backend.labelstudio.label_config import controls
from skylight.backend.labelstudio.task_listing import TaskSummary
from skylight.backend.service import Service
from skylight.model.images.decoding import ImageError
from skylight.model.images.file_names import is_image, list_files
from skylight.model.images.opening import read_size
from skylight.model.masks.errors import MaskError

MAX_FILE_NAME = 75  # characters: Label Studio keeps 100 with the path that it puts before, and cuts the rest
NOT_GUESSED = "which one it is, is not guessed"
DUPLICATE = "another picture of the sources means the same task or file; rename one, or leave it out"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """Options of `skylight import-annotations`."""

    format: Format | None = None  # of all sources, None: each by its content
    images: Path | None = None  # the folder with the images
    masks: MaskLabels = MaskLabels()
    rename: tuple[tuple[str, str], ...] = ()  # labels of elsewhere, and their names here
    leave_out: tuple[str, ...] = ()  # controls of an export whose regions are left out
    again: bool = False  # also tasks that have annotations
    dry: bool = False  # write nothing


@dataclass(frozen=True)
class Match:
    """A labeled image, and the task that shows it, or the file that is to become one, or why there is neither."""

    labels: LabeledImage
    task: TaskSummary | None = None
    file: Path | None = None
    reason: str = ""

    @property
    def target(self) -> object:
        """What is annotated: a task's id, or the name of the task's file to be."""
        return self.task.id if self.task else spelled(uploaded_name(self.file.name)) if self.file else None


@dataclass
class ImportProgress:
    """How far an import is: numbers of images, if nothing else is said."""

    total: int
    annotated_before: int = 0
    annotated: int = 0
    empty: int = 0  # of those, how many have no region
    uploaded: int = 0
    regions: int = 0  # number of regions
    without_pixels: int = 0  # number of objects that cover no pixel's center
    prompts_only: int = 0  # of which there is nothing but what is left out
    left_out: Counter[str] = field(default_factory=Counter)  # kinds of regions that have no place in the project
    failed: list[tuple[str, str]] = field(default_factory=list)  # which image, and why

    @property
    def done(self) -> int:
        """Images that nothing is left to be done for."""
        return self.annotated_before + self.annotated + self.prompts_only + len(self.failed)


def plan(service: Service, number: int, sources: Sequence[Path], options: Options) -> "Importer":
    """Plan an import into Label Studio's project `number`; nothing is written.

    Raises BadRequest if a source cannot be used or has a label that the project lacks, ConfigError, LabelStudioError,
    Unavailable without Label Studio's address and key, and OSError if a file cannot be read.
    """
    client = service.labelstudio
    if client is None:
        raise Unavailable("set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY")
    config = str(client.project(number)["label_config"])
    project = TargetProject(
        service.labeling(config), controls(config), dict(options.rename), frozenset(options.leave_out)
    )
    max_pixels = service.settings.max_pixels
    images = [
        image
        for source in sources
        for image in read_labels(source, options.format or detect_format(source), project, options.masks, max_pixels)
    ]
    if not images:
        raise BadRequest(f"{', '.join(map(str, sources))}: there are no labels")
    tasks = list(client.tasks(number))
    return Importer(service, client, number, project, _match_all(images, tasks, project, options.images), options)


def _match_all(
    images: Sequence[LabeledImage], tasks: Sequence[TaskSummary], project: TargetProject, folder: Path | None
) -> list[Match]:
    """Each image's task or file; two that would be one get neither."""
    key = project.labeling.data_key
    addresses: list[tuple[str, TaskSummary]] = []
    for task in tasks:
        value = value_at(task.data, key)
        values: list[Any] = value if isinstance(value, list) else [value]
        addresses += [(address, task) for address in values if isinstance(address, str)]
    by_address = AddressIndex(addresses)
    task_paths = [(path_of(address, host=True), task) for address, task in addresses]
    files = list_files(folder) if folder else []
    file_paths = [(str(path), path) for path in files if folder and is_image(path.relative_to(folder))]
    by_path = {
        any_suffix: (PathIndex(task_paths, any_suffix), PathIndex(file_paths, any_suffix))
        for any_suffix in {image.any_suffix for image in images}
    }
    matches = [_match(image, by_address, *by_path[image.any_suffix], folder, key) for image in images]
    taken = Counter(match.target for match in matches if not match.reason)
    return [
        Match(match.labels, reason=DUPLICATE) if taken[match.target] > 1 and not match.reason else match
        for match in matches
    ]


def _match(
    image: LabeledImage,
    by_address: AddressIndex[TaskSummary],
    tasks_by_path: PathIndex[TaskSummary],
    files_by_path: PathIndex[Path],
    folder: Path | None,
    key: str,
) -> Match:
    if image.problem:
        return Match(image, reason=image.problem)
    paths = likely_paths(image.name, is_address=image.whole_task)
    uploaded = [*paths, *map(uploaded_name, paths)]
    best = by_address.best(image.name) or next(filter(None, map(tasks_by_path.best, uploaded)), [])
    tasks = list({task.id: task for task in best}.values())
    files = next(filter(None, map(files_by_path.best, paths)), [])
    if len(tasks) > 1:
        ids = _shown(task.id for task in tasks)
        return Match(image, reason=f"several tasks have a picture of this name, {ids}; {NOT_GUESSED}")
    if tasks:
        if isinstance(value_at(tasks[0].data, key), list) and not image.whole_task:
            return Match(image, reason=f"task {tasks[0].id} shows several pictures; import an export of Label Studio")
        return Match(image, tasks[0], files[0] if len(files) == 1 else None)
    if len(files) > 1:
        return Match(image, reason=f"several pictures have this name, {_shown(files)}; {NOT_GUESSED}")
    if not files:
        also = f"nor is it in {folder}" if folder else "give --images FOLDER to have it uploaded"
        return Match(image, reason=f"no task shows it; {also}")
    if len(spelled(uploaded_name(files[0].name))) > MAX_FILE_NAME:
        return Match(image, reason=f"Label Studio would cut its name; give it at most {MAX_FILE_NAME} characters")
    return Match(image, file=files[0])


def _shown(items: Iterable[object]) -> str:
    return ", ".join(map(str, islice(items, MAX_NAMES_SHOWN)))


@dataclass
class Importer:
    """A planned import: which image's labels go to which task."""

    service: Service
    client: LabelStudio
    number: int
    project: TargetProject
    matches: list[Match]
    options: Options

    def run(self) -> Iterator[tuple[ImportProgress, str]]:
        """Annotate task by task; yields the progress and the next image's name, before each and at the end.

        An image whose labels cannot be used is counted with its reason. Raises LabelStudioError if Label Studio is
        down.
        """
        progress = ImportProgress(len(self.matches))
        for match in self.matches:
            yield progress, match.labels.name
            task = match.task
            if task and (task.annotations or task.skipped) and not self.options.again:
                progress.annotated_before += 1
            elif reason := match.reason or self._annotate(match, progress):
                progress.failed.append((match.labels.name, reason))
        yield progress, ""

    def _annotate(self, match: Match, progress: ImportProgress) -> str:
        """Annotate an image's task; returns why it could not be, "" if it is."""
        try:
            annotations = match.labels.annotations(self._size(match))
            # An empty annotation would say that nothing is there.
            written = [annotation for annotation in annotations if annotation.result or not annotation.left_out]
            if written and not self.options.dry:
                self._write(match, written)
        except (LabelStudioError, MediaError) as error:
            self.client.version()  # raises if it is down
            return str(error)
        except (SkylightError, OSError, ImageError, CocoError, MaskError) as error:
            return str(error)
        except DATA_ERRORS as error:
            log.exception("%s: an error that Skylight did not foresee", match.labels.name)
            return f"{type(error).__name__}: {error}"
        progress.without_pixels += sum(annotation.without_pixels for annotation in annotations)
        for annotation in annotations:
            progress.left_out.update(annotation.left_out)
        if not written:
            progress.prompts_only += 1
            return ""
        progress.uploaded += match.task is None
        progress.annotated += 1
        progress.empty += not any(annotation.result for annotation in written)
        progress.regions += sum(len(annotation.result) for annotation in written)
        return ""

    def _size(self, match: Match) -> tuple[int, int]:
        """H, W px of the image as the browser shows it: of the file, if it is here, else of the task's.

        Raises MediaError, ImageError, OSError.
        """
        settings = self.service.settings
        if match.file:
            data = match.file.read_bytes()
        else:
            assert match.task
            url = image_url({"id": match.task.id, "data": match.task.data}, self.project.labeling)
            data = download.fetch(url, settings, self.client)
        return read_size(data, settings.max_pixels)

    def _write(self, match: Match, annotations: Sequence[NewAnnotation]) -> None:
        if match.task:
            task = match.task.id
        else:
            assert match.file
            name = uploaded_name(match.file.name)
            task = self.client.import_image(self.number, name, match.file.read_bytes())
        for annotation in annotations:
            self.client.create_annotation(task, annotation.result, ground_truth=annotation.ground_truth)
