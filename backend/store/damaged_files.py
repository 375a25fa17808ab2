"""Quarantine for files that are not as they were written: `SKYLIGHT_HOME/damaged`, a folder of this machine."""

import errno
import logging
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from skylight.backend.errors import DamagedFile
from skylight.model.storage.atomic_write import remove_tree

# Errors of the file system that concern one file, and stay, whatever is done about rights or free space.
UNREADABLE = (errno.EIO, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.EBADMSG, getattr(errno, "EUCLEAN", errno.EIO))
MOST = 100  # damaged files that are kept to be looked at; of more the oldest are deleted

TIME = re.compile(r"[0-9]{20}(?=-)")  # ns, at the beginning of the name of a quarantined file

log = logging.getLogger(__name__)


class DamagedFiles:
    """Quarantines damaged files of a store; `listener` is called with the project and a sentence."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.listener: Callable[[str, str], None] = lambda project, reason: None

    @property
    def folder(self) -> Path:
        """The quarantine; its names are `<time>-<path with dashes>`."""
        return self.home / "damaged"

    def quarantine(self, project: str, name: str, reason: object) -> DamagedFile:
        """Move a file or a version's folder, named as in the store, away; gives the error to raise for it.

        Where the disk cannot be written it stays, and is found damaged again.
        """
        target = self.folder / f"{time.time_ns():020d}-{name.replace('/', '-')}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            os.rename(self.home / name, target)
        except OSError as error:
            log.error("%s could not be set aside: %s", name, error)
        text = f"{name} is damaged ({reason})"
        log.error("project %s: %s; it is set aside in %s", project, text, self.folder)
        self._delete_oldest()
        self.listener(project, text)
        return DamagedFile(f"{text}; it was set aside in {self.folder}")

    def since(self, earliest: float) -> list[str]:
        """The names of what was quarantined since a time as `time.time()` counts, the newest first."""
        names = sorted((path.name for path in self.folder.glob("*")), reverse=True) if self.folder.is_dir() else []
        return [name for name in names if (match := TIME.match(name)) and int(match[0]) / 1e9 >= earliest]

    def numbers(self, project: str) -> list[int]:
        """The numbers of a project's quarantined versions."""
        pattern = re.compile(rf"[0-9]+-projects-{re.escape(project)}-versions-([0-9]+)")
        names = (path.name for path in self.folder.glob("*")) if self.folder.is_dir() else ()
        return [int(match[1]) for name in names if (match := pattern.fullmatch(name))]

    def forget(self, project: str) -> None:
        """Delete a project's quarantined files."""
        pattern = re.compile(rf"[0-9]+-projects-{re.escape(project)}-.+")
        for path in list(self.folder.glob("*")) if self.folder.is_dir() else ():
            if pattern.fullmatch(path.name):
                remove_tree(path)

    def _delete_oldest(self) -> None:
        """Delete the oldest; folders, which are versions, are kept."""
        try:
            files = sorted(path for path in self.folder.glob("*") if path.is_file())
            for path in files[:-MOST]:
                path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s is not kept short: %s", self.folder, error)


def is_unreadable(error: OSError) -> bool:
    """Whether an error is of one file that will never be read again, and not of the disk, the rights or the moment."""
    return error.errno in UNREADABLE
