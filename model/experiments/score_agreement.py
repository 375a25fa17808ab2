"""Agreement of the IoU that a training reports with the IoU on other images.

`python -m skylight.model.experiments agreement --data PACKS`

Of each pack some images are annotated, with their true masks, and a decoder is trained on them as a project's is. The
IoU that it reports is compared with that on images of the same pack that took no part in it. Both have a
standard error, as both are of some images only.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from skylight.model.datasets.packs import PackImage, images
from skylight.model.decoder.held_out import validate
from skylight.model.decoder.network import DecoderConfig
from skylight.model.decoder.samples import Sample
from skylight.model.decoder.training import TrainConfig, train
from skylight.model.decoder.validation_split import in_validation
from skylight.model.embeddings.cache import EmbeddingCache
from skylight.model.images.decoding import content_hash
from skylight.model.sam import loading
from skylight.model.sam.segmenter import Segmenter
from skylight.model.storage.file_store import FolderStore

PACKS = "nuclei_dsb2018", "coffee_leaf_lesions", "mars_craters_themis"
OTHERS = 40  # images, at most, that the truth is measured on


@dataclass(frozen=True)
class Comparison:
    """One training: the reported mean IoU and the true one, each with its standard error."""

    pack: str
    images: int
    seed: int
    cross_validated: bool
    reported: float
    error: float
    truth: float
    truth_error: float

    @property
    def sigmas(self) -> float:
        """The difference over its standard error."""
        return (self.reported - self.truth) / float(np.hypot(self.error, self.truth_error))


def compare(pack: str, samples: Sequence[Sample], count: int, seed: int, encoder_id: str) -> Comparison | None:
    """Train on `count` of some samples, drawn by a seed; None if nothing is reported of such a training."""
    order = np.random.default_rng(seed).permutation(len(samples))
    annotated, others = ([samples[i] for i in part] for part in (order[:count], order[count : count + OTHERS]))
    learned, kept_apart = (
        [sample for sample in annotated if in_validation(sample.group) is side] for side in (False, True)
    )
    trained = train(learned, kept_apart, DecoderConfig((pack,), encoder_id), replace(TrainConfig(), seed=seed))
    if trained.held is None:
        return None
    truth = validate(trained.decoder, others)
    said, true = ((held.scores.mean, held.error or 0.0) for held in (trained.held, truth))
    return Comparison(pack, count, seed, trained.cross_validated, *said, *true)


def measure(
    segmenter: Segmenter, data: Path, out: Path, packs: Sequence[str], counts: Sequence[int], seeds: Sequence[int]
) -> Iterator[Comparison]:
    """All trainings; the embeddings are kept in the folder `out`."""
    cache = EmbeddingCache(FolderStore(out), segmenter.encoder_id, 0)
    for pack in packs:
        held_out = [item for item in images(data, (pack,)) if item.held_out]
        samples = [_sample(item, segmenter, cache) for item in held_out]
        for count in counts:
            for seed in seeds:
                found = compare(pack, samples, min(count, len(samples) // 2), seed, segmenter.encoder_id)
                if found is not None:
                    yield found


def _sample(item: PackImage, segmenter: Segmenter, cache: EmbeddingCache) -> Sample:
    image, instances = item.read()
    digest = content_hash(repr(image.shape).encode() + image.tobytes())
    embedding = cache.get(digest, lambda: segmenter.embed(image))
    return Sample(item.stem, embedding, (instances > 0).astype(np.uint8), instances, digest)


def report(found: Sequence[Comparison]) -> list[dict[str, object]]:
    """Rows for build/agreement.json; each should differ by two standard errors or less."""
    return [
        {
            "what": f"{each.pack}, {each.images} images, seed {each.seed}: reported {each.reported:.3f} ± "
            f"{each.error:.3f}, true {each.truth:.3f} ± {each.truth_error:.3f}",
            "measured": round(each.sigmas, 2),
            "unit": "standard errors",
            "goal": "-2 to 2",
            "ok": abs(each.sigmas) <= 2,
        }
        for each in found
    ]


def main(arguments: Sequence[str]) -> None:
    """Command line: `python -m skylight.model.experiments agreement --help`."""
    parser = argparse.ArgumentParser(prog="python -m skylight.model.experiments agreement", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of packs")
    parser.add_argument("--packs", nargs="+", default=PACKS)
    parser.add_argument("--images", nargs="+", type=int, default=(10, 30), help="annotated; half a pack at most")
    parser.add_argument("--seeds", nargs="+", type=int, default=(0,))
    given = parser.parse_args(arguments)
    out = Path("build")
    segmenter = loading.load("tiny")
    print(f"{'pack':24}{'images':>7}{'seed':>5}  {'reported':>16}{'true':>16}{'differ by':>11}")
    found = []
    for each in measure(segmenter, given.data, out / "agreement", given.packs, given.images, given.seeds):
        found.append(each)
        said, true = f"{each.reported:.3f} ± {each.error:.3f}", f"{each.truth:.3f} ± {each.truth_error:.3f}"
        how = "  cross-validated" if each.cross_validated else ""
        print(f"{each.pack:24}{each.images:7}{each.seed:5}  {said:>16}{true:>16}{each.sigmas:9.1f} σ{how}", flush=True)
    command = "python -m skylight.model.experiments agreement " + " ".join(arguments)
    (out / "agreement.json").write_text(json.dumps([{**row, "command": command} for row in report(found)], indent=1))
