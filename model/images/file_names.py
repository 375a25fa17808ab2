"""Image files told by their names: in a folder, or below a bucket's address."""

from pathlib import Path, PurePath

SUFFIXES = (
    ".tif", ".tiff", ".jp2", ".j2k", ".vrt", ".img", ".cub",
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".bmp", ".gif",
)  # fmt: skip
MACOSX = "__MACOSX"  # a folder in zips made by macOS, with metadata for each file


def is_hidden(path: PurePath) -> bool:
    """Whether a path below a folder is skipped: a name in it begins with a dot, or is `MACOSX`.

    Such are metadata of macOS (`._a.png` for `a.png`), Jupyter's copies (`.ipynb_checkpoints`), and hidden files.
    """
    return any(part.startswith(".") or part.upper() == MACOSX for part in path.parts)


def is_image(path: PurePath) -> bool:
    """Whether a path below a folder is that of an image."""
    return path.suffix.lower() in SUFFIXES and not is_hidden(path)


def list_files(folder: Path) -> list[Path]:
    """All files below a folder, sorted, without the hidden ones (`is_hidden`)."""
    return sorted(path for path in folder.rglob("*") if not is_hidden(path.relative_to(folder)) and path.is_file())
