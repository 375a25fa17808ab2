"""Keys are made once, whatever the file system can do, and by whichever process comes first."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from skylight.backend.admin.project_state import RecordCache
from skylight.backend.security import key_file
from skylight.backend.security.key_file import load_or_create_key
from skylight.backend.security.webhook_secret import WebhookSecret
from skylight.backend.settings import Settings
from skylight.backend.web.csrf import FormSigner
from skylight.backend.web.page.views import KEY_FILE, PageState

# Several processes at once; where links are refused, as exFAT, SMB and FUSE do.
PROCESS = """
import errno, os, sys
from pathlib import Path
from skylight.backend.security.key_file import load_or_create_key
from skylight.model.storage.file_store import FolderStore
def refuse(*_, **__):
    raise OSError(errno.EPERM, "no hard links here")
if sys.argv[2] == "refused":
    os.link = refuse
print("ready", flush=True)
sys.stdin.readline()
print(load_or_create_key(Path(sys.argv[1]), lambda: str(os.getpid())), flush=True)
"""
REFUSALS = [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EACCES]


@pytest.fixture(params=[None, *REFUSALS])
def links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int | None:
    """What the file system answers to a hard link, None if it makes one."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    if request.param is not None:
        monkeypatch.setattr(os, "link", refuse)
    found: int | None = request.param
    return found


def test_a_key_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path, links: int | None) -> None:
    path = tmp_path / "home" / "a.key"
    assert load_or_create_key(path, lambda: "first") == "first"
    assert load_or_create_key(path, lambda: "second") == "first"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["a.key"]


def test_the_secret_and_the_key_of_the_page_need_no_hard_links(tmp_path: Path, links: int | None, service) -> None:
    assert len(WebhookSecret(Settings(home=tmp_path), service.files).value) >= 32
    pages = PageState(service, RecordCache(service))
    token = pages.signer.token("cookie")
    assert (service.settings.home / KEY_FILE).is_file()
    assert FormSigner(load_or_create_key(service.settings.home / KEY_FILE, str))._serializer.loads(token) == "cookie"


@pytest.mark.parametrize("how", ["made", "refused"])
def test_of_processes_that_make_it_at_once_all_have_the_same(tmp_path: Path, how: str) -> None:
    command = [sys.executable, "-c", PROCESS, str(tmp_path / "a.key"), how]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) for _ in range(6)
    ]
    for each in started:
        assert each.stdout.readline() == "ready\n"
    for each in started:
        each.stdin.write("\n")
    found = {each.communicate()[0] for each in started}
    assert len(found) == 1 and found.pop().strip() in {str(each.pid) for each in started}


def test_an_empty_file_is_no_key(tmp_path: Path, links: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a loss of power leaves one, or a process that ended between making and writing it."""
    monkeypatch.setattr(key_file, "CLAIM_SECONDS", 0.05)
    (tmp_path / "a.key").touch()
    assert load_or_create_key(tmp_path / "a.key", lambda: "first") == "first"
    assert (tmp_path / "a.key").read_text() == "first"


def test_a_disk_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "home").write_bytes(b"where the folder should be")
    with pytest.raises(OSError, match="home"):
        load_or_create_key(tmp_path / "home" / "a.key", lambda: "first")
