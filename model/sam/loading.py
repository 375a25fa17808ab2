"""SAMs by name: their weights, the id of an encoder, the device and precision that it computes with."""

import hashlib
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from skylight.model.sam.accelerated import accelerate
from skylight.model.sam.mobile_sam import build_mobile_sam
from skylight.model.sam.precision import SUFFIXES, half_type
from skylight.model.sam.segment_anything_import import Sam, sam_model_registry
from skylight.model.sam.segmenter import Segmenter
from skylight.model.sam.tiny_sam import TinySam

NAMES = ("tiny", "mobile_sam", "vit_b", "vit_l", "vit_h")
TINY_WEIGHTS = Path(__file__).parents[1] / "weights" / "tiny.safetensors"
# What a file that is cut short, empty, a saved error page, another pickle or other weights raises on loading.
NOT_WEIGHTS = (RuntimeError, OSError, ValueError, EOFError, AttributeError, UnpicklingError, SafetensorError)


class SamError(RuntimeError):
    """A SAM could not be loaded; the message says which file and why."""


def choose_device(name: str) -> torch.device:
    """The device for "auto", "cpu", "cuda" or "mps"; "auto" takes an accelerator where there is one."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def load(
    name: str,
    checkpoint: Path | None = None,
    device: str = "auto",
    exports: Path | None = None,
    precision: str = "auto",
) -> Segmenter:
    """Load a SAM by name: one of `NAMES`. `tiny` needs no checkpoint, the others their file.

    In the folder `exports` is kept what ONNX Runtime runs on a CPU, so that it need not be made at every start.
    `precision` is one of `PRECISIONS`; what is not computed in float32 has another encoder id.

    Raises SamError when the name is unknown, the file is missing, or its weights do not fit the network.
    """
    network = load_network(name, checkpoint)
    place, encoder_id = choose_device(device), identify(name, checkpoint)
    segmenter = Segmenter(network, encoder_id, place, precision)
    if place.type == "cuda" and segmenter.half is None:
        torch.backends.cudnn.allow_tf32 = False  # 10 bits of mantissa, where float32 has 23
    if place.type == "cpu":
        accelerate(network, exports and exports / encoder_id, segmenter.half is not None)
    return segmenter


def load_network(name: str, checkpoint: Path | None = None) -> Sam:
    """The network of a SAM with its weights, on the CPU, all of it PyTorch's. Arguments and errors as of `load`."""
    if name not in NAMES:
        raise SamError(f"no SAM is called {name!r}; there are {', '.join(NAMES)}")
    path = TINY_WEIGHTS if name == "tiny" and checkpoint is None else checkpoint
    if path is None or not path.is_file():
        raise SamError(
            f"SAM {name} needs its checkpoint file, {path} is none; get it with `skylight checkpoints download {name}`"
        )
    network = _build(name)
    try:
        weights = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        # float16 on disk for tiny; BatchNorm's step counters are not kept there.
        absent = network.load_state_dict({k: v.float() for k, v in weights.items()}, strict=False)
    except NOT_WEIGHTS as error:
        raise SamError(f"{path} does not hold weights of SAM {name}: {error}") from error
    missing = [key for key in absent.missing_keys if not key.endswith("num_batches_tracked")]
    if missing or absent.unexpected_keys:
        raise SamError(
            f"{path} does not hold weights of SAM {name}: {len(missing)} are missing ({missing[:3]}), "
            f"{len(absent.unexpected_keys)} unknown ({absent.unexpected_keys[:3]})"
        )
    return network.eval().requires_grad_(False)


def identify(name: str, checkpoint: Path | None = None) -> str:
    """The encoder's id of a SAM in float32: its name and the first digits of its weights' sha256. Raises OSError."""
    with (checkpoint or TINY_WEIGHTS).open("rb") as file:
        return f"{name}-{hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"


def identify_on(name: str, checkpoint: Path | None, device: str, precision: str) -> str:
    """The encoder's id that `load` would give, without loading it. Raises OSError."""
    half = half_type(choose_device(device), name == "tiny", precision)
    return identify(name, checkpoint) + (SUFFIXES[half] if half else "")


def _build(name: str) -> Sam:
    if name == "tiny":
        return TinySam()
    if name == "mobile_sam":
        return build_mobile_sam()
    network: Sam = sam_model_registry[name](checkpoint=None)
    return network
