"""What a file with labels is; apart from its readers, since the command line need not wait for them."""

from pathlib import Path
from typing import Literal, get_args

from skylight.backend.errors import BadRequest

Kind = Literal["coco", "masks", "label-studio"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MASKS = ".png"
HEAD = 1000  # bytes of a file by which it is recognised


def kind_of(source: Path) -> Kind:
    """What a source is, by its content. Raises BadRequest if nothing that is known, OSError."""
    if source.is_dir() or source.suffix.lower() == MASKS:
        return "masks"
    with source.open("rb") as file:
        head = file.read(HEAD).decode("utf-8-sig", "replace").lstrip()
    if head.startswith("{"):
        return "coco"
    if head.startswith("["):
        return "label-studio"
    raise BadRequest(f"{source} is neither a folder of masks, nor a PNG, nor JSON; give one of these")
