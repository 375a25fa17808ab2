"""Commands that run servers: `skylight serve`, `web`, `worker` and `demo`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from skylight.backend.cli.context import load_settings, require_redis, stop_on_signal
from skylight.backend.cli.parameters import split_list
from skylight.backend.process.parent_watch import terminate_with_parent
from skylight.backend.process.ports import free_port
from skylight.backend.process.supervisor import Supervisor
from skylight.backend.web import listen

if TYPE_CHECKING:
    from skylight.backend.queue.keys import Kind

WORKER_NICENESS = 5  # a click goes before training

HOST = click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
PORT = click.option("--port", default=9090, show_default=True, help="Port to listen on.")
INSECURE = click.option("--insecure", is_flag=True, help="Listen in a network without a login. Anybody there may call.")
PARENT = click.option("--follow", "parent", type=int, hidden=True, help="End when the process with this id is gone.")


@click.command()
@HOST
@PORT
@INSECURE
def serve(host: str, port: int, insecure: bool) -> None:
    """Run broker, workers and web server on this machine."""
    settings = load_settings()
    listen.check(host, settings, insecure)
    if free_port(port) != port:
        raise click.UsageError(f"port {port} is in use; end what uses it or give another --port")
    stop = stop_on_signal()
    with Supervisor(settings, os.environ, host, port, insecure) as supervisor:
        broker = "Redis at REDIS_URL" if settings.redis_url else "an embedded broker"
        url = f"http://{listen.address(host, port)}"
        click.echo(f"Skylight: {url}, {settings.workers} worker(s), {broker}, files in {settings.home}")
        click.echo("Ctrl-C ends it.")
        supervisor.watch(stop)


@click.command()
@HOST
@PORT
@INSECURE
@PARENT
def web(host: str, port: int, insecure: bool, parent: int | None) -> None:
    """Run the web server alone. Needs REDIS_URL.

    It shares SKYLIGHT_HOME with the workers.
    """
    if parent:
        terminate_with_parent(parent)
    from skylight.backend.web.server import run

    settings = require_redis(load_settings())
    listen.check(host, settings, insecure)
    run(settings, host, port)


def _queues(ctx: click.Context, param: click.Parameter, value: str) -> "tuple[Kind, ...]":
    """embed,train as kinds of jobs; all of an empty text."""
    from skylight.backend.queue.keys import KINDS

    names = split_list(value)
    if unknown := [name for name in names if name not in KINDS]:
        raise click.BadParameter(f"there is no queue {unknown[0]!r}, only {', '.join(KINDS)}")
    return tuple(kind for name in dict.fromkeys(names) for kind in KINDS if kind == name) or KINDS


@click.command()
@click.option(
    "--queues", "kinds", default="", callback=_queues, help="Only these, most urgent first, as embed,train.  [all]"
)
@PARENT
def worker(kinds: "tuple[Kind, ...]", parent: int | None) -> None:
    """Run one worker alone. Needs REDIS_URL.

    It ingests annotations, trains, pre-annotates and embeds. With --queues it does some of that only, as a machine
    with a GPU does beside others; other workers have to do the rest.
    """
    if parent:
        terminate_with_parent(parent)
    from skylight.backend.worker.worker import run

    settings = require_redis(load_settings())
    os.nice(WORKER_NICENESS)
    run(settings, kinds)


@click.command()
@click.option("--label-studio", "executable", type=click.Path(path_type=Path), required=True, help="Its program file.")
@click.option("--port", default=8080, show_default=True, help="Label Studio's port; the next free one if it is busy.")
def demo(executable: Path, port: int) -> None:
    """Run Label Studio and Skylight with 40 example images.

    The images are procedural planetary scenes. `make demo` installs Label Studio and calls this.
    """
    from skylight.backend.demo.demo import run

    run(load_settings(), os.environ, executable, port, stop_on_signal())
