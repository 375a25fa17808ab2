"""The connection to Redis."""

import socket

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

REPLY_SECONDS = 0.5  # Redis is away if it takes longer: Label Studio waits one second for the answer to a webhook
# A connection by TCP that has said nothing for so long is asked whether it is still there, and is given up if no answer
# comes in a while: without that, as by redis-py before 8, a worker may wait for a job for 7 minutes after a cable was
# pulled. What was sent and is not received ends it as well; the kernel alone would try for 15 minutes.
TCP = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 15_000}  # s, s, times, ms


def connect(url: str) -> redis.Redis:
    """A connection to Redis that gives up soon and survives a restart of it; nothing is sent before it is used."""
    options = {getattr(socket, name): value for name, value in TCP.items() if hasattr(socket, name)}  # not on a Mac
    keepalive = {"socket_keepalive": True, "socket_keepalive_options": options}
    return redis.Redis.from_url(
        url,
        **({} if url.startswith("unix:") else keepalive),
        socket_connect_timeout=REPLY_SECONDS,
        socket_timeout=REPLY_SECONDS,
        health_check_interval=30,
        retry=Retry(NoBackoff(), 1, (redis.ConnectionError,)),  # a slow one is not asked twice
    )


def pop(connection: redis.Redis, name: str) -> bytes | None:
    """The value of a key, which is deleted in the same transaction; None if there is none.

    As GETDEL, which Redis has since 6.2.
    """
    with connection.pipeline() as pipe:
        pipe.get(name)
        pipe.delete(name)
        value: bytes | None = pipe.execute()[0]
    return value
