"""What the processor is said to have."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from skylight.model.runtime.cpu import has_bfloat16


@pytest.mark.parametrize(
    ("flags", "there"),
    [
        ("fpu amx_bf16 amx_tile", True),
        ("fpu avx512_bf16", True),
        ("fp asimd i8mm bf16 dgh", True),  # ARM
        ("fpu avx512f avx512bw", False),  # for which oneDNN says yes all the same
        ("fpu avx2", False),
    ],
)
def test_a_processor_with_bfloat16_is_told_by_its_flags(
    tmp_path: Path, flags: str, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags : {flags}\n\nprocessor : 1\nflags : {flags}\n")
    assert has_bfloat16(tmp_path / "cpuinfo") is there
    assert not has_bfloat16(tmp_path / "another system")
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert not has_bfloat16(tmp_path / "cpuinfo")


def test_a_build_of_pytorch_without_onednn_has_no_bfloat16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for macOS, where there is nothing to ask."""
    (tmp_path / "cpuinfo").write_text("flags : amx_bf16\n")
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    assert not has_bfloat16(tmp_path / "cpuinfo")
