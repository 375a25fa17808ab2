"""Puts the events of webhooks into the inbox in Redis, or on disk while Redis is away."""

import logging
import math
import time
from collections.abc import Sequence

import redis

from skylight.backend.labelstudio.events import Event, count_dirtying
from skylight.backend.queue.queue import Queue
from skylight.backend.store.spool import Spool
from skylight.backend.trace import record_error

REPLAY_SECONDS = 0.2  # of the second that Label Studio waits; the rest on disk is left to the maintenance thread


log = logging.getLogger(__name__)


def accept(queue: Queue, spool: Spool, project: str, events: Sequence[Event]) -> None:
    """Put events into the inbox, all or none; on disk while Redis is away, or while others wait there still."""
    try:
        if _is_spool_empty(queue, spool):
            by_webhook = any(event["what"] != "train" for event in events)  # which comes as a call of the backend
            queue.add_events(project, events, count_dirtying(events), int(time.time()) if by_webhook else 0)
            return
    except redis.RedisError as error:
        log.error("Redis is away (%s): %d events of project %s wait on disk", error, len(events), project)
        record_error(error)
    if events:
        spool.add(project, *events)


def _is_spool_empty(queue: Queue, spool: Spool) -> bool:
    """Whether events may go straight into the inbox: no event is left on disk, or none can be read from there now."""
    try:
        return replay(queue, spool, REPLAY_SECONDS)
    except OSError as error:
        log.error("what waits on disk cannot be read now, and newer events go before it: %s", error)
        return True


def replay(queue: Queue, spool: Spool, seconds: float = math.inf) -> bool:
    """Take spooled events into the inbox, for so long; gives whether none is left that this process could take.

    Raises redis.RedisError while Redis is away, OSError if the folder cannot be used.
    """
    until = time.monotonic() + seconds
    for project, event in spool.take():
        if time.monotonic() > until:
            break
        queue.add_events(project, [event], count_dirtying([event]))
    return spool.is_empty()
