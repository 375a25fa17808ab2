"""A version's validation images, the worst first, and the small pictures of its predictions for them."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cachetools import LRUCache

from skylight.backend.errors import SkylightError, Unavailable
from skylight.backend.learning.dataset import remap
from skylight.backend.service import Service
from skylight.backend.store.samples import SampleRecord
from skylight.backend.web.page import gallery_overlays
from skylight.model.sam.types import Embedding

MAX_CACHED = 256  # pictures kept in memory, 20 to 40 kB each


class PictureNotFound(SkylightError):
    """A picture of a task that the version was not measured on, or whose annotation is gone."""

    status = 404


@dataclass(frozen=True)
class GalleryItem:
    """One validation image: its task and its IoU."""

    task: str
    iou: float
    drawing: str  # see `drawing_name`; "" if its annotation is gone
    changed: bool  # the annotation is another now than when the version was made


def gallery_items(card: Mapping[str, Any], records: Sequence[SampleRecord]) -> list[GalleryItem]:
    """The images that a version was measured on, the worst first."""
    by_task = samples_by_task(card, records)
    learned = card.get("annotations") or {}
    items = []
    for task, iou in sorted((card.get("per_task") or {}).items(), key=lambda pair: (pair[1], pair[0])):
        record = by_task.get(task)
        changed = record is not None and learned.get(str(record.annotation)) != record.updated_at
        items.append(GalleryItem(task, float(iou), drawing_name(record) if record else "", changed))
    return items


def samples_by_task(card: Mapping[str, Any], records: Sequence[SampleRecord]) -> dict[str, SampleRecord]:
    """One sample for each task: one that the version learned from if there is any, of those the newest."""
    learned = card.get("annotations") or {}
    order = sorted(records, key=lambda record: (str(record.annotation) in learned, record.updated_at))
    return {str(record.task): record for record in order}


def drawing_name(record: SampleRecord) -> str:
    """A name for what is drawn of a sample: another one when its label map changes."""
    return record.label_map.rpartition(".")[0].rpartition("-")[2] or "0"


class Gallery:
    """Draws pictures of any version of any project, each once."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._lock = threading.Lock()
        self._pictures: LRUCache[tuple[str, int, str, str], bytes] = LRUCache(MAX_CACHED)

    def draw(self, project: str, number: int, task: str, records: Sequence[SampleRecord]) -> bytes:
        """Truth, prediction and disagreement of a task as a WebP file.

        Raises PictureNotFound if the task has no sample, Unavailable if its image is not embedded by the version's SAM:
        no image is fetched for this.
        """
        card = self.service.versions.card(project, number)
        record = samples_by_task(card, records).get(task)
        if record is None:
            raise PictureNotFound(f"task {task} has no accepted annotation any more")
        key = project, number, task, drawing_name(record)
        with self._lock:
            picture = self._pictures.get(key)
        if picture is None:
            picture = self._draw(project, number, record)
            with self._lock:
                self._pictures[key] = picture
        return picture

    def _draw(self, project: str, number: int, record: SampleRecord) -> bytes:
        decoder = self.service.decoder_of_version(project, number)
        if decoder is None:
            raise Unavailable(f"version {number} is of another release of Skylight and cannot be drawn; train anew")
        embedder = self.service.embedder.with_normalization(decoder.config.normalisation)
        if not self.service.is_compatible(decoder.config.encoder_id):
            raise Unavailable(
                f"version {number} reads embeddings of another SAM, {decoder.config.encoder_id}; "
                "set SKYLIGHT_SAM back to that"
            )
        embedding = embedder.cache.get(embedder.cache_key(record.image), _not_embedded(record))
        try:
            truth = self.service.store.label_map(project, record)
        except FileNotFoundError:
            message = f"the annotation of task {record.task} has just been replaced; reload the page"
            raise PictureNotFound(message) from None
        return gallery_overlays.draw(decoder, embedding, remap(truth, record.labels, decoder.config.labels))


def _not_embedded(record: SampleRecord) -> Callable[[], Embedding]:
    """A function that raises Unavailable, in the place of one that embeds the image."""

    def refuse() -> Embedding:
        raise Unavailable(f"the image of task {record.task} is not embedded; open the task in Label Studio")

    return refuse
