"""Commands about projects: `skylight connect`, `precompute`, `doctor`, `status`, `rebuild` and `forget`."""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import rich_click as click

from skylight.backend.cli.context import Interruption, open_service, report_failures, require_label_studio
from skylight.backend.cli.parameters import PROJECT_NUMBER
from skylight.backend.errors import SkylightError

if TYPE_CHECKING:
    from skylight.backend.admin.findings import Change
    from skylight.backend.learning.precompute import EmbeddingProgress

STATE_COLORS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@PROJECT_NUMBER
@click.option("--url", default="", help="Skylight as Label Studio reaches it, http://...  [http://127.0.0.1:9090]")
def connect(project: int, url: str) -> None:
    """Connect a project of Label Studio to Skylight.

    Adds Skylight as interactive ML backend and a signed webhook, and has the project show predictions, uncertain tasks
    first. May be run again: what is right already is left alone.
    """
    from skylight.backend.admin.connect import connect, request_embeddings
    from skylight.backend.security.basic_auth import BasicAuth

    if url and not url.startswith(("http://", "https://")):
        raise click.UsageError(f"--url {url!r} must begin with http:// or https://")
    service = open_service()
    client = require_label_studio(service)
    changes = connect(client, service.secret, project, url, BasicAuth.from_settings(service.settings))
    _report_changes([*changes, *request_embeddings(service, project)])


@click.command()
@PROJECT_NUMBER
def precompute(project: int) -> None:
    """Embed all images of a project, so that no click waits.

    Needs no broker. Ended early, the same command goes on where it was. Ends with 1 if an image could not be embedded.
    """
    from skylight.backend.learning.precompute import precompute

    service = open_service()
    require_label_studio(service)
    tally, interruption = None, Interruption()
    with (
        click.progressbar(length=1, label="embed", item_show_func=_rate, show_pos=True) as bar,
        interruption.caught(),
    ):
        for tally in precompute(service, project):
            bar.length = tally.total
            bar.update(tally.done - bar.pos, tally)
    if tally is not None:
        rate = f" ({_rate(tally)})" if tally.embedded else ""
        there, failed = tally.there, len(tally.failed)
        click.echo(f"{tally.embedded} embedded{rate}, {there} were there already, {failed} failed, of {tally.total}")
        report_failures([(f"task {task}", reason) for task, reason in tally.failed])
    interruption.exit(failed=tally is not None and bool(tally.failed))


def _rate(tally: "EmbeddingProgress | None") -> str | None:
    """Images per second."""
    from skylight.backend.learning.precompute import format_rate

    return format_rate(tally.rate) if tally else None


@click.command()
@click.option("--fix", is_flag=True, help="Repair login, webhook, its secret header, order and display of predictions.")
def doctor(fix: bool) -> None:
    """Check the whole setup and say what to do next.

    Ends with 1 if something fails.
    """
    from skylight.backend.admin import doctor

    service = open_service()
    if fix:
        try:
            _report_changes(doctor.fix(service))
        except SkylightError as error:
            click.secho(f"not repaired: {error}", fg="red")
    findings = doctor.findings(service)
    for finding in findings:
        click.secho(f"{finding.state:5}", fg=STATE_COLORS[finding.state], bold=True, nl=False)
        click.echo(f"{finding.what}: {finding.detail}")
        if finding.next_step:
            click.echo(f"     -> {finding.next_step}")
    if any(finding.state == "fail" for finding in findings):
        sys.exit(1)


def _report_changes(changes: "Sequence[Change]") -> None:
    """Print what was changed, and what was right already."""
    for change in changes:
        click.echo(f"{'done ' if change.made else 'so   '}{change.what}")
    if not any(change.made for change in changes):
        click.echo("Nothing had to be changed.")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For machines, as GET /status.")
@click.option("--try-again", "retry", metavar="PROJECT", help="Try a project's annotations that were set aside.")
def status(as_json: bool, retry: str | None) -> None:
    """Show each project's version, annotations and failures.

    Ends with 1 if something fails.
    """
    from skylight.backend.admin import actions
    from skylight.backend.admin import status as statement

    service = open_service()
    if retry is not None:
        if retry not in (names := service.store.projects()):
            raise click.UsageError(f"there is no project {retry!r}, only: {', '.join(names) or 'none'}")
        click.echo(f"{actions.try_again(service, retry)} annotations are tried again", err=as_json)
    projects = statement.all_as_json(service)
    click.echo(json.dumps(projects, indent=1) if as_json else "\n".join(statement.lines(projects)))
    if any(project.get("failures") or project.get("set_aside") or project.get("away") for project in projects.values()):
        sys.exit(1)


@click.command()
def rebuild() -> None:
    """Restore what Redis held from the store and Label Studio.

    For use after Redis lost its data. Beside `skylight serve`, or with REDIS_URL. It may be run at any time: what is
    there is left as it is.
    """
    from skylight.backend.admin.rebuild import rebuild

    for line in rebuild(open_service()):
        click.echo(line)


@click.command()
@click.option("--project", required=True, help="Its number in Label Studio's address, or its whole name.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def forget(project: str, yes: bool) -> None:
    """Delete everything that Skylight keeps of a project.

    That is annotations, versions and waiting jobs; Label Studio keeps its own. Beside `skylight serve`, or with
    REDIS_URL. While Label Studio still calls Skylight for the project, it comes back: remove the ML backend and its
    webhook there first.
    """
    from skylight.backend.admin import forget

    service = open_service()
    holdings = forget.stored_project(service, project)
    click.echo(str(holdings))
    if not yes:
        click.confirm("Delete all of it? It cannot be brought back", abort=True)
    forget.forget(service, holdings.project)
    click.echo(f"project {holdings.project} is forgotten")
