"""The image without an engine: its Dockerfile's steps done in a folder, and its command run as its user."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
PREFIX = "/opt/skylight"
DATA_HOME = "/var/lib/skylight"


@dataclass(frozen=True)
class Instruction:
    """One of a Dockerfile, such as COPY, and what follows it."""

    word: str
    rest: str

    @property
    def listed(self) -> list[str]:
        """An exec form's words."""
        return [str(each) for each in json.loads(self.rest[self.rest.index("[") :])]


def stages(text: str) -> list[list[Instruction]]:
    """A Dockerfile's instructions, stage by stage, each stage beginning with its FROM."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found = [Instruction(*line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]
    starts = [i for i, each in enumerate(found) if each.word == "FROM"]
    return [found[start:end] for start, end in zip(starts, [*starts[1:], len(found)], strict=True)]


def rest_of(stage: list[Instruction], word: str) -> list[Instruction]:
    """All instructions of a kind."""
    return [each for each in stage if each.word == word]


def context(stage: list[Instruction], folder: Path) -> None:
    """What a stage copies from the project, and no other file of it."""
    for each in rest_of(stage, "COPY"):
        *sources, target = each.rest.split()
        for source in sources:
            place = folder / target if len(sources) == 1 and target != "./" else folder / source
            place.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, place)


def build(folder: Path) -> Path:
    """The first stage, quickly: the package from the stage's own files alone in an environment without pip.

    What it depends on is not installed once more: it is looked up where this Python has it.
    """
    source, prefix = folder / "src", folder / "prefix"
    context(stages((DOCKER / "Dockerfile").read_text())[0], source)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", prefix], check=True)
    library = Path(sysconfig.get_path("purelib", vars={"base": str(prefix)}))
    (library / "elsewhere.pth").write_text(sysconfig.get_path("purelib"))
    command = [sys.executable, "-m", "pip", "--python", str(prefix / "bin/python"), "install", "-q", "--no-deps"]
    again = ["--no-build-isolation", "--ignore-installed", "--no-index", str(source)]
    subprocess.run([*command, *again], check=True, env={"PATH": os.defpath})
    shutil.copy(DOCKER / "healthcheck.py", prefix / "bin")
    return prefix


def environment(stage: list[Instruction], prefix: Path, home: Path) -> dict[str, str]:
    """The ENV of a stage, with this folder's prefix and home in place of the image's."""
    found: dict[str, str] = {}
    for each in rest_of(stage, "ENV"):
        found |= dict(pair.split("=", 1) for pair in shlex.split(each.rest))
    return {name: moved(value, prefix, home).replace("$PATH", os.environ["PATH"]) for name, value in found.items()}


def moved(text: str, prefix: Path, home: Path) -> str:
    """A text of the Dockerfile with this folder's places."""
    return text.replace(PREFIX, str(prefix)).replace(DATA_HOME, str(home))


def as_user(user: str) -> list[str]:
    """How a command is begun as the image's user, by root; who is not root stays who he is.

    The user may read everything, since this Python may lie where only root can; but write his own files alone.
    """
    if os.geteuid():
        return []
    only = "-all,+dac_read_search"
    caps = ["--inh-caps", only, "--ambient-caps", only, "--bounding-set", only]
    return ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", *caps, "--"]


@contextmanager
def running(command: list[str], environ: Mapping[str, str], folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A command with nothing but its own environment; ended by SIGTERM, as an engine does."""
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, env=dict(environ), cwd=folder, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(20)
