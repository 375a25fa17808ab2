"""Versions of a project's domain decoder: publish, promote, roll back.

    projects/<project>/versions/<number>/decoder.safetensors
    projects/<project>/versions/<number>/card.json
    projects/<project>/current.json               the number that is served, and the one before it

A version is immutable once its folder has its name. Which is current is in one file, so that a process killed at any
moment leaves exactly one. A version that is damaged is quarantined, its number is not used again, and the newest sound
one before it that had been promoted is served in its place.
"""

import hashlib
import logging
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from skylight.backend.errors import DamagedFile
from skylight.backend.store.damaged_files import is_unreadable
from skylight.backend.store.samples import SampleStore
from skylight.model.storage.checksums import seal, unseal

CARD, WEIGHTS = "card.json", "decoder.safetensors"  # the names of a version's files
NONE = {"version": 0, "before": 0, "newest": 0}

log = logging.getLogger(__name__)


class Versions:
    """The versions of all projects."""

    def __init__(self, store: SampleStore) -> None:
        self.store = store
        self.files = store.files

    def publish(self, project: str, save: Callable[[Path], None], card: dict[str, Any]) -> int:
        """Write a new version, whole or not at all, and give its number. `save` writes the weights to a path."""
        folder = self.folder(project)
        part = self.files.path(folder) / f".{uuid.uuid4().hex}"
        part.mkdir(parents=True)
        try:
            save(part / WEIGHTS)
            card = {**card, "sha256": hashlib.sha256((part / WEIGHTS).read_bytes()).hexdigest()}
            number = self.newest(project) + 1
            (part / CARD).write_bytes(seal({"version": number, **card}, indent=1))
            self.files.publish(part, f"{folder}/{number}", last=CARD)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return number

    def folder(self, project: str) -> str:
        """The folder of a project's versions."""
        return f"{self.store.folder(project)}/versions"

    def numbers(self, project: str) -> list[int]:
        """All versions' numbers, rising."""
        names = self.files.published(self.folder(project), last=CARD)
        return sorted(int(name) for name in names if name.isdecimal())

    def newest(self, project: str) -> int:
        """The highest number that a version of the project ever had, 0 if it had none."""
        numbers = [*self.numbers(project), *self.store.damage.numbers(project)]
        return max(self.store.newest_forgotten(project), max(numbers, default=0))

    def card(self, project: str, number: int) -> dict[str, Any]:
        """A version's card. Raises FileNotFoundError if there is none, DamagedFile if it was damaged."""
        try:
            return unseal(self.files.read(f"{self._version_folder(project, number)}/{CARD}"))
        except ValueError as error:
            raise self.quarantine(project, number, f"card.json: {error}") from error
        except OSError as error:
            if not is_unreadable(error):
                raise
            raise self.quarantine(project, number, f"card.json: {error.strerror}") from error

    def cards(self, project: str) -> list[dict[str, Any]]:
        """The cards of all versions, by rising number."""
        cards = []
        for number in self.numbers(project):
            with suppress(DamagedFile, FileNotFoundError):
                cards.append(self.card(project, number))
        return cards

    def quarantine(self, project: str, number: int, reason: object) -> DamagedFile:
        """Quarantine a damaged version, and serve the one before if it was served; gives the error to raise for it."""
        before = self._fallback(project, number)
        served = self._pointed_at(project) == number
        error = self.store.damage.quarantine(project, self._version_folder(project, number), reason)
        if served:
            log.error("project %s: version %d is served instead of %d", project, before, number)
            self._serve(project, before, 0)
        return error

    def _fallback(self, project: str, number: int) -> int:
        """The newest sound version before one that was promoted once; 0 if there is none."""
        for earlier in reversed(self.numbers(project)):
            if earlier < number:
                with suppress(DamagedFile, FileNotFoundError):
                    if self.card(project, earlier).get("promoted", True):
                        return earlier
        return 0

    def _pointed_at(self, project: str) -> int:
        """As `current`, but without repairing anything."""
        with suppress(OSError, LookupError, ValueError, TypeError):
            return int(unseal(self.files.read(self._pointer(project)))["version"])
        return 0

    def weights(self, project: str, number: int) -> bytes:
        """The content of a version's file of weights. Raises OSError."""
        return self.files.read(f"{self._version_folder(project, number)}/{WEIGHTS}")

    def current(self, project: str) -> int:
        """The number of the version that is served; 0 before the first."""
        return self._stored(project)["version"]

    def before(self, project: str) -> int:
        """The number that `roll_back` would go to; 0: none, SAM alone."""
        return self._stored(project)["before"]

    def promote(self, project: str, number: int) -> None:
        """Serve a version from now on. Raises FileNotFoundError if there is no such version."""
        self.card(project, number)
        stored = self._stored(project)
        before = stored["before"] if number == stored["version"] else stored["version"]
        self._serve(project, number, before)

    def settle(self, project: str) -> None:
        """Promote the newest version if its training said so and was killed before it did."""
        newest, stored = max(self.numbers(project), default=0), self._stored(project)
        if newest > stored.get("newest", newest) and self.card(project, newest).get("promoted"):
            self.promote(project, newest)

    def roll_back(self, project: str) -> int:
        """Serve the version before the current one again, and give its number (0: none, SAM alone)."""
        before = self._stored(project)["before"]
        if before and before not in self.numbers(project):  # it was damaged
            before = self._fallback(project, before)
        self._serve(project, before, 0)
        return before

    def _serve(self, project: str, number: int, before: int) -> None:
        newest = max(self.numbers(project), default=0)  # of which this one was chosen
        try:
            body = seal({"version": number, "before": before, "newest": newest})
            self.files.write(self._pointer(project), body)
            self.files.write(self._copy(project), body)
        except OSError as error:
            if number in self.numbers(project):  # somebody chose it, and is told; else the served one is damaged
                raise
            log.error("project %s: that version %d is served cannot be written: %s", project, number, error)

    def _version_folder(self, project: str, number: int) -> str:
        return f"{self.folder(project)}/{number}"

    def _pointer(self, project: str) -> str:
        return f"{self.store.folder(project)}/current.json"

    def _copy(self, project: str) -> str:
        return f"{self.store.folder(project)}/current.copy.json"

    def _stored(self, project: str) -> dict[str, int]:
        name = self._pointer(project)
        try:
            return self._read(name)
        except FileNotFoundError:
            return dict(NONE)
        except (LookupError, TypeError, ValueError) as error:
            self.store.damage.quarantine(project, name, error)
            return self._restored(project)
        except OSError as error:
            log.error("%s cannot be read, so SAM alone is served: %s", self.files.path(name), error)
            return dict(NONE)

    def _restored(self, project: str) -> dict[str, int]:
        """Which version is current, where the file that says so was damaged: from its copy, or else from the cards."""
        newest = max(self.numbers(project), default=0)
        try:
            pointer = self._read(self._copy(project))
        except (OSError, LookupError, TypeError, ValueError):
            number = self._fallback(project, newest + 1)
            pointer = {"version": number, "before": self._fallback(project, number), "newest": newest}
        with suppress(OSError):
            self.files.write(self._pointer(project), seal(pointer))
        return pointer

    def _read(self, name: str) -> dict[str, int]:
        content = unseal(self.files.read(name))
        return {key: int(content[key]) for key in NONE if key in content or key != "newest"}  # which came later
