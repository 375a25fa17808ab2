"""Accepted annotations as samples, and each project's labeling configuration, as files of the store.

    projects/<project>/project.json               its labeling configuration
    projects/<project>/samples/<annotation>.json  one accepted annotation: a SampleRecord
    projects/<project>/samples/<annotation>-<digest>.png   its label map, 8-bit gray
    projects/<project>/samples/<annotation>-<digest>-objects.png   its single objects, 16-bit gray
    projects/<project>.forgotten                  of one that was deleted: its newest version's number

Every file is written whole; a sample exists when its JSON does. JSON is sealed, a picture's name holds its digest: a
file that is damaged, or cannot be read, is quarantined when it is read, and then counts as missing.
"""

import hashlib
import io
import logging
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from skylight.backend.errors import BadRequest
from skylight.backend.limits import FOLDER, PROJECT
from skylight.backend.store.damaged_files import DamagedFiles, is_unreadable
from skylight.model.storage.checksums import seal, unseal
from skylight.model.storage.file_store import FileStore

log = logging.getLogger(__name__)
DIGITS = 16  # of a picture's sha256, in its name


@dataclass(frozen=True)
class SampleRecord:
    """One accepted annotation, without its label map and its objects."""

    annotation: int
    task: int
    updated_at: str  # as Label Studio wrote it
    url: str  # of the image, as the task names it
    image: str  # sha256 of the image's bytes
    size: tuple[int, int]  # H, W px
    labels: tuple[str, ...]  # value k + 1 in the label map is labels[k]
    regions: int
    label_map: str = ""  # file name; set by the store
    objects: str = ""  # file name; set by the store; "" if nothing is known of single objects
    shown: str = ""  # the version whose pre-annotation the annotator began with, "" if none
    agreement: float | None = None  # mean foreground IoU with that pre-annotation
    ground_truth: bool = False  # marked so in Label Studio
    reviewed: bool = False  # accepted by a reviewer, in a Label Studio that has reviews
    parked: tuple[str, ...] = ()  # labels of its regions that the configuration did not have; those pixels are "ignore"
    reading: int = (
        0  # which reading of regions it was made by: `skylight.backend.labelstudio.region_reader.READER_VERSION`
    )

    def outdated(self, updated_at: str, ground_truth: bool, reviewed: bool) -> bool:
        """Whether an annotation's state is another than this one: a later one, or other marks on the same one.

        Label Studio takes `ground_truth` from the other annotations of a task without touching their `updated_at`.
        """
        if self.updated_at != updated_at:
            return self.updated_at < updated_at
        return (self.ground_truth, self.reviewed) != (ground_truth, reviewed)


class SampleStore:
    """Samples and configurations of all projects."""

    def __init__(self, files: FileStore) -> None:
        self.files = files
        self.damage = DamagedFiles(files.folder)

    @staticmethod
    def folder(project: str) -> str:
        """The folder of all files of one project. Raises BadRequest for a name that could lead elsewhere."""
        if not FOLDER.fullmatch(project):
            raise BadRequest(f"{project[:80]!r} cannot be a project; Label Studio's look like '1.1795340435'")
        return f"projects/{project}"

    def projects(self) -> list[str]:
        """All projects that have a folder, sorted; without `misnamed`."""
        return [name for name in self._folders() if PROJECT.fullmatch(name)]

    def misnamed(self) -> list[str]:
        """Folders that earlier releases made for a project key that is none of Label Studio's."""
        return [name for name in self._folders() if not PROJECT.fullmatch(name)]

    def _folders(self) -> list[str]:
        return sorted(name for name in self.files.list_folder("projects").folders if FOLDER.fullmatch(name))

    def forget(self, project: str, newest: int) -> None:
        """Delete all files of a project but its images' embeddings, which other projects may share.

        `newest`: its newest version's number; should it come back, its versions are counted on from there, as other
        processes may still hold the earlier ones.
        """
        if newest:
            self.files.write(self._forgotten(project), seal({"newest": newest}))
        self.files.delete_tree(self.folder(project))
        self.damage.forget(project)

    def newest_forgotten(self, project: str) -> int:
        """The number of the newest version of a project when it was forgotten, 0 if it never was."""
        try:
            return int(unseal(self.files.read(self._forgotten(project)))["newest"])
        except (OSError, LookupError, TypeError, ValueError):
            return 0

    def _forgotten(self, project: str) -> str:
        return f"{self.folder(project)}.forgotten"

    def save_config(self, project: str, label_config: str) -> bool:
        """Store a project's labeling configuration; gives whether it is another than before."""
        if self.config(project) == label_config:
            return False
        self.files.write(f"{self.folder(project)}/project.json", seal({"label_config": label_config}))
        return True

    def config(self, project: str) -> str:
        """The project's labeling configuration, "" if it never came, or cannot be read any more."""
        name = f"{self.folder(project)}/project.json"
        try:
            return str(unseal(self.files.read(name))["label_config"])
        except FileNotFoundError:
            return ""
        except (LookupError, ValueError) as error:
            self.damage.quarantine(project, name, error)
        except OSError as error:
            log.error("%s cannot be read: %s", self.files.path(name), error)
        return ""

    def put(
        self,
        project: str,
        record: SampleRecord,
        label_map: NDArray[np.uint8],
        objects: NDArray[np.uint16] | None = None,
    ) -> None:
        """Store a sample in place of an earlier one of the same annotation.

        `label_map` (H, W) uint8; `objects` (H, W) uint16, k on the k-th single object, 0 where none is known.
        """
        folder, start = self._samples_folder(project), f"{record.annotation}-"
        names = {"label_map": self._write_png(folder, start, ".png", label_map), "objects": ""}
        if objects is not None:
            names["objects"] = self._write_png(folder, start, "-objects.png", objects)
        self.files.write(self._record_name(project, record.annotation), seal({**asdict(record), **names}))
        for name in self.files.list_folder(folder).names:
            if name.startswith(start) and name.endswith(".png") and name not in names.values():
                self.files.delete(f"{folder}/{name}")

    def get(self, project: str, annotation: int) -> SampleRecord | None:
        """The sample of an annotation, None if there is none."""
        return self._record(project, self._record_name(project, annotation))

    def samples(self, project: str) -> list[SampleRecord]:
        """All samples by rising annotation id."""
        records = [self._record(project, name) for name in self._record_names(project)]
        return sorted((record for record in records if record), key=lambda record: record.annotation)

    def count(self, project: str) -> int:
        """How many samples there are; none is read."""
        return len(self._record_names(project))

    def changed_at(self, project: str) -> int:
        """A time of the past, in ns, which is another one once a sample has changed. Raises FileNotFoundError."""
        return self.files.changed_at(self._samples_folder(project))

    def label_map(self, project: str, record: SampleRecord) -> NDArray[np.uint8]:
        """A sample's label map, (H, W) uint8.

        Raises DamagedFile if it was damaged, and the sample with it is gone; FileNotFoundError if another sample has
        taken its place just now.
        """
        return self._read_png(project, record, record.label_map)

    def objects(self, project: str, record: SampleRecord) -> NDArray[np.uint16] | None:
        """A sample's single objects, (H, W) uint16, 0 where none is known; None if they were never stored.

        Raises as `label_map`.
        """
        return self._read_png(project, record, record.objects) if record.objects else None

    def remove(self, project: str, annotation: int) -> bool:
        """Delete an annotation's sample; gives whether there was one."""
        record = self.get(project, annotation)
        if record is None:
            return False
        self.files.delete(self._record_name(project, annotation))
        for name in filter(None, (record.label_map, record.objects)):
            self.files.delete(f"{self._samples_folder(project)}/{name}")
        return True

    def remove_tasks(self, project: str, tasks: set[int]) -> int:
        """Delete the samples of some tasks; gives how many there were."""
        records = [record for record in self.samples(project) if record.task in tasks]
        return sum(self.remove(project, record.annotation) for record in records)

    def _read_png(self, project: str, record: SampleRecord, name: str) -> NDArray[Any]:
        picture, sample = f"{self._samples_folder(project)}/{name}", self._record_name(project, record.annotation)
        try:
            data = self.files.read(picture)
        except FileNotFoundError:
            if self.get(project, record.annotation) != record:
                raise
            raise self.damage.quarantine(project, sample, f"its picture {name} is gone") from None
        except OSError as error:
            if not is_unreadable(error):
                raise
            self.damage.quarantine(project, picture, error.strerror)
            raise self.damage.quarantine(project, sample, f"its picture {name} cannot be read") from error
        if _digest(data) not in name:
            self.damage.quarantine(project, sample, f"so is its picture {name}")
            raise self.damage.quarantine(project, picture, "its sha256 is not the one in its name")
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image)

    def _write_png(self, folder: str, start: str, end: str, array: NDArray[Any]) -> str:
        """Write a gray picture, (H, W) uint8 or uint16, under a name that holds its digest; gives the name."""
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "PNG")
        data = buffer.getvalue()
        name = f"{start}{_digest(data)}{end}"
        self.files.write(f"{folder}/{name}", data)
        return name

    def _record(self, project: str, name: str) -> SampleRecord | None:
        try:
            return _parse(self.files.read(name))
        except FileNotFoundError:  # also one that was listed just before
            return None
        except (LookupError, TypeError, ValueError) as error:
            self.damage.quarantine(project, name, error)
        except OSError as error:
            if not is_unreadable(error):
                raise
            self.damage.quarantine(project, name, error.strerror)
        return None

    def _record_names(self, project: str) -> list[str]:
        folder = self._samples_folder(project)
        return [f"{folder}/{name}" for name in self.files.list_folder(folder).names if name.endswith(".json")]

    def _record_name(self, project: str, annotation: int) -> str:
        return f"{self._samples_folder(project)}/{int(annotation)}.json"

    def _samples_folder(self, project: str) -> str:
        return f"{self.folder(project)}/samples"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:DIGITS]


def _parse(data: bytes) -> SampleRecord:
    fields = unseal(data)
    lists = {name: tuple(fields.get(name, ())) for name in ("size", "labels", "parked")}
    return SampleRecord(**{**fields, **lists})
