"""Encoding an image: as the service does it, and by PyTorch in float32."""

import copy
from functools import partial

import torch

from skylight.model.sam import loading
from skylight.model.sam.accelerated import accelerate
from skylight.model.sam.mobile_sam import build_mobile_sam
from skylight.model.sam.segmenter import Segmenter
from skylight.model.sam.tiny_sam import TinySam
from tests.bench.serving import scene
from tests.bench.timing import Table, interleaved
from tests.support.random_weights import random_weights

LEAST = 2.5


def run(table: Table, broker: str) -> None:
    """Both networks that a CPU can carry; and a whole embedding, with thumbnail and picture."""
    for name, slow, least in (("tiny, 512 px", TinySam(), None), ("MobileSAM, 1024 px", build_mobile_sam(), LEAST)):
        slow.load_state_dict(random_weights(slow, 3))
        slow.eval().requires_grad_(False)
        fast = copy.deepcopy(slow)
        ours = Segmenter(fast, name, torch.device("cpu"))
        accelerate(fast, bfloat16=ours.half is not None)
        pixels = torch.randn(1, 3, ours.input_size, ours.input_size, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            runs = {"torch": partial(slow.image_encoder, pixels), "ours": partial(ours.encode, [pixels[0]])}
            found = interleaved(runs, 5, 1)
        table.times(f"encoder {name}", found["ours"])
        table.times(f"encoder {name}, PyTorch float32", found["torch"])
        table.add(f"encoder {name}: PyTorch over ours", found["torch"].median / found["ours"].median, "x", least=least)
    segmenter, image = loading.load("tiny", None, "cpu"), scene(1024)
    table.times("embed, tiny SAM, image of 1024 px", interleaved({"": lambda: segmenter.embed(image)}, 10)[""])
