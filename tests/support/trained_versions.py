"""A version in a service's store that was really trained, on scenes whose objects stand out."""

import copy
import functools

import torch

from skylight.backend.service import Service
from skylight.model.datasets.synthetic_scenes import scene
from skylight.model.decoder import network
from skylight.model.decoder.network import DecoderConfig, DomainDecoder
from skylight.model.decoder.samples import Sample
from skylight.model.decoder.training import TrainConfig, train
from skylight.model.sam.segmenter import Segmenter

PROJECT = "1.1795340435"


def train_pits(segmenter: Segmenter, seeds: range = range(3), steps: int = 60, side: int = 256) -> DomainDecoder:
    """A decoder of the label Pit, trained on procedural scenes; a process trains it once."""
    return copy.deepcopy(_train_pits(segmenter, seeds, steps, side))


@functools.cache
def _train_pits(segmenter: Segmenter, seeds: range, steps: int, side: int) -> DomainDecoder:
    torch.set_num_threads(1)
    samples = []
    for seed in seeds:
        made = scene(seed, side)
        samples.append(Sample(str(seed), segmenter.embed(made.image), made.truth().astype("uint8")))
    how = TrainConfig(steps=steps, first_steps=steps, image_steps=0, folds=1)
    config = DecoderConfig(("Pit",), segmenter.encoder_id)
    return train(samples, [], config, how).decoder


def publish(service: Service, decoder: DomainDecoder, project: str = PROJECT) -> int:
    """Serve a decoder as the project's next version, and give its number."""
    card = {"labels": list(decoder.config.labels), "encoder_id": decoder.config.encoder_id, "training_images": 3}
    number = service.versions.publish(project, lambda path: network.save(decoder, path), card)
    service.versions.promote(project, number)
    return number
