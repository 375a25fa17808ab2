"""Which methods were measured: a fingerprint of all settings that decide what each learns, and of its size.

A change of the code that neither shows, of the augmentation say, leaves it as it is: then results want another folder.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from model.baselines import ALTERNATIVES
from model.decoder import DecoderConfig, DomainDecoder
from model.results import DECODERS
from model.train import TrainConfig


def recipe(methods: Sequence[str], config: DecoderConfig, how: TrainConfig) -> str:
    """Fingerprint of some methods' recipes, 8 hex digits; a decoder's is `config` and `how`, but for its seed."""
    texts = [
        decoder_recipe(config, how) if method in DECODERS else f"{method}: {ALTERNATIVES[method]().recipe}"
        for method in methods
    ]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:8]


def decoder_recipe(config: DecoderConfig, how: TrainConfig) -> str:
    """A decoder's settings and parameters as text; pack and SAM have columns of their own, so they are not in it."""
    size = sum(weight.numel() for weight in DomainDecoder(config).parameters())
    same = replace(config, labels=("",), encoder_id="")
    return f"{same!r}, {replace(how, seed=0)!r}, {size} parameters"
