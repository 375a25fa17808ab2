"""Fingerprints of the measured methods: of all settings that decide what a method learns, and of its size.

A change of the code that is in neither, of the augmentation say, does not change it: write results to another folder
then.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from skylight.model.decoder.network import DecoderConfig, DomainDecoder
from skylight.model.decoder.training import TrainConfig
from skylight.model.experiments.baselines.registry import BASELINES
from skylight.model.experiments.results_csv import DECODERS


def recipe(methods: Sequence[str], config: DecoderConfig, how: TrainConfig) -> str:
    """Fingerprint of some methods' recipes, 8 hex digits; a decoder's is `config` and `how`, but for its seed."""
    texts = [
        decoder_recipe(config, how) if method in DECODERS else f"{method}: {BASELINES[method]().recipe}"
        for method in methods
    ]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:8]


def decoder_recipe(config: DecoderConfig, how: TrainConfig) -> str:
    """A decoder's settings and parameters as text; pack and SAM have columns of their own, so they are not in it."""
    size = sum(weight.numel() for weight in DomainDecoder(config).parameters())
    same = replace(config, labels=("",), encoder_id="")
    # By the name that the class had when the first results were written.
    settings = repr(same).replace("Normalization(", "Normalisation(")
    return f"{settings}, {replace(how, seed=0)!r}, {size} parameters"
