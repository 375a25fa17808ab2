"""Pictures whose right answer is known, and a SAM that is quick and tells what it was asked."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load

from skylight.backend.labelstudio.label_config import Labeling
from skylight.model.embeddings.file_format import READER, pack
from skylight.model.sam.types import PER_CELL, Embedding, Prompt, Segmentation
from skylight.model.storage import atomic_write, checksums
from skylight.model.storage.checksums import CRC_KEY
from tests.support.regions import make_region

CELLS = 8  # of a planted embedding, a side
STEP = 64  # gray levels per 1.0 of a feature


class Planted:
    """A segmenter whose embeddings hold the picture's gray levels, 8 x 8 of them.

    Its answer to a click is the row of the click, as long as the level in the picture's first cell: so a mask says
    which picture it is of and which click it answers.
    """

    encoder_id = "planted-1"
    batch = 1

    def embed(self, image: NDArray[np.uint8]) -> Embedding:
        height, width = image.shape[:2]
        empty = Embedding(np.zeros((256, CELLS, CELLS), np.float16), (height, width), _black())
        for array, cells in ((empty.features, CELLS), (empty.thumbnail, PER_CELL * CELLS)):
            rows, columns = empty.extent(cells)
            small = np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling.BOX))
            if array is empty.thumbnail:
                array[:rows, :columns] = small
            else:
                array[:, :rows, :columns] = small[..., 0] / STEP
        return empty

    def segment(self, embedding: Embedding, prompt: Prompt, logits: Any = None, candidates: int = 3) -> Segmentation:
        mask = np.zeros((1, *embedding.size), bool)
        mask[0, int(prompt.points[-1][1]), : round(float(embedding.features[0, 0, 0]) * STEP)] = True
        return Segmentation(mask, np.array([0.5], np.float32), np.zeros((1, 4 * CELLS, 4 * CELLS), np.float32))


def _black() -> NDArray[np.uint8]:
    return np.zeros((PER_CELL * CELLS, PER_CELL * CELLS, 3), np.uint8)


def square(seed: int, size: int = 64) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A gray picture with one bright square, (size, size, 3) uint8, and the square's mask."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((size, size), bool)
    y, x = rng.integers(8, size - 32, 2)
    mask[y : y + 24, x : x + 24] = True
    gray = np.where(mask, 200, 60) + rng.integers(0, 20, mask.shape)
    return np.repeat(gray[..., None], 3, axis=2).astype(np.uint8), mask


def png(image: NDArray[np.uint8]) -> bytes:
    """A picture's file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def write_as_before(path: Path, embedding: Embedding) -> None:
    """An embedding's file as the release wrote it that did not say by which reader its pixels were read."""
    data = pack(embedding)[0]
    tensors = {name: values for name, values in load(data).items() if name != READER}
    metadata = {name: value for name, value in checksums.read_metadata(data).items() if name != CRC_KEY}
    atomic_write.write(path, checksums.save_tensors(tensors, metadata))


def brush(labeling: Labeling, mask: NDArray[np.bool_], label: str = "Pit") -> dict[str, Any]:
    """A submitted brush region."""
    return make_region(labeling, mask, label, 1.0, "r1")


def key_point(control: str, label: str, x: float, y: float, size: tuple[int, int]) -> dict[str, Any]:
    """A smart key point at x, y px of an image of `size` (H, W), as the editor sends it."""
    return {
        "id": "k1",
        "from_name": control,
        "to_name": "image",
        "type": "keypointlabels",
        "original_width": size[1],
        "original_height": size[0],
        "image_rotation": 0,
        "is_positive": True,
        "value": {"x": 100 * x / size[1], "y": 100 * y / size[0], "width": 0.3, "keypointlabels": [label]},
    }
