"""Reads a stream whose oldest messages expire: once to its end, or for ever.

Unlike the configuration log (events.reader), such a stream may begin anywhere, and with a subject
filter its sequences have holes; what must have none is the consumer's own count of what it has
delivered. When that has one, or nothing is heard, the consumer is made again behind the last
message handed on.

Protocol: ADR-9 (idle heartbeats), ADR-13 (pull requests), ADR-15 (acknowledgement subjects).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from events.connection import ATTEMPT_SECONDS, RECONNECT_SECONDS
from events.stream import LogUnavailable

log = logging.getLogger("tenantry.tail")

# Messages asked for, and handed on, at a time; a few hundred bytes each.
BATCH: Final = 500
PULL_SECONDS: Final = 30.0
HEARTBEAT_SECONDS: Final = 1.0
# After this without message or heartbeat the consumer is taken for lost.
SILENCE_SECONDS: Final = 3.5
CONSUMER_IDLE_SECONDS: Final = 30.0
RETRY_SECONDS: Final = 0.1
# Attempts in a row that bring nothing, before reading once gives up.
FRUITLESS_MAX: Final = 5

_NANO: Final = 1_000_000_000
_NO_STREAM_FOUND: Final = 10059


class Stored(NamedTuple):
    """One message of a stream. `stored_at` is the server's clock, in nanoseconds since 1970."""

    sequence: int
    stored_at: int
    subject: str
    data: bytes


class _Again(Exception):
    """The consumer is of no more use."""


async def read(
    nats: Client,
    stream: str,
    *,
    subject: str = "",
    after: int = 0,
    since: float | None = None,
    follow: bool = False,
) -> AsyncGenerator[list[Stored], None]:
    """Batches of what is stored behind the sequence `after`, or from the time `since` on (seconds
    since 1970); `subject` leaves out the rest. Ends with what was there at the start, or, with
    `follow`, never. A stream that does not exist is empty. Raises LogUnavailable unless it follows.
    """
    position, fruitless = after, 0
    while True:
        consumer = Consumer(nats, stream, subject, position, since if position == after else None)
        before = position
        try:
            async for batch in consumer.batches(follow=follow):
                position = batch[-1].sequence
                yield batch
            return
        except (_Again, NatsError, OSError, TimeoutError, ValueError) as reason:
            log.debug("reading %s again behind %d: %r", stream, position, reason)
            fruitless = fruitless + 1 if position == before else 0
            if fruitless >= FRUITLESS_MAX and not follow:
                raise LogUnavailable(f"{stream} cannot be read: {reason}") from None
        await asyncio.sleep(RETRY_SECONDS if nats.is_connected else RECONNECT_SECONDS)


async def info(nats: Client, stream: str) -> dict[str, Any] | None:
    """What the server tells of the stream; None when there is none. Raises LogUnavailable."""
    try:
        answer = await nats.request(f"$JS.API.STREAM.INFO.{stream}", b"", timeout=ATTEMPT_SECONDS)
        found: dict[str, Any] = orjson.loads(answer.data)
    except (NatsError, OSError, TimeoutError, ValueError) as reason:
        raise LogUnavailable(f"{stream} cannot be read: {reason!r}") from reason
    error = found.get("error")
    if error is None:
        return found
    if error.get("err_code") == _NO_STREAM_FOUND:
        return None
    raise LogUnavailable(f"{stream} cannot be read: {error.get('description')}")


class Consumer:
    """One consumer on the server, from its making to its end."""

    def __init__(
        self, nats: Client, stream: str, subject: str, after: int, since: float | None
    ) -> None:
        self._nats = nats
        self._stream = stream
        self._config: dict[str, Any] = {
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": after + 1,
            "ack_policy": "none",
            "replay_policy": "instant",
            "inactive_threshold": int(CONSUMER_IDLE_SECONDS * _NANO),
            "num_replicas": 1,
            "mem_storage": True,
        }
        if since is not None:
            del self._config["opt_start_seq"]
            self._config["deliver_policy"] = "by_start_time"
            self._config["opt_start_time"] = _rfc3339(since)
        if subject:
            self._config["filter_subject"] = subject
        self._name = ""
        self._inbox = nats.new_inbox()
        self._pulls = 0
        self._reply = ""
        # Messages that the open request may still bring.
        self._open = 0
        self._delivered = 0

    async def batches(self, *, follow: bool) -> AsyncIterator[list[Stored]]:
        """What it delivers. Raises _Again, NatsError, OSError, TimeoutError."""
        left = await self._make()
        if left is None:
            if follow:
                raise _Again("there is no stream yet")
            return
        if left == 0 and not follow:
            await self._leave(None)
            return
        subscription = await self._nats.subscribe(f"{self._inbox}.*")
        try:
            while follow or left > 0:
                batch = await self._batch(subscription, BATCH if follow else min(BATCH, left))
                left -= len(batch)
                if batch:
                    yield batch
        finally:
            await self._leave(subscription)

    async def _make(self) -> int | None:
        """Messages that wait for it; None when there is no stream."""
        if not self._nats.is_connected:
            raise _Again("not connected")
        request = orjson.dumps({"stream_name": self._stream, "config": self._config})
        answer = await self._nats.request(
            f"$JS.API.CONSUMER.CREATE.{self._stream}", request, timeout=ATTEMPT_SECONDS
        )
        made = orjson.loads(answer.data)
        error = made.get("error")
        if error is not None:
            if error.get("err_code") == _NO_STREAM_FOUND:
                return None
            raise _Again(str(error.get("description")))
        self._name = made["name"]
        return int(made.get("num_pending", 0))

    async def _batch(self, subscription: Subscription, wanted: int) -> list[Stored]:
        """What is there now, `wanted` at most; waits for the first one, PULL_SECONDS at most."""
        if self._open <= 0:
            await self._pull(wanted)
        found: list[Stored] = []
        while len(found) < wanted and self._open > 0:
            try:
                message = await subscription.next_msg(timeout=SILENCE_SECONDS)
            except TimeoutError:
                raise _Again("nothing heard") from None
            if message.reply:
                stored, pending = self._stored(message)
                found.append(stored)
                self._open -= 1
                if pending == 0:
                    break
            elif message.subject == self._reply and self._ended(message):
                self._open = 0
        return found

    async def _pull(self, wanted: int) -> None:
        """Ask for more. One request is open at a time, each with a reply subject of its own."""
        self._pulls += 1
        self._reply = f"{self._inbox}.{self._pulls}"
        self._open = wanted
        request = {
            "batch": wanted,
            "expires": int(PULL_SECONDS * _NANO),
            "idle_heartbeat": int(HEARTBEAT_SECONDS * _NANO),
        }
        await self._nats.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._name}",
            orjson.dumps(request),
            reply=self._reply,
        )

    def _stored(self, message: Msg) -> tuple[Stored, int]:
        tokens = message.reply.split(".")
        # $JS.ACK.stream.consumer.delivered.SEQUENCE.COUNT.TIME.PENDING, or, since ADR-15, with
        # domain and account after ACK and possibly one more token at the end.
        at = 5 if len(tokens) == 9 else 7
        if len(tokens) != 9 and len(tokens) < 11:
            raise _Again("unknown acknowledgement subject")
        sequence, count, stored_at, pending = (int(token) for token in tokens[at : at + 4])
        self._delivered += 1
        if count != self._delivered:
            raise _Again(f"message {count} came after {self._delivered - 1}")
        return Stored(sequence, stored_at, message.subject, message.data), pending

    def _ended(self, message: Msg) -> bool:
        """Whether the request is over. Raises _Again when the consumer is."""
        headers = message.headers or {}
        status, reason = headers.get("Status", ""), headers.get("Description", "").lower()
        if status == "100":
            if int(headers.get("Nats-Last-Consumer", self._delivered)) > self._delivered:
                raise _Again("a message was lost on the way")
            return False
        if status in ("404", "408") or "batch completed" in reason:
            return True
        raise _Again(f"{status} {reason}")

    async def _leave(self, subscription: Subscription | None) -> None:
        with contextlib.suppress(NatsError, OSError):
            if subscription is not None:
                await subscription.unsubscribe()
            if self._nats.is_connected:
                await self._nats.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._name}")


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
