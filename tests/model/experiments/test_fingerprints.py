"""What decides a method's fingerprint."""

from dataclasses import replace
from typing import Any

import pytest

from skylight.model.decoder.network import DecoderConfig
from skylight.model.decoder.training import TrainConfig
from skylight.model.experiments.baselines.random_forest import Forest, ForestConfig
from skylight.model.experiments.baselines.registry import BASELINES, UNetBaseline
from skylight.model.experiments.baselines.unet import UNetConfig
from skylight.model.experiments.fingerprints import recipe
from skylight.model.experiments.results_csv import METHODS

DECODER, HOW = DecoderConfig(("pit",), "tiny-1"), TrainConfig()


def test_every_method_has_its_own_and_the_decoder_s_masks_do_not_change_it() -> None:
    found = {method: recipe((method,), DECODER, HOW) for method in METHODS}
    assert found["decoder"] == found["decoder_true"]
    assert len(set(found.values())) == len(METHODS) - 1
    assert all(len(each) == 8 and int(each, 16) >= 0 for each in found.values())


@pytest.mark.parametrize(("changed", "same"), [({"steps": 7}, False), ({"crop": 0.5}, False), ({"seed": 3}, True)])
def test_the_decoder_s_changes_with_its_training_but_not_with_the_seed(changed: dict[str, Any], same: bool) -> None:
    assert (recipe(("decoder",), DECODER, replace(HOW, **changed)) == recipe(("decoder",), DECODER, HOW)) == same


@pytest.mark.parametrize(
    ("changed", "same"), [({"channels": 32}, False), ({"labels": ("a",)}, True), ({"encoder_id": "other"}, True)]
)
def test_the_decoder_s_changes_with_its_network_but_not_with_what_has_a_column(
    changed: dict[str, Any], same: bool
) -> None:
    assert (recipe(("decoder",), replace(DECODER, **changed), HOW) == recipe(("decoder",), DECODER, HOW)) == same


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("unet", lambda: UNetBaseline(UNetConfig(batch=3))),
        ("unet_imagenet", lambda: UNetBaseline(UNetConfig(imagenet=True, batch=3))),
        ("forest", lambda: Forest(ForestConfig(trees=99))),
    ],
)
def test_an_alternative_s_changes_with_its_settings(name: str, other: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = recipe((name,), DECODER, HOW)
    monkeypatch.setattr("skylight.model.experiments.fingerprints.BASELINES", {name: other})
    assert recipe((name,), DECODER, HOW) != before


def test_a_u_net_s_names_its_size() -> None:
    for name, size in (("unet", 1_942_594), ("unet_imagenet", 5_198_306)):
        assert BASELINES[name]().recipe.endswith(f", {size} parameters")


def test_rows_of_earlier_releases_are_still_those_of_the_same_method() -> None:
    known = {"decoder": "a2d8072a", "unet": "e139801a", "probe": "24978ea2", "threshold": "d079f44b"}
    assert {method: recipe((method,), DECODER, HOW) for method in known} == known
