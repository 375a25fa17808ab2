"""The order in which images are annotated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from skylight.model.experiments.acquisition import ORDERS, AcquisitionOrder, lowest_first
from skylight.model.sam.types import Embedding


@dataclass(frozen=True)
class Named:
    """A source by name alone."""

    stem: str
    group: str = ""
    pack: str = "p"


POOL = [Named(str(i)) for i in range(12)]


def embed(source: Named) -> Embedding:
    features = np.zeros((256, 4, 4), np.float16)
    angle = int(source.stem) // 6 * np.pi / 2 + int(source.stem) * 0.01  # two heaps
    features[0, :2], features[1, :2] = np.cos(angle), np.sin(angle)
    features[2, 2:] = 1000  # below the image, which fills the upper half
    return Embedding(features, (32, 64), np.zeros((32, 32, 3), np.uint8))


class Trainer:
    """A decoder that is least sure of the highest number, and keeps what it was trained on."""

    def __init__(self) -> None:
        self.trained: list[list[str]] = []

    def __call__(self, sources: Sequence[Named]) -> Callable[[Named], float]:
        self.trained.append([source.stem for source in sources])
        return lambda source: 1 - float(source.stem) / 100


def order(kind: str, path: Path, seed: int = 0, train: Trainer | None = None) -> AcquisitionOrder:
    return AcquisitionOrder(kind, POOL, seed, (2, 5, 9), embed, train or Trainer(), path / f"{kind}.json")


def stems(sources: Sequence[Named]) -> list[str]:
    return [source.stem for source in sources]


@pytest.mark.parametrize("kind", ORDERS)
def test_more_images_are_those_before_and_others(kind: str, tmp_path: Path) -> None:
    made = order(kind, tmp_path)
    five, two, twelve = stems(made.first(5)), stems(made.first(2)), stems(made.first(12))
    assert five[:2] == two and twelve[:5] == five
    assert sorted(twelve) == sorted(stems(POOL))


@pytest.mark.parametrize("kind", ORDERS)
def test_an_order_follows_from_its_seed(kind: str, tmp_path: Path) -> None:
    orders = [stems(order(kind, tmp_path / str(i), seed).first(9)) for i, seed in enumerate((0, 0, 1))]
    assert orders[0] == orders[1] != orders[2]


def test_chance_goes_on_while_nothing_has_been_found(tmp_path: Path) -> None:
    asked: list[int] = []

    def train(sources: Sequence[Named]) -> Callable[[Named], float] | None:
        asked.append(len(sources))
        return None if len(sources) < 5 else lambda source: 1 - float(source.stem) / 100

    chosen = stems(AcquisitionOrder("uncertainty", POOL, 0, (2, 5, 9), embed, train, tmp_path / "o.json").first(9))
    assert asked == [2, 5] and chosen[:5] == stems(order("random", tmp_path).first(5))
    assert chosen[5:] == sorted(set(stems(POOL)) - set(chosen[:5]), key=int, reverse=True)[:4]


def test_the_decoder_chooses_what_it_is_least_sure_of_at_each_size(tmp_path: Path) -> None:
    train = Trainer()
    chosen = stems(order("uncertainty", tmp_path, train=train).first(9))
    assert train.trained == [chosen[:2], chosen[:5]]
    left = sorted(set(stems(POOL)) - set(chosen[:2]), key=int, reverse=True)
    assert chosen[2:9] == left[:7]


def test_an_uncertain_order_is_kept_and_not_trained_for_again(tmp_path: Path) -> None:
    first = stems(order("uncertainty", tmp_path).first(9))
    train = Trainer()
    again = order("uncertainty", tmp_path, train=train)
    assert stems(again.first(9)) == first and not train.trained
    assert stems(again.first(12))[:9] == first and train.trained == [first]


def test_diversity_takes_the_second_image_from_the_other_heap(tmp_path: Path) -> None:
    first, second = (int(stem) for stem in stems(order("diversity", tmp_path).first(2)))
    assert (first < 6) != (second < 6)


def test_more_images_than_there_are_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="12 images, not 13"):
        order("random", tmp_path).first(13)


def test_the_lowest_score_comes_first_and_what_is_like_it_then_counts_as_known() -> None:
    points = np.array([[0, 0], [1, 0], [10, 0], [10.1, 0], [0.5, 0]], np.float32)
    known = np.array([[0, 1], [1, 1]], np.float32)  # a spacing of 1
    assert lowest_first(np.full(5, 0.9), points, known) == [3, 4, 0, 1, 2]
    assert lowest_first(np.array([0.9, 0.9, 0.9, 0.9, 0.01]), points, known)[0] == 4


def test_novelty_asks_for_the_other_heap_though_the_decoder_is_sure_of_it(tmp_path: Path) -> None:
    """It is least sure of the highest numbers; begun in their heap, the others are unlike anything annotated."""
    for seed in range(20):
        two, third = np.split(np.array(stems(order("novelty", tmp_path / str(seed), seed).first(3)), int), [2])
        if (two >= 6).all():
            assert third[0] < 6
            return
    raise AssertionError("no seed begins in one heap")


def test_what_is_doubted_is_taken_from_the_clusters_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two heaps are the numbers below six and from six on: both come within two."""
    monkeypatch.setattr("skylight.model.active_learning.clustering.MAX_CLUSTERS", 2)
    made = order("clustered", tmp_path)
    made.first(2)
    third, fourth = (int(stem) for stem in stems(made.first(5))[2:4])
    assert (third < 6) != (fourth < 6)
