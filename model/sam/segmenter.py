"""Segment Anything without state: an image to its embedding, an embedding and a prompt to masks.

Built from segment-anything's own classes (arXiv 2304.02643). Nothing is remembered between calls, unlike
segment-anything's `SamPredictor`, so any number of threads can ask about any number of images at once.
"""

import functools
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file

from skylight.model.masks.clicked_parts import clicked_parts
from skylight.model.masks.upsampling import enlarge
from skylight.model.runtime.cpu import has_bfloat16, trim_malloc
from skylight.model.runtime.micro_batching import Together
from skylight.model.sam.accelerated import accelerate
from skylight.model.sam.mask_refinement import Likeness
from skylight.model.sam.mask_scoring import Asked, fitted
from skylight.model.sam.mobile_sam import build_mobile_sam
from skylight.model.sam.resize import scale_image, scale_points, scaled_size
from skylight.model.sam.second_look import Window, answer_in, keep, unpack, window_for
from skylight.model.sam.segment_anything_import import Sam, sam_model_registry
from skylight.model.sam.tiny_sam import TinySam

NAMES = ("tiny", "mobile_sam", "vit_b", "vit_l", "vit_h")
FEATURES = 256  # channels of every SAM's embedding
PER_CELL = 8  # px of a thumbnail along a side of an embedding's cell: half of the resolution that SAM sees
BATCH = 4  # images in one forward on a GPU: ViT-H's attention over the whole image takes 0.5 GB of each
SAME_LEVELS = 8  # by which thumbnails of the same pixels may differ, of a JPEG that another library has decoded
PRECISIONS = "auto", "float32"  # of an encoder: half precision where that is quicker, or never
SUFFIXES = {torch.float16: "-float16", torch.bfloat16: "-bfloat16"}  # of an encoder's id
WARM = 8  # images of which the parts of every click are kept
TINY_WEIGHTS = Path(__file__).parents[1] / "weights" / "tiny.safetensors"
# What a file that is cut short, empty, a saved error page, another pickle or other weights raises on loading.
NOT_WEIGHTS = (RuntimeError, OSError, ValueError, EOFError, AttributeError, UnpicklingError, SafetensorError)


class SamError(RuntimeError):
    """A SAM could not be loaded; the message says which file and why."""


@dataclass(frozen=True)
class Prompt:
    """What an annotator gives SAM, in pixels of the image, xy order.

    `points` (N, 2) float32; `positive` (N,) bool; `box` (4,) float32 x0, y0, x1, y1, or None. Raises ValueError when
    there is neither point nor box, when the shapes disagree, or when a number is not finite.
    """

    points: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    positive: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    box: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if not len(self.points) and self.box is None:
            raise ValueError("a prompt needs at least one point or a box")
        if self.points.shape != (len(self.positive), 2) or (self.box is not None and self.box.shape != (4,)):
            raise ValueError("a prompt is points (N, 2) with positive (N,) and a box (4,) or None")
        if not np.isfinite(self.points).all() or (self.box is not None and not np.isfinite(self.box).all()):
            raise ValueError("a prompt's coordinates must be finite")

    @classmethod
    def of(
        cls,
        points: Iterable[tuple[float, float, bool]] = (),
        box: tuple[float, float, float, float] | None = None,
    ) -> "Prompt":
        """A prompt from (x, y, positive) points and an x0, y0, x1, y1 box, all in px."""
        rows = list(points)
        return cls(
            np.array([row[:2] for row in rows], np.float32).reshape(-1, 2),
            np.array([row[2] for row in rows], bool),
            None if box is None else np.array(box, np.float32),
        )


@dataclass(frozen=True, eq=False)
class Embedding:
    """SAM's image-encoder output of one image, with the little of the image that the domain decoder needs.

    `features` (256, h, w) float16, for the image scaled so that its longer side is 16 w px and padded right and
    below; `size` (H, W) px of the image itself; `thumbnail` (8h, 8w, 3) uint8 RGB, scaled and padded alike. `context`
    (C, h, w) float16 is of an earlier layer, which no SAM has trained to outline anything, whatever it is: it knows a
    pit from a crater's dark floor. `detail` (D, 2h, 2w) float16 is of a layer before that, at twice the resolution.
    `picture` (N,) uint8 is a JPEG of the image for a second look, see `closer`. Only the tiny SAM gives these three.
    `quantiles` (101,) float64, of an image of more than 8 bits that was stretched by its own range, are its numbers'.
    `known` (N,) uint8, of an image that is not there everywhere, tells where it is, as `pack_known` makes it.
    """

    features: NDArray[np.float16]
    size: tuple[int, int]
    thumbnail: NDArray[np.uint8]
    context: NDArray[np.float16] | None = None
    detail: NDArray[np.float16] | None = None
    picture: NDArray[np.uint8] | None = None
    quantiles: NDArray[np.float64] | None = None
    known: NDArray[np.uint8] | None = None

    def where_known(self) -> NDArray[np.bool_] | None:
        """Where the image is there, (H, W) bool; None: everywhere."""
        if self.known is None:
            return None
        return np.unpackbits(self.known, count=self.size[0] * self.size[1]).reshape(self.size).astype(bool)

    @property
    def learned_from(self) -> NDArray[np.float16]:
        """What a domain decoder reads on the grid: features and context, (256 + C, h, w) float16."""
        return self.features if self.context is None else np.concatenate([self.features, self.context])

    def extent(self, cells: int) -> tuple[int, int]:
        """Rows and columns that the image fills of a `cells` x `cells` grid laid over the padded square."""
        return _extent(self.size, cells)


def is_of(embedding: Embedding, image: NDArray[np.uint8]) -> bool:
    """Whether an embedding was made of these pixels, (H, W, 3) uint8 RGB, by its thumbnail."""
    side = len(embedding.thumbnail)
    rows, columns = _extent((image.shape[0], image.shape[1]), side)
    thumbnail = np.zeros(embedding.thumbnail.shape, np.int16)
    thumbnail[:rows, :columns] = _reduced(image, (rows, columns))
    return int(np.abs(thumbnail - embedding.thumbnail).max()) <= SAME_LEVELS


def _extent(size: tuple[int, int], cells: int) -> tuple[int, int]:
    """As `Embedding.extent`, of an image of `size` (H, W)."""
    return max(round(cells * size[0] / max(size)), 1), max(round(cells * size[1] / max(size)), 1)


def _reduced(image: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image).resize(shape[::-1], Image.Resampling.BOX))


def pack_known(there: NDArray[np.bool_] | None) -> NDArray[np.uint8] | None:
    """`Embedding.known` of (H, W) bool, a bit for a pixel, row by row; None of None."""
    return None if there is None else np.packbits(there)


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


@dataclass(frozen=True)
class Cut:
    """What a mask is cut from: `logits` (h, w) float32, above 0 inside, which cover `window` of the image.

    The window is row, column, height, width in px; beyond it nothing belongs to the mask.
    """

    logits: NDArray[np.float32]
    window: Window


@dataclass(frozen=True)
class Segmentation:
    """SAM's answers to one prompt, the most trusted first.

    `masks` (K, H, W) bool; `scores` (K,) float32, the predicted IoU; `logits` (K, 4h, 4w) float32 over the padded
    square, of which one can be given back with the next prompt; `cuts` (K), what each mask is cut from, which with the
    tiny SAM are not these logits.
    """

    masks: NDArray[np.bool_]
    scores: NDArray[np.float32]
    logits: NDArray[np.float32]
    cuts: tuple[Cut, ...] = ()


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


def half_type(device: torch.device, tiny: bool, precision: str = "auto") -> torch.dtype | None:
    """The type of 16 bits in which a SAM's encoder is quickest on a device, None for float32.

    ViT-B takes 7 s instead of 12.5 in bfloat16 on two cores that have AMX. Masks are as good: with the tiny SAM's
    encoder in it the IoU of 114 clicks on seven packs changed by -0.0007 ± 0.0018, of boxes by -0.0001 ± 0.0001. The
    `tiny` one, which would take two thirds of its 75 ms, stays what it is on every machine: decoders learn from it.
    """
    if precision == "float32" or tiny:
        return None
    if device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if device.type == "cpu" and has_bfloat16() else None


def weights_of(encoder_id: str) -> str:
    """An encoder's id without its precision: a decoder reads what the same weights give, in whatever precision."""
    for suffix in SUFFIXES.values():
        encoder_id = encoder_id.removesuffix(suffix)
    return encoder_id


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
