"""A project of two tasks, and imports into it."""

import pytest

from skylight.backend.importing.importer import Options, plan
from tests.support.label_files import add_two_tasks


@pytest.fixture
def project(studio):
    return add_two_tasks(studio)


@pytest.fixture
def run(service):
    """Imports sources to the end; gives the last progress."""

    def go(*sources, **options):
        return [progress for progress, _ in plan(service, 1, sources, Options(**options)).run()][-1]

    return go
