"""How the tests are run: by how many processes, and in which order; `support/fixtures.py` has what they need."""

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Load the fixtures, but not into the process that only hands out tests: with them comes PyTorch."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        config.pluginmanager.import_plugin("tests.support.fixtures")


def pytest_xdist_auto_num_workers() -> int:
    """For `-n auto`: one more than there are cores, as many tests wait."""
    return len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first, so that at the end no process works alone."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
