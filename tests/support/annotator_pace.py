"""How long people look."""

import random

LOOK = (3.0, 20.0)  # s that somebody looks at a task
USUAL = 5.0  # s beyond the shortest, on average: most looks are short


def look_seconds(rng: random.Random) -> float:
    """How long somebody looks at one task before it is submitted, s."""
    return min(LOOK[0] + rng.expovariate(1 / USUAL), LOOK[1])
