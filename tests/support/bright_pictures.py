"""A SAM that gives the bright object under the first click, and packs and rows for the simulation's tests."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from skylight.model.experiments.results_csv import Row
from skylight.model.sam.types import Embedding, Prompt, Segmentation
from tests.support.planted_embeddings import square

CELLS = 8  # of its embeddings, a side; the thumbnail has the 64 px of the pictures


class Bright:
    """A segmenter for the pictures of `planted.square`: their square lies 100 gray levels above the ground."""

    encoder_id = "bright-1"

    def __init__(self) -> None:
        self.embedded, self.prompted = 0, 0

    def embed(self, image: NDArray[np.uint8]) -> Embedding:
        self.embedded += 1
        small = image[::8, ::8, 0].astype(np.float16) / 64
        features = np.random.default_rng(0).normal(size=(256, 1, 1)).astype(np.float16) * small
        return Embedding(features, image.shape[:2], image.copy())

    def segment(self, embedding: Embedding, prompt: Prompt, logits: Any = None, candidates: int = 3) -> Segmentation:
        self.prompted += 1
        parts, _ = ndimage.label(embedding.thumbnail[..., 0] > 130)
        x, y = prompt.points[0].astype(int)
        mask = (parts == parts[y, x]) & (parts > 0)
        return Segmentation(mask[None], np.array([0.9], np.float32), np.zeros((1, 32, 32), np.float32))


def add_pack(folder: Path, name: str, images: int, **entry: str) -> None:
    """A pack of pictures with one bright square each."""
    for part in ("images", "masks"):
        (folder / name / part).mkdir(parents=True)
    for seed in range(images):
        image, mask = square(seed)
        Image.fromarray(image).save(folder / name / "images" / f"{seed}.png")
        Image.fromarray(mask.astype(np.uint8)).save(folder / name / "masks" / f"{seed}.png")
    entries = [{"stem": str(seed), **entry} for seed in range(images)]
    (folder / name / "meta.json").write_text(json.dumps({"images": entries}))


def row(pack: str, method: str, annotations: int, iou: float, seed: int = 0, **more: Any) -> Row:
    """A row of results."""
    values: dict[str, Any] = {
        "order": "random",
        "sam": "bright-1",
        "split": "0",
        "recipe": "0",
        "test_images": 3,
        "boundary_f": 0.5,
        "ece": None,
        **{f"{kind}{name}": None for kind in ("", "parts_", "refined_") for name in ("ap50", "pq")},
        "train_seconds": 2.0,
        "predict_seconds": 0.1,
        "objects": 4,
        "clicks": 1.5,
        "prompt_iou": 0.9,
        "hand_seconds": None,
        "sam_seconds": None,
        "preannotated_seconds": None,
        "settled_seconds": None,
        **more,
    }
    return Row(pack, method, annotations, seed, iou=iou, **values)
