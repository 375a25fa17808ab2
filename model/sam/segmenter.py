"""Segment Anything without state: an image to its embedding, an embedding and a prompt to masks.

Built from segment-anything's own classes (arXiv 2304.02643). Nothing is remembered between calls, unlike
segment-anything's `SamPredictor`, so any number of threads can ask about any number of images at once.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from skylight.model.masks.clicked_parts import clicked_parts
from skylight.model.masks.upsampling import enlarge
from skylight.model.runtime.cpu import trim_malloc
from skylight.model.runtime.micro_batching import Together
from skylight.model.sam.mask_refinement import Likeness
from skylight.model.sam.mask_scoring import Asked, fitted
from skylight.model.sam.precision import SUFFIXES, half_type
from skylight.model.sam.resize import scale_image, scale_points, scaled_size
from skylight.model.sam.second_look import answer_in, keep, unpack, window_for
from skylight.model.sam.segment_anything_import import Sam
from skylight.model.sam.tiny_sam import TinySam
from skylight.model.sam.types import PER_CELL, Cut, Embedding, Prompt, Segmentation, extent_of

BATCH = 4  # images in one forward on a GPU: ViT-H's attention over the whole image takes 0.5 GB of each
SAME_LEVELS = 8  # by which thumbnails of the same pixels may differ, of a JPEG that another library has decoded
WARM = 8  # images of which the parts of every click are kept


def is_of(embedding: Embedding, image: NDArray[np.uint8]) -> bool:
    """Whether an embedding was made of these pixels, (H, W, 3) uint8 RGB, by its thumbnail."""
    side = len(embedding.thumbnail)
    rows, columns = extent_of((image.shape[0], image.shape[1]), side)
    thumbnail = np.zeros(embedding.thumbnail.shape, np.int16)
    thumbnail[:rows, :columns] = _reduced(image, (rows, columns))
    return int(np.abs(thumbnail - embedding.thumbnail).max()) <= SAME_LEVELS


def _reduced(image: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image).resize(shape[::-1], Image.Resampling.BOX))


@dataclass(frozen=True)
class _Warm:
    """What every click on an image needs, made from its embedding at the first one.

    `features` (1, 256, h, w) float32; of the tiny SAM `rims`, the unpacked `picture`, and `likeness`, 9 MB in all at
    1024 px.
    """

    features: torch.Tensor
    rims: tuple[torch.Tensor, ...] | None = None
    picture: Image.Image | None = None
    likeness: Likeness | None = None


class Segmenter:
    """A loaded SAM. Stateless: every method may be called from many threads at once."""

    def __init__(self, network: Sam, encoder_id: str, device: torch.device, precision: str = "auto") -> None:
        """`encoder_id` is of the weights, see `identify`; `precision` one of `PRECISIONS`."""
        self.half = half_type(device, isinstance(network, TinySam), precision)
        self.encoder_id = encoder_id + (SUFFIXES[self.half] if self.half else "")
        self.device = device
        self.network = network.to(device).eval().requires_grad_(False)
        self.input_size = int(network.image_encoder.img_size)
        self.batch = BATCH if device.type == "cuda" else 1  # images that are best embedded at once, by as many threads
        self.judge = fitted()  # of the tiny SAM's masks
        self._together: Together[torch.Tensor, list[NDArray[np.float16]]] = Together(self.encode, self.batch)
        with torch.inference_mode():
            position = network.prompt_encoder.get_dense_pe()
            self._position = position.contiguous(memory_format=torch.channels_last)
        self._warm = functools.lru_cache(maxsize=WARM)(self._warmed)

    def _warmed(self, embedding: Embedding) -> _Warm:
        trim_malloc()  # here as well, or what other images left between what is kept adds up to 0.2 GB
        features = torch.from_numpy(embedding.features).to(self.device, torch.float32)[None]
        features = features.contiguous(memory_format=torch.channels_last)
        if not isinstance(self.network, TinySam):
            return _Warm(features)
        thumbnail = torch.from_numpy(embedding.thumbnail).to(self.device, torch.float32).permute(2, 0, 1)[None]
        rims = self.network.rims(F.avg_pool2d(thumbnail, 2) / 127.5 - 1)  # they were trained at a quarter
        picture = None if embedding.picture is None else unpack(embedding.picture)
        filled, detail = embedding.extent(len(embedding.thumbnail)), embedding.detail
        likeness = None if detail is None else Likeness(embedding.thumbnail, detail, filled)
        return _Warm(features, rims, picture, likeness)

    def embed(self, image: NDArray[np.uint8]) -> Embedding:
        """The embedding of an image, (H, W, 3) uint8 RGB."""
        scaled = scale_image(image, self.input_size)
        pixels = torch.from_numpy(np.array(scaled)).permute(2, 0, 1).to(self.device, torch.float32)
        with torch.inference_mode():
            ready = self.network.preprocess(pixels)
        # Processors have nothing to gain by waiting for each other, and several may be asked at once.
        features, *taps = self._together(ready) if self.batch > 1 else self.encode([ready])[0]
        context, detail = taps or (None, None)
        trim_malloc()
        side = PER_CELL * features.shape[-1]
        thumbnail = np.zeros((side, side, 3), np.uint8)
        height, width = image.shape[:2]
        picture = keep(image) if isinstance(self.network, TinySam) else None
        embedding = Embedding(features, (height, width), thumbnail, context, detail, picture)
        rows, columns = embedding.extent(side)
        thumbnail[:rows, :columns] = _reduced(image, (rows, columns))
        return embedding

    def encode(self, pixels: Sequence[torch.Tensor]) -> list[list[NDArray[np.float16]]]:
        """Of each of some (3, S, S), normalised and padded: features (256, h, w), and taps from a SAM that gives them.

        Computed in half precision where that is quicker.
        """
        encoder = self.network.image_encoder
        half = torch.autocast(self.device.type, self.half, enabled=self.half is not None)
        with torch.inference_mode(), half:
            several = torch.stack(list(pixels))
            found = encoder.with_taps(several) if isinstance(self.network, TinySam) else [encoder(several)]
        kept = [part.to(torch.float16).cpu().numpy() for part in found]
        return [[part[i] for part in kept] for i in range(len(pixels))]

    def segment(
        self,
        embedding: Embedding,
        prompt: Prompt,
        logits: NDArray[np.float32] | None = None,
        candidates: int = 3,
    ) -> Segmentation:
        """SAM's masks for a prompt on an embedded image, at most `candidates` of them.

        `logits` (4h, 4w) float32 are those of an earlier answer to refine. The official SAMs answer an ambiguous
        prompt, a single point, with three masks and any other with one, as segment-anything advises; the tiny SAM
        was trained to offer three always, and looks again, closer, at what is small: its masks and scores are then
        those of the second look. Its masks are put right and chosen by the picture, see `likeness` and `choice`; its
        logits are those of the first look as they came. Of a mask those parts are kept that hold a positive point.
        """
        clicked = prompt.points[prompt.positive]
        with torch.inference_mode():
            warm = self._warm(embedding)
            low, scores = self._answer(warm, embedding.size, prompt, logits)
            order = scores.argsort(descending=True)
            found, trust = low[order].cpu().numpy(), scores[order].cpu().numpy()
            size, right, expected, numbers = embedding.size, found, trust, list(range(len(found)))
            # What a lone click means the judge knows better than SAM: on 18 kinds never seen its IoU is 0.589 if the
            # second look goes there, 0.580 if it goes where SAM's trust is. Of further clicks SAM makes more itself.
            lone = prompt.box is None and len(prompt.points) == 1
            if not lone and warm.picture is not None:
                first = clicked_parts(self._mask(found[0], size), clicked)
                if closer := self._closer(warm, size, prompt, first, candidates):
                    return Segmentation(*closer[:2], found[:candidates], closer[2])
            if warm.likeness is not None:
                asked = _asked(prompt, size, len(embedding.thumbnail))
                right, expected, numbers = warm.likeness.chosen(found, trust, asked, self.judge, candidates)
            first = clicked_parts(self._mask(right[0], size), clicked)
            if lone and (closer := self._closer(warm, size, prompt, first, candidates)):
                return Segmentation(*closer[:2], found[numbers[:candidates]], closer[2])
            others = [clicked_parts(self._mask(each, size), clicked) for each in right[1:candidates]]
            masks = np.stack([first, *others]) if others else first[None]  # a copy takes as long as all the rest
            rows, columns = embedding.extent(right.shape[-1])
            cuts = tuple(Cut(each[:rows, :columns], (0, 0, *size)) for each in right[:candidates])
            return Segmentation(masks, expected[:candidates], found[numbers[:candidates]], cuts)

    def _mask(self, logits: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.bool_]:
        """Logits (4h, 4w) at the image's size, (H, W) bool.

        Scaled to SAM's input, then to the image, as `Sam.postprocess_masks` does; OpenCV takes a quarter of its time.
        """
        height, width = scaled_size(size, self.input_size)
        side = self.input_size, self.input_size
        square = np.asarray(cv2.resize(logits, side, interpolation=cv2.INTER_LINEAR), np.float32)
        return enlarge(square[:height, :width], size)

    def _closer(
        self,
        warm: _Warm,
        size: tuple[int, int],
        prompt: Prompt,
        first: NDArray[np.bool_],
        candidates: int,
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32], tuple[Cut, ...]] | None:
        """Masks, scores and cuts of a second look at an image of `size`, if the first mask (H, W) gives reason to."""
        if warm.picture is None or not isinstance(self.network, TinySam):
            return None
        window = window_for(size, first, prompt.points[prompt.positive], prompt.box)
        if window is None:
            return None
        masks, scores, logits = answer_in(
            window,
            self.network,
            self._position,
            warm.picture,
            size,
            prompt,
            self.judge,
            candidates,
        )
        return masks, scores, tuple(Cut(each, window) for each in logits)

    def _answer(
        self,
        warm: _Warm,
        size: tuple[int, int],
        prompt: Prompt,
        logits: NDArray[np.float32] | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Low-resolution logits (K, 4h, 4w) and predicted IoUs (K,)."""
        points = labels = boxes = None
        if len(prompt.points):
            points = torch.from_numpy(scale_points(prompt.points, size, self.input_size)).to(self.device, torch.float32)
            points, labels = (
                points[None],
                torch.from_numpy(prompt.positive.astype(np.float32)).to(self.device)[None],
            )
        if prompt.box is not None:
            corners = scale_points(prompt.box.reshape(2, 2), size, self.input_size)
            boxes = torch.from_numpy(corners.reshape(1, 4)).to(self.device, torch.float32)
        earlier = None if logits is None else torch.from_numpy(logits).to(self.device)[None, None]
        network = self.network
        if isinstance(network, TinySam):
            assert warm.rims is not None
            low, scores = network.answer(
                warm.features, warm.rims, points, labels, boxes, earlier, position=self._position
            )
            return low[0], scores[0]
        given = None if points is None else (points, labels)
        sparse, dense = network.prompt_encoder(points=given, boxes=boxes, masks=earlier)
        several = len(prompt.points) == 1 and boxes is None and earlier is None
        low, scores = network.mask_decoder(
            image_embeddings=warm.features,
            image_pe=self._position,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=several,
        )
        return low[0], scores[0]


def _asked(prompt: Prompt, size: tuple[int, int], side: int) -> Asked:
    """A prompt on an image of `size` (H, W) in px of its thumbnail's square, whose sides have `side`."""
    clicks = scale_points(prompt.points, size, side)
    box = None if prompt.box is None else scale_points(prompt.box.reshape(2, 2), size, side).ravel()
    return Asked(clicks[prompt.positive], clicks[~prompt.positive], box)
