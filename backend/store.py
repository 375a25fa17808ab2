"""The store: accepted annotations as samples, and each project's configuration, as files under `SKYLIGHT_HOME`.

    projects/<project>/project.json               its labeling configuration
    projects/<project>/samples/<annotation>.json  one accepted annotation: a SampleRecord
    projects/<project>/samples/<annotation>-<digest>.png   its label map, 8-bit gray
    projects/<project>/samples/<annotation>-<digest>-objects.png   its single objects, 16-bit gray
    spool/                                        events that came while Redis was away

Every file is written beside its place and renamed into it; a sample exists when its JSON does.
"""

import fcntl
import hashlib
import io
import json
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backend.errors import BadRequest
from model.files import write


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

    def folder(self, project: str) -> Path:
        """Where everything of one project lives. Raises BadRequest for a name that could lead elsewhere."""
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", project):
            raise BadRequest(f"{project[:80]!r} cannot be a project; Label Studio's look like '1.1795340435'")
        return self.home / "projects" / project

    def projects(self) -> list[str]:
        """All projects that have a folder, sorted."""
        return sorted(path.name for path in (self.home / "projects").glob("*") if path.is_dir())

    def save_config(self, project: str, label_config: str) -> bool:
        """Keep a project's labeling configuration; gives whether it is another than before."""
        if self.config(project) == label_config:
            return False
        path = self.folder(project) / "project.json"
        write(path, json.dumps({"label_config": label_config}).encode())
        return True

    def config(self, project: str) -> str:
        """The project's labeling configuration, "" if it never came."""
        try:
            found = json.loads((self.folder(project) / "project.json").read_bytes())
        except FileNotFoundError:
            return ""
        return str(found["label_config"])

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
        body = json.dumps({**asdict(record), **names}).encode()
        write(self._record_path(project, record.annotation), body)
        for other in folder.glob(f"{record.annotation}-*.png"):
            if other.name not in names.values():
                other.unlink(missing_ok=True)

    def get(self, project: str, annotation: int) -> SampleRecord | None:
        """The sample of an annotation, None if there is none."""
        return _record(self._record_path(project, annotation))

    def samples(self, project: str) -> list[SampleRecord]:
        """All samples by rising annotation id."""
        paths = (self.folder(project) / "samples").glob("*.json")
        records = [record for path in paths if (record := _record(path))]
        return sorted(records, key=lambda record: record.annotation)

    def count(self, project: str) -> int:
        """How many samples there are; none is read."""
        return sum(1 for _ in (self.folder(project) / "samples").glob("*.json"))

    def label_map(self, project: str, record: SampleRecord) -> NDArray[np.uint8]:
        """A sample's label map, (H, W) uint8."""
        with Image.open(self.folder(project) / "samples" / record.label_map) as image:
            return np.asarray(image)

    def objects(self, project: str, record: SampleRecord) -> NDArray[np.uint16] | None:
        """A sample's single objects, (H, W) uint16, 0 where none is known; None if they were never stored."""
        if not record.objects:
            return None
        with Image.open(self.folder(project) / "samples" / record.objects) as image:
            return np.asarray(image)

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

    def spool(self, project: str, event: dict[str, Any]) -> None:
        """Keep an event on disk until Redis is back."""
        body = json.dumps({"project": project, "event": event}).encode()
        write(self.home / "spool" / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.json", body)

    def has_spooled(self) -> bool:
        """Whether events wait on disk."""
        return any((self.home / "spool").glob("*.json"))

    def spooled(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The spooled events, oldest first; each is removed when the next one is asked for.

        Nothing while somebody else is at it, so that no event overtakes an earlier one.
        """
        folder = self.home / "spool"
        if not self.has_spooled():
            return
        with (folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            while paths := sorted(folder.glob("*.json")):
                for path in paths:
                    found = json.loads(path.read_bytes())
                    yield str(found["project"]), found["event"]
                    path.unlink()

    def _record_path(self, project: str, annotation: int) -> Path:
        return self.folder(project) / "samples" / f"{int(annotation)}.json"


def _write_png(folder: Path, start: str, end: str, array: NDArray[Any]) -> str:
    """Write a gray picture, (H, W) uint8 or uint16, under a name that holds its digest; gives the name."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    data = buffer.getvalue()
    name = f"{start}{hashlib.sha256(data).hexdigest()[:16]}{end}"
    write(folder / name, data)
    return name


def _record(path: Path) -> SampleRecord | None:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:  # also one that was listed just before
        return None
    return SampleRecord(**{**found, "size": tuple(found["size"]), "labels": tuple(found["labels"])})
