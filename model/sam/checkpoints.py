"""The published SAM checkpoints: addresses, sha256, and verified downloads.

Nothing is downloaded unless `download` is called; `locate` only looks. `download` gives a file its final name
only after its sha256 was verified, so that loading it need not verify it again.
"""

import fcntl
import hashlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

CHUNK = 1 << 16  # bytes written at once; a cut loses less than this, and progress is reported as often
TIMEOUT_S = (10.0, 60.0)  # to connect; between two parts of the response
PAUSES_S = (0.0, 1.0, 5.0, 15.0)  # before each retry after one that brought no new byte
INTERRUPTIONS = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
FETCHES = 2  # whole files fetched before a wrong hash is refused

Progress = Callable[[int, int], None]


class CheckpointError(RuntimeError):
    """A checkpoint is unknown, missing, unreachable or another file; the message says what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """One published weights file."""

    name: str
    url: str
    sha256: str  # lower-case hex of the whole file
    size_bytes: int
    licence: str  # SPDX identifier, of the weights
    source: str  # page of the project that published them

    @property
    def file_name(self) -> str:
        """The last part of the URL, which is also the name on disk and at a mirror."""
        return self.url.rsplit("/", 1)[-1]


def _meta(name: str, file_name: str, sha256: str, size_bytes: int) -> Checkpoint:
    url = f"https://dl.fbaipublicfiles.com/segment_anything/{file_name}"
    source = "https://github.com/facebookresearch/segment-anything"
    return Checkpoint(name, url, sha256, size_bytes, "Apache-2.0", source)


CHECKPOINTS = {
    checkpoint.name: checkpoint
    for checkpoint in (
        _meta(
            "vit_b",
            "sam_vit_b_01ec64.pth",
            "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
            375_042_383,
        ),
        _meta(
            "vit_l",
            "sam_vit_l_0b3195.pth",
            "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
            1_249_524_607,
        ),
        _meta(
            "vit_h",
            "sam_vit_h_4b8939.pth",
            "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
            2_564_550_879,
        ),
        Checkpoint(
            "mobile_sam",
            # A commit, not a branch: the hash below belongs to this file and to no later one.
            "https://github.com/ChaoningZhang/MobileSAM/raw/f706ad9c4eb7f219c00d9050e46328518ffb65d2"
            "/weights/mobile_sam.pt",
            "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
            40_728_226,
            "Apache-2.0",
            "https://github.com/ChaoningZhang/MobileSAM",
        ),
    )
}


def find(name: str) -> Checkpoint:
    """The checkpoint of that name; raises CheckpointError naming the known ones."""
    if name not in CHECKPOINTS:
        raise CheckpointError(f"No checkpoint is called {name!r}; there are {', '.join(CHECKPOINTS)}.")
    return CHECKPOINTS[name]


def locate(name: str, folder: Path) -> Path:
    """The checkpoint's file in `folder`.

    Raises CheckpointError, with the command that fetches it, where the file is missing or has another size
    than the published one (a copy that was cut short). The hash is not computed: that would take seconds.
    """
    checkpoint = find(name)
    path = folder / checkpoint.file_name
    command = f"Run: skylight checkpoints download {name}"
    if not path.is_file():
        raise CheckpointError(f"The checkpoint {name} is not at {path}. {command}")
    size = path.stat().st_size
    if size != checkpoint.size_bytes:
        raise CheckpointError(f"{path} has {size} bytes instead of {checkpoint.size_bytes}. {command}")
    return path


def verify(name: str, encoder_id: str) -> None:
    """Raise CheckpointError if an encoder's id, which holds its weights' sha256, is not the published file's."""
    if name in CHECKPOINTS and not CHECKPOINTS[name].sha256.startswith(
        encoder_id.removeprefix(f"{name}-").partition("-")[0]
    ):
        raise CheckpointError(
            f"The file of the checkpoint {name}, {CHECKPOINTS[name].file_name}, is damaged: its sha256 is not the "
            f"published one. Delete it and run: skylight checkpoints download {name}"
        )


def required_file(name: str, folder: Path) -> Path | None:
    """The file that a SAM is loaded from, None for the bundled one. Raises CheckpointError as `locate`."""
    return None if name == "tiny" else locate(name, folder)


def download(name: str, folder: Path, mirror: str = "", progress: Progress | None = None) -> Path:
    """Fetch a checkpoint into `folder` (made if missing) and return its path, its sha256 verified.

    A right file that is already there is kept; a wrong one is replaced once a right one is complete. What
    arrived is kept in `<file>.part`, and a later call goes on from there. `mirror` is a base URL that takes
    the place of the official URL up to the file name. `progress` is called with (bytes here, bytes in all).
    Two calls for the same file, in one process or several, fetch it once: the second waits for the first.

    Raises CheckpointError when the server cannot be reached, answers with an error, keeps breaking off, or
    delivers a file with another hash twice.
    """
    checkpoint = find(name)
    target = folder / checkpoint.file_name
    if _is_valid(target, checkpoint):
        return target
    url = f"{mirror.rstrip('/')}/{checkpoint.file_name}" if mirror else checkpoint.url
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{checkpoint.file_name}.part"
    with _lock(folder / f"{checkpoint.file_name}.lock"):
        if _is_valid(target, checkpoint):  # fetched while this call waited for the lock
            return target
        for _ in range(FETCHES):
            _fetch(url, part, checkpoint.size_bytes, progress or _silent)
            if _is_valid(part, checkpoint):
                part.replace(target)
                return target
            actual = f"{_sha256(part)} ({_size(part)} bytes)"
            part.unlink()
    raise CheckpointError(
        f"{url} is not the checkpoint {name}: expected sha256 {checkpoint.sha256}"
        f" ({checkpoint.size_bytes} bytes), got {actual}, {FETCHES} times. It was removed. If this is a"
        f" mirror, put the file from {checkpoint.url} there; if not, something on the way changes the file."
    )


def _silent(done: int, total: int) -> None:
    pass


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file that stays behind, empty: removing it would let two callers in."""
    with path.open("ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _is_valid(path: Path, checkpoint: Checkpoint) -> bool:
    """Whether the file is there and is the published one; hashed only where the size is right."""
    return _size(path) == checkpoint.size_bytes and _sha256(path) == checkpoint.sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(url: str, part: Path, size: int, progress: Progress) -> None:
    """Request the file, and again from where it broke off, until it is complete or no retry brings a new byte."""
    reached = _size(part)
    pauses = iter(PAUSES_S)
    while True:
        try:
            return _request(url, part, size, progress)
        except INTERRUPTIONS as error:
            reason = str(error)
        except requests.RequestException as error:
            raise CheckpointError(f"{url} cannot be fetched: {error}. Check the address.") from error
        if _size(part) > reached:
            reached, pauses = _size(part), iter(PAUSES_S)
        pause = next(pauses, None)
        if pause is None:
            raise CheckpointError(
                f"{url} broke off at {_size(part)} of {size} bytes: {reason}. What arrived is kept; check the"
                f" network, then run the same command again to go on from there."
            )
        time.sleep(pause)


def _request(url: str, part: Path, size: int, progress: Progress) -> None:
    """Append the missing bytes to `part`, or start anew if the server does not continue from its end."""
    start = _size(part)
    if start == size:
        return
    if start > size:
        part.unlink()
        start = 0
    # Without "identity" a server may compress, and then its byte offsets are not those of the file.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
        if start and not _continues(response, start):
            part.unlink()
            if response.status_code != requests.codes.ok:
                return _request(url, part, size, progress)
            start = 0
        if response.status_code >= requests.codes.server_error:  # often over in a moment: worth a further try
            raise requests.ConnectionError(f"HTTP {response.status_code} {response.reason}")
        if not response.ok:
            answer = f"HTTP {response.status_code} {response.reason}"
            raise CheckpointError(f"{url} answered {answer}. Check the address, or the mirror if one is set.")
        _write(response, part, start, size, progress)


def _continues(response: requests.Response, start: int) -> bool:
    """Whether the response begins at byte `start`; True for an error that is not about the range."""
    if response.status_code == requests.codes.partial_content:
        sent = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        return sent is not None and int(sent[1]) == start
    return response.status_code not in (requests.codes.ok, requests.codes.requested_range_not_satisfiable)


def _write(response: requests.Response, part: Path, start: int, size: int, progress: Progress) -> None:
    done = start
    progress(done, size)
    with part.open("ab" if start else "wb") as file:
        for chunk in response.iter_content(CHUNK):
            file.write(chunk)
            done += len(chunk)
            progress(done, size)
            if done > size:  # not the file that was asked for: its hash will say so, without filling the disk
                return


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
