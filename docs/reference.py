"""Write the two pages of the reference that are made from the code: `python docs/reference.py`.

docs/command-line.md comes from click's commands, docs/settings.md from the settings' table. Both are committed, so that
they can be read on GitHub; a test compares them with the code.
"""

import inspect
from collections.abc import Iterator
from pathlib import Path

import click

from skylight.backend.cli.main import cli
from skylight.backend.settings import Settings

DOCS = Path(__file__).parent
MADE = "<!-- Made by docs/reference.py; do not edit. -->"
PROGRAM = "skylight"


def command_line() -> str:
    """The page about the command line, as Markdown."""
    blocks = [
        MADE,
        "# Command line",
        "Settings come from the environment; see [Settings](settings.md). Commands that work on a running Skylight use"
        " its `SKYLIGHT_HOME`, and its Redis: that of `REDIS_URL`, or the one that `skylight serve` has started.",
        *_commands(cli, click.Context(cli, info_name=PROGRAM), 2),
    ]
    return "\n\n".join(blocks) + "\n"


def settings() -> str:
    """The page about the settings, as Markdown."""
    rows = [
        f"| `{row.env}` | {f'`{row.default}`' if row.default else ''} | {_cell(row.help)} |" for row in Settings.table()
    ]
    blocks = [
        MADE,
        "# Settings",
        "All settings come from environment variables. An empty variable counts as unset. A `SKYLIGHT_*` variable that"
        " does not exist is refused, and the message names the nearest one that does. `skylight settings` prints"
        " this table.",
        "\n".join(["| Variable | Default | Meaning |", "|---|---|---|", *rows]),
    ]
    return "\n\n".join(blocks) + "\n"


def pages() -> dict[Path, str]:
    """What each file should hold."""
    return {DOCS / "command-line.md": command_line(), DOCS / "settings.md": settings()}


def _sections(group: click.Group, context: click.Context) -> Iterator[tuple[str, list[str]]]:
    """The commands by the titles under which the help lists them; those that have none under ""."""
    titles = {panel.name: list(panel.commands) for panel in getattr(group, "panels", ()) if hasattr(panel, "commands")}
    placed = {name for names in titles.values() for name in names}
    yield "", [name for name in group.list_commands(context) if name not in placed]
    yield from titles.items()


def _commands(group: click.Group, context: click.Context, level: int) -> Iterator[str]:
    for title, names in _sections(group, context):
        if title:
            yield f"{'#' * level} {title}"
        for name in names:
            command = group.get_command(context, name)
            if command is not None and not command.hidden:
                child = click.Context(command, info_name=name, parent=context)
                yield f"{'#' * (level + bool(title))} {child.command_path}"
                yield from _described(command, child)
                if isinstance(command, click.Group):
                    yield from _commands(command, child, level + bool(title) + 1)


def _described(command: click.Command, context: click.Context) -> Iterator[str]:
    yield "\n".join(["```", f"{context.command_path} {' '.join(command.collect_usage_pieces(context))}", "```"])
    if command.help:
        yield inspect.cleandoc(command.help).replace("\b\n", "")
    records = [record for each in command.params if (record := each.get_help_record(context)) and record[1]]
    if records:
        rows = [f"| `{names.replace('|', ' / ')}` | {_cell(meaning)} |" for names, meaning in records]
        yield "\n".join(["| Option | Meaning |", "|---|---|", *rows])


def _cell(text: str) -> str:
    """A text as it has to be in a cell of a table."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
