"""Segment Anything without state: an image to its embedding, an embedding and a prompt to masks.

Built from segment-anything's own classes (arXiv 2304.02643). Unlike segment-anything's `SamPredictor` it keeps no
state between calls, so any number of threads can segment any number of images at once.
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
from skylight.model.masks.upsampling import upsample_mask
from skylight.model.runtime.cpu import trim_malloc
from skylight.model.runtime.micro_batching import MicroBatcher
from skylight.model.sam.mask_refinement import MaskRefiner
from skylight.model.sam.mask_scoring import ScaledPrompt, load_scorer
from skylight.model.sam.precision import SUFFIXES, half_type
from skylight.model.sam.resize import scale_image, scale_points, scaled_size
from skylight.model.sam.second_look import pack_picture, segment_window, unpack_picture, window_for
from skylight.model.sam.segment_anything_import import Sam
from skylight.model.sam.tiny_sam import TinySam
from skylight.model.sam.types import PER_CELL, Embedding, MaskLogits, Prompt, Segmentation, extent_of

BATCH = 4  # images in one forward on a GPU: ViT-H's attention over the whole image takes 0.5 GB of each
SAME_LEVELS = 8  # by which thumbnails of the same pixels may differ, of a JPEG that another library has decoded
CACHED_IMAGES = 8  # images whose state is kept between clicks


def is_embedding_of(embedding: Embedding, image: NDArray[np.uint8]) -> bool:
    """Whether an embedding is of these pixels, (H, W, 3) uint8 RGB, by its thumbnail."""
    side = len(embedding.thumbnail)
    rows, columns = extent_of((image.shape[0], image.shape[1]), side)
    thumbnail = np.zeros(embedding.thumbnail.shape, np.int16)
    thumbnail[:rows, :columns] = _downscale(image, (rows, columns))
    return int(np.abs(thumbnail - embedding.thumbnail).max()) <= SAME_LEVELS


def _downscale(image: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image).resize(shape[::-1], Image.Resampling.BOX))


@dataclass(frozen=True)
class _ImageState:
    """The part of a click's computation that depends on the image alone, made at its first click.

    `features` (1, 256, h, w) float32; of the tiny SAM also `rims`, the decoded `picture`, and `refiner`: 9 MB in
    all at 1024 px.
    """

    features: torch.Tensor
    rims: tuple[torch.Tensor, ...] | None = None
    picture: Image.Image | None = None
    refiner: MaskRefiner | None = None


class Segmenter:
    """A loaded SAM. Stateless: every method may be called from many threads at once."""

    def __init__(self, network: Sam, encoder_id: str, device: torch.device, precision: str = "auto") -> None:
        """`encoder_id` is of the weights, as `loading.identify` gives it; `precision` is one of `PRECISIONS`."""
        self.half = half_type(device, isinstance(network, TinySam), precision)
        self.encoder_id = encoder_id + (SUFFIXES[self.half] if self.half else "")
        self.device = device
        self.network = network.to(device).eval().requires_grad_(False)
        self.input_size = int(network.image_encoder.img_size)
        self.batch = BATCH if device.type == "cuda" else 1  # images to embed at once, from as many threads
        self.scorer = load_scorer()  # of the tiny SAM's masks
        self._batched: MicroBatcher[torch.Tensor, list[NDArray[np.float16]]] = MicroBatcher(self.encode, self.batch)
        with torch.inference_mode():
            position = network.prompt_encoder.get_dense_pe()
            self._position = position.contiguous(memory_format=torch.channels_last)
        self._state_of = functools.lru_cache(maxsize=CACHED_IMAGES)(self._make_state)

    def _make_state(self, embedding: Embedding) -> _ImageState:
        trim_malloc()  # here as well: the memory that other images left adds up to 0.2 GB
        features = torch.from_numpy(embedding.features).to(self.device, torch.float32)[None]
        features = features.contiguous(memory_format=torch.channels_last)
        if not isinstance(self.network, TinySam):
            return _ImageState(features)
        thumbnail = torch.from_numpy(embedding.thumbnail).to(self.device, torch.float32).permute(2, 0, 1)[None]
        rims = self.network.rims(F.avg_pool2d(thumbnail, 2) / 127.5 - 1)  # they were trained at a quarter
        picture = None if embedding.picture is None else unpack_picture(embedding.picture)
        filled, detail = embedding.extent(len(embedding.thumbnail)), embedding.detail
        refiner = None if detail is None else MaskRefiner(embedding.thumbnail, detail, filled)
        return _ImageState(features, rims, picture, refiner)

    def embed(self, image: NDArray[np.uint8]) -> Embedding:
        """The embedding of an image, (H, W, 3) uint8 RGB."""
        scaled = scale_image(image, self.input_size)
        pixels = torch.from_numpy(np.array(scaled)).permute(2, 0, 1).to(self.device, torch.float32)
        with torch.inference_mode():
            prepared = self.network.preprocess(pixels)
        # On a CPU there is nothing to gain from a batch, and several threads encode at once.
        features, *taps = self._batched(prepared) if self.batch > 1 else self.encode([prepared])[0]
        context, detail = taps or (None, None)
        trim_malloc()
        side = PER_CELL * features.shape[-1]
        thumbnail = np.zeros((side, side, 3), np.uint8)
        height, width = image.shape[:2]
        picture = pack_picture(image) if isinstance(self.network, TinySam) else None
        embedding = Embedding(features, (height, width), thumbnail, context, detail, picture)
        rows, columns = embedding.extent(side)
        thumbnail[:rows, :columns] = _downscale(image, (rows, columns))
        return embedding

    def encode(self, pixels: Sequence[torch.Tensor]) -> list[list[NDArray[np.float16]]]:
        """Features (256, h, w) float16 of images (3, S, S), normalized and padded, and taps if there are any, of each.

        Computed in 16 bits where that is quicker.
        """
        encoder = self.network.image_encoder
        half = torch.autocast(self.device.type, self.half, enabled=self.half is not None)
        with torch.inference_mode(), half:
            batch = torch.stack(list(pixels))
            outputs = encoder.with_taps(batch) if isinstance(self.network, TinySam) else [encoder(batch)]
        arrays = [output.to(torch.float16).cpu().numpy() for output in outputs]
        return [[array[i] for array in arrays] for i in range(len(pixels))]

    def segment(
        self,
        embedding: Embedding,
        prompt: Prompt,
        logits: NDArray[np.float32] | None = None,
        candidates: int = 3,
    ) -> Segmentation:
        """SAM's masks for a prompt on an embedded image, at most `candidates` of them.

        `logits` (4h, 4w) float32 are those of an earlier answer to refine. The official SAMs answer an ambiguous
        prompt, a single point, with three masks and any other with one, as segment-anything advises. The tiny SAM
        always gives three, refined (`mask_refinement`) and selected (`mask_scoring`) by the image, and looks again at
        small objects (`second_look`): masks and scores are then those of the second look, while `logits` remain SAM's
        first ones. Of a mask those parts are kept that hold a positive point.
        """
        clicked = prompt.points[prompt.positive]
        with torch.inference_mode():
            state = self._state_of(embedding)
            low, scores = self._decode(state, embedding.size, prompt, logits)
            order = scores.argsort(descending=True)
            raw, trust = low[order].cpu().numpy(), scores[order].cpu().numpy()
            size, refined, expected, numbers = embedding.size, raw, trust, list(range(len(raw)))
            # After a single click the scorer's mask decides where the second look goes, after further prompts SAM's own
            # does (docs/decisions/second-look.md).
            single_click = prompt.box is None and len(prompt.points) == 1
            if not single_click and state.picture is not None:
                first = clicked_parts(self._mask(raw[0], size), clicked)
                if closer := self._second_look(state, size, prompt, first, candidates):
                    return Segmentation(*closer[:2], raw[:candidates], closer[2])
            if state.refiner is not None:
                scaled = _scale_prompt(prompt, size, len(embedding.thumbnail))
                refined, expected, numbers = state.refiner.select(raw, trust, scaled, self.scorer, candidates)
            first = clicked_parts(self._mask(refined[0], size), clicked)
            if single_click and (closer := self._second_look(state, size, prompt, first, candidates)):
                return Segmentation(*closer[:2], raw[numbers[:candidates]], closer[2])
            others = [clicked_parts(self._mask(logit, size), clicked) for logit in refined[1:candidates]]
            masks = (
                np.stack([first, *others]) if others else first[None]
            )  # a copy of large masks takes as long as the rest
            rows, columns = embedding.extent(refined.shape[-1])
            mask_logits = tuple(MaskLogits(logit[:rows, :columns], (0, 0, *size)) for logit in refined[:candidates])
            return Segmentation(masks, expected[:candidates], raw[numbers[:candidates]], mask_logits)

    def _mask(self, logits: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.bool_]:
        """Logits (4h, 4w) at the image's size, (H, W) bool.

        Scaled to SAM's input, then to the image, as by `Sam.postprocess_masks`; OpenCV takes a quarter of its time.
        """
        height, width = scaled_size(size, self.input_size)
        side = self.input_size, self.input_size
        square = np.asarray(cv2.resize(logits, side, interpolation=cv2.INTER_LINEAR), np.float32)
        return upsample_mask(square[:height, :width], size)

    def _second_look(
        self,
        state: _ImageState,
        size: tuple[int, int],
        prompt: Prompt,
        first: NDArray[np.bool_],
        candidates: int,
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32], tuple[MaskLogits, ...]] | None:
        """Masks, scores and logits of a second look at an image; None unless the first mask (H, W) bool is small."""
        if state.picture is None or not isinstance(self.network, TinySam):
            return None
        window = window_for(size, first, prompt.points[prompt.positive], prompt.box)
        if window is None:
            return None
        masks, scores, logits = segment_window(
            window,
            self.network,
            self._position,
            state.picture,
            size,
            prompt,
            self.scorer,
            candidates,
        )
        return masks, scores, tuple(MaskLogits(logit, window) for logit in logits)

    def _decode(
        self,
        state: _ImageState,
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
            assert state.rims is not None
            low, scores = network.decode(
                state.features, state.rims, points, labels, boxes, earlier, position=self._position
            )
            return low[0], scores[0]
        clicks = None if points is None else (points, labels)
        sparse, dense = network.prompt_encoder(points=clicks, boxes=boxes, masks=earlier)
        ambiguous = len(prompt.points) == 1 and boxes is None and earlier is None
        low, scores = network.mask_decoder(
            image_embeddings=state.features,
            image_pe=self._position,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=ambiguous,
        )
        return low[0], scores[0]


def _scale_prompt(prompt: Prompt, size: tuple[int, int], side: int) -> ScaledPrompt:
    """A prompt on an image of `size` (H, W) in px of its thumbnail's square, whose sides have `side`."""
    clicks = scale_points(prompt.points, size, side)
    box = None if prompt.box is None else scale_points(prompt.box.reshape(2, 2), size, side).ravel()
    return ScaledPrompt(clicks[prompt.positive], clicks[~prompt.positive], box)
