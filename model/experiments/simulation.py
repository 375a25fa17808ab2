"""The paper's experiment: the quality of a decoder after a few images that were annotated by prompts.

After Julka & Granitzer 2023 (arXiv 2305.07586). A simulated annotator clicks on images of a pool and accepts SAM's
masks; from these, never from the truth, the domain decoder is trained, and so are the baselines, on the same images and
masks. All are measured on the true masks of images that were not annotated.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from skylight.model.decoder.inference import confidence, predict
from skylight.model.decoder.network import DecoderConfig, DomainDecoder
from skylight.model.decoder.samples import Sample
from skylight.model.decoder.training import TrainConfig, train
from skylight.model.embeddings.cache import EmbeddingCache
from skylight.model.experiments import simulated_annotator
from skylight.model.experiments.acquisition import ORDERS, AcquisitionOrder
from skylight.model.experiments.baselines.base import Baseline, Example
from skylight.model.experiments.baselines.registry import BASELINES
from skylight.model.experiments.fingerprints import recipe
from skylight.model.experiments.method_scores import EmbeddedImage, MethodScores, prompt_scores
from skylight.model.experiments.results_csv import COLUMNS, DECODERS, METHODS, Key, Results, Row
from skylight.model.experiments.simulated_annotator import Annotated
from skylight.model.experiments.splits import Pool, Source, pools
from skylight.model.sam.segmenter import Segmenter
from skylight.model.storage.file_store import FolderStore

MEMORY_BYTES = 512 * 1024**2  # of embeddings: some 800 of the tiny SAM's, 200 of the official ones'

Progress = Callable[[int, int, str], None]


class SimulateError(RuntimeError):
    """The experiment cannot be run as asked; the message says why and what to do."""


@dataclass(frozen=True)
class Options:
    """What is simulated. Raises SimulateError for a method or order that is not known, or a number out of range."""

    out: Path  # results, annotations and embeddings; an interrupted run is resumed from there
    data: Path | None = None  # folder of packs; without it, procedural scenes alone
    packs: tuple[str, ...] = ()  # all if empty
    annotations: tuple[int, ...] = (1, 2, 5, 10, 20, 50)  # images; more than a pool has are left out
    seeds: int = 5
    order: str = "random"
    methods: tuple[str, ...] = METHODS
    test_images: int = 20  # per pack, at most
    every: bool = False  # also images the bundled SAM was trained on; for a SAM that was not
    tile: int | None = None  # px: images are cut into tiles of about this side, as a survey's map is
    rare: float | None = None  # share of the images to annotate that may hold something, in (0, 1)
    effort: bool = True  # also how long an annotator takes with the decoder's help
    refine: bool = False  # also the decoder's instances refined by SAM, with a prompt each
    recipe: TrainConfig = field(default_factory=TrainConfig)  # of the decoder; its seed is replaced

    def __post_init__(self) -> None:
        unknown = sorted(set(self.methods) - set(METHODS))
        if unknown or not self.methods:
            raise SimulateError(f"no method is called {', '.join(unknown)!r}; there are {', '.join(METHODS)}")
        if self.order not in ORDERS:
            raise SimulateError(f"no order is called {self.order!r}; there are {', '.join(ORDERS)}")
        if not self.annotations or min(self.annotations) < 1 or self.seeds < 1 or self.test_images < 1:
            raise SimulateError("annotations, seeds and test images must be 1 or more")


def run(options: Options, segmenter: Segmenter, progress: Progress = lambda done, total, what: None) -> list[Row]:
    """Measure all that `options` ask for and is not in their results yet; gives all rows asked for, in order.

    Rows of a method by another recipe do not count; they stay in the file. `progress` is called with the number of
    rows done, that of all, and what is being measured. Raises PoolError, ResultsError, and SimulateError if a package
    that a method needs is not installed or no pack has as many images as asked for.
    """
    results = Results(options.out / "results.csv")
    every = [
        PackExperiment(pool, options, segmenter)
        for pool in pools(options.data, options.packs, options.test_images, options.every, options.tile, options.rare)
    ]
    total = sum(len(bench.sizes) for bench in every) * options.seeds * len(options.methods)
    if not total:
        raise SimulateError(f"{'; '.join(left_out(options))}: nothing is left to measure, ask for fewer --annotations")
    rows: list[Row] = []
    for bench in every:
        for seed in range(options.seeds):
            order = bench.order(seed)
            for size in bench.sizes:
                for method in options.methods:
                    progress(len(rows), total, f"{bench.pool.pack}, {size} images, seed {seed}: {method}")
                    row = results.find(bench.key(method, size, seed))
                    if row is None:
                        row = bench.measure(method, order.first(size), seed)
                        results.add(row)
                    rows.append(row)
        bench.release_memory()
    progress(total, total, "")
    return rows


def left_out(options: Options) -> list[str]:
    """A line for each pack with too few images to annotate: which of the numbers are left out. Raises PoolError."""
    lines = []
    for pool in pools(options.data, options.packs, options.test_images, options.every, options.tile, options.rare):
        there = len(pool.annotate)
        missing = ", ".join(str(size) for size in sorted(set(options.annotations)) if size > there)
        if missing:
            lines.append(f"{pool.pack} has {there} images to annotate; {missing} left out")
    return lines


class PackExperiment:
    """The experiment on one pack: its images, their simulated annotations, and the methods' scores."""

    def __init__(self, pool: Pool, options: Options, segmenter: Segmenter) -> None:
        self.pool, self.options, self.segmenter = pool, options, segmenter
        self.sizes = sorted({size for size in options.annotations if size <= len(pool.annotate)})
        self._embeddings = EmbeddingCache(FolderStore(options.out), segmenter.encoder_id, MEMORY_BYTES)
        self._config = DecoderConfig((pool.pack,), segmenter.encoder_id)
        self._recipes: dict[str, str] = {}
        self.release_memory()

    def release_memory(self) -> None:
        """Free the images and annotations in memory: 2 MB an image of 512 px."""
        self._images: dict[str, EmbeddedImage] = {}
        self._annotated: dict[tuple[str, bool], Annotated] = {}
        self._latest: tuple[tuple[str, int, tuple[str, ...]], DomainDecoder, float] | None = None

    def key(self, method: str, size: int, seed: int) -> Key:
        """See `Row.key`."""
        about = self.pool.pack, method, size, seed
        return *about, self.options.order, self.segmenter.encoder_id, self.pool.split, self.recipe(method)

    def recipe(self, method: str) -> str:
        """A method's fingerprint; in orders by confidence also the decoder's, which selects the images."""
        if method not in self._recipes:
            chooser = ("decoder",) if self.options.order in ("uncertainty", "novelty", "clustered") else ()
            with _needed_packages(method):
                self._recipes[method] = recipe((method, *chooser), self._config, self.options.recipe)
        return self._recipes[method]

    def image(self, source: Source) -> EmbeddedImage:
        """An image, read and embedded once."""
        if source.stem not in self._images:
            pixels, truth = source.read()
            key = hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()
            embedding = self._embeddings.get(key, lambda: self.segmenter.embed(pixels))
            digest = simulated_annotator.fingerprint(pixels, truth)
            self._images[source.stem] = EmbeddedImage(source.stem, pixels, truth, embedding, digest)
        return self._images[source.stem]

    def annotated(self, source: Source, testing: bool = False) -> Annotated:
        """The simulated annotation of an image, from prompts, computed once; with all its objects for `testing`."""
        place = source.stem, testing
        if place not in self._annotated:
            image = self.image(source)
            folder = self.options.out / "annotations" / self.segmenter.encoder_id / self.pool.pack
            path = folder / f"{source.stem}-{image.digest}{'-all' if testing else ''}.npz"
            most = None if testing else simulated_annotator.MOST_OBJECTS
            self._annotated[place] = simulated_annotator.cached(
                path, lambda: simulated_annotator.annotate(self.segmenter, image.embedding, image.truth, most)
            )
        return self._annotated[place]

    def order(self, seed: int) -> AcquisitionOrder:
        """The order in which a seed's annotator gets the pool's images."""
        about = self.pool.pack, self.options.order, str(seed), self.segmenter.encoder_id, self.pool.split
        name = f"{'-'.join(about)}-{self.recipe('decoder')}.json"
        return AcquisitionOrder(
            self.options.order,
            self.pool.annotate,
            seed,
            self.sizes,
            lambda source: self.image(source).embedding,
            lambda sources: self._confidence(sources, seed),
            self.options.out / "orders" / name,
        )

    def _confidence(self, sources: Sequence[Source], seed: int) -> Callable[[Source], float] | None:
        """The confidence of a decoder that was trained on annotations of `sources`; None if these have no object."""
        if not any((self.annotated(source).label_map == 1).any() for source in sources):
            return None
        decoder, _ = self.decoder("decoder", sources, seed)
        return lambda source: confidence(predict(decoder, self.image(source).embedding))

    def decoder(self, method: str, sources: Sequence[Source], seed: int) -> tuple[DomainDecoder, float]:
        """A trained decoder and its seconds; the latest from prompts is kept, as the uncertainty order asks for it."""
        key = method, seed, tuple(source.stem for source in sources)
        if self._latest and self._latest[0] == key:
            return self._latest[1:]
        samples = [self._sample(method, source) for source in sources]
        started = time.perf_counter()
        decoder = train(samples, [], self._config, replace(self.options.recipe, seed=seed)).decoder
        spent = time.perf_counter() - started
        if method == "decoder":
            self._latest = key, decoder, spent
        return decoder, spent

    def _sample(self, method: str, source: Source) -> Sample:
        image = self.image(source)
        if method == "decoder_true":
            return Sample(source.stem, image.embedding, (image.truth > 0).astype(np.uint8), image.truth)
        given = self.annotated(source)
        return Sample(source.stem, image.embedding, given.label_map, given.instances)

    def measure(self, method: str, sources: Sequence[Source], seed: int) -> Row:
        """Train a method on images and measure it on the test images."""
        given = [self.annotated(source) for source in sources]
        scores = MethodScores([self.pool.pack], self.segmenter if self.options.refine else None)
        if method in DECODERS:
            decoder, trained = self.decoder(method, sources, seed)
            for source in self.pool.test:
                image = self.image(source)
                effortful = self.options.effort and method == "decoder"
                scores.add_decoder(decoder, image, self.annotated(source, testing=True) if effortful else None)
        else:
            baseline, trained = self._fit(method, sources, seed)
            for source in self.pool.test:
                scores.add(baseline, self.image(source))
        key = self.key(method, len(sources), seed)
        about: dict[str, Any] = dict(zip(COLUMNS, key, strict=False))
        return Row(**about, **scores.scores(), train_seconds=trained, **prompt_scores(given))

    def _fit(self, method: str, sources: Sequence[Source], seed: int) -> tuple[Baseline, float]:
        """A baseline trained on what the annotator made of images, and its seconds."""
        examples = []
        for source in sources:
            image = self.image(source)
            examples.append(Example(image.image, self.annotated(source).label_map, image.embedding))
        with _needed_packages(method):
            baseline = BASELINES[method]()
            started = time.perf_counter()
            baseline.fit(examples, 1, seed)
        return baseline, time.perf_counter() - started


@contextmanager
def _needed_packages(method: str) -> Iterator[None]:
    """Raises SimulateError where a package that a method needs is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise SimulateError(
            f"method {method} needs the package {error.name}: "
            "pip install 'label-studio-skylight[simulate]', or leave it out of --methods"
        ) from error
