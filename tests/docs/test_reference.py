"""The pages of the reference say what the code says."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from skylight.backend.settings import Settings

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """docs/reference.py, which is in no package."""
    spec = importlib.util.spec_from_file_location("reference", DOCS / "reference.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["command-line.md", "settings.md"])
def test_a_page_is_as_the_code_makes_it(reference: ModuleType, name: str) -> None:
    assert reference.pages()[DOCS / name] == (DOCS / name).read_text(encoding="utf-8"), "run: make reference"


def test_every_setting_and_every_command_has_its_place(reference: ModuleType) -> None:
    settings = reference.settings()
    assert all(f"| `{row.env}` |" in settings for row in Settings.table())
    headings = {line.strip("# ") for line in reference.command_line().splitlines() if line.startswith("#")}
    assert headings >= {"skylight serve", "skylight doctor", "skylight checkpoints download"}
