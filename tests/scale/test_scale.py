"""The team on paper: what a queue does is known from elsewhere."""

import numpy as np
import pytest

from tests.scale.team import Service, days, team, waits


def test_one_server_waits_as_the_formula_says():
    service = Service("any", 3600 * 0.5, 1.0, 1)  # load 0.5 and equal services: Pollaczek and Khinchine say 0.5 s
    assert np.mean(waits(service, hours=200)) == pytest.approx(0.5, rel=0.05)


def test_beyond_its_load_what_waits_grows_without_end():
    found = waits(Service("any", 3600 * 2.0, 1.0, 1))
    assert found[-1] > 0.4 * len(found) and Service("any", 7200, 1.0, 1).load == 2


def test_the_team_clicks_often_and_trains_seldom():
    clicks, ingest, training = team(28, 9, 0.1)
    assert (clicks.an_hour, ingest.an_hour, training.an_hour) == (15000, 3000, 300)
    assert days(864_000, 10) == 1
