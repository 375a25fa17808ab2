"""Versions of a project's domain decoder: publish, promote, roll back.

    projects/<project>/versions/<number>/decoder.safetensors
    projects/<project>/versions/<number>/card.json
    projects/<project>/current.json               the number that is served, and the one before it

A version is immutable once its folder has its name. Which is current is in one file,
so that a process killed at any moment leaves exactly one.
"""

import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backend.store import Store
from model.files import write


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
            number = max(self.numbers(project), default=0) + 1
            (part / "card.json").write_text(json.dumps({"version": number, **card}, indent=1))
            os.rename(part, folder / str(number))
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return number

    def folder(self, project: str) -> Path:
        """Where a project's versions are."""
        return self.store.folder(project) / "versions"

    def numbers(self, project: str) -> list[int]:
        """All versions' numbers, rising."""
        return sorted(int(path.name) for path in self.folder(project).glob("*") if path.name.isdecimal())

    def card(self, project: str, number: int) -> dict[str, Any]:
        """What is known of a version. Raises FileNotFoundError if there is no such version."""
        found: dict[str, Any] = json.loads((self.folder(project) / str(number) / "card.json").read_bytes())
        return found

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
        self._serve(project, before, 0)
        return before

    def _serve(self, project: str, number: int, before: int) -> None:
        newest = max(self.numbers(project), default=0)  # of which this one was chosen
        body = json.dumps({"version": number, "before": before, "newest": newest}).encode()
        write(self.store.folder(project) / "current.json", body)

    def _stored(self, project: str) -> dict[str, int]:
        try:
            found: dict[str, int] = json.loads((self.store.folder(project) / "current.json").read_bytes())
        except FileNotFoundError:
            return {"version": 0, "before": 0, "newest": 0}
        return found
