"""Reads the log in sequence: once to its end, or for ever.

A pull consumer delivers as much as was asked for and no more. Whatever the client library or the
network does to the messages, each must follow the last one applied; when one does not, or when
nothing is heard, the consumer is thrown away and made again at the right place. (The library's own
ordered consumer counts a message before its bounded queue may drop it, so it can miss one.)
A start reads them by the hundred thousand, so they come without the library's queue
(events.direct), and their headers are read only where somebody wants them.

Protocol: ADR-9 (idle heartbeats), ADR-13 (pull requests), ADR-15 (acknowledgement subjects).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from nats.errors import Error as NatsError

from events import codec
from events.connection import RECONNECT_SECONDS
from events.spans import TRACEPARENT
from events.stream import (
    STREAM,
    SUBJECT_PREFIX,
    Apply,
    LogGap,
    LogUnavailable,
)

if TYPE_CHECKING:
    from nats.aio.subscription import Subscription

    from events.log import ConfigLog

log = logging.getLogger("tenantry.log")

# Messages asked for at a time, and their bytes at most: what may be on its way to one that is slow.
PULL_MESSAGES = 2_000
PULL_BYTES = 16 * 1024 * 1024
# A pull request ends by itself after this and is made again.
PULL_SECONDS = 60.0
# The server tells this often that it has nothing; it bounds how stale an idle replica looks.
HEARTBEAT_SECONDS = 1.0
# After this without any message or heartbeat the consumer is taken for lost.
SILENCE_SECONDS = 3.5
# The server removes a consumer that nobody asks for this long (a process that was killed).
CONSUMER_IDLE_SECONDS = 30.0
# Between attempts that brought nothing; doubled up to the maximum.
RETRY_SECONDS = 0.05
RETRY_SECONDS_MAX = 2.0
# Attempts of read_all in a row that bring nothing before it gives up.
FRUITLESS_MAX = 5

_NANO = 1_000_000_000


# When the message came into the first log that held it: set by an import, whose server would
# otherwise say that everything happened today. Nanoseconds since 1970.
STORED_AT_HEADER = "Tenantry-Stored-At"
# Whoever may write to the log may write anything there; this is a moment at least until 2262.
STORED_AT_DIGITS_MAX = 19


class Stored(NamedTuple):
    """One message as it lies in the log. `stored_at` is the server's clock, in nanoseconds."""

    sequence: int
    stored_at: int
    subject: str
    data: bytes
    headers: dict[str, str]

    @property
    def kind(self) -> str:
        return self.subject[len(SUBJECT_PREFIX) :].partition(".")[0]

    @property
    def id(self) -> str:
        return self.subject[len(SUBJECT_PREFIX) :].partition(".")[2]


# What a message is handed to; what it raises ends the reading.
Take = Callable[[Stored], None]


class Delivered(NamedTuple):
    """One message as it came, with its headers unread. `server_time` is in nanoseconds."""

    sequence: int
    server_time: int
    subject: str
    data: bytes
    head: bytes

    def stored(self) -> Stored:
        headers = parse_headers(self.head) if self.head else {}
        moment = _stored_at(headers, self.server_time)
        return Stored(self.sequence, moment, self.subject, self.data, headers)


# The same, for whoever needs no headers.
Hand = Callable[[Delivered], None]


class Delivery(NamedTuple):
    """What the acknowledgement subject of a message tells."""

    sequence: int
    consumer_sequence: int
    stored_at: int
    pending: int


class _Again(Exception):
    """The consumer is of no more use; start another behind the last applied message."""


def decoded(apply: Apply) -> Take:
    """A Take that decodes for `apply`."""

    def take(stored: Stored) -> None:
        kind, _, id = stored.subject[len(SUBJECT_PREFIX) :].partition(".")
        apply(stored.sequence, kind, id, codec.decode(stored.data))

    return take


def _with_headers(take: Take) -> Hand:
    def hand(message: Delivered) -> None:
        take(message.stored())

    return hand


def _applied(apply: Apply) -> Hand:
    """Decodes for `apply`, and looks at nothing else."""
    decode, prefix = codec.decode, len(SUBJECT_PREFIX)

    def hand(message: Delivered) -> None:
        kind, _, id = message.subject[prefix:].partition(".")
        apply(message.sequence, kind, id, decode(message.data))

    return hand


def traced(source: ConfigLog, take: Take) -> Take:
    """`take`, as part of the trace that the message carries."""

    def taken(stored: Stored) -> None:
        traceparent = stored.headers.get(TRACEPARENT, "")
        with source.spans.apply(stored.kind, stored.id, stored.sequence, traceparent):
            take(stored)

    return taken


async def read_all(source: ConfigLog, from_sequence: int, apply: Apply) -> int:
    """See ConfigLog.read_all."""
    reached = await _read(source, _applied(apply), from_sequence, None, ())
    source.synced_at = time.monotonic()
    return reached


async def scan(
    source: ConfigLog, take: Take, first: int, last: int | None, subjects: Sequence[str]
) -> int:
    """See ConfigLog.scan."""
    return await _read(source, _with_headers(take), first, last, subjects)


async def _read(
    source: ConfigLog, hand: Hand, first: int, last: int | None, subjects: Sequence[str]
) -> int:
    end = await source.last_sequence()
    until = end if last is None else min(last, end)
    reader = Reader(source, first - 1, hand, until, subjects)
    fruitless = 0
    while reader.position < until:
        before = reader.position
        try:
            await reader.run()
        except _Again as reason:
            log.debug("reading again behind sequence %d: %s", reader.position, reason)
            fruitless = fruitless + 1 if reader.position == before else 0
            if fruitless >= FRUITLESS_MAX:
                message = f"nothing can be read behind sequence {reader.position}: {reason}"
                raise (LogGap if reader.gaps else LogUnavailable)(message) from None
            await asyncio.sleep(RETRY_SECONDS)
    return reader.position


async def follow(source: ConfigLog, from_sequence: int, apply: Apply) -> None:
    """See ConfigLog.follow."""
    hand = _with_headers(traced(source, decoded(apply)))
    reader = Reader(source, from_sequence - 1, hand, None)
    pause = RETRY_SECONDS
    while True:
        before = reader.position
        try:
            await reader.run()
        except (_Again, LogUnavailable) as reason:
            level = logging.ERROR if reader.gaps else logging.INFO
            log.log(level, "reading again behind sequence %d: %s", reader.position, reason)
        pause = RETRY_SECONDS if reader.position > before else min(pause * 2, RETRY_SECONDS_MAX)
        if source.connected:
            await asyncio.sleep(pause)
        while not source.connected:
            pause = RETRY_SECONDS
            await asyncio.sleep(RECONNECT_SECONDS / 5)


class Reader:
    """One place in the log. `run` makes a consumer there and hands on what it delivers.

    `until` ends the run when reached; None runs until cancelled. With `subjects`, only those are
    read: then the sequences have holes, and a loss shows in the consumer's own count.
    """

    def __init__(
        self,
        source: ConfigLog,
        position: int,
        hand: Hand,
        until: int | None,
        subjects: Sequence[str] = (),
    ) -> None:
        self.position = position
        self.gaps = 0
        self._source = source
        self._hand_on = hand
        self._until = until
        self._subjects = list(subjects)
        # Messages that the present consumer has delivered.
        self._delivered = 0
        self._inbox = ""
        self._reply = ""
        self._pulls = 0
        self._pull_subject = ""
        self._wanted = 0
        self._heard_at = 0.0
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Set when `_watch` has something to do: ask for more, or leave.
        self._stir = asyncio.Event()

    async def run(self) -> None:
        """Read until the end is reached. Raises _Again, LogUnavailable, or what `apply` raises."""
        source = self._source
        self._over = asyncio.get_running_loop().create_future()
        consumer = await self._make_consumer()
        if self._over.done():
            return self._over.result()
        self._inbox = source.nats.new_inbox()
        self._pull_subject = f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{consumer}"
        forget = source.connection.on_reconnect(lambda: self._end(_Again("reconnected")))
        subscription: Subscription | None = None
        try:
            subscription = await source.nats.listen(f"{self._inbox}.*", self._received)
            self._heard_at = time.monotonic()
            await self._pull()
            await self._watch()
        except (NatsError, OSError) as error:
            raise _Again(repr(error)) from error
        finally:
            forget()
            await self._leave(consumer, subscription)

    async def _make_consumer(self) -> str:
        config: dict[str, Any] = {
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self.position + 1,
            "ack_policy": "none",
            "replay_policy": "instant",
            "inactive_threshold": int(CONSUMER_IDLE_SECONDS * _NANO),
            "num_replicas": 1,
            "mem_storage": True,
        }
        if self._subjects:
            config["filter_subjects"] = self._subjects
        request = orjson.dumps({"stream_name": STREAM, "config": config})
        self._delivered = 0
        made = await self._source.request(f"$JS.API.CONSUMER.CREATE.{STREAM}", request)
        if self._subjects and self._until is not None and made.get("num_pending") == 0:
            self._reached(self._until)
        return str(made["name"])

    async def _pull(self) -> None:
        """Ask for more. One request is open at a time, each with a reply subject of its own: the
        server may say that one has ended when the next is already on its way."""
        self._pulls += 1
        self._reply = f"{self._inbox}.{self._pulls}"
        self._wanted = PULL_MESSAGES
        request = {
            "batch": PULL_MESSAGES,
            "max_bytes": PULL_BYTES,
            "expires": int(PULL_SECONDS * _NANO),
            "idle_heartbeat": int(HEARTBEAT_SECONDS * _NANO),
        }
        await self._source.nats.publish(
            self._pull_subject, orjson.dumps(request), reply=self._reply
        )

    async def _watch(self) -> None:
        """Ask for more whenever all that was asked for has come, until the end is reached or
        nothing has been heard for too long."""
        while True:
            if self._over.done():
                return self._over.result()
            if self._wanted <= 0:
                await self._pull()
            silent = time.monotonic() - self._heard_at
            if silent >= SILENCE_SECONDS:
                raise _Again(f"nothing heard for {silent:.1f} s")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SILENCE_SECONDS - silent):
                    await self._stir.wait()
            self._stir.clear()

    def _end(self, error: Exception | None = None) -> None:
        if not self._over.done():
            if error is None:
                self._over.set_result(None)
            else:
                self._over.set_exception(error)
        self._stir.set()

    def _received(self, subject: bytes, reply: bytes, head: bytes, data: bytes) -> None:
        """What comes on the inbox; called by the client as soon as it is there."""
        if self._over.done():
            return
        self._heard_at = time.monotonic()
        try:
            if reply:
                self._take(subject, reply, head, data)
            else:
                self._control(subject, head)
            if self._wanted <= 0:
                self._stir.set()
        except Exception as error:
            self._end(error)

    def _take(self, subject: bytes, reply: bytes, head: bytes, data: bytes) -> None:
        told = delivery(reply.decode())
        sequence = told.sequence
        self._wanted -= 1
        self._delivered += 1
        if told.consumer_sequence != self._delivered or (
            not self._subjects and sequence != self.position + 1
        ):
            self.gaps += 1
            raise _Again(f"sequence {sequence} was delivered after {self.position}")
        if self._until is None or sequence <= self._until:
            name = subject.decode(errors="replace")
            self._hand_on(Delivered(sequence, told.stored_at, name, data, head))
        self.position = sequence
        if told.pending == 0:
            self.gaps = 0
            self._source.synced_at = self._heard_at
        if self._until is not None and (
            sequence >= self._until or (self._subjects and told.pending == 0)
        ):
            self._reached(self._until)

    def _reached(self, until: int) -> None:
        """All is read up to `until`, whatever of it concerned the subjects that were asked for."""
        self.position = until
        self._end()

    def _control(self, subject: bytes, head: bytes) -> None:
        """A message without a place in the stream: a heartbeat, or the end of a pull request."""
        if subject.decode(errors="replace") != self._reply:
            return
        status, reason = parse_status(head)
        headers = parse_headers(head)
        if status == "100":
            # It names the last message sent to us, which shows the loss of a last one too.
            last = int(headers.get("Nats-Last-Stream", "-1"))
            sent = int(headers.get("Nats-Last-Consumer", "-1"))
            if last > self.position or sent > self._delivered:
                self.gaps += 1
                raise _Again(f"sequence {last} was sent, but {self.position} came last")
            if last >= 0:
                self._source.synced_at = self._heard_at
        elif status in ("404", "408") or (status == "409" and _ended_by_itself(reason)):
            self._wanted = 0
        else:
            raise _Again(f"the consumer ended ({status} {reason})")

    async def _leave(self, consumer: str, subscription: Subscription | None) -> None:
        """Tidy up as far as the connection allows; the server forgets the rest by itself."""
        if subscription is not None:
            with contextlib.suppress(NatsError, OSError):
                await self._source.nats.leave(subscription)
        if self._source.connected:
            with contextlib.suppress(NatsError, OSError):
                await self._source.nats.publish(f"$JS.API.CONSUMER.DELETE.{STREAM}.{consumer}")


def _ended_by_itself(reason: str) -> bool:
    """Whether a 409 means that one request was answered in full, by number or by bytes. With every
    other reason (deleted, the leader moved, the server stops) the consumer is of no more use."""
    reason = reason.lower()
    return "batch completed" in reason or "maxbytes" in reason


def stored(message: dict[str, Any]) -> Stored:
    """The `message` of an answer of STREAM.MSG.GET."""
    headers = parse_headers(base64.b64decode(message.get("hdrs", "")))
    moment = _stored_at(headers, nanoseconds(message["time"]))
    data = base64.b64decode(message.get("data", ""))
    return Stored(int(message["seq"]), moment, message["subject"], data, headers)


def _stored_at(headers: dict[str, str], server: int) -> int:
    at = headers.get(STORED_AT_HEADER, "")
    return int(at) if at.isdecimal() and len(at) <= STORED_AT_DIGITS_MAX else server


def parse_status(block: bytes) -> tuple[str, str]:
    """The status and its description of a block that begins NATS/1.0 100 Idle Heartbeat, say."""
    line = block.partition(b"\r\n")[0].decode("utf-8", "replace")
    _, _, rest = line.partition(" ")
    status, _, reason = rest.strip().partition(" ")
    return status, reason.strip()


def parse_headers(block: bytes) -> dict[str, str]:
    """Name to value, from the block that begins NATS/1.0 (ADR-4)."""
    lines = block.decode("utf-8", "replace").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if line)
    return {name: value.strip() for name, _, value in pairs}


def nanoseconds(time: str) -> int:
    """Since 1970, from RFC 3339 in UTC with up to nine decimals, as the server writes it."""
    whole, _, part = time.removesuffix("Z").partition(".")
    seconds = int(datetime.fromisoformat(whole + "+00:00").timestamp())
    return seconds * _NANO + int(part.ljust(9, "0")[:9])


def delivery(reply: str) -> Delivery:
    """What an acknowledgement subject tells.

    $JS.ACK.stream.consumer.delivered.SEQUENCE.CONSUMER_SEQUENCE.TIME.PENDING, or, since ADR-15,
    with domain and account after ACK and possibly one more token at the end.
    """
    tokens = reply.split(".")
    at = 5 if len(tokens) == 9 else 7
    if at == 7 and len(tokens) < 11:
        raise _Again(f"unknown acknowledgement subject of {len(tokens)} tokens")
    sequence, consumer_sequence, stored_at, pending = tokens[at : at + 4]
    return Delivery(int(sequence), int(consumer_sequence), int(stored_at), int(pending))
