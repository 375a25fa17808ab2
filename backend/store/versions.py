"""Versions of a project's domain decoder: publish, promote, roll back.

    projects/<project>/versions/<number>/decoder.safetensors
    projects/<project>/versions/<number>/card.json
    projects/<project>/current.json               the number that is served, and the one before it

A version is immutable once its folder has its name. Which is current is in one file, so that a process killed at any
moment leaves exactly one. A version that is damaged is set aside, its number is not used again, and the newest sound
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
from skylight.backend.store import bucket_path
from skylight.backend.store.damaged_files import is_unreadable
from skylight.backend.store.samples import Store
from skylight.model.storage.atomic_write import move_folder, write
from skylight.model.storage.checksums import seal, unseal

NONE = {"version": 0, "before": 0, "newest": 0}

log = logging.getLogger(__name__)


class Versions:
    """The versions of all projects."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def publish(self, project: str, save: Callable[[Path], None], card: dict[str, Any]) -> int:
        """Write a new version, whole or not at all, and give its number. `save` writes the weights to a path."""
        folder = self.folder(project)
        part = folder / f".{uuid.uuid4().hex}"
        part.mkdir(parents=True)
        try:
            save(part / "decoder.safetensors")
            card = {**card, "sha256": hashlib.sha256((part / "decoder.safetensors").read_bytes()).hexdigest()}
            number = self.newest(project) + 1
            (part / "card.json").write_bytes(seal({"version": number, **card}, indent=1))
            move_folder(part, folder / str(number))
            bucket_path.publish(folder / str(number), last="card.json")
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return number

    def folder(self, project: str) -> Path:
        """Where a project's versions are."""
        return self.store.folder(project) / "versions"

    def numbers(self, project: str) -> list[int]:
        """All versions' numbers, rising."""
        return sorted(int(path.name) for path in self.folder(project).glob("*") if path.name.isdecimal())

    def newest(self, project: str) -> int:
        """The highest number that a version of the project ever had, 0 if it had none."""
        taken = [self.store.newest_forgotten(project), *self.numbers(project), *self.store.damage.numbers(project)]
        return max(taken)

    def card(self, project: str, number: int) -> dict[str, Any]:
        """What is known of a version. Raises FileNotFoundError if there is none, SetAside if it was damaged."""
        try:
            return unseal((self.folder(project) / str(number) / "card.json").read_bytes())
        except ValueError as error:
            raise self.set_aside(project, number, f"card.json: {error}") from error
        except OSError as error:
            if not is_unreadable(error):
                raise
            raise self.set_aside(project, number, f"card.json: {error.strerror}") from error

    def cards(self, project: str) -> list[dict[str, Any]]:
        """The cards of all versions, by rising number."""
        found = []
        for number in self.numbers(project):
            with suppress(DamagedFile, FileNotFoundError):
                found.append(self.card(project, number))
        return found

    def set_aside(self, project: str, number: int, reason: object) -> DamagedFile:
        """Give up a damaged version, and serve the one before it if it was served; gives the error that says so."""
        before = self._fallback(project, number)
        served = self._named(project) == number
        error = self.store.damage.set_aside(project, self.folder(project) / str(number), reason)
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

    def _named(self, project: str) -> int:
        """As `current`, but without repairing anything."""
        with suppress(OSError, LookupError, ValueError, TypeError):
            return int(unseal(self._pointer(project).read_bytes())["version"])
        return 0

    def weights(self, project: str, number: int) -> Path:
        """The file of a version's weights."""
        return self.folder(project) / str(number) / "decoder.safetensors"

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
            write(self._pointer(project), body)
            write(self._copy(project), body)
        except OSError as error:
            if number in self.numbers(project):  # a wish, which can be refused; else the served one is damaged
                raise
            log.error("project %s: that version %d is served cannot be written: %s", project, number, error)

    def _pointer(self, project: str) -> Path:
        return self.store.folder(project) / "current.json"

    def _copy(self, project: str) -> Path:
        return self.store.folder(project) / "current.copy.json"

    def _stored(self, project: str) -> dict[str, int]:
        try:
            return _read(self._pointer(project))
        except FileNotFoundError:
            return dict(NONE)
        except (LookupError, TypeError, ValueError) as error:
            self.store.damage.set_aside(project, self._pointer(project), error)
            return self._remade(project)
        except OSError as error:
            log.error("%s cannot be read, so SAM alone is served: %s", self._pointer(project), error)
            return dict(NONE)

    def _remade(self, project: str) -> dict[str, int]:
        """Which version is current, where the file that says so was damaged: its copy knows, or else the cards do."""
        newest = max(self.numbers(project), default=0)
        try:
            made = _read(self._copy(project))
        except (OSError, LookupError, TypeError, ValueError):
            number = self._fallback(project, newest + 1)
            made = {"version": number, "before": self._fallback(project, number), "newest": newest}
        with suppress(OSError):
            write(self._pointer(project), seal(made))
        return made


def _read(path: Path) -> dict[str, int]:
    found = unseal(path.read_bytes())
    return {name: int(found[name]) for name in NONE if name in found or name != "newest"}  # which came later
