"""A worker: takes jobs one after the other, in its own process, with the SAM and its embeddings kept loaded."""

import threading
from collections.abc import Sequence

from rq.serializers import JSONSerializer

from backend import layout
from backend.allowed import AllowedWorker
from backend.jobs import CURRENT_SERVICE
from backend.queue import KINDS, Kind
from backend.service import Service
from backend.settings import Settings
from backend.trouble import look_after
from backend.webhook import replay


def run(settings: Settings, kinds: Sequence[Kind] = KINDS) -> None:
    """Work until SIGTERM, which lets the job in hand finish; jobs of these kinds only, the first kind first."""
    service = Service(settings)
    layout.check(service)
    service.check_weights()
    worker = start(service, kinds)
    threading.Thread(target=look_after, args=(service, threading.Event()), name="look-after", daemon=True).start()
    worker.work(logging_level=settings.log_level)


def start(service: Service, kinds: Sequence[Kind] = KINDS) -> AllowedWorker:
    """Make a process ready for jobs: pick up what a crashed one left behind, and what waits on disk."""
    CURRENT_SERVICE.set(service)
    service.queue.taken = kinds
    queues = [service.queue.queues[kind] for kind in kinds]
    # First of all, since it gives the connection the patience to wait for a job.
    worker = AllowedWorker(queues, connection=service.queue.redis, serializer=JSONSerializer)
    replay(service)
    service.queue.recover(service.store.projects())
    return worker
