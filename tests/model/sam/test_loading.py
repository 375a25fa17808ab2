"""SAMs are loaded by name, and what is no checkpoint of theirs is refused."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from skylight.model.sam.checkpoints import CHECKPOINTS
from skylight.model.sam.loading import NAMES, TINY_WEIGHTS, SamError, load
from skylight.model.sam.segment_anything_import import Sam, sam_model_registry


def test_every_name_but_tiny_has_a_published_checkpoint() -> None:
    assert set(NAMES) == {"tiny", *CHECKPOINTS}


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_official_names_build_networks_as_large_as_their_published_files(name: str) -> None:
    with torch.device("meta"):
        network: Sam = sam_model_registry[name](checkpoint=None)
    size = sum(4 * value.numel() for value in network.state_dict().values())
    assert 0 < CHECKPOINTS[name].size_bytes - size < 200_000  # the archive's own entries


def test_weights_with_something_missing_or_unknown_are_refused(tmp_path: Path) -> None:
    weights = load_file(TINY_WEIGHTS)
    file = tmp_path / "part.safetensors"
    lost = "mask_decoder.iou_token.weight"
    save_file({key: value for key, value in weights.items() if key != lost}, file)
    with pytest.raises(SamError, match=rf"part\.safetensors.*1 are missing.*{lost}"):
        load("tiny", file, "cpu")
    save_file({**weights, "surplus": torch.zeros(1)}, file)
    with pytest.raises(SamError, match=r"part\.safetensors.*1 unknown.*surplus"):
        load("tiny", file, "cpu")
    save_file({**weights, lost: torch.zeros(7)}, file)
    with pytest.raises(SamError, match=rf"(?s)part\.safetensors.*mismatch for {lost}"):
        load("tiny", file, "cpu")


class Intruder:
    """Unpickled without care, this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kind", ["empty", "error page", "cut", "list", "nested"])
def test_a_file_that_holds_no_weights_is_refused_by_name(tmp_path: Path, kind: str, suffix: str) -> None:
    file = tmp_path / f"wrong{suffix}"
    if kind in ("list", "nested"):
        torch.save([1, 2] if kind == "list" else {"model": {"weight": torch.zeros(2)}, "epoch": 3}, file)
    else:
        whole = TINY_WEIGHTS.read_bytes()
        file.write_bytes({"empty": b"", "error page": b"<html>404 Not Found</html>" * 9, "cut": whole[:100_000]}[kind])
    with pytest.raises(SamError, match=rf"wrong{suffix} does not hold weights of SAM tiny"):
        load("tiny", file, "cpu")


def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path: Path) -> None:
    file, trace = tmp_path / "evil.pth", tmp_path / "trace"
    torch.save({"weight": Intruder(trace)}, file)
    with pytest.raises(SamError, match=r"evil\.pth"):
        load("tiny", file, "cpu")
    assert not trace.exists()


@pytest.mark.parametrize("name", ["vit_b", "mobile_sam"])
def test_a_missing_checkpoint_is_refused_with_the_command_that_gets_it(tmp_path: Path, name: str) -> None:
    for path in (None, tmp_path / "nothing.pth"):
        with pytest.raises(SamError, match=f"skylight checkpoints download {name}"):
            load(name, path, "cpu")


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(SamError, match="'vit_x'; there are tiny, mobile_sam"):
        load("vit_x")
