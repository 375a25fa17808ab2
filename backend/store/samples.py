"""The store: accepted annotations as samples, and each project's configuration, as files under `SKYLIGHT_HOME`.

    projects/<project>/project.json               its labeling configuration
    projects/<project>/samples/<annotation>.json  one accepted annotation: a SampleRecord
    projects/<project>/samples/<annotation>-<digest>.png   its label map, 8-bit gray
    projects/<project>/samples/<annotation>-<digest>-objects.png   its single objects, 16-bit gray
    projects/<project>.forgotten                  of one that was deleted: its newest version's number
    spool/                                        events that came while Redis was away

Every file is written beside its place and renamed into it; a sample exists when its JSON does. JSON is sealed, a
picture's name holds its digest: what is damaged, or cannot be read, is set aside as it is read, and is as if it had
never come.
"""

import errno
import fcntl
import hashlib
import io
import json
import logging
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from skylight.backend.errors import BadRequest
from skylight.backend.limits import FOLDER, MACHINE, PROJECT
from skylight.backend.store.damaged_files import Damage, is_unreadable
from skylight.model.storage.atomic_write import remove_tree, write
from skylight.model.storage.checksums import is_sealed, seal, unseal

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
    reading: int = 0  # which reading of regions it was made by: `skylight.backend.labelstudio.region_reader.READING`

    def outdated(self, updated_at: str, ground_truth: bool, reviewed: bool) -> bool:
        """Whether this is news of the annotation: a later state of it, or other marks on the same one.

        Label Studio takes `ground_truth` from the other annotations of a task without touching their `updated_at`.
        """
        if self.updated_at != updated_at:
            return self.updated_at < updated_at
        return (self.ground_truth, self.reviewed) != (ground_truth, reviewed)


class Store:
    """Samples and configurations of all projects under one folder."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.damage = Damage(home)
        self._stuck: set[str] = set()  # names in the spool that can neither be read nor moved

    def folder(self, project: str) -> Path:
        """Where everything of one project lives. Raises BadRequest for a name that could lead elsewhere."""
        if not FOLDER.fullmatch(project):
            raise BadRequest(f"{project[:80]!r} cannot be a project; Label Studio's look like '1.1795340435'")
        return self.home / "projects" / project

    def projects(self) -> list[str]:
        """All projects that have a folder, sorted; without `misnamed`."""
        return [name for name in self._folders() if PROJECT.fullmatch(name)]

    def misnamed(self) -> list[str]:
        """Folders of what earlier releases took for projects, and which is none of Label Studio's."""
        return [name for name in self._folders() if not PROJECT.fullmatch(name)]

    def _folders(self) -> list[str]:
        paths = (self.home / "projects").glob("*")
        return sorted(path.name for path in paths if FOLDER.fullmatch(path.name) and path.is_dir())

    def forget(self, project: str, newest: int) -> None:
        """Delete all that belongs to a project but its images' embeddings, which other projects may share.

        `newest`: its newest version's number; should it come back, its versions are counted on from there, as other
        processes may still hold the earlier ones.
        """
        if newest:
            write(self._forgotten(project), seal({"newest": newest}))
        remove_tree(self.folder(project))
        for path in (self.home / "spool").glob("*.json"):
            with suppress(FileNotFoundError, ValueError, LookupError, TypeError):  # one that cannot be read
                if json.loads(path.read_bytes())["project"] == project:
                    path.unlink(missing_ok=True)
        self.damage.forget(project)

    def newest_forgotten(self, project: str) -> int:
        """The number of the newest version of a project when it was forgotten, 0 if it never was."""
        try:
            return int(unseal(self._forgotten(project).read_bytes())["newest"])
        except (OSError, LookupError, TypeError, ValueError):
            return 0

    def _forgotten(self, project: str) -> Path:
        return self.home / "projects" / f"{self.folder(project).name}.forgotten"

    def save_config(self, project: str, label_config: str) -> bool:
        """Keep a project's labeling configuration; gives whether it is another than before."""
        if self.config(project) == label_config:
            return False
        path = self.folder(project) / "project.json"
        write(path, seal({"label_config": label_config}))
        return True

    def config(self, project: str) -> str:
        """The project's labeling configuration, "" if it never came, or cannot be read any more."""
        path = self.folder(project) / "project.json"
        try:
            return str(unseal(path.read_bytes())["label_config"])
        except FileNotFoundError:
            return ""
        except (LookupError, ValueError) as error:
            self.damage.set_aside(project, path, error)
        except OSError as error:
            log.error("%s cannot be read: %s", path, error)
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
        folder = self.folder(project) / "samples"
        names = {"label_map": _write_png(folder, f"{record.annotation}-", ".png", label_map), "objects": ""}
        if objects is not None:
            names["objects"] = _write_png(folder, f"{record.annotation}-", "-objects.png", objects)
        write(self._record_path(project, record.annotation), seal({**asdict(record), **names}))
        for other in folder.glob(f"{record.annotation}-*.png"):
            if other.name not in names.values():
                other.unlink(missing_ok=True)

    def get(self, project: str, annotation: int) -> SampleRecord | None:
        """The sample of an annotation, None if there is none."""
        return self._record(project, self._record_path(project, annotation))

    def samples(self, project: str) -> list[SampleRecord]:
        """All samples by rising annotation id."""
        paths = (self.folder(project) / "samples").glob("*.json")
        records = [record for path in paths if (record := self._record(project, path))]
        return sorted(records, key=lambda record: record.annotation)

    def count(self, project: str) -> int:
        """How many samples there are; none is read."""
        return sum(1 for _ in (self.folder(project) / "samples").glob("*.json"))

    def label_map(self, project: str, record: SampleRecord) -> NDArray[np.uint8]:
        """A sample's label map, (H, W) uint8.

        Raises SetAside if it was damaged, and the sample with it is gone; FileNotFoundError if another sample has taken
        its place just now.
        """
        return self._picture(project, record, record.label_map)

    def objects(self, project: str, record: SampleRecord) -> NDArray[np.uint16] | None:
        """A sample's single objects, (H, W) uint16, 0 where none is known; None if they were never stored.

        Raises as `label_map`.
        """
        return self._picture(project, record, record.objects) if record.objects else None

    def _picture(self, project: str, record: SampleRecord, name: str) -> NDArray[Any]:
        path, known = self.folder(project) / "samples" / name, self._record_path(project, record.annotation)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            if self.get(project, record.annotation) != record:
                raise
            raise self.damage.set_aside(project, known, f"its picture {name} is gone") from None
        except OSError as error:
            if not is_unreadable(error):
                raise
            self.damage.set_aside(project, path, error.strerror)
            raise self.damage.set_aside(project, known, f"its picture {name} cannot be read") from error
        if _digest(data) not in name:
            self.damage.set_aside(project, known, f"so is its picture {name}")
            raise self.damage.set_aside(project, path, "its sha256 is not the one in its name")
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image)

    def _record(self, project: str, path: Path) -> SampleRecord | None:
        try:
            return _parse(path.read_bytes())
        except FileNotFoundError:  # also one that was listed just before
            return None
        except (LookupError, TypeError, ValueError) as error:
            self.damage.set_aside(project, path, error)
        except OSError as error:
            if not is_unreadable(error):
                raise
            self.damage.set_aside(project, path, error.strerror)
        return None

    def remove(self, project: str, annotation: int) -> bool:
        """Forget an annotation's sample; gives whether there was one."""
        record = self.get(project, annotation)
        if record is None:
            return False
        self._record_path(project, annotation).unlink(missing_ok=True)
        for name in filter(None, (record.label_map, record.objects)):
            (self.folder(project) / "samples" / name).unlink(missing_ok=True)
        return True

    def remove_tasks(self, project: str, tasks: set[int]) -> int:
        """Forget the samples of some tasks; gives how many there were."""
        gone = [record for record in self.samples(project) if record.task in tasks]
        return sum(self.remove(project, record.annotation) for record in gone)

    def spool(self, project: str, *events: dict[str, Any]) -> None:
        """Keep the events of one webhook on disk until Redis is back: in one file, since the disk is waited for."""
        body = seal({"project": project, "events": events})
        write(self.home / "spool" / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.json", body)

    def has_spooled(self) -> bool:
        """Whether events wait on disk."""
        return bool(self._spooled_paths())

    def spooled(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The spooled events, oldest first; each is removed when the next one is asked for.

        Nothing while somebody else is at it, so that no event overtakes an earlier one. A file that cannot be read is
        set aside and holds up no other. Raises OSError if the folder cannot be used.
        """
        folder = self.home / "spool"
        if not self.has_spooled():
            return
        with (folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            while paths := self._spooled_paths():
                for path in paths:
                    if found := self._read_spooled(path):
                        yield from _taken(path, *found)

    def _spooled_paths(self) -> list[Path]:
        """The files of spooled events, oldest first, without those that could not even be set aside."""
        return sorted(path for path in (self.home / "spool").glob("*.json") if path.name not in self._stuck)

    def _read_spooled(self, path: Path) -> tuple[str, list[dict[str, Any]]] | None:
        """The project and the events in a file of the spool; None of one that cannot be read, which is set aside."""
        project = ""
        try:
            data = path.read_bytes()
            # The release before this one had one event in a file, and sealed none.
            content = unseal(data) if is_sealed(data) else json.loads(data)
            project, events = str(content["project"]), content["events"] if "events" in content else [content["event"]]
            self.folder(project)
            if isinstance(events, list) and all(isinstance(event, dict) for event in events):
                return project, events
            reason: object = "it holds no events"
        except FileNotFoundError:
            return None
        except (LookupError, TypeError, ValueError, RecursionError, BadRequest) as error:
            reason = error
        except OSError as error:
            if not is_unreadable(error) and error.errno not in (errno.EACCES, errno.EPERM):
                raise
            reason = error.strerror
        self.damage.set_aside(project if project in self.projects() else MACHINE, path, reason)
        if os.path.lexists(path):
            self._stuck.add(path.name)
        return None

    def _record_path(self, project: str, annotation: int) -> Path:
        return self.folder(project) / "samples" / f"{int(annotation)}.json"


def _taken(path: Path, project: str, events: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The events of a file of the spool; those that are taken are no longer in it when whoever takes them ends."""
    left = list(events)
    try:
        for event in events:
            yield project, event
            left.pop(0)
    finally:
        if not left:
            path.unlink(missing_ok=True)
        elif len(left) < len(events):
            write(path, seal({"project": project, "events": left}))


def _write_png(folder: Path, start: str, end: str, array: NDArray[Any]) -> str:
    """Write a gray picture, (H, W) uint8 or uint16, under a name that holds its digest; gives the name."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    data = buffer.getvalue()
    name = f"{start}{_digest(data)}{end}"
    write(folder / name, data)
    return name


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:DIGITS]


def _parse(data: bytes) -> SampleRecord:
    found = unseal(data)
    lists = {name: tuple(found.get(name, ())) for name in ("size", "labels", "parked")}
    return SampleRecord(**{**found, **lists})
