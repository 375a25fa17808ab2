"""The recipe of the tiny SAM's pretraining."""

import json
import math
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class PretrainConfig:
    """The recipe. The bundled weights were made by earlier ones, see their model card.

    Names and order of the fields are stored in the files of a run, which only the same recipe resumes.
    """

    steps: int = 40_000
    minutes: float = math.inf  # the schedule ends at whichever of steps and minutes comes first
    window: int = 192  # px of the 512 px frame that most steps see
    pictures: int = 12  # windows per step; a third as many whole frames
    prompts: int = 3  # objects per image
    whole: tuple[float, float] = (0.1, 0.6)  # share of steps that see whole frames, at the start and at the end
    corrections: tuple[float, ...] = (0.4, 0.3, 0.15, 0.15)  # shares of steps with one, two, ... correction clicks
    learning_rate: float = 5e-4  # AdamW; neck, prompt encoder and mask decoder
    encoder_rate: float = 5e-5  # the encoder's unfrozen blocks
    encoder_from: float = 2 / 3  # of the run: before that the whole encoder is frozen
    warmup: int = 300  # steps
    weight_decay: float = 1e-2
    frozen_blocks: int = 11  # of 16: the domain decoder reads their outputs, and they are slow to train on a CPU
    average: float = 0.999  # decay of the exponential moving average that is saved
    made: float = 0.4  # share of synthetic images: procedural ones, and cutouts where a folder of drawings is given
    boxes: float = 0.3  # share of first prompts that are boxes
    forget: float = 0.4  # share of corrections without the previous answer's logits, as from a plain client
    seed: int = 0


def recipe(config: PretrainConfig) -> str:
    """The configuration as JSON, as the files of a run store it."""
    return json.dumps(asdict(config))
