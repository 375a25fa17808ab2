"""The wheel: which files an installation puts into site-packages."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "backend", "model")


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of all files in a wheel that is built from a copy of the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / "src" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (folder / "src").mkdir(exist_ok=True)
            shutil.copy(ROOT / name, folder / "src" / name)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(folder / "src")], check=True)
    (wheel,) = folder.glob("label_studio_skylight-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_only_skylight_is_put_into_site_packages(names: set[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"skylight"}
    assert "skylight/__init__.py" not in names  # a namespace: nothing of it hides another package of this name


def test_every_module_and_every_file_that_is_read_is_packed(names: set[str]) -> None:
    tracked = subprocess.run(["git", "ls-files", "backend", "model"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout: the files that belong to the package are not known")
    expected = {
        f"skylight/{name}" for name in tracked.stdout.split() if not name.startswith("model/pretraining/weights/")
    }
    assert len(expected) > 200 and expected <= names
