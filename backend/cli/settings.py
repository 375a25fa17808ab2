"""`skylight settings`: every setting with its default, its meaning and the value it has now."""

import os
import re
import textwrap
from collections.abc import Iterator, Mapping

import rich_click as click

from skylight.backend.setting_parsers import redact_url
from skylight.backend.settings import Settings, Variable

SECRET = re.compile(r"(KEY|SECRET|PASSWORD|TOKEN)$")  # ends of the names of variables whose values are never shown
WIDTH = 80
INDENT = " " * 4


@click.command()
def settings() -> None:
    """List all settings, their defaults and current values.

    Settings are environment variables. Those that are set are marked with *. Keys and passwords are not shown. Ends
    with 1 if a value cannot be used.
    """
    click.echo("Environment variables; * marks those that are set here, *** a value that is secret.\n")
    for variable in Settings.table():
        for line in _entry(variable, os.environ):
            click.echo(line)
    Settings.from_env(os.environ)  # raises ConfigError, which says what is wrong


def _entry(variable: Variable, environ: Mapping[str, str]) -> Iterator[str]:
    """The lines about a variable."""
    value = environ.get(variable.env, "").strip()
    name = click.style(variable.env, bold=True)
    if value:
        yield f"* {name} = {shown(variable.env, value)}  (default: {variable.default or 'unset'})"
    else:
        yield f"  {name} = {variable.default or '(unset)'}"
    yield from textwrap.wrap(variable.help, WIDTH, initial_indent=INDENT, subsequent_indent=INDENT)


def shown(env: str, value: str) -> str:
    """A variable's value without what is secret in it: *** for keys and passwords, also for that in a URL."""
    if SECRET.search(env):
        return "***"
    return redact_url(value) if "://" in value else value
