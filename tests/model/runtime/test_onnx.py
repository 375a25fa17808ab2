"""Exported modules and the files that keep them."""

from pathlib import Path

from skylight.model.runtime.onnx import load_or_export


def test_an_export_that_cannot_be_kept_is_used_all_the_same(tmp_path: Path, caplog) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert load_or_export(tmp_path / "file" / "below", lambda: b"made") == b"made"
    assert "is not kept" in caplog.text
