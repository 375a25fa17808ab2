"""A team on paper: 50 annotators in 20 projects of 50,000 images each, and what it keeps busy.

Every kind of work is a queue of its own: requests come by chance at a mean rate (so that they bunch), each takes the
time that was measured. The simulation runs one working day, event by event; what is asked is which machine is too slow.
"""

import heapq
import random
from dataclasses import dataclass

HOURS = 8.0
ANNOTATORS, PROJECTS, IMAGES = 50, 20, 1_000_000
IMAGE_SECONDS = 60.0  # an annotator's, per image: some objects, clicked and corrected
CLICKS_AN_IMAGE = 5
RETRAIN_EVERY = 10  # annotations in a project; SKYLIGHT_RETRAIN_EVERY


@dataclass(frozen=True)
class Service:
    """A kind of work: how many come an hour, s of service for each, and by how many servers at once."""

    name: str
    an_hour: float
    seconds: float
    servers: int

    @property
    def load(self) -> float:
        """Share of the servers that is busy; from 1 on what waits grows without end."""
        return self.an_hour * self.seconds / 3600 / self.servers


def team(click_ms: float, training_s: float, ingest_s: float, threads: int = 2, workers: int = 2) -> list[Service]:
    """What the team asks for while it works, given what each costs on the machine at hand."""
    annotations = ANNOTATORS * 3600 / IMAGE_SECONDS
    return [
        Service("clicks", annotations * CLICKS_AN_IMAGE, click_ms / 1000, threads),
        Service("ingest", annotations, ingest_s, workers),
        Service("training", annotations / RETRAIN_EVERY, training_s, workers),
    ]


def waits(service: Service, hours: float = HOURS, seed: int = 1) -> list[float]:
    """How long each request of a day waits before its service begins, s: Poisson arrivals, first come, first served."""
    chance, now, found = random.Random(seed), 0.0, []
    free = [0.0] * service.servers
    while now < 3600 * hours:
        now += chance.expovariate(service.an_hour / 3600)
        begins = max(now, heapq.heappop(free))
        found.append(begins - now)
        heapq.heappush(free, begins + service.seconds)
    return found


def days(images: int, per_second: float) -> float:
    """Days that doing something to each image once takes."""
    return images / per_second / 86400
