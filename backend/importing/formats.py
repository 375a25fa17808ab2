"""Formats of files with labels. Apart from their readers, which the command line need not import to know the names."""

from pathlib import Path
from typing import Literal, get_args

from skylight.backend.errors import BadRequest

Format = Literal["coco", "masks", "label-studio"]
FORMATS: tuple[Format, ...] = get_args(Format)
MASK_SUFFIX = ".png"
HEAD_BYTES = 1000  # of a file by which its format is detected


def detect_format(source: Path) -> Format:
    """Return a source's format by its content. Raises BadRequest if it is none of them, OSError."""
    if source.is_dir() or source.suffix.lower() == MASK_SUFFIX:
        return "masks"
    with source.open("rb") as file:
        head = file.read(HEAD_BYTES).decode("utf-8-sig", "replace").lstrip()
    if head.startswith("{"):
        return "coco"
    if head.startswith("["):
        return "label-studio"
    raise BadRequest(f"{source} is neither a folder of masks, nor a PNG, nor JSON; give one of these")
