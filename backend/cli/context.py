"""What commands share: the settings, the service, the end on Ctrl-C, and how failures are reported."""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import rich_click as click

from skylight.backend.logs import configure
from skylight.backend.process.supervisor import broker_address_file
from skylight.backend.settings import Settings

if TYPE_CHECKING:
    from skylight.backend.labelstudio.client import LabelStudio
    from skylight.backend.service import Service

MAX_FAILURES_SHOWN = 5


def load_settings() -> Settings:
    """Read the settings from the environment and configure logging by them."""
    settings = Settings.from_env(os.environ)
    configure(settings)
    return settings


def require_redis(settings: Settings) -> Settings:
    """Return the settings. Raises UsageError without REDIS_URL."""
    if not settings.redis_url:
        raise click.UsageError("set REDIS_URL; only `skylight serve` brings a broker of its own")
    return settings


def open_service(layout_checked: bool = False) -> "Service":
    """Open a service that shares the embedded broker of a running `skylight serve` where REDIS_URL is not set.

    `layout_checked`: another process has checked the layout of SKYLIGHT_HOME already, on behalf of this one.
    """
    from skylight.backend.service import Service
    from skylight.backend.store import migrations

    settings = load_settings()
    if not settings.redis_url:
        note = broker_address_file(settings)
        url = note.read_text() if note.is_file() else f"unix://{note.parent}/none.sock"
        settings = replace(settings, redis_url=url)
    service = Service(settings)
    if not layout_checked:
        migrations.check(service.files, service.queue.redis)
    return service


def require_label_studio(service: "Service") -> "LabelStudio":
    """Return the service's Label Studio client. Raises UsageError without its address and key."""
    if service.labelstudio is None:
        raise click.UsageError("set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY")
    return service.labelstudio


def stop_on_signal() -> threading.Event:
    """Return an event that SIGINT and SIGTERM set."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


class Interruption:
    """Whether Ctrl-C ended a run that the same command can resume."""

    def __init__(self) -> None:
        self.happened = False

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Note a KeyboardInterrupt instead of raising it."""
        try:
            yield
        except KeyboardInterrupt:
            self.happened = True

    def exit(self, failed: bool) -> None:
        """End the command with 130 if it was interrupted, with 1 if something failed."""
        if self.happened:
            click.echo("Stopped; the same command goes on from here.")
            sys.exit(130)
        if failed:
            sys.exit(1)


def report_failures(failures: Sequence[tuple[object, str]]) -> None:
    """Print the first failures with their reasons, and how many more there are."""
    for name, reason in failures[:MAX_FAILURES_SHOWN]:
        click.secho(f"{name}: {reason}", fg="red")
    if len(failures) > MAX_FAILURES_SHOWN:
        click.echo(f"... and {len(failures) - MAX_FAILURES_SHOWN} more")
