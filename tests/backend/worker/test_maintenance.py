"""What is done beside the work: the spool, litter, and the comparison with Label Studio every few minutes."""

import os
import time
from dataclasses import replace

from skylight.backend.queue.connection import connect
from skylight.backend.store.versions import Versions
from skylight.backend.worker.maintenance import LITTER_SECONDS, Maintenance, delete_unfinished_files
from skylight.model.storage.atomic_write import write
from tests.support.label_studio_double import CONFIG, wait_until

P = "1.1795340435"


def test_what_waits_on_disk_goes_on_without_another_event(service, monkeypatch):
    monkeypatch.setattr("skylight.backend.worker.maintenance.EVERY_SECONDS", 0.05)
    for number in range(3):
        service.spool.add(P, {"what": "annotation", "id": number})
    with Maintenance(service, sweep=False):
        wait_until(lambda: service.queue.inbox_length(P) == 3)
    assert [event["id"] for event in service.queue.take_events(P)] == [0, 1, 2]
    assert service.spool.is_empty()


def test_it_outlives_a_redis_that_is_away(service, tmp_path, broker_socket, monkeypatch, caplog):
    monkeypatch.setattr("skylight.backend.worker.maintenance.EVERY_SECONDS", 0.05)
    service.spool.add(P, {"what": "annotation", "id": 1})
    service.queue.__init__(connect(f"unix://{tmp_path}/redis.sock"))
    with Maintenance(service, sweep=True):
        wait_until(lambda: "upkeep" in caplog.text)
        (tmp_path / "redis.sock").symlink_to(broker_socket)
        wait_until(lambda: service.spool.is_empty())
    assert service.queue.inbox_length(P) == 1


def test_every_few_minutes_one_worker_has_the_projects_compared(service):
    service.store.save_config(P, CONFIG)
    workers = [Maintenance(service, sweep=True) for _ in range(2)]
    for each in workers * 2:
        each.run_once()
    assert service.queue.queues["ingest"].count == 1
    assert service.queue.take_reconciliation(P) == "glance"
    assert service.queue.dirty(P) == 1  # Redis did not know it
    workers[0].run_once()
    assert service.queue.take_reconciliation(P) == ""


def test_a_wish_for_a_whole_comparison_is_not_made_less(service):
    service.queue.request_reconciliation(P)
    service.queue.request_reconciliation(P, glance=True)
    assert service.queue.take_reconciliation(P) == "all"


def test_with_zero_minutes_nothing_is_compared(service):
    service.store.save_config(P, CONFIG)
    service.settings = replace(service.settings, reconcile_minutes=0)
    Maintenance(service, sweep=True).run_once()
    assert service.queue.queues["ingest"].count == 0


def test_old_parts_of_killed_writers_are_deleted_and_nothing_else(service):
    home = service.settings.home
    write(home / "projects" / P / "samples" / "1.json", b"{}")
    Versions(service.store).publish(P, lambda path: path.write_bytes(b"w"), {})
    old = [
        home / "projects" / P / "samples" / ".1.json.0123abcd",
        home / "projects" / P / "versions" / f".{'0' * 32}" / "decoder.safetensors",
        home / "spool" / ".00.json.0123abcd",
    ]
    for path in old:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
        for each in (path, path.parent):
            os.utime(each, (time.time() - 2 * LITTER_SECONDS,) * 2)
    new = home / "projects" / P / "samples" / ".2.json.0123abcd"
    new.write_bytes(b"half")
    assert delete_unfinished_files(home) == 3
    left = {path.name for path in home.rglob("*") if path.is_file()}
    assert left == {"1.json", "card.json", "decoder.safetensors", new.name}
