"""Each project's normalization: `projects/<project>/normalisation.json`, set by a command or from its first images.

It lies in the store, so that every process of every machine reads the same one, with Label Studio or without. As long
as there is none, each image is stretched by its own range. Once `ENOUGH` images of more than 8 bits have been embedded,
or at the first training with any, their common range is used from then on; unless each image is to keep its own range,
as where exposures differ.
"""

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from skylight.backend.store.samples import SampleStore
from skylight.backend.store.versions import Versions
from skylight.model.images.normalization import PER_IMAGE, Normalization, common_range
from skylight.model.storage.checksums import seal, unseal

ENOUGH = 20  # images that the common range is taken from, where there are so many

log = logging.getLogger(__name__)


class NormalizationStore:
    """The normalizations of all projects."""

    def __init__(self, store: SampleStore, versions: Versions) -> None:
        self.store = store
        self.versions = versions

    def of(self, project: str) -> Normalization:
        """A project's normalization; if its file was damaged, that of its newest version."""
        return self._read(project)[0]

    def is_own(self, project: str) -> bool:
        """Whether each image is to keep its own range."""
        return self._read(project)[1]

    def _read(self, project: str) -> tuple[Normalization, bool]:
        name = self._name(project)
        try:
            # Looked for first: in a bucket that is a listing once a second, where reading a file that does not exist is
            # a request each time.
            if not self.store.files.exists(name):
                return PER_IMAGE, False
            content = unseal(self.store.files.read(name))
            return Normalization.from_json(content), bool(content["own"])
        except FileNotFoundError:
            return PER_IMAGE, False
        except (LookupError, TypeError, ValueError) as error:
            self.store.damage.quarantine(project, name, error)
            return self._restored(project), False
        except OSError as error:
            log.error("%s cannot be read: %s", self.store.files.path(name), error)
            return PER_IMAGE, False

    def _name(self, project: str) -> str:
        return f"{self.store.folder(project)}/normalisation.json"

    def _restored(self, project: str) -> Normalization:
        with suppress(LookupError, TypeError, ValueError, OSError):
            newest = Normalization.from_json(self.versions.cards(project)[-1].get("normalisation"))
            self.set(project, newest)
            return newest
        return PER_IMAGE

    def set(self, project: str, normalization: Normalization, own: bool = False) -> None:
        """Use a normalization from now on; `own`: where it has no range, none is settled. Raises OSError."""
        self.store.files.write(self._name(project), seal({**normalization.to_json(), "own": own}))

    def settle(self, project: str, quantiles: Sequence[NDArray[np.float64]]) -> Normalization:
        """Settle the range by images stretched by their own, if there is none yet; gives what then holds.

        `quantiles`: of each image, as its embedding has them.
        """
        now, own = self._read(project)
        settled = common_range(quantiles) if now.range is None and not own else None
        if settled is None:
            return now
        new = replace(now, range=settled)
        try:
            self.set(project, new)
        except OSError as error:  # a full disk
            log.error("project %s: how its pictures are seen cannot be kept: %s", project, error)
            return now
        log.info("project %s: pictures are seen as %s, by the first %d", project, new, len(quantiles))
        return new
