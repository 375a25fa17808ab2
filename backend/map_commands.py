"""Commands that take a trained decoder out of Label Studio: `skylight export`."""

from pathlib import Path

import click

PROJECT = click.option("--project", required=True, help="Its number in Label Studio's address.")
VERSION = click.option("--version", "number", type=click.IntRange(1), help="A version's number.  [the one served]")


@click.command()
@PROJECT
@VERSION
@click.option("--format", "kind", type=click.Choice(["onnx", "safetensors"]), default="onnx", show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The file to write.")
def export(project: str, number: int | None, kind: str, out: Path) -> None:
    """Write a trained decoder and its encoder as one file.

    ONNX takes (H, W, 3) uint8 RGB of any size and needs no Skylight: see examples/run_onnx.py.
    """
    from backend.cli import _beside_serve as beside_serve
    from backend.exporting import export_version

    click.echo(export_version(beside_serve(), project, number, kind, out))
