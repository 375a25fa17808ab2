"""Each project's normalisation: `projects/<project>/normalisation.json`, by a command or from its first pictures.

It lies in the store, so that every process of every machine reads the same one, with Label Studio or without. Before
there is one, each picture is stretched by its own range. Once `ENOUGH` pictures of more than 8 bits have been embedded,
or at the first training with any, their common range is it, from then on; unless somebody has said that each picture is
to keep its own, as where exposures differ.
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

ENOUGH = 20  # pictures that the common range is taken from, where there are so many

log = logging.getLogger(__name__)


class Normalisations:
    """The normalisations of all projects."""

    def __init__(self, store: SampleStore, versions: Versions) -> None:
        self.store = store
        self.versions = versions

    def of(self, project: str) -> Normalization:
        """How a project's pictures are seen now; if that was damaged, as its newest version saw them."""
        return self._read(project)[0]

    def is_own(self, project: str) -> bool:
        """Whether each picture is to keep its own range."""
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
            made = Normalization.from_json(self.versions.cards(project)[-1].get("normalisation"))
            self.set(project, made)
            return made
        return PER_IMAGE

    def set(self, project: str, how: Normalization, own: bool = False) -> None:
        """See a project's pictures so from now on; `own`: where it has no range, none is settled. Raises OSError."""
        self.store.files.write(self._name(project), seal({**how.to_json(), "own": own}))

    def settle(self, project: str, pictures: Sequence[NDArray[np.float64]]) -> Normalization:
        """Take the range from pictures that were seen by their own, if there is none yet; gives what holds then.

        `pictures`: the `quantiles` of each.
        """
        now, own = self._read(project)
        found = common_range(pictures) if now.range is None and not own else None
        if found is None:
            return now
        made = replace(now, range=found)
        try:
            self.set(project, made)
        except OSError as error:  # a full disk
            log.error("project %s: how its pictures are seen cannot be kept: %s", project, error)
            return now
        log.info("project %s: pictures are seen as %s, by the first %d", project, made, len(pictures))
        return made
