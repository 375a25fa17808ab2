"""A warm click: the whole request, the mask decoder alone, and segment-anything's own predictor."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import Sam
from torch import nn

from skylight.model.datasets import synthetic_scenes
from skylight.model.evaluation.metrics import iou
from skylight.model.masks.clicked_parts import clicked_parts
from skylight.model.masks.geometry import interior_point
from skylight.model.runtime.onnx import Session
from skylight.model.sam import loading
from skylight.model.sam.mobile_sam import build_mobile_sam
from skylight.model.sam.segmenter import Segmenter
from skylight.model.sam.types import Embedding, Prompt
from tests.bench.peer import CLICK, answer, clicking
from tests.bench.serving import scene, served
from tests.bench.timing import Table, interleaved
from tests.support.random_weights import random_weights

SIDES = (1024, 2048, 4096)
ROUNDS = 20
# Of the mask decoder's own forward: what else there is grows with the image.
SHARES = {1024: 1.25, 2048: 1.5, 4096: 2.0}
PEER = {1024: 2.5, 2048: 2.7, 4096: 5.0}
SHARE = 25 / CLICK  # of SamPredictor's click: the tiny SAM's


def run(table: Table, broker: str) -> None:
    """Clicks on a 64 x 64 grid with weights of chance, then with the bundled SAM."""
    with tempfile.TemporaryDirectory() as folder:
        file = chance_weights(Path(folder))
        slow = build_mobile_sam()
        slow.load_state_dict(torch.load(file, weights_only=True))
        ours, peer = loading.load("mobile_sam", file, "cpu"), SamPredictor(slow)
        plain = build_mobile_sam().eval().requires_grad_(False)
        plain.load_state_dict(slow.state_dict())
        plain.mask_decoder = Official(plain)
        # In one piece: by default a click on 4096 px looks at a tile, and once more if its mask goes on beyond that.
        with served(Path(folder) / "home", "mobile_sam", file, broker, max(SIDES)) as web:
            for side in SIDES:
                image = scene(side)
                path = web.add(f"{side}.png", image)
                embedding = ours.embed(image)
                peer.set_image(image)
                prompt = Prompt.of([(0.4 * side, 0.6 * side, True)])
                official_decoder, our_decoder = (bare(each, embedding, prompt) for each in (plain, ours.network))

                found = interleaved(
                    {
                        "decoder": official_decoder,
                        "ours": our_decoder,
                        "click": lambda: web.click(1, path, 0.4 * side, 0.6 * side, (side, side)),  # noqa: B023
                        "predictor": partial(answer, peer, prompt.points, prompt.positive),
                    },
                    ROUNDS,
                )
                table.times(f"click {side} px, 64 x 64 grid: whole request", found["click"])
                table.times(f"click {side} px: SAM's mask decoder by ONNX Runtime, forward alone", found["decoder"])
                table.times(f"click {side} px: Skylight's form of it, forward alone", found["ours"])
                share = found["click"].median / found["decoder"].median
                table.add(f"click {side} px: request over forward", share, "x", most=SHARES[side])
                table.times(f"click {side} px: SamPredictor, the SDK's mask2rle, json", found["predictor"])
                ratio = found["predictor"].median / found["click"].median
                table.add(f"click {side} px: predictor over request", ratio, "x", least=PEER[side])
                table.add(
                    f"click {side} px: mask IoU with SamPredictor's", agreement(ours, peer, image), "IoU", None, 0.999
                )
        bundled(table, Path(folder) / "tiny", broker)


def chance_weights(folder: Path) -> Path:
    """A file of MobileSAM's weights, of chance, in a folder."""
    file, network = folder / "mobile_sam.pt", build_mobile_sam()
    network.load_state_dict(random_weights(network, 3))
    torch.save(network.state_dict(), file)
    return file


def bare(network: Sam, embedding: Embedding, prompt: Prompt) -> Callable[[], object]:
    """A mask decoder's forward with everything in its hands."""
    features = torch.from_numpy(embedding.features)[None].float()
    points = torch.from_numpy(prompt.points)[None], torch.ones(1, len(prompt.points))
    with torch.inference_mode():
        sparse, dense = network.prompt_encoder(points=points, boxes=None, masks=None)
        position = network.prompt_encoder.get_dense_pe()
        features, position = (each.contiguous(memory_format=torch.channels_last) for each in (features, position))

    def forward() -> None:
        with torch.inference_mode():
            network.mask_decoder(features, position, sparse, dense, multimask_output=True)

    return forward


class Official(nn.Module):
    """segment-anything's mask decoder as it stands, by ONNX Runtime: the best that can be had of it on a CPU."""

    def __init__(self, network: Sam) -> None:
        super().__init__()
        grid = torch.zeros(1, 256, 64, 64)
        example = {"features": grid, "position": grid, "sparse": torch.zeros(1, 2, 256), "dense": grid}
        module = _Positional(network.mask_decoder)
        self._run = Session(module, example, ("masks", "scores"), {"sparse": (1,)}, arena=True)

    def forward(self, *inputs: torch.Tensor, multimask_output: bool) -> tuple[torch.Tensor, ...]:
        return self._run(*inputs)


class _Positional(nn.Module):
    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, *inputs: torch.Tensor) -> object:
        return self.decoder.predict_masks(*inputs)


def agreement(ours: Segmenter, peer: SamPredictor, image: np.ndarray) -> float:
    """The least IoU of the two masks over some clicks, of the parts that were clicked.

    The predictor is given our embedding, which is float16.
    """
    embedding = ours.embed(image)
    peer.features = torch.from_numpy(embedding.features)[None].float()
    rng = np.random.default_rng(0)
    least = 1.0
    for _ in range(5):
        x, y = rng.uniform(0, image.shape[0], 2)
        mine = ours.segment(embedding, Prompt.of([(x, y, True)]))
        theirs, scores, _ = peer.predict(np.array([[x, y]]), np.array([1]), multimask_output=True)
        for mask, other in zip(mine.masks, theirs[np.argsort(-scores)], strict=True):
            least = min(least, iou(mask, clicked_parts(other, np.array([[x, y]], np.float32))))
    return least


def bundled(table: Table, home: Path, broker: str) -> None:
    """The tiny SAM at 1024 px: on a scene's largest object, which it looks at once, and its smallest: twice."""
    made = synthetic_scenes.scene(3, 1024)
    rng = np.random.default_rng(0)
    ranked = sorted((each.mask for each in made.objects), key=lambda mask: int(mask.sum()))
    with served(home, broker=broker) as web:
        path = web.add("tiny.png", made.image)
        places = {"large": interior_point(ranked[-1], rng, True), "small": interior_point(ranked[0], rng, True)}
        runs = {name: (lambda at=at: web.click(1, path, *at, (1024, 1024))) for name, at in places.items()}
        found = interleaved({**runs, "peer": clicking()}, 2 * ROUNDS)
        peer = found.pop("peer").median
        table.add("SamPredictor's click, 1024 px, 64 x 64 grid, beside the next", peer, "ms")
        for name, times in found.items():
            table.times(f"click 1024 px, tiny SAM, {name} object", times)
            table.add(f"click 1024 px, tiny SAM, {name} object, over SamPredictor's", times.median / peer, "x", SHARE)
