"""The parts that requests and jobs share: settings, queue, store, versions, Label Studio, and the loaded SAM."""

import functools
import hashlib
import logging
import threading
from pathlib import Path

import redis
from safetensors import SafetensorError

from skylight.backend.click_sessions import ClickSessions
from skylight.backend.errors import DamagedFile, Stopping, Unavailable
from skylight.backend.images import download
from skylight.backend.images.embedder import ImageEmbedder
from skylight.backend.images.large_images import LargeImageStore
from skylight.backend.images.prefetch_thread import PrefetchThread
from skylight.backend.labelstudio.client import LabelStudio
from skylight.backend.labelstudio.label_config import Labeling, parse_config
from skylight.backend.limits import MACHINE
from skylight.backend.process.admission import Admission
from skylight.backend.queue.connection import connect
from skylight.backend.queue.failures import Failures
from skylight.backend.queue.prefetch_requests import PrefetchRequests
from skylight.backend.queue.quarantine import Quarantine
from skylight.backend.queue.queue import Queue
from skylight.backend.queue.retries import Retries
from skylight.backend.security.webhook_secret import WebhookSecret
from skylight.backend.settings import MEGABYTE, Settings
from skylight.backend.store.normalization import NormalizationStore
from skylight.backend.store.opening import open_files
from skylight.backend.store.samples import SampleStore
from skylight.backend.store.spool import Spool
from skylight.backend.store.url_index import UrlIndex
from skylight.backend.store.versions import Versions
from skylight.model.decoder import network
from skylight.model.decoder.network import DomainDecoder, OtherLayout
from skylight.model.decoder.training import TrainConfig
from skylight.model.embeddings.cache import EmbeddingCache
from skylight.model.images.decoding import content_hash
from skylight.model.mapping.tiled_inference import default_side
from skylight.model.sam import checkpoints, loading
from skylight.model.sam.precision import weights_of

RECOVERY = "What was lost is made again from Label Studio or by the next training; until then the rest is used."

# Settings on which it depends whether an annotation's image can be fetched, read and embedded, and its regions be used.
LEARNING_SETTINGS = (
    "label_studio_url",
    "label_studio_api_key",
    "allowed_hosts",
    "max_pixels",
    "tile",
    "sam",
    "device",
    "memory_mb",
    "output",
)

log = logging.getLogger(__name__)


class Service:
    """The shared parts of one process, thread-safe. Nothing is loaded or connected before it is used."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        connection = connect(settings.redis_url)
        self.recipe = TrainConfig()
        self.queue = Queue(connection)
        enabled = bool(settings.label_studio_url and settings.label_studio_api_key)
        self.prefetch_requests = PrefetchRequests(self.queue, enabled)
        self.files = open_files(settings)
        self.store = SampleStore(self.files)
        self.spool = Spool(settings.home, self.store)
        self.url_index = UrlIndex(self.files)
        self.secret = WebhookSecret(settings, self.files)
        self.versions = Versions(self.store)
        self.normalizations = NormalizationStore(self.store, self.versions)
        self.failures = Failures(connection)
        self.quarantine = Quarantine(connection, configuration=self.configuration)
        self.retries = Retries(self.queue, self.failures, self.quarantine, self.store)
        self.store.damage.listener = self._report_damage
        self._labelstudio = LabelStudio(settings.label_studio_url, settings.label_studio_api_key)
        self.admission = Admission(settings.threads)
        self._lock = threading.Lock()
        self._embedder: ImageEmbedder | None = None
        self.labeling = functools.lru_cache(maxsize=256)(functools.partial(parse_config, preferred=settings.output))
        self.click_sessions = ClickSessions()
        self.stopping = threading.Event()  # set when this process is to end
        self.prefetch_thread = PrefetchThread(lambda project, url: self.embedder_for(project).embedding(url))
        self._decoder = functools.lru_cache(maxsize=16)(self._load_decoder)

    def configuration(self, project: str) -> str:
        """A digest of all that decides, beside an annotation itself, whether it can be learned from."""
        parts = [self.store.config(project), self.normalizations.of(project).bands]
        parts += [getattr(self.settings, name) for name in LEARNING_SETTINGS]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def check_stop(self) -> None:
        """Raise Stopping if the process is to end; called at the safe points of jobs."""
        if self.stopping.is_set():
            raise Stopping

    @property
    def labelstudio(self) -> LabelStudio | None:
        """Label Studio's API, None unless both its address and a key are set."""
        return self._labelstudio if self.settings.label_studio_url and self.settings.label_studio_api_key else None

    @property
    def embedder(self) -> ImageEmbedder:
        """The embedder; the first call loads the SAM, which takes a second or two."""
        with self._lock:
            if self._embedder is None:
                self._embedder = self._load_embedder()
            return self._embedder

    def embedder_for(self, project: str) -> ImageEmbedder:
        """The embedder with a project's normalization."""
        return self.embedder.with_normalization(self.normalizations.of(project))

    @property
    def loaded_embedder(self) -> ImageEmbedder | None:
        """The embedder, None while the SAM is not loaded."""
        return self._embedder

    def check_weights(self) -> Path | None:
        """The SAM's checkpoint file, None for the bundled one. Raises CheckpointError if it is not there."""
        return checkpoints.required_file(self.settings.sam, self.settings.home / "checkpoints")

    def verify(self, encoder_id: str) -> None:
        """Raise CheckpointError unless the SAM's weights are the published ones."""
        checkpoints.verify(self.settings.sam, encoder_id)

    def _load_embedder(self) -> ImageEmbedder:
        settings = self.settings
        exports = settings.home / "exports"
        segmenter = loading.load(settings.sam, self.check_weights(), settings.device, exports, settings.precision)
        self.verify(segmenter.encoder_id)
        memory, disk = settings.memory_mb * MEGABYTE, settings.disk_mb * MEGABYTE
        waiting = self.admission.outside
        cache = EmbeddingCache(self.files, segmenter.encoder_id, memory, disk, self._report_damaged_embedding, waiting)
        large = LargeImageStore(settings.home / "pictures", settings.tile or default_side(segmenter))
        return ImageEmbedder(segmenter, cache, self._fetch, settings.max_pixels, large=large)

    def _fetch(self, url: str) -> bytes:
        """Fetch an image's file; its content hash goes to `url_index`."""
        with self.admission.outside():
            data = download.fetch(url, settings=self.settings, client=self._labelstudio)
        self.url_index.note(url, content_hash(data))
        return data

    def version_name(self, project: str) -> str:
        """The `model_version` of what the project is served now: the same in every answer."""
        current = self.versions.current(project)
        return f"skylight-{current}" if current else f"sam-{self.settings.sam}"

    def decoder_for(self, project: str, labeling: Labeling) -> DomainDecoder | None:
        """The project's current decoder.

        None before the first version, or when the current one is for other labels, another SAM, or another release's
        network.
        """
        decoder = self.latest_decoder(project)
        if decoder is None:
            return None
        fits = decoder.config.labels == labeling.labels and self.is_compatible(decoder.config.encoder_id)
        return decoder if fits else None

    def is_compatible(self, encoder_id: str | None) -> bool:
        """Whether a decoder trained with this encoder fits the loaded SAM: the same weights, in any precision."""
        return weights_of(encoder_id or "") == weights_of(self.embedder.segmenter.encoder_id)

    def decoder_of_version(self, project: str, number: int) -> DomainDecoder | None:
        """The decoder of any version, None if its layout is another release's.

        Raises DamagedFile if it was damaged, Unavailable if it cannot be read now.
        """
        return self._decoder(project, number)

    def latest_decoder(self, project: str) -> DomainDecoder | None:
        """The current version's decoder, whatever it is for; where it is damaged, that of the one before it.

        Raises as `decoder_of_version`.
        """
        while current := self.versions.current(project):
            try:
                return self.decoder_of_version(project, current)
            except DamagedFile:
                if self.versions.current(project) == current:
                    raise
        return None

    def _load_decoder(self, project: str, number: int) -> DomainDecoder | None:
        try:
            sha256 = str(self.versions.card(project, number).get("sha256") or "")
            return network.from_bytes(self.versions.weights(project, number), sha256)
        except OtherLayout as error:
            log.warning("project %s has no decoder until its next training: %s", project, error)
            return None
        except (FileNotFoundError, SafetensorError, LookupError, ValueError) as error:
            raise self.versions.quarantine(project, number, error) from error
        except OSError as error:
            text = f"version {number} of project {project} cannot be read: {error}; look at the disk"
            raise Unavailable(text) from error

    def _report_damage(self, project: str, reason: str) -> None:
        """Report a quarantined file of the store, and request that what it held is made again."""
        projects = self.store.projects() if project == MACHINE else [project]  # of which project is not known
        for name in projects:
            self.failures.record(name, "damaged", f"{reason}; it was set aside", "Look at the disk. " + RECOVERY)
        try:
            for name in projects:
                self.queue.request_reconciliation(name)
                self.queue.mark_dirty(name)
                self.queue.request(name, "ingest")
        except redis.RedisError as error:
            log.error("project %s: what was damaged is made again once Redis is back: %s", project, error)

    def _report_damaged_embedding(self, path: Path) -> None:
        reason = f"the embedding {path.name} was damaged and is made again from its image"
        self.failures.record(MACHINE, "embeddings", reason, "Look at the disk, if it goes on.")
