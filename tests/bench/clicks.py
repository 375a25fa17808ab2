"""A warm click: the whole request, the mask decoder alone, and segment-anything's own predictor."""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from label_studio_sdk.converter.brush import mask2rle
from segment_anything import SamPredictor

from model import sam, synthetic
from model.evaluate import interior_point, iou
from model.mobile_sam import build_mobile_sam
from model.sam import Prompt, Segmenter

from ..weights import random_weights
from .serving import scene, served
from .timing import Table, interleaved

SIDES = (1024, 2048, 4096)
ROUNDS = 20
# Of the mask decoder's own forward: what else there is grows with the image.
SHARES = {1024: 1.25, 2048: 1.5, 4096: 2.0}
PEER = {1024: 2.5, 2048: 2.7, 4096: 5.0}


def run(table: Table, broker: str) -> None:
    """Clicks on a 64 x 64 grid with weights of chance, then with the bundled SAM."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mobile_sam.pt"
        slow = build_mobile_sam()
        slow.load_state_dict(random_weights(slow, 3))
        torch.save(slow.state_dict(), file)
        ours, peer = sam.load("mobile_sam", file, "cpu"), SamPredictor(slow)
        with served(Path(folder) / "home", "mobile_sam", file, broker) as web:
            for side in SIDES:
                image = scene(side)
                path = web.add(f"{side}.png", image)
                embedding = ours.embed(image)
                peer.set_image(image)
                prompt = Prompt.of([(0.4 * side, 0.6 * side, True)])
                forward = bare(ours, embedding, prompt)

                def official(prompt: Prompt = prompt) -> None:
                    masks, scores, _ = peer.predict(prompt.points, prompt.positive.astype(int), multimask_output=True)
                    mask = masks[scores.argmax()]
                    json.dumps({"rle": mask2rle(mask.astype(np.uint8) * 255), "score": float(scores.max())})

                found = interleaved(
                    {
                        "decoder": forward,
                        "click": lambda: web.click(1, path, 0.4 * side, 0.6 * side, (side, side)),  # noqa: B023
                        "predictor": official,
                    },
                    ROUNDS,
                )
                table.times(f"click {side} px, 64 x 64 grid: whole request", found["click"])
                table.times(f"click {side} px: mask decoder's forward alone", found["decoder"])
                share = found["click"].median / found["decoder"].median
                table.add(f"click {side} px: request over forward", share, "x", most=SHARES[side])
                table.times(f"click {side} px: SamPredictor, the SDK's mask2rle, json", found["predictor"])
                ratio = found["predictor"].median / found["click"].median
                table.add(f"click {side} px: predictor over request", ratio, "x", least=PEER[side])
                table.add(
                    f"click {side} px: mask IoU with SamPredictor's", agreement(ours, peer, image), "IoU", None, 0.999
                )
        bundled(table, Path(folder) / "tiny", broker)


def bare(segmenter: Segmenter, embedding: sam.Embedding, prompt: Prompt) -> object:
    """The mask decoder's forward with everything in its hands."""
    network = segmenter.network
    features = torch.from_numpy(embedding.features)[None].float()
    points = torch.from_numpy(prompt.points)[None], torch.ones(1, len(prompt.points))
    with torch.inference_mode():
        sparse, dense = network.prompt_encoder(points=points, boxes=None, masks=None)
        position = network.prompt_encoder.get_dense_pe()

    def forward() -> None:
        with torch.inference_mode():
            network.mask_decoder(features, position, sparse, dense, multimask_output=True)

    return forward


def agreement(ours: Segmenter, peer: SamPredictor, image: np.ndarray) -> float:
    """The least IoU of the two masks over some clicks; the predictor is given our embedding, which is float16."""
    embedding = ours.embed(image)
    peer.features = torch.from_numpy(embedding.features)[None].float()
    rng = np.random.default_rng(0)
    least = 1.0
    for _ in range(5):
        x, y = rng.uniform(0, image.shape[0], 2)
        mine = ours.segment(embedding, Prompt.of([(x, y, True)]))
        theirs, scores, _ = peer.predict(np.array([[x, y]]), np.array([1]), multimask_output=True)
        for mask, other in zip(mine.masks, theirs[np.argsort(-scores)], strict=True):
            least = min(least, iou(mask, other))
    return least


def bundled(table: Table, home: Path, broker: str) -> None:
    """The tiny SAM at 1024 px: on an object that it looks at once, and on one that it looks at twice."""
    made = synthetic.scene(3, 1024)
    rng = np.random.default_rng(0)
    ranked = sorted((each.mask for each in made.objects), key=lambda mask: int(mask.sum()))
    with served(home, broker=broker) as web:
        path = web.add("tiny.png", made.image)
        places = {"large": interior_point(ranked[-1], rng, True), "small": interior_point(ranked[0], rng, True)}
        box = {name: (lambda at=at: web.click(1, path, *at, (1024, 1024))) for name, at in places.items()}
        found = interleaved(box, 2 * ROUNDS)
        for name, times in found.items():
            table.times(f"click 1024 px, tiny SAM, {name} object", times, most=25)
