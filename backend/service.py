"""What every part of the service works with: settings, queue, store, versions, Label Studio, and the loaded SAM."""

import functools
import logging
import threading
from pathlib import Path

from safetensors import SafetensorError

from backend import media
from backend.addresses import Addresses
from backend.errors import Unavailable
from backend.labeling import Labeling, parse_config
from backend.labelstudio import LabelStudio
from backend.large import Large
from backend.opened import Opened
from backend.pictures import Pictures
from backend.queue import Queue, connect
from backend.secret import Secret
from backend.settings import MEGABYTE, Settings
from backend.store import Store
from backend.turns import Turns
from backend.versions import Versions
from model import checkpoints, decoder, sam
from model.decoder import DomainDecoder, OtherLayout
from model.embeddings import EmbeddingCache
from model.images import content_hash
from model.tiles import default_side
from model.train import TrainConfig

log = logging.getLogger(__name__)


class Service:
    """One per process. Nothing is loaded or connected before it is asked for; thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        connection = connect(settings.redis_url)
        self.recipe = TrainConfig()
        self.queue = Queue(connection)
        self.store = Store(settings.home)
        self.addresses = Addresses(settings.home / "addresses")
        self.secret = Secret(settings)
        self.versions = Versions(self.store, connection)
        self._labelstudio = LabelStudio(settings.label_studio_url, settings.label_studio_api_key)
        self._lock = threading.Lock()
        self._pictures: Pictures | None = None
        self.labeling = functools.lru_cache(maxsize=256)(functools.partial(parse_config, output=settings.output))
        self.turns = Turns()
        self.opened = Opened(lambda url: self.pictures.embedding(url))
        self._decoder = functools.lru_cache(maxsize=16)(self._load_decoder)

    @property
    def labelstudio(self) -> LabelStudio | None:
        """Label Studio's API, None unless both its address and a key are set."""
        return self._labelstudio if self.settings.label_studio_url and self.settings.label_studio_api_key else None

    @property
    def pictures(self) -> Pictures:
        """Embeddings by URL; the first call loads the SAM, which takes a second or two."""
        with self._lock:
            if self._pictures is None:
                self._pictures = self._load_pictures()
            return self._pictures

    def check_weights(self) -> Path | None:
        """The SAM's checkpoint file, None for the bundled one. Raises CheckpointError if it is not there."""
        return checkpoints.needed(self.settings.sam, self.settings.home / "checkpoints")

    def _load_pictures(self) -> Pictures:
        settings = self.settings
        segmenter = sam.load(settings.sam, self.check_weights(), settings.device)
        memory, disk = settings.memory_mb * MEGABYTE, settings.disk_mb * MEGABYTE
        cache = EmbeddingCache(settings.home / "embeddings", segmenter.encoder_id, memory, disk)
        large = Large(settings.home / "pictures", settings.tile or default_side(segmenter))
        return Pictures(segmenter, cache, self._fetch, settings.max_pixels, large=large)

    def _fetch(self, url: str) -> bytes:
        """An image's file; which image it is goes to `addresses`."""
        data = media.fetch(url, settings=self.settings, client=self._labelstudio)
        self.addresses.note(url, content_hash(data))
        return data

    def version_name(self, project: str) -> str:
        """The `model_version` of what the project is served now: the same in every answer."""
        current = self.versions.current(project)
        return f"skylight-{current}" if current else f"sam-{self.settings.sam}"

    def decoder(self, project: str, labeling: Labeling) -> DomainDecoder | None:
        """The current decoder, None before the first or when it was trained for other labels, another SAM or by an
        earlier version of Skylight whose network was another.
        """
        current = self.versions.current(project)
        if not current:
            return None
        found = self.decoder_of(project, current)
        if found is None:
            return None
        fits = found.config.labels == labeling.labels and found.config.encoder_id == self.pictures.segmenter.encoder_id
        return found if fits else None

    def decoder_of(self, project: str, number: int) -> DomainDecoder | None:
        """The decoder of any version, None if its layout is another release's. Raises Unavailable if unreadable."""
        return self._decoder(project, number)

    def _load_decoder(self, project: str, number: int) -> DomainDecoder | None:
        try:
            return decoder.load(self.versions.weights(project, number))
        except OtherLayout as error:
            log.warning("project %s has no decoder until its next training: %s", project, error)
            return None
        except (FileNotFoundError, SafetensorError) as error:
            raise Unavailable(f"version {number} of project {project} cannot be read: {error}; train anew") from error
