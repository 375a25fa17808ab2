"""What ONNX Runtime runs of a SAM, for the homes of several processes."""

from pathlib import Path


def share_exports(home: Path, exports: Path) -> None:
    """Have a new home use these exports: each process that makes its own of the tiny SAM takes a second or more."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "exports").symlink_to(exports)
