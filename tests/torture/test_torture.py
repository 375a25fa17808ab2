"""A small selection of `make torture`: one real Skylight, a burst, and each of its processes killed once."""

import os
import random
import signal
from pathlib import Path

import pytest

from tests.support.label_studio_double import Studio, wait_until
from tests.support.planted_embeddings import png, square
from tests.support.shared_exports import share_exports
from tests.torture import bursts, kills
from tests.torture.running import held, learned, skylight, unsound

pytestmark = pytest.mark.slow


def test_nothing_is_lost_in_a_burst_nor_when_processes_are_killed(
    tmp_path: Path, studio: Studio, exports: Path
) -> None:
    share_exports(tmp_path / "home", exports)
    project, rng = studio.add_project(), random.Random(0)
    bodies = bursts.script(studio, project, 150, seed=1)
    tasks = [studio.add_task(project, png(square(k)[0])) for k in range(8)]
    with skylight(tmp_path / "home", studio) as running:
        statuses, _ = bursts.send(running.url, bodies, connections=8)
        assert all(200 <= status < 300 for status in statuses)
        for victim in ("valkey", "worker"):
            for _ in range(2):
                kills.tell(running, kills.annotate(studio, project, tasks, rng))
            os.kill(running.children()[victim], signal.SIGKILL)
            kills.tell(running, kills.annotate(studio, project, tasks, rng))  # to whoever is there
        wait_until(lambda: learned(running.store, project) == held(studio, project), 180)
        assert unsound(running.store, project) == []
