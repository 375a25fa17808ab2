"""Webhook events on disk while Redis is away: `SKYLIGHT_HOME/spool`, a folder of this machine."""

import errno
import fcntl
import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from skylight.backend.errors import BadRequest
from skylight.backend.limits import MACHINE
from skylight.backend.store.damaged_files import is_unreadable
from skylight.backend.store.samples import SampleStore
from skylight.model.storage.atomic_write import write
from skylight.model.storage.checksums import is_sealed, seal, unseal


class Spool:
    """The events of all projects, in the order in which they came."""

    def __init__(self, home: Path, store: SampleStore) -> None:
        self.folder = home / "spool"
        self.store = store
        self._stuck: set[str] = set()  # names of files that can neither be read nor moved

    def add(self, project: str, *events: dict[str, Any]) -> None:
        """Write the events of one webhook to disk: in one file, since the disk is waited for."""
        body = seal({"project": project, "events": events})
        write(self.folder / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.json", body)

    def is_empty(self) -> bool:
        """Whether no event waits on disk."""
        return not self._paths()

    def take(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each event with its project, oldest first; an event is removed when the next one is asked for.

        Nothing while another process or thread takes them, so that no event overtakes an earlier one. A file that
        cannot be read is quarantined and holds up no other. Raises OSError if the folder cannot be used.
        """
        if self.is_empty():
            return
        with (self.folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            while paths := self._paths():
                for path in paths:
                    if content := self._read(path):
                        yield from _take_from(path, *content)

    def forget(self, project: str) -> None:
        """Delete a project's events."""
        for path in self.folder.glob("*.json"):
            with suppress(FileNotFoundError, ValueError, LookupError, TypeError):  # one that cannot be read
                if json.loads(path.read_bytes())["project"] == project:
                    path.unlink(missing_ok=True)

    def _paths(self) -> list[Path]:
        """The files of events, oldest first, without those that could not even be quarantined."""
        return sorted(path for path in self.folder.glob("*.json") if path.name not in self._stuck)

    def _read(self, path: Path) -> tuple[str, list[dict[str, Any]]] | None:
        """The project and the events in a file; None of one that cannot be read, which is quarantined."""
        project = ""
        try:
            data = path.read_bytes()
            # Early releases wrote one event into a file, without a checksum.
            content = unseal(data) if is_sealed(data) else json.loads(data)
            project, events = str(content["project"]), content["events"] if "events" in content else [content["event"]]
            self.store.folder(project)
            if isinstance(events, list) and all(isinstance(event, dict) for event in events):
                return project, events
            reason: object = "it holds no events"
        except FileNotFoundError:
            return None
        except (LookupError, TypeError, ValueError, RecursionError, BadRequest) as error:
            reason = error
        except OSError as error:
            if not is_unreadable(error) and error.errno not in (errno.EACCES, errno.EPERM):
                raise
            reason = error.strerror
        owner = project if project in self.store.projects() else MACHINE
        self.store.damage.quarantine(owner, f"{self.folder.name}/{path.name}", reason)
        if os.path.lexists(path):
            self._stuck.add(path.name)
        return None


def _take_from(path: Path, project: str, events: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The events of a file; those that were taken are no longer in it when the caller ends."""
    left = list(events)
    try:
        for event in events:
            yield project, event
            left.pop(0)
    finally:
        if not left:
            path.unlink(missing_ok=True)
        elif len(left) < len(events):
            write(path, seal({"project": project, "events": left}))
