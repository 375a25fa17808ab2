"""Commands that take a trained decoder out of Label Studio: `skylight map`, `export` and `normalise`."""

from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from skylight.backend.cli.context import Interruption, open_service
from skylight.backend.cli.parameters import PROJECT, split_list
from skylight.backend.errors import BadRequest, Unavailable

if TYPE_CHECKING:
    from skylight.backend.mapping.inputs import Input

STEPS = 1000  # of the progress bar, for each image
MAX_JOBS = 256
VERSION = click.option("--version", "number", type=click.IntRange(1), help="A version's number.  [the one served]")


@click.command()
@PROJECT
@VERSION
@click.option("--format", "kind", type=click.Choice(["onnx", "safetensors"]), default="onnx", show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The file to write.")
def export(project: str, number: int | None, kind: str, out: Path) -> None:
    """Write a trained decoder as ONNX or safetensors.

    The file holds its encoder, too. ONNX takes (H, W, 3) uint8 RGB of any size and needs no Skylight: see
    examples/run_onnx.py.
    """
    from skylight.backend.mapping.export import export_version

    click.echo(export_version(open_service(), project, number, kind, out))


def _formats(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    """png,geojson as names of formats."""
    from skylight.model.mapping.pipeline import FORMATS

    names = tuple(dict.fromkeys(split_list(value)))
    if not names or set(names) - set(FORMATS):
        raise click.BadParameter(f"{value!r} is not a list of some of {', '.join(FORMATS)}")
    return names


def _bands(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """3,2,1 as numbers; none of an empty text; None if it is not given."""
    if value is None:
        return None
    parts = split_list(value)
    if len(parts) not in (0, 1, 3) or not all(part.isdecimal() and int(part) for part in parts):
        raise click.BadParameter(f"{value!r} is not one band or three, as 3,2,1, counted from 1")
    return tuple(int(part) for part in parts)


def _range(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, float] | str | None:
    """0,4000 as numbers; auto and own as they are; None if it is not given."""
    from skylight.model.images.normalization import NO_DATA

    if value is None or value in ("auto", "own"):
        return value
    try:
        low, high = (float(part) for part in value.split(","))
    except ValueError:
        low = high = 0.0
    if not -NO_DATA < low < high < NO_DATA:
        raise click.BadParameter(f"{value!r} is not auto, own, or two numbers, the lower one first, as 0,4000")
    return low, high


@click.command()
@PROJECT
@click.option("--bands", callback=_bands, help="Seen as red, green, blue, from 1: 3,2,1, or one; '' for the first.")
@click.option(
    "--range",
    "low_high",
    callback=_range,
    help="Black and white, in the images' units: 0,4000; auto: by the first images, for all; own: by each image.",
)
def normalise(project: str, bands: tuple[int, ...] | None, low_high: tuple[float, float] | str | None) -> None:
    """Show or set the bands and the range of a project's rasters.

    The range is that of images of more than 8 bits. Other bands have it taken anew from the images, if none is given.
    The next training learns with it; until then the version that is served sees images as it did.
    """
    from skylight.backend.admin.actions import set_normalization

    click.echo(set_normalization(open_service(), project, bands, low_high))


class ImagePath(click.Path):
    """A file or folder that exists, as a Path, or `s3://bucket/key`, as it is."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse what only looks like an address, without repeating it: it may carry a password."""
        from skylight.backend.mapping.bucket_inputs import ADDRESS, SCHEME

        if not str(value).startswith(SCHEME):
            return super().convert(value, param, ctx)
        if not ADDRESS.fullmatch(value):
            self.fail(
                "an address in a bucket is s3://bucket/folder or s3://bucket/picture.tif, nothing else", param, ctx
            )
        return value


def _jobs(ctx: click.Context, param: click.Parameter, value: str) -> int:
    """A number of processes; auto: the cores."""
    from skylight.backend.mapping.processes import cores

    if value == "auto":
        return cores()
    if not value.isdecimal() or not 1 <= int(value) <= MAX_JOBS:
        raise click.BadParameter(f"{value!r} is neither auto nor a number from 1 to {MAX_JOBS}")
    return int(value)


@click.command("map")
@click.argument("pictures", nargs=-1, required=True, type=ImagePath(exists=True, path_type=Path))
@PROJECT
@VERSION
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder; resumed there.")
@click.option(
    "--format",
    "formats",
    default="png",
    show_default=True,
    callback=_formats,
    help="Some of png, geojson, gpkg, coco, geotiff, as png,gpkg.",
)
@click.option("--bands", default="", callback=_bands, help="Of a raster, as red, green, blue, from 1: 3,2,1, or one.")
@click.option(
    "--jobs",
    default="1",
    show_default=True,
    callback=_jobs,
    help="Images mapped at the same time, by so many processes; auto: as many as cores. Of no help for a single "
    "raster.",
)
@click.option("--again", is_flag=True, help="Map also what has been mapped already.")
def map_(pictures: tuple[Path | str, ...], project: str, number: int | None, **options: Any) -> None:
    """Run a trained decoder over images or large rasters.

    Takes files, folders, and images in a bucket: s3://bucket/image.tif, s3://bucket/folder. Needs no Label Studio.

    Writes label maps and objects with area, centroid, diameter and confidence, in pixels and, where the raster is
    georeferenced, in metres. Ended early, the same command goes on with the next image. Ends with 1 if one could not be
    mapped.
    """
    from skylight.backend.mapping.mapping import plan

    open_another = partial(open_service, layout_checked=True)
    run = plan(open_service(), project, number, open_service=open_another, **options)
    images = _list_images(pictures)
    failed: list[str] = []
    mapped_before, interruption = 0, Interruption()
    with (
        click.progressbar(length=len(images) * STEPS, label="map", item_show_func=lambda item: item or "") as bar,
        interruption.caught(),
    ):

        def progress(done: float, name: str) -> None:
            bar.update(int(done * STEPS) - bar.pos, name)

        with closing(run.run(images, progress)) as results:
            for image, was_mapped, reason in results:
                mapped_before += was_mapped
                if reason:
                    failed.append(f"{image.address}: {reason}")
        progress(len(images), "")
    for line in run.finish():
        click.echo(line)
    mapped = len(run.records) - mapped_before
    click.echo(f"{mapped} mapped, {mapped_before} were already, {len(failed)} failed, of {len(images)}")
    for line in sorted(failed):
        click.secho(line, fg="red")
    interruption.exit(failed=bool(failed))


def _list_images(sources: Sequence[Path | str]) -> "list[Input]":
    """The images among the sources. Raises BadRequest if there is none, Unavailable if a bucket cannot be listed."""
    from skylight.backend.mapping.inputs import list_images

    try:
        images = list_images(sources)
    except ImportError:
        raise BadRequest("pictures in a bucket need obstore: pip install 'label-studio-skylight[s3]'") from None
    except OSError as error:
        raise Unavailable(str(error)) from error
    if not images:
        raise BadRequest(f"there is no picture in {', '.join(map(str, sources))}")
    return images
