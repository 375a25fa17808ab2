"""Which files of a folder, or objects below an address, are pictures: by their names alone."""

from pathlib import Path, PurePath

SUFFIXES = (
    ".tif", ".tiff", ".jp2", ".j2k", ".vrt", ".img", ".cub",
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".bmp", ".gif",
)  # fmt: skip
MACOSX = "__MACOSX"  # a folder that zips of Macs have: for each file another one, with a Mac's notes about it


def is_hidden(path: PurePath) -> bool:
    """Whether a path below a folder is passed over: a name begins with a dot, or is `MACOSX`.

    That are a Mac's notes (`._a.png` for `a.png`), Jupyter's copies (`.ipynb_checkpoints`), and whatever is hidden.
    """
    return any(part.startswith(".") or part.upper() == MACOSX for part in path.parts)


def is_picture(path: PurePath) -> bool:
    """Whether a path below a folder is that of a picture."""
    return path.suffix.lower() in SUFFIXES and not is_hidden(path)


def files_below(folder: Path) -> list[Path]:
    """All files of a folder and its folders, sorted, but those that are passed over."""
    return sorted(path for path in folder.rglob("*") if not is_hidden(path.relative_to(folder)) and path.is_file())
