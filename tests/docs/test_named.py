"""What the documents name exists: files, modules, commands and options, settings, make targets, messages."""

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import click
import pytest

from skylight.backend.cli.main import cli
from skylight.backend.settings import Settings

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for path in (
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "model/weights/README.md")),
    )
)
LONGEST_README = 200  # lines
TEST_SETTINGS = {"SKYLIGHT_DATA", "SKYLIGHT_CASES"}  # read by tests only
PLACEHOLDER = "…"

FILE = re.compile(
    r"(?<![\w/.-])((?:backend|model|tests|docker|examples|docs|\.github)/[\w./-]*\w\.(?:py|yaml|yml|md|svg|safetensors))\b"
)
MODULE = re.compile(r"python -m ((?:skylight|tests)[\w.]*)")
COMMAND = re.compile(r"(?:^|[`\s(|&;])skylight ((?:[a-z]+-?)+)([^`|;&#\n]*)", re.MULTILINE)
SETTING = re.compile(r"\bSKYLIGHT_[A-Z_]*[A-Z]\b")
TARGET = re.compile(r"\bmake ([a-z]+[a-z0-9]*)\b")
CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def code(text: str) -> str:
    """The code in a document: blocks, with their continued lines joined, and spans."""
    return "\n".join(found.strip("`").replace("\\\n", " ") for found in CODE.findall(text))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_are_named_exist(document: str) -> None:
    named = {name for name in FILE.findall(read(document)) if not name.startswith("docs/pictures/loop")}
    assert sorted(name for name in named if not (ROOT / name).is_file()) == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_modules_that_are_named_can_be_run(document: str) -> None:
    assert sorted(name for name in MODULE.findall(read(document)) if not runnable(name)) == []


def runnable(module: str) -> bool:
    path = ROOT / module.removeprefix("skylight.").replace(".", "/")
    file = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    return file.is_file() and ("__main__" in file.name or 'if __name__ == "__main__":' in file.read_text())


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_and_options_that_are_named_exist(document: str) -> None:
    problems = []
    for line in code(read(document)).splitlines():
        for name, rest in COMMAND.findall(line):
            if "label-studio-ml" in line:
                continue
            command = cli.get_command(click.Context(cli), name)
            if isinstance(command, click.Group) and (words := re.findall(r"^ ([a-z]+)", rest)):
                command = command.get_command(click.Context(command), words[0])
            if command is None:
                problems.append(f"skylight {name}")
                continue
            options = {option for each in command.params for option in (*each.opts, *each.secondary_opts)} | {"--help"}
            problems += [f"skylight {name} {one}" for one in re.findall(r"--[a-z-]+", rest) if one not in options]
    assert problems == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_settings_that_are_named_exist(document: str) -> None:
    known = {row.env for row in Settings.table()} | TEST_SETTINGS | set(SETTING.findall(read("docker/.env.example")))
    assert sorted(set(SETTING.findall(read(document))) - known) == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_that_are_named_exist(document: str) -> None:
    there = set(re.findall(r"^([a-z0-9]+):", read("Makefile"), re.MULTILINE))
    assert sorted(set(TARGET.findall(code(read(document)))) - there) == []


def test_messages_in_troubleshooting_are_those_of_the_code() -> None:
    """But for those of Label Studio, which are in a section of their own."""
    of_skylight = read("docs/troubleshooting.md").partition("## From the commands")[2]
    headings = re.findall(r"^### (.*)$", of_skylight, re.MULTILINE)
    shown = [message for heading in headings for message in re.findall(r"`([^`]+)`", heading)]
    assert len(shown) > 40
    parts = {part.strip() for message in shown for part in message.split(PLACEHOLDER) if len(part.strip()) > 3}
    assert sorted(part for part in parts if not any(part in text for text in texts())) == []


def test_messages_in_troubleshooting_are_in_alphabetical_order() -> None:
    for section in re.split(r"^## ", read("docs/troubleshooting.md"), flags=re.MULTILINE)[2:]:
        headings = re.findall(r"^### `(.*)$", section.lower(), re.MULTILINE)
        keys = [re.sub(r"[^a-z0-9]+", " ", heading).strip() for heading in headings]
        assert keys == sorted(keys)


@cache
def texts() -> frozenset[str]:
    """All pieces of text in the code, as far as they do not change; parts of one literal are one text."""
    found = set()
    for folder in ("backend", "model"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.add(node.value)
    return frozenset(found)


def test_the_readme_is_short() -> None:
    assert len(read("README.md").splitlines()) <= LONGEST_README


def test_layers_in_the_architecture_are_those_of_the_contracts() -> None:
    contracts = tomllib.loads(read("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    page = read("docs/architecture.md").partition("## Layers")[2]
    for contract in contracts:
        if contract["type"] == "layers":
            folder = contract["containers"][0].removeprefix("skylight.")
            table = page.partition(f"| `{folder}/`, from")[2].partition("\n\n")[0]
            rows = [re.findall(r"`(\w+)`", row.split("|")[1]) for row in table.splitlines()[2:]]
            assert rows == [re.findall(r"\w+", layer) for layer in contract["layers"]]
