"""The webhooks' secret: where it comes from, who may read it, and what it is compared with."""

import stat
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from skylight.backend.security.key_file import load_or_create_key
from skylight.backend.security.webhook_secret import HEADER, WebhookSecret
from skylight.backend.settings import Settings
from skylight.backend.store.opening import open_files
from skylight.model.storage.file_store import FolderStore


def secret(home: Path, given: str = "") -> WebhookSecret:
    return WebhookSecret(Settings(home=home, webhook_secret=given), FolderStore(home))


def test_it_is_made_once_and_only_its_owner_may_read_it(tmp_path):
    made = secret(tmp_path / "home")
    assert not (tmp_path / "home").exists()
    assert len(made.value) >= 32 and secret(tmp_path / "home").value == made.value
    assert stat.S_IMODE((tmp_path / "home" / "webhook-secret").stat().st_mode) == 0o600
    assert secret(tmp_path / "other").value != made.value


def test_one_that_is_set_counts_and_nothing_is_written(tmp_path):
    assert secret(tmp_path, "correct-horse-battery").value == "correct-horse-battery"
    assert not list(tmp_path.iterdir())


def test_of_processes_that_make_it_at_once_all_get_the_same(tmp_path):
    found: list[str] = []
    start = threading.Barrier(8)

    def make(i: int) -> None:
        start.wait()
        found.append(load_or_create_key(tmp_path / "home" / "it", lambda: f"made by {i}"))

    threads = [threading.Thread(target=make, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(found)) == 1
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["it"]


@pytest.mark.parametrize("given", [None, "", "correct-horse", "correct-horse-battery ", "schlüssel"])
def test_only_the_whole_secret_matches(tmp_path, given):
    it = secret(tmp_path, "correct-horse-battery")
    assert it.matches(it.headers[HEADER])
    assert not it.matches(given)


def test_a_skylight_is_known_by_a_name_that_does_not_tell_the_secret(tmp_path):
    one, same = secret(tmp_path, "correct-horse-battery"), secret(tmp_path / "other", "correct-horse-battery")
    assert one.instance == same.instance != secret(tmp_path, "another-horse-battery").instance
    assert len(one.instance) == 16 and one.instance not in one.value


def test_it_is_expected_of_the_projects_that_are_known_to_send_it(settings):
    one = WebhookSecret(settings, open_files(settings))
    one.require("1.1795340435")
    one.require("1.1795340435")
    later = WebhookSecret(replace(settings), open_files(settings))
    assert later.is_required("1.1795340435")
    assert not later.is_required("2.1795340435")
