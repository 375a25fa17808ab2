"""Commands about SAM and the decoder, without a project: `skylight segment`, `checkpoints`, `cache` and `simulate`."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from skylight.backend.cli.context import load_settings
from skylight.backend.cli.parameters import SAM, Box, Point, name_list, number_list
from skylight.backend.errors import Unavailable

if TYPE_CHECKING:
    from skylight.backend.settings import Settings
    from skylight.model.sam.segmenter import Segmenter


def _load_segmenter(name: str, settings: "Settings", checkpoint: Path | None = None) -> "Segmenter":
    """Load a SAM from its checkpoint, by default the downloaded one. Raises CheckpointError, Unavailable."""
    from skylight.model.sam import checkpoints, loading

    if checkpoint is None and name != "tiny":
        checkpoint = checkpoints.locate(name, settings.home / "checkpoints")
    try:
        return loading.load(name, checkpoint, settings.device)
    except loading.SamError as error:
        raise Unavailable(str(error)) from error


@click.command()
@click.argument("image", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--point", "points", type=Point(), multiple=True, help="A click in px; ',neg' for one that is not on it.")
@click.option("--box", type=Box(), help="A box around the object, in px.")
@SAM
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Mask, as PNG.")
def segment(image: Path, points: tuple[Any, ...], box: Any, sam: str, out: Path) -> None:
    """Segment one object of an image file."""
    if not points and not box:
        raise click.UsageError("give at least one --point or a --box")
    import numpy as np
    from PIL import Image

    from skylight.model.images.opening import load_raster
    from skylight.model.sam.types import Prompt

    settings = load_settings()
    segmenter = _load_segmenter(sam, settings)
    raster = load_raster(image.read_bytes(), settings.max_pixels)
    height, width = raster.size
    pixels = raster.read((0, 0, height, width))
    for x, y, _ in points:
        if not (0 <= x < width and 0 <= y < height):
            raise click.UsageError(f"point {x:g},{y:g} is outside the image, which has {width} x {height} px")
    started = time.perf_counter()
    embedding = segmenter.embed(pixels)
    encoded = time.perf_counter()
    segmentation = segmenter.segment(embedding, Prompt.of(points, box), candidates=1)
    decoded = time.perf_counter()
    mask = segmentation.masks[0]
    Image.fromarray(mask.astype(np.uint8) * 255).save(out, "PNG")
    click.echo(
        f"{out}: {int(mask.sum())} px, score {float(segmentation.scores[0]):.3f}, "
        f"encode {1000 * (encoded - started):.0f} ms, decode {1000 * (decoded - encoded):.0f} ms"
    )


@click.group()
def checkpoints() -> None:
    """List and download the official SAM checkpoints."""


@checkpoints.command("list")
def list_checkpoints() -> None:
    """List name, size, license and address of each."""
    from skylight.model.sam.checkpoints import CHECKPOINTS

    folder = load_settings().home / "checkpoints"
    click.echo("tiny         bundled, nothing to download")
    for checkpoint in CHECKPOINTS.values():
        state = "  (downloaded)" if (folder / checkpoint.file_name).is_file() else ""
        size = f"{checkpoint.size_bytes / 1e6:6.0f} MB"
        click.echo(f"{checkpoint.name:12} {size}  {checkpoint.licence}  {checkpoint.url}{state}")


@checkpoints.command()
@click.argument("name")
def download(name: str) -> None:
    """Download a checkpoint and verify its sha256.

    It goes into SKYLIGHT_HOME; a download that was ended early is resumed.
    """
    from skylight.model.sam import checkpoints

    settings = load_settings()
    size = checkpoints.find(name).size_bytes
    with click.progressbar(length=size, label=name, show_pos=True) as bar:
        path = checkpoints.download(
            name,
            settings.home / "checkpoints",
            settings.checkpoint_url,
            lambda done, total: bar.update(done - bar.pos),
        )
    click.echo(f"{path}, sha256 as published")


@click.command()
@click.option("--trim", type=click.IntRange(0), metavar="MB", help="Delete the least recently used down to so many MB.")
@click.option("--clear", metavar="ENCODER", help="Delete all of an encoder that is not in use.")
def cache(trim: int | None, clear: str | None) -> None:
    """Show and trim the embeddings on disk.

    Deleted ones are made again when they are needed: nothing is lost but the time for that.
    """
    from skylight.backend.admin import embedding_cache

    settings = load_settings()
    if clear is not None:
        click.echo(embedding_cache.clear(settings, clear))
    if trim is not None:
        click.echo(embedding_cache.trim(settings, trim))
    for line in embedding_cache.report(settings):
        click.echo(line)


@click.command()
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder of packs.")
@click.option("--packs", default="", callback=name_list, help="Names, as a,b; 'procedural' needs no --data.  [all]")
@click.option(
    "--annotations", default="1,2,5,10,20,50", show_default=True, callback=number_list, help="Images annotated."
)
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True, help="How often, in another order.")
@click.option(
    "--order",
    type=click.Choice(["random", "uncertainty", "novelty", "clustered", "diversity"]),
    default="random",
    show_default=True,
    help="Which images are annotated first.",
)
@click.option("--methods", default="", callback=name_list, help="decoder, decoder_true, unet, ...  [all]")
@SAM
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
def simulate(sam: str, checkpoint: Path | None, out: Path, all_images: bool, **options: Any) -> None:
    """Measure how much a few annotations teach the decoder.

    SAM is prompted on a pack's images by a simulated annotator, the decoder and its alternatives learn from the same
    few masks, and all are measured on other images' truth. Ended early, the same command goes on where it was.
    """
    from skylight.model.experiments import report, targets
    from skylight.model.experiments.results_csv import METHODS, ResultsError
    from skylight.model.experiments.simulation import Options, SimulateError, left_out, run
    from skylight.model.experiments.splits import PoolError

    options["methods"] = options["methods"] or METHODS
    try:
        simulation = Options(out=out, every=all_images, **options)
        notes = left_out(simulation)
        for note in notes:
            click.echo(note)
        segmenter = _load_segmenter(sam, load_settings(), checkpoint)
        with click.progressbar(
            length=1, label="simulate", item_show_func=lambda item: item or "", show_pos=True
        ) as bar:

            def progress(done: int, total: int, what: str) -> None:
                bar.length = total
                bar.update(done - bar.pos, what)

            rows = run(simulation, segmenter, progress)
        click.echo(f"\n{report.report(rows, simulation.annotations, notes)}")
        targets.write(rows, out, Path("build/simulate.json"))
    except (PoolError, ResultsError, SimulateError, report.PlotError) as error:
        raise Unavailable(str(error)) from error
    click.echo(f"\n{out}/results.csv, {out}/curves.csv, {out}/curves.png, build/simulate.json")
