"""The command that starts a project from labels that exist: `skylight import-annotations`."""

import sys
from pathlib import Path
from typing import Any

import click

from skylight.backend.importing.formats import KINDS

REASONS = 5  # failures that are told one by one


def _renames(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """OLD=NEW as pairs; NEW may be empty."""
    pairs = [each.partition("=") for each in value]
    if wrong := [each for each, (old, sign, _) in zip(value, pairs, strict=True) if not (old.strip() and sign)]:
        raise click.BadParameter(f"{wrong[0]!r} is not OLD=NEW, as crater=Crater")
    return tuple((old.strip(), new.strip()) for old, _, new in pairs)


def _values(ctx: click.Context, param: click.Parameter, value: str | None) -> dict[int, str] | None:
    """1=Pit,2=Crater as names of numbers; a name may be empty."""
    if value is None:
        return None
    pairs = [part.partition("=") for part in value.split(",") if part.strip()]
    if not pairs or not all(sign and number.strip().isdecimal() and int(number) for number, sign, _ in pairs):
        raise click.BadParameter(f"{value!r} is not a list of numbers from 1 on with their labels, as 1=Pit,2=Crater")
    return {int(number): name.strip() for number, _, name in pairs}


@click.command("import-annotations")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...", type=click.Path(exists=True, path_type=Path))
@click.option("--project", type=click.IntRange(1), required=True, help="Its id: the number in Label Studio's address.")
@click.option("--format", "kind", type=click.Choice(KINDS), help="What the sources are.  [by their content]")
@click.option("--images", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder of the pictures; "
              "those that no task shows are uploaded.")  # fmt: skip
@click.option("--label", default="", help="Of all objects in masks.  [by folder, or the project's only one]")
@click.option("--values", callback=_values, help="Labels of masks' numbers, as 1=Pit,2=Crater; '3=' leaves 3 out.")
@click.option("--rename", multiple=True, callback=_renames, metavar="OLD=NEW", help="What a label is called in the "
              "project; 'OLD=' leaves it out.")  # fmt: skip
@click.option("--leave-out", multiple=True, metavar="CONTROL", help="Control of an export whose regions, such as "
              "choices, the project has no place for and shall not have.")  # fmt: skip
@click.option("--again", is_flag=True, help="Annotate also tasks that have an annotation.")
@click.option("--dry-run", "dry", is_flag=True, help="Read and check everything, write nothing.")
def import_annotations(sources: tuple[Path, ...], project: int, label: str, values: Any, **given: Any) -> None:
    """Make annotations of labels that exist: COCO files, folders of masks (PNG), exports of Label Studio (JSON).

    Pictures are matched to tasks by name. Ended early, the same command goes on where it was. Ends with 1 if labels
    were left out because of an error.
    """
    from skylight.backend.cli.main import _beside_serve as beside_serve
    from skylight.backend.errors import Unavailable
    from skylight.backend.importing.coco_and_masks import Masks
    from skylight.backend.importing.importer import Options, plan

    if label and values is not None:
        raise click.UsageError("--label and --values: give one, all objects' label or the labels of numbers")
    try:
        asked = plan(beside_serve(), project, sources, Options(masks=Masks(label, values), **given))
    except OSError as error:
        raise Unavailable(f"{error.filename} cannot be read: {error.strerror}") from error
    tally, stopped = None, False
    with click.progressbar(
        length=len(asked.matches), label="import", item_show_func=lambda item: item or "", show_pos=True
    ) as bar:
        try:
            for tally, name in asked.run():
                bar.update(tally.done - bar.pos, name)
        except KeyboardInterrupt:
            stopped = True
    if tally is not None:
        _summarize(tally, given["dry"])
    if stopped:
        click.echo("Stopped; the same command goes on from here.")
    if stopped or (tally is not None and tally.failed):
        sys.exit(130 if stopped else 1)


def _summarize(tally: Any, dry: bool) -> None:
    """Say what became of the pictures."""
    would = "would be " if dry else ""
    click.echo(
        f"{tally.annotated} {would}annotated ({tally.regions} regions, {tally.empty} without any), {tally.uploaded} "
        f"of them {would}uploaded, {tally.there} had annotations, {len(tally.failed)} left out, of {tally.total}"
    )
    if tally.lost:
        click.echo(f"{tally.lost} objects cover no pixel's centre and are left out")
    if tally.left_out:
        shown = ", ".join(f"{count} {what}" for what, count in tally.left_out.most_common(REASONS))
        more = " and others" if len(tally.left_out) > REASONS else ""
        click.echo(f"regions that the project has no place for are left out: {shown}{more}")
    if tally.prompts:
        click.echo(f"{tally.prompts} pictures have nothing else, and get no annotation from it")
    for name, reason in tally.failed[:REASONS]:
        click.secho(f"{name}: {reason}", fg="red")
    if len(tally.failed) > REASONS:
        click.echo(f"... and {len(tally.failed) - REASONS} more")
