"""Events on disk, in their order."""

import json
import threading
import time
from pathlib import Path

import pytest

from skylight.backend.store.samples import SampleStore
from skylight.backend.store.spool import Spool
from skylight.model.storage.file_store import FolderStore

P = "1.1795340435"


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path, SampleStore(FolderStore(tmp_path)))


def test_an_empty_spool_holds_nothing(spool):
    assert spool.is_empty() and list(spool.take()) == []
    assert not spool.folder.exists()


def test_spooled_events_come_back_once_and_in_their_order(spool):
    for n in range(20):
        spool.add(P, {"id": n})
    assert [event["id"] for _, event in spool.take()] == list(range(20))
    assert list(spool.take()) == []


def test_an_event_that_could_not_be_handed_on_stays_spooled(spool):
    for n in range(3):
        spool.add(P, {"id": n})
    replay = spool.take()
    next(replay)
    next(replay)
    replay.close()  # as when Redis goes away at the second
    assert list(spool.take()) == [(P, {"id": 1}), (P, {"id": 2})]


def test_two_who_replay_at_once_hand_every_event_on_once_and_in_order(spool):
    for n in range(40):
        spool.add(P, {"id": n})
    seen: list[int] = []
    together = threading.Barrier(4)

    def replay() -> None:
        together.wait()
        for _, event in spool.take():
            time.sleep(0.001)  # as handing it on takes
            seen.append(event["id"])

    threads = [threading.Thread(target=replay) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == list(range(40))


def test_what_another_release_spooled_is_read(spool):
    spool.folder.mkdir(parents=True)
    old = spool.folder / "00000000000000000001-old.json"
    old.write_text(json.dumps({"project": P, "event": {"what": "train"}}))
    spool.add(P, {"id": 1}, {"id": 2})
    assert list(spool.take()) == [(P, {"what": "train"}), (P, {"id": 1}), (P, {"id": 2})]


def test_of_several_events_in_a_spooled_file_those_that_were_handed_on_do_not_come_again(spool):
    spool.add(P, {"id": 1}, {"id": 2}, {"id": 3})
    replay = spool.take()
    assert [next(replay), next(replay)] == [(P, {"id": 1}), (P, {"id": 2})]
    replay.close()  # as when Redis goes away at the second
    assert list(spool.take()) == [(P, {"id": 2}), (P, {"id": 3})]


def test_the_events_of_one_project_can_be_deleted(spool):
    for project in (P, "2.5", P):
        spool.add(project, {"id": 1})
    (spool.folder / "00000000000000000001-bad.json").write_bytes(b"half of")
    spool.forget(P)
    assert list(spool.take()) == [("2.5", {"id": 1})]
