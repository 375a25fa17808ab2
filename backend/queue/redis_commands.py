"""The Redis commands that Skylight, RQ and redis-py's locks send: Redis 6.0 has them all.

A server may lack some (`rename-command`, a managed one, another program that speaks the protocol), or forbid them to
the user (ACL). `refused` tries each one.
"""

import uuid
from collections.abc import Iterator

import redis
from redis.exceptions import NoScriptError

from skylight.backend.queue.connection import REPLY_SECONDS
from skylight.backend.queue.keys import key

SCRIPT = "return 1"
SCRIPT_SHA1 = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db"
TRIAL_SECONDS = 60  # after which what a trial wrote is gone, should its end not come to delete it
CHANNEL = "rq:pubsub:skylight-trial"  # as RQ names those by which a worker is told to stop

Command = tuple[str | int, ...]


def trials(name: str) -> Iterator[Command]:
    """Every command once, the lock's and RQ's too, such that it fails only if it is refused.

    What it reads and writes are keys that begin with `name`, one for each type; the last commands delete them.
    """
    text, list_, hash_, set_, sorted_, stream = (f"{name}-{kind}" for kind in ("text", "list", "hash", "set", "z", "x"))
    yield from (("PING",), ("INFO", "server"), ("WATCH", text), ("UNWATCH",), ("MULTI",), ("EXEC",))
    yield from (("SCRIPT LOAD", SCRIPT), ("EVALSHA", SCRIPT_SHA1, 0))
    yield from (("SET", text, 1, "NX", "PX", 1000 * TRIAL_SECONDS), ("GET", text), ("EXISTS", text), ("INCR", text))
    yield from (("INCRBY", text, 1), ("PERSIST", text), ("TTL", text), ("PEXPIRE", text, 1000 * TRIAL_SECONDS))
    yield from (("RPUSH", list_, "b", "c", "d"), ("EXPIRE", list_, TRIAL_SECONDS), ("LPUSH", list_, "a"))
    yield from (("LINDEX", list_, 0), ("LRANGE", list_, 0, -1), ("LLEN", list_), ("LTRIM", list_, 0, 9))
    yield from (("LREM", list_, 1, "d"), ("LPOP", list_), ("BLPOP", list_, 1))
    yield from (("HSET", hash_, "a", 1, "b", 2), ("EXPIRE", hash_, TRIAL_SECONDS), ("HGET", hash_, "a"))
    yield from (("HGETALL", hash_), ("HVALS", hash_), ("HEXISTS", hash_, "a"), ("HINCRBY", hash_, "a", 1))
    yield from (("HINCRBYFLOAT", hash_, "a", 1), ("HDEL", hash_, "b"))
    yield from (("SADD", set_, "a"), ("EXPIRE", set_, TRIAL_SECONDS), ("SMEMBERS", set_), ("SISMEMBER", set_, "a"))
    yield from (("SREM", set_, "b"), ("ZADD", sorted_, "XX", 1, "a"), ("ZADD", sorted_, 1, "a"))
    yield from (("EXPIRE", sorted_, TRIAL_SECONDS), ("ZCARD", sorted_), ("ZRANGE", sorted_, 0, -1))
    yield from (("ZSCORE", sorted_, "a"), ("ZRANGEBYSCORE", sorted_, 0, 1), ("ZREMRANGEBYSCORE", sorted_, 2, 3))
    yield from (("ZREM", sorted_, "a"), ("XADD", stream, "MAXLEN", "~", 10, "*", "a", 1))
    yield from (("EXPIRE", stream, TRIAL_SECONDS), ("XREVRANGE", stream, "+", "-", "COUNT", 1))
    yield ("DEL", text, list_, hash_, set_, sorted_, stream)


def refused(connection: redis.Redis) -> dict[str, str]:
    """The commands that the server refuses, and what it says of each. Raises redis.RedisError if it does not answer."""
    found: dict[str, str] = {}
    with connection.client() as single:  # type: ignore[no-untyped-call]  # a transaction is one connection's
        for command in trials(key("*", f"trial-{uuid.uuid4().hex[:8]}")):
            try:
                single.execute_command(*command)
            except redis.ResponseError as error:
                if _is_refusal(error):
                    found.setdefault(str(command[0]), str(error))
    for name in ("SUBSCRIBE", "UNSUBSCRIBE"):
        if reason := _refused_channel(connection, name):
            found[name] = reason
    return found


def _is_refusal(error: redis.ResponseError) -> bool:
    """Whether it is the command's own, and not what follows from an earlier one that was refused."""
    return not isinstance(error, NoScriptError) and "without MULTI" not in str(error)


def _refused_channel(connection: redis.Redis, name: str) -> str:
    """What the server says against SUBSCRIBE or UNSUBSCRIBE; "" if it takes it."""
    with connection.pubsub() as channel:  # type: ignore[no-untyped-call]
        try:
            channel.execute_command(name, CHANNEL)
            channel.parse_response(block=False, timeout=REPLY_SECONDS)
        except redis.ResponseError as error:
            return str(error)
    return ""
