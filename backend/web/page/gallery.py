"""A version's validation images, the worst first, and the small pictures of what it says of them."""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from skylight.backend.errors import SkylightError, Unavailable
from skylight.backend.learning.training import remap
from skylight.backend.service import Service
from skylight.backend.store.samples import SampleRecord
from skylight.backend.web.page import gallery_overlays
from skylight.model.sam.types import Embedding

KEPT = 256  # drawn pictures kept in memory, 20 to 40 kB each


class NotThere(SkylightError):
    """A picture of a task that the version was not measured on, or whose annotation is gone."""

    status = 404


@dataclass(frozen=True)
class Item:
    """One validation image: its task and its IoU; `drawing` names what is drawn, "" if its annotation is gone."""

    task: str
    iou: float
    drawing: str
    changed: bool  # the annotation is another now than when the version was made


def items(card: Mapping[str, Any], records: Sequence[SampleRecord]) -> list[Item]:
    """The images that a version was measured on, the worst first."""
    by_task = truths(card, records)
    used = card.get("annotations") or {}
    found = []
    for task, iou in sorted((card.get("per_task") or {}).items(), key=lambda pair: (pair[1], pair[0])):
        record = by_task.get(task)
        changed = record is not None and used.get(str(record.annotation)) != record.updated_at
        found.append(Item(task, float(iou), drawing(record) if record else "", changed))
    return found


def truths(card: Mapping[str, Any], records: Sequence[SampleRecord]) -> dict[str, SampleRecord]:
    """The sample that stands for each task: of those the version was made of if there is one, the newest."""
    used = card.get("annotations") or {}
    order = sorted(records, key=lambda record: (str(record.annotation) in used, record.updated_at))
    return {str(record.task): record for record in order}


def drawing(record: SampleRecord) -> str:
    """A name for what is drawn of a sample: another one when its label map changes."""
    return record.label_map.rpartition(".")[0].rpartition("-")[2] or "0"


class Gallery:
    """Draws pictures of any version of any project, each once."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._lock = threading.Lock()
        self._drawn: OrderedDict[tuple[str, int, str, str], bytes] = OrderedDict()

    def draw(self, project: str, number: int, task: str, records: Sequence[SampleRecord]) -> bytes:
        """Truth, prediction and disagreement of a task as a WebP file.

        Raises NotThere if the task has no sample, Unavailable if its image is not embedded by the version's SAM: no
        image is fetched for this.
        """
        card = self.service.versions.card(project, number)
        record = truths(card, records).get(task)
        if record is None:
            raise NotThere(f"task {task} has no accepted annotation any more")
        key = project, number, task, drawing(record)
        with self._lock:
            if key in self._drawn:
                self._drawn.move_to_end(key)
                return self._drawn[key]
        made = self._draw(project, number, record)
        with self._lock:
            self._drawn[key] = made
            while len(self._drawn) > KEPT:
                self._drawn.popitem(last=False)
        return made

    def _draw(self, project: str, number: int, record: SampleRecord) -> bytes:
        decoder = self.service.decoder_of_version(project, number)
        if decoder is None:
            raise Unavailable(f"version {number} is of another release of Skylight and cannot be drawn; train anew")
        embedder = self.service.embedder.with_normalization(decoder.config.normalisation)
        if not self.service.is_compatible(decoder.config.encoder_id):
            made = decoder.config.encoder_id
            raise Unavailable(
                f"version {number} reads embeddings of another SAM, {made}; set SKYLIGHT_SAM back to that"
            )
        embedding = embedder.cache.get(embedder.cache_key(record.image), _absent(record))
        try:
            truth = self.service.store.label_map(project, record)
        except FileNotFoundError:
            raise NotThere(f"the annotation of task {record.task} has just been replaced; reload the page") from None
        return gallery_overlays.draw(decoder, embedding, remap(truth, record.labels, decoder.config.labels))


def _absent(record: SampleRecord) -> Any:
    def refuse() -> Embedding:
        raise Unavailable(f"the image of task {record.task} is not embedded; open the task in Label Studio")

    return refuse
