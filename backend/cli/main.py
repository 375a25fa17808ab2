"""The command line: `skylight --help`."""

import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import redis

from skylight.backend.cli.import_annotations import import_annotations
from skylight.backend.cli.map import export, map_, normalise
from skylight.backend.errors import SkylightError, Unavailable
from skylight.backend.images.user_agent import PACKAGE
from skylight.backend.logs import configure
from skylight.backend.process.parent_watch import terminate_with_parent
from skylight.backend.settings import Settings

if TYPE_CHECKING:
    from skylight.backend.admin.findings import Change
    from skylight.backend.learning.precompute import Tally
    from skylight.backend.queue.queue import Kind
    from skylight.backend.service import Service

HOST, PORT = "127.0.0.1", 9090
WORKER_NICENESS = 5  # a click goes before training
FOLLOW = click.option("--follow", "parent", type=int, hidden=True, help="End when the process with this id is gone.")
INSECURE = click.option("--insecure", is_flag=True, help="Listen in a network without a login. Anybody there may call.")
REASONS = 5  # failures that are told one by one
COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def _pixels(parts: list[str]) -> tuple[float, ...]:
    numbers = tuple(float(part) for part in parts)
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError("not a place")
    return numbers


class Point(click.ParamType[Any]):
    """X,Y for a point on the object, X,Y,neg for one that is not."""

    name = "X,Y[,neg]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """(x, y, positive)."""
        parts = str(value).split(",")
        try:
            if len(parts) == 2 or (len(parts) == 3 and parts[2] in ("neg", "pos")):
                return *_pixels(parts[:2]), parts[2:] != ["neg"]
        except ValueError:
            pass
        return self.fail(f"{value!r} is not X,Y or X,Y,neg in pixels", param, ctx)


class Box(click.ParamType[Any]):
    """X0,Y0,X1,Y1 in pixels."""

    name = "X0,Y0,X1,Y1"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """(x0, y0, x1, y1)."""
        try:
            x0, y0, x1, y1 = _pixels(str(value).split(","))
        except ValueError:
            return self.fail(f"{value!r} is not X0,Y0,X1,Y1 in pixels", param, ctx)
        return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


class Skylight(click.Group):
    """The command group, with the settings' table under its help; without Redis a command says so, whichever it is."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Raises Unavailable where it needs Redis, which does not answer or refuses."""
        try:
            return super().invoke(ctx)
        except redis.RedisError as error:
            step = "start `skylight serve`, or set REDIS_URL to where Redis is, and run this again"
            raise Unavailable(f"Redis does not answer ({error}); {step}") from error

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List every environment variable."""
        with formatter.section("Settings, from the environment"):
            rows = [(row.env, row.help + (f" [{row.default}]" if row.default else "")) for row in Settings.table()]
            formatter.write_dl(rows)


def settings() -> Settings:
    """The settings, from the environment; logging follows them."""
    found = Settings.from_env(os.environ)
    configure(found)
    return found


def main() -> None:
    """Run the command line; what Skylight foresaw ends in one line, not in a traceback."""
    from skylight.backend.process.supervisor import THREADS

    for name, value in THREADS.items():  # also for a `skylight worker` of its own
        os.environ.setdefault(name, value)
    from skylight.model.images.decoding import ImageError
    from skylight.model.sam.checkpoints import (
        CheckpointError,  # here and below: PyTorch takes seconds, which `--help` need not wait
    )

    try:
        cli()
    except (SkylightError, CheckpointError, ImageError) as error:
        click.secho(f"skylight: {error}", fg="red", err=True)
        sys.exit(1)


@click.group(cls=Skylight, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name=PACKAGE)
def cli() -> None:
    """Skylight: a Label Studio ML backend that learns while you click.

    Segment Anything answers a click with a mask; every accepted annotation retrains a light decoder; the decoder
    pre-annotates what is still open.

    Start here:  skylight demo   or, beside your own Label Studio:  skylight serve
    """


@cli.command()
@click.option("--host", default=HOST, show_default=True, help="Address to listen on.")
@click.option("--port", default=PORT, show_default=True, help="Port to listen on.")
@INSECURE
def serve(host: str, port: int, insecure: bool) -> None:
    """Run everything on this machine: broker, workers, web server."""
    from skylight.backend.demo.labelstudio_server import free_port
    from skylight.backend.process.supervisor import Supervisor
    from skylight.backend.web.listen import address, check

    found = settings()
    check(host, found, insecure)
    if free_port(port) != port:
        raise click.UsageError(f"port {port} is in use; end what uses it or give another --port")
    stop = _stop_on_signal()
    with Supervisor(found, os.environ, host, port, insecure) as supervisor:
        broker = "Redis at REDIS_URL" if found.redis_url else "an embedded broker"
        click.echo(
            f"Skylight: http://{address(host, port)}, {found.workers} worker(s), {broker}, files in {found.home}"
        )
        click.echo("Ctrl-C ends it.")
        supervisor.watch(stop)


@cli.command()
@click.option("--host", default=HOST, show_default=True, help="Address to listen on.")
@click.option("--port", default=PORT, show_default=True, help="Port to listen on.")
@INSECURE
@FOLLOW
def web(host: str, port: int, insecure: bool, parent: int | None) -> None:
    """Run the web server alone; it needs REDIS_URL, and shares SKYLIGHT_HOME with the workers."""
    if parent:
        terminate_with_parent(parent)
    from skylight.backend.web.listen import check
    from skylight.backend.web.server import run

    found = _with_redis(settings())
    check(host, found, insecure)
    run(found, host, port)


def _kinds(ctx: click.Context, param: click.Parameter, value: str) -> "tuple[Kind, ...]":
    """embed,train as kinds of jobs; all of an empty text."""
    from skylight.backend.queue.queue import KINDS

    names = _names(ctx, param, value)
    if unknown := [name for name in names if name not in KINDS]:
        raise click.BadParameter(f"there is no queue {unknown[0]!r}, only {', '.join(KINDS)}")
    return tuple(kind for name in dict.fromkeys(names) for kind in KINDS if kind == name) or KINDS


@cli.command()
@click.option("--queues", "kinds", default="", callback=_kinds, help="Only these, the first first: embed,train.  [all]")
@FOLLOW
def worker(kinds: "tuple[Kind, ...]", parent: int | None) -> None:
    """Run one worker alone: ingests, trains, pre-annotates, embeds.

    With --queues it does some of that only, as a machine with a GPU does beside others; somebody has to do the rest.
    """
    if parent:
        terminate_with_parent(parent)
    from skylight.backend.worker.worker import run

    found = _with_redis(settings())
    os.nice(WORKER_NICENESS)
    run(found, kinds)


@cli.command()
@click.argument("image", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--point", "points", type=Point(), multiple=True, help="A click in px; ',neg' for one that is not on it.")
@click.option("--box", type=Box(), help="A box around the object, in px.")
@click.option("--sam", "name", default="tiny", show_default=True, help="tiny, mobile_sam, vit_b, vit_l or vit_h.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Mask, as PNG.")
def segment(image: Path, points: tuple[Any, ...], box: Any, name: str, out: Path) -> None:
    """Segment one object of an image file."""
    if not points and not box:
        raise click.UsageError("give at least one --point or a --box")
    import numpy as np
    from PIL import Image

    from skylight.model.images.raster import in_memory
    from skylight.model.sam import checkpoints, loading
    from skylight.model.sam.types import Prompt

    found = settings()
    checkpoint = None if name == "tiny" else checkpoints.locate(name, found.home / "checkpoints")
    try:
        segmenter = loading.load(name, checkpoint, found.device)
    except loading.SamError as error:
        raise Unavailable(str(error)) from error
    raster = in_memory(image.read_bytes(), found.max_pixels)
    height, width = raster.size
    picture = raster.read((0, 0, height, width))
    for x, y, _ in points:
        if not (0 <= x < width and 0 <= y < height):
            raise click.UsageError(f"point {x:g},{y:g} is outside the image, which has {width} x {height} px")
    started = time.perf_counter()
    embedding = segmenter.embed(picture)
    encoded = time.perf_counter()
    answer = segmenter.segment(embedding, Prompt.of(points, box), candidates=1)
    decoded = time.perf_counter()
    Image.fromarray(answer.masks[0].astype(np.uint8) * 255).save(out, "PNG")
    click.echo(
        f"{out}: {int(answer.masks[0].sum())} px, score {float(answer.scores[0]):.3f}, "
        f"encode {1000 * (encoded - started):.0f} ms, decode {1000 * (decoded - encoded):.0f} ms"
    )


def _numbers(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    """1,2,5 as numbers."""
    try:
        numbers = tuple(sorted({int(part) for part in value.split(",")}))
    except ValueError:
        numbers = ()
    if not numbers or numbers[0] < 1:
        raise click.BadParameter(f"{value!r} is not a list of whole numbers from 1 on, as 1,2,5")
    return numbers


def _names(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    """a,b as names; none of an empty text."""
    return tuple(name.strip() for name in value.split(",") if name.strip())


@cli.command()
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder of packs.")
@click.option("--packs", default="", callback=_names, help="Names, as a,b; 'procedural' needs no --data.  [all]")
@click.option("--annotations", default="1,2,5,10,20,50", show_default=True, callback=_numbers, help="Images annotated.")
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True, help="How often, in another order.")
@click.option(
    "--order",
    type=click.Choice(["random", "uncertainty", "novelty", "clustered", "diversity"]),
    default="random",
    show_default=True,
    help="Which images are annotated first.",
)
@click.option("--methods", default="", callback=_names, help="decoder, decoder_true, unet, ...  [all]")
@click.option("--sam", "name", default="tiny", show_default=True, help="tiny, mobile_sam, vit_b, vit_l or vit_h.")
@click.option("--checkpoint", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Its file.")
@click.option("--test-images", type=click.IntRange(1), default=20, show_default=True, help="Per pack, at most.")
@click.option("--tile", type=click.IntRange(32), help="Cut images into tiles of about so many px, as maps are.")
@click.option(
    "--rare", type=click.FloatRange(0, 0.99, min_open=True), help="At most this share holds anything, 0.1 say."
)
@click.option("--all-images", is_flag=True, help="Also those the bundled SAM was trained on; for another SAM.")
@click.option("--effort/--no-effort", default=True, show_default=True, help="Also model how long annotating takes.")
@click.option("--refine", is_flag=True, help="Also measure SKYLIGHT_REFINE; in rows measured from then on.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Results; resumed there.")
def simulate(name: str, checkpoint: Path | None, out: Path, all_images: bool, **given: Any) -> None:
    """Measure what a few prompt-made annotations teach, with a simulated annotator.

    The paper's experiment: SAM is prompted on a pack's images, the decoder and its alternatives learn from the same
    few masks, and all are measured on other images' truth. Ended early, the same command goes on where it was.
    """
    from skylight.model.experiments import report, targets
    from skylight.model.experiments.results_csv import METHODS, ResultsError
    from skylight.model.experiments.simulation import Options, SimulateError, left_out, run
    from skylight.model.experiments.splits import PoolError
    from skylight.model.sam import checkpoints, loading

    found = settings()
    if checkpoint is None and name != "tiny":
        checkpoint = checkpoints.locate(name, found.home / "checkpoints")
    given["methods"] = given["methods"] or METHODS
    try:
        options = Options(out=out, every=all_images, **given)
        notes = left_out(options)
        for note in notes:
            click.echo(note)
        segmenter = loading.load(name, checkpoint, found.device)
        with click.progressbar(
            length=1, label="simulate", item_show_func=lambda item: item or "", show_pos=True
        ) as bar:

            def progress(done: int, total: int, what: str) -> None:
                bar.length = total
                bar.update(done - bar.pos, what)

            rows = run(options, segmenter, progress)
    except (loading.SamError, PoolError, ResultsError, SimulateError) as error:
        raise Unavailable(str(error)) from error
    click.echo(f"\n{report.report(rows, options.annotations, notes)}")
    try:
        targets.write(rows, out, Path("build/simulate.json"))
    except report.PlotError as error:
        raise Unavailable(str(error)) from error
    click.echo(f"\n{out}/results.csv, {out}/curves.csv, {out}/curves.png, build/simulate.json")


@cli.command()
@click.option("--fix", is_flag=True, help="Repair login, webhook, its secret header, order and display of predictions.")
def doctor(fix: bool) -> None:
    """Look whether everything is there, connected and heard; say what to do next. Ends with 1 if something fails."""
    from skylight.backend.admin import doctor

    service = _beside_serve()
    if fix:
        try:
            _report(doctor.fix(service))
        except SkylightError as error:
            click.secho(f"not repaired: {error}", fg="red")
    found = doctor.findings(service)
    for each in found:
        click.secho(f"{each.state:5}", fg=COLOURS[each.state], bold=True, nl=False)
        click.echo(f"{each.what}: {each.detail}")
        if each.next_step:
            click.echo(f"     -> {each.next_step}")
    if any(each.state == "fail" for each in found):
        sys.exit(1)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="For machines, as GET /status.")
@click.option("--try-again", "retry", metavar="PROJECT", help="Try a project's annotations that were set aside.")
def status(as_json: bool, retry: str | None) -> None:
    """Show every project's state: version, annotations, what fails and what to do. Ends with 1 if something fails."""
    from skylight.backend.admin import actions
    from skylight.backend.admin import status as statement

    service = _beside_serve()
    if retry is not None:
        if retry not in (names := service.store.projects()):
            raise click.UsageError(f"there is no project {retry!r}, only: {', '.join(names) or 'none'}")
        click.echo(f"{actions.try_again(service, retry)} annotations are tried again", err=as_json)
    found = statement.all_as_json(service)
    click.echo(json.dumps(found, indent=1) if as_json else "\n".join(statement.lines(found)))
    if any(each.get("failures") or each.get("set_aside") or each.get("away") for each in found.values()):
        sys.exit(1)


@cli.command()
@click.option("--project", type=click.IntRange(1), required=True, help="Its id: the number in Label Studio's address.")
@click.option("--url", default="", help="Skylight as Label Studio reaches it, http://...  [http://127.0.0.1:9090]")
def connect(project: int, url: str) -> None:
    """Connect a project: as interactive ML backend, with a signed webhook, uncertain tasks first, predictions shown.

    May be run again: what is right already is left alone.
    """
    from skylight.backend.admin.connect import connect, request_embeddings
    from skylight.backend.security.basic_auth import BasicAuth

    if url and not url.startswith(("http://", "https://")):
        raise click.UsageError(f"--url {url!r} must begin with http:// or https://")
    service = _beside_serve()
    if service.labelstudio is None:
        raise click.UsageError("set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY")
    changes = connect(service.labelstudio, service.secret, project, url, BasicAuth.from_settings(service.settings))
    _report([*changes, *request_embeddings(service, project)])


@cli.command()
@click.option("--project", type=click.IntRange(1), required=True, help="Its id: the number in Label Studio's address.")
def precompute(project: int) -> None:
    """Embed all images of a project now, so that no click waits for it. Needs no broker.

    Ended early, the same command goes on where it was. Ends with 1 if an image could not be embedded.
    """
    from skylight.backend.learning.precompute import precompute

    service = _beside_serve()
    if service.labelstudio is None:
        raise click.UsageError("set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY")
    tally, stopped = None, False
    with click.progressbar(length=1, label="embed", item_show_func=_rate, show_pos=True) as bar:
        try:
            for tally in precompute(service, project):
                bar.length = tally.total
                bar.update(tally.done - bar.pos, tally)
        except KeyboardInterrupt:
            stopped = True
    if tally is not None:
        _summarize(tally)
    if stopped:
        click.echo("Stopped; the same command goes on from here.")
    if stopped or (tally is not None and tally.failed):
        sys.exit(130 if stopped else 1)


def _rate(tally: "Tally | None") -> str | None:
    from skylight.backend.learning.precompute import speed

    return speed(tally.rate) if tally else None


def _summarize(tally: "Tally") -> None:
    """Say what became of a project's images."""
    fast = f" ({_rate(tally)})" if tally.embedded else ""
    there, failed = tally.there, len(tally.failed)
    click.echo(f"{tally.embedded} embedded{fast}, {there} were there already, {failed} failed, of {tally.total}")
    for task, reason in tally.failed[:REASONS]:
        click.secho(f"task {task}: {reason}", fg="red")
    if len(tally.failed) > REASONS:
        click.echo(f"... and {len(tally.failed) - REASONS} more")


def _report(changes: "Sequence[Change]") -> None:
    """Say what was changed, and what was not."""
    for change in changes:
        click.echo(f"{'done ' if change.made else 'so   '}{change.what}")
    if not any(change.made for change in changes):
        click.echo("Nothing had to be changed.")


@cli.group()
def checkpoints() -> None:
    """The official SAM checkpoints: what there is, and getting them."""


@checkpoints.command("list")
def list_checkpoints() -> None:
    """Name, size, licence and address of each."""
    from skylight.model.sam.checkpoints import CHECKPOINTS

    folder = settings().home / "checkpoints"
    click.echo("tiny         bundled, nothing to download")
    for one in CHECKPOINTS.values():
        here = "  (downloaded)" if (folder / one.file_name).is_file() else ""
        click.echo(f"{one.name:12} {one.size_bytes / 1e6:6.0f} MB  {one.licence}  {one.url}{here}")


@checkpoints.command()
@click.argument("name")
def download(name: str) -> None:
    """Download a checkpoint into SKYLIGHT_HOME, resuming, and verify its sha256."""
    from skylight.model.sam import checkpoints as registry

    found = settings()
    size = registry.find(name).size_bytes
    with click.progressbar(length=size, label=name, show_pos=True) as bar:
        path = registry.download(
            name,
            found.home / "checkpoints",
            found.checkpoint_url,
            lambda done, total: bar.update(done - bar.pos),
        )
    click.echo(f"{path}, sha256 as published")


@cli.command()
@click.option("--trim", type=click.IntRange(0), metavar="MB", help="Delete those not used for longest down to so many.")
@click.option("--clear", metavar="ENCODER", help="Delete all of an encoder that is not in use.")
def cache(trim: int | None, clear: str | None) -> None:
    """Show what the embeddings on disk take, and make room.

    Deleted ones are made again when they are needed: nothing is lost but the time for that.
    """
    from skylight.backend.admin import embedding_cache as cache

    found = settings()
    if clear is not None:
        click.echo(cache.clear(found, clear))
    if trim is not None:
        click.echo(cache.trim(found, trim))
    for line in cache.report(found):
        click.echo(line)


@cli.command()
def rebuild() -> None:
    """Make again what Redis held, from the store and Label Studio, after its data were lost.

    Beside `skylight serve`, or with REDIS_URL. It may be run at any time: what is there is left as it is.
    """
    from skylight.backend.admin.rebuild import rebuild as lines

    for line in lines(_beside_serve()):
        click.echo(line)


@cli.command()
@click.option("--project", required=True, help="Its number in Label Studio's address, or its whole name.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def forget(project: str, yes: bool) -> None:
    """Delete everything that Skylight keeps of a project: annotations, versions, what waits. Label Studio keeps its.

    Beside `skylight serve`, or with REDIS_URL. While Label Studio still calls Skylight for the project, it comes back:
    remove the ML backend and its webhook there first.
    """
    from redis import RedisError

    from skylight.backend.admin import forget as module

    service = _beside_serve()
    try:
        found = module.stored_project(service, project)
        click.echo(f"{found}")
        if not yes:
            click.confirm("Delete all of it? It cannot be brought back", abort=True)
        module.forget(service, found.project)
    except RedisError as error:
        raise Unavailable(f"Redis does not answer ({error}); start `skylight serve` or set REDIS_URL") from error
    click.echo(f"project {found.project} is forgotten")


@cli.command()
@click.option("--label-studio", "executable", type=click.Path(path_type=Path), required=True, help="Its program file.")
@click.option("--port", default=8080, show_default=True, help="Label Studio's port; the next free one if it is busy.")
def demo(executable: Path, port: int) -> None:
    """Run Label Studio and Skylight with a project of 40 planetary scenes. `make demo` calls this."""
    from skylight.backend.demo.demo import run

    run(settings(), os.environ, executable, port, _stop_on_signal())


for command in (export, import_annotations, map_, normalise):
    cli.add_command(command)


def _stop_on_signal() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _beside_serve(checked: bool = False) -> "Service":
    """A service for a command beside `skylight serve`, whose embedded broker it shares if REDIS_URL is not set.

    `checked`: another process has looked at the home's layout already, for this one too.
    """
    from skylight.backend.process.supervisor import broker_note
    from skylight.backend.service import Service
    from skylight.backend.store import migrations

    found = settings()
    if not found.redis_url:
        note = broker_note(found)
        found = replace(found, redis_url=note.read_text() if note.is_file() else f"unix://{note.parent}/none.sock")
    service = Service(found)
    if not checked:
        migrations.check(service.files, service.queue.redis)
    return service


def _with_redis(found: Settings) -> Settings:
    if not found.redis_url:
        raise click.UsageError("set REDIS_URL; only `skylight serve` brings a broker of its own")
    return found


if __name__ == "__main__":
    main()
