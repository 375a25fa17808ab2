"""The command that starts a project from labels that exist: `skylight import-annotations`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from skylight.backend.cli.context import MAX_FAILURES_SHOWN, Interruption, open_service, report_failures
from skylight.backend.cli.parameters import PROJECT_NUMBER, split_list
from skylight.backend.errors import Unavailable
from skylight.backend.importing.formats import FORMATS

if TYPE_CHECKING:
    from skylight.backend.importing.importer import ImportProgress


def _renames(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """OLD=NEW as pairs; NEW may be empty."""
    pairs = [text.partition("=") for text in value]
    if wrong := [text for text, (old, sign, _) in zip(value, pairs, strict=True) if not (old.strip() and sign)]:
        raise click.BadParameter(f"{wrong[0]!r} is not OLD=NEW, as crater=Crater")
    return tuple((old.strip(), new.strip()) for old, _, new in pairs)


def _values(ctx: click.Context, param: click.Parameter, value: str | None) -> dict[int, str] | None:
    """1=Pit,2=Crater as names of numbers; a name may be empty."""
    if value is None:
        return None
    pairs = [part.partition("=") for part in split_list(value)]
    if not pairs or not all(sign and number.strip().isdecimal() and int(number) for number, sign, _ in pairs):
        raise click.BadParameter(f"{value!r} is not a list of numbers from 1 on with their labels, as 1=Pit,2=Crater")
    return {int(number): name.strip() for number, _, name in pairs}


@click.command("import-annotations")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...", type=click.Path(exists=True, path_type=Path))
@PROJECT_NUMBER
@click.option("--format", type=click.Choice(FORMATS), help="What the sources are.  [by their content]")
@click.option(
    "--images",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the images; those that no task shows are uploaded.",
)
@click.option("--label", default="", help="Of all objects in masks.  [by folder, or the project's only one]")
@click.option("--values", callback=_values, help="Labels of masks' numbers, as 1=Pit,2=Crater; '3=' leaves 3 out.")
@click.option(
    "--rename",
    multiple=True,
    callback=_renames,
    metavar="OLD=NEW",
    help="What a label is called in the project; 'OLD=' leaves it out.",
)
@click.option(
    "--leave-out",
    multiple=True,
    metavar="CONTROL",
    help="Control of an export whose regions, such as choices, the project has no place for and shall not have.",
)
@click.option("--again", is_flag=True, help="Annotate also tasks that have an annotation.")
@click.option("--dry-run", "dry", is_flag=True, help="Read and check everything, write nothing.")
def import_annotations(sources: tuple[Path, ...], project: int, label: str, values: Any, **options: Any) -> None:
    """Import COCO files, mask PNGs or Label Studio exports.

    Each becomes annotations of the project's tasks; exports are those as JSON. Images are matched to tasks by name.
    Ended early, the same command goes on where it was. Ends with 1 if labels were left out because of an error.
    """
    from skylight.backend.importing.coco_and_masks import MaskLabels
    from skylight.backend.importing.importer import Options, plan

    if label and values is not None:
        raise click.UsageError("--label and --values: give one, all objects' label or the labels of numbers")
    try:
        importer = plan(open_service(), project, sources, Options(masks=MaskLabels(label, values), **options))
    except OSError as error:
        raise Unavailable(f"{error.filename} cannot be read: {error.strerror}") from error
    state, interruption = None, Interruption()
    with (
        click.progressbar(
            length=len(importer.matches), label="import", item_show_func=lambda item: item or "", show_pos=True
        ) as bar,
        interruption.caught(),
    ):
        for state, name in importer.run():
            bar.update(state.done - bar.pos, name)
    if state is not None:
        _report(state, options["dry"])
    interruption.exit(failed=state is not None and bool(state.failed))


def _report(state: "ImportProgress", dry: bool) -> None:
    """Print what was done with the images."""
    would = "would be " if dry else ""
    click.echo(
        f"{state.annotated} {would}annotated ({state.regions} regions, {state.empty} without any), {state.uploaded} "
        f"of them {would}uploaded, {state.annotated_before} had annotations, {len(state.failed)} left out, "
        f"of {state.total}"
    )
    if state.without_pixels:
        click.echo(f"{state.without_pixels} objects cover no pixel's centre and are left out")
    if state.left_out:
        kinds = ", ".join(f"{count} {kind}" for kind, count in state.left_out.most_common(MAX_FAILURES_SHOWN))
        more = " and others" if len(state.left_out) > MAX_FAILURES_SHOWN else ""
        click.echo(f"regions that the project has no place for are left out: {kinds}{more}")
    if state.prompts_only:
        click.echo(f"{state.prompts_only} pictures have nothing else, and get no annotation from it")
    report_failures(state.failed)
