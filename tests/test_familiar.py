"""How like the annotated images another one is."""

from pathlib import Path

import numpy as np
import pytest

from model.decoder import DecoderConfig, load, save
from model.familiar import familiarity, farthest_first, mean_feature, spacing
from model.predict import confidence, predict_pixels, ranking
from model.train import TrainConfig, train

from .test_crops import made_up
from .test_order import POOL, embed

LINE = np.array([[0.0], [1.0], [3.0], [6.0]], np.float32)


def test_the_mean_feature_leaves_out_what_is_beyond_the_image() -> None:
    mean = mean_feature(embed(POOL[0]))
    assert mean.shape == (256,) and mean[2] == 0
    assert np.linalg.norm(mean) == pytest.approx(1, abs=1e-3)


def test_the_spacing_is_the_median_distance_to_the_nearest_other() -> None:
    assert spacing(LINE) == 1.5  # 1, 1, 2, 3
    assert spacing(LINE[:1]) == 0 and spacing(LINE[:0]) == 0


def test_familiarity_is_one_half_at_the_spacing_and_falls_beyond() -> None:
    points = np.array([[0.0], [7.5], [10.5]], np.float32)
    assert familiarity(points, LINE, 1.5).tolist() == [1, 0.5, 0.25]
    assert familiarity(points, LINE[:1], 0).tolist() == [1, 1, 1]  # a single image has no spacing
    assert familiarity(points, LINE[:0], 1.5).tolist() == [1, 1, 1]


def test_the_farthest_point_comes_next() -> None:
    points = np.array([[0.0], [1.0], [10.0], [4.0]], np.float32)
    assert farthest_first(points) == [0, 2, 3, 1]
    assert sorted(farthest_first(np.zeros((4, 1), np.float32))) == [0, 1, 2, 3]


def test_a_decoder_remembers_what_it_was_trained_on_and_scores_others_lower(tmp_path: Path) -> None:
    samples = [made_up(seed) for seed in range(3)]
    how = TrainConfig(steps=2, batch=2, folds=0)
    save(train(samples, [], DecoderConfig(("a",), "t-1", channels=32), how).decoder, tmp_path / "decoder")
    decoder = load(tmp_path / "decoder")
    assert decoder.known.shape == (3, 256) and decoder.config.spacing > 0

    seen = samples[0].embedding
    prediction = predict_pixels(decoder, seen)
    sure = confidence(prediction.probabilities)
    assert ranking(decoder, seen, prediction) == pytest.approx(sure, rel=0.01)
    other = made_up(7).embedding
    other.features[100:200] += 4  # of another kind
    assert ranking(decoder, other, prediction) < 0.5 * sure
