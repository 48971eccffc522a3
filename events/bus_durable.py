"""Durable commands: `tenantry.commands.<tenant>.<verb>`, carried out once, as soon as possible.

The stream is a work queue: a command stays in it until its outcome is known, also while nothing
runs that could carry it out. One after the other, in the order in which they were stored, over all
control processes (the consumer lets one be under way): "disable" must not overtake "create".

    store ─▶ deliver ─▶ carry out (append) ─▶ answer ─▶ acknowledge
                 ▲                                        │ lost or crashed before it
                 └────────── delivered again ◀────────────┘ found by its command id: not done twice

The command id is required, in the header Tenantry-Command-Id, and should be the Nats-Msg-Id as
well. The answer goes to the subject in the header Tenantry-Reply-To and, as for every command, into
the audit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any, Final, NamedTuple

import orjson
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from events.answer import Answer, refusal
from events.bus import BODY_BYTES_MAX, REPLY_HEADER, Handle, Request, as_request, reply
from events.connection import ATTEMPT_SECONDS
from events.log import ConfigLog
from events.stream import (
    NO_STREAM_FOUND,
    STREAM_NAME_IN_USE,
    ApiError,
    LogError,
    LogMisconfigured,
)
from events.verbs import COMMANDS_PREFIX

log = logging.getLogger("tenantry.bus")

STREAM: Final = "TENANTRY_COMMANDS"
CONSUMER: Final = "control"
# Less than command ids are remembered (events.seen), so that none is carried out twice.
KEEP_DAYS: Final = 30
# Commands that wait while nothing runs. The next publisher is refused, and knows it.
WAITING_MAX: Final = 100_000
WAITING_BYTES_MAX: Final = 256 * 1024**2
# The body, and room for headers with a token.
MESSAGE_BYTES_MAX: Final = BODY_BYTES_MAX + 16 * 1024
# A command whose process has not been heard of for so long is delivered again; until then all the
# others wait behind it.
ACK_SECONDS: Final = 5.0
# So often a process tells that it is at work: two of them may be lost.
PROGRESS_SECONDS: Final = 1.5
# Tries of a command that fails for a reason nobody foresaw, or that others outrun again and again.
TRIES_MAX: Final = 5
# Between two tries of one; all others wait behind it, so it is short.
AGAIN_SECONDS: Final = 0.5
# One request for work; it ends by itself and is made again.
PULL_SECONDS: Final = 20.0
# Between attempts after something failed.
RETRY_SECONDS: Final = 0.2
RETRY_SECONDS_MAX: Final = 5.0

_NANO: Final = 1_000_000_000
_SURFACE: Final = "nats command"
_ACK: Final = b"+ACK"
_AT_WORK: Final = b"+WPI"


class DurableBus:
    """Carries durable commands out while `run` runs. `poisoned` counts those that were given up,
    `retries` how often the connection or the consumer was lost."""

    def __init__(self, source: ConfigLog, handle: Handle, *, replicas: int = 1) -> None:
        self.done = 0
        self.poisoned = 0
        self.retries = 0
        self._source = source
        self._handle = handle
        self._replicas = replicas
        # Where to acknowledge what is done, until the server knows.
        self._owed = ""

    async def run(self) -> None:
        """Until cancelled. What fails is told and tried again."""
        pause = RETRY_SECONDS
        back = asyncio.Event()
        forget = self._source.connection.on_reconnect(back.set)
        try:
            while True:
                before = self.done
                try:
                    await self.prepare()
                    await self._take()
                except (LogError, ApiError, NatsError, OSError, TimeoutError, ValueError) as error:
                    log.info("durable commands wait: %r", error)
                    self.retries += 1
                # Stream and consumer may have gone with the server that is back now.
                fresh = back.is_set() or self.done > before
                pause = RETRY_SECONDS if fresh else min(pause * 2, RETRY_SECONDS_MAX)
                back.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await back.wait()
        finally:
            forget()

    async def _take(self) -> None:
        """Carry out one after the other. Raises when the connection or the consumer is lost."""
        connection = self._source.connection
        cut = asyncio.get_running_loop().create_future()

        def lost() -> None:
            if not cut.done():
                cut.set_result(None)

        # The deliveries have the subject of the command, so the library's request() would not know
        # them for answers: they need a subscription of their own.
        inbox = self._source.nats.new_inbox()
        subscription = await self._source.nats.subscribe(inbox)
        forget = connection.on_reconnect(lost)
        try:
            await self._make_up()
            while True:
                message = await self._next(subscription, inbox, cut)
                if message is not None:
                    await self._work(message)
        finally:
            forget()
            cut.cancel()
            with contextlib.suppress(NatsError, OSError):
                await subscription.unsubscribe()

    async def prepare(self) -> None:
        """Make the stream and its consumer, or check what is there. Raises LogError."""
        await ensure_stream(self._source, self._replicas)
        request = orjson.dumps({"stream_name": STREAM, "config": _consumer()})
        # Making it again with the same configuration changes nothing.
        subject = f"$JS.API.CONSUMER.DURABLE.CREATE.{STREAM}.{CONSUMER}"
        await self._source.request(subject, request)

    async def _next(
        self, subscription: Subscription, inbox: str, cut: asyncio.Future[None]
    ) -> Msg | None:
        """The next command; None when there was none for PULL_SECONDS."""
        request = orjson.dumps({"batch": 1, "expires": int(PULL_SECONDS * _NANO)})
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{CONSUMER}"
        await self._source.nats.publish(subject, request, reply=inbox)
        coming = asyncio.get_running_loop().create_task(
            subscription.next_msg(timeout=PULL_SECONDS + 2), name="next durable command"
        )
        try:
            await asyncio.wait((coming, cut), return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                raise ConnectionResetError("the connection was lost")
            message = coming.result()
        finally:
            coming.cancel()
            # The library may turn the cancellation into an error of its own, which nobody wants.
            await asyncio.gather(coming, return_exceptions=True)
        if message.reply:
            return message
        headers = message.headers or {}
        if headers.get("Status") in ("404", "408"):
            return None
        raise ConnectionResetError(f"{headers.get('Status')} {headers.get('Description')}")

    async def _work(self, message: Msg) -> None:
        beating = asyncio.get_running_loop().create_task(self._beat(message.reply), name="at work")
        try:
            await self._carry_out(message)
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)

    async def _beat(self, subject: str) -> None:
        """Tell the server that the command is under way, until cancelled."""
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            # Without a connection the library would keep it and send it whenever there is one.
            if self._source.connected:
                with contextlib.suppress(NatsError, OSError):
                    await self._source.nats.publish(subject, _AT_WORK)

    async def _carry_out(self, message: Msg) -> None:
        stored = delivery(message.reply)
        request = as_request(message, COMMANDS_PREFIX, _SURFACE)
        answer = _unfit(request, message)
        if answer is None:
            answer = await self._handle(
                Request(
                    surface=_SURFACE,
                    tenant=request.tenant,
                    verb=request.verb,
                    body=request.body,
                    command_id=request.command_id,
                    token=request.token,
                    traceparent=request.traceparent,
                    shown_at=stored.stored_at,
                )
            )
        if not answer.final and not self._give_up(answer, stored.delivered, message):
            delay = orjson.dumps({"delay": int(AGAIN_SECONDS * stored.delivered * _NANO)})
            await self._source.nats.publish(message.reply, b"-NAK " + delay)
            return
        await reply(self._source.connection, (message.headers or {}).get(REPLY_HEADER, ""), answer)
        self._owed = message.reply
        await self._erase(stored.sequence)
        await self._acknowledge(message.reply)
        self._owed = ""
        self.done += 1

    async def _acknowledge(self, subject: str) -> None:
        """Have the server know that a command is done; until then it holds all others back. Raises
        NatsError, OSError, TimeoutError."""
        if not self._source.connected:
            raise ConnectionResetError("the connection was lost before the acknowledgement")
        await self._source.connection.exchange(subject, _ACK, ATTEMPT_SECONDS)

    async def _make_up(self) -> None:
        """Acknowledge once more what was done when the connection was lost. A server that has
        forgotten that it delivered it says nothing, and holds nobody back either."""
        owed, self._owed = self._owed, ""
        if owed:
            with contextlib.suppress(NatsError, OSError, TimeoutError):
                await self._acknowledge(owed)

    async def _erase(self, sequence: int) -> None:
        """Overwrite the message: it may hold personal data, and files keep what is only removed."""
        request = orjson.dumps({"seq": sequence, "no_erase": False})
        with contextlib.suppress(ApiError, NatsError, OSError, TimeoutError):
            subject = f"$JS.API.STREAM.MSG.DELETE.{STREAM}"
            await self._source.connection.ask(subject, request, RETRY_SECONDS_MAX)

    def _give_up(self, answer: Answer, delivered: int, message: Msg) -> bool:
        """Whether a command that could not be carried out is given up. Never because the log is
        away: that is nobody's fault, and it will be back. At once when its sender sends too many:
        all others wait behind it."""
        if answer.code == "busy":
            return True
        if answer.code in ("unavailable", "unknown") or delivered < TRIES_MAX:
            return False
        self.poisoned += 1
        log.error("%s is given up after %d tries: %s", message.subject, delivered, answer.code)
        return True


async def ensure_stream(source: ConfigLog, replicas: int) -> None:
    """Make the stream, or check the one that is there. Raises LogUnavailable, LogMisconfigured."""
    config = orjson.dumps(stream_config(replicas))

    async def once(wait: float) -> dict[str, Any]:
        info_subject = f"$JS.API.STREAM.INFO.{STREAM}"
        try:
            return await source.connection.ask(info_subject, b"", wait)
        except ApiError as error:
            if error.code != NO_STREAM_FOUND:
                raise
        try:
            return await source.connection.ask(f"$JS.API.STREAM.CREATE.{STREAM}", config, wait)
        except ApiError as error:
            if error.code != STREAM_NAME_IN_USE:
                raise
        return await source.connection.ask(info_subject, b"", wait)

    found = await source.connection.persist(once, f"the stream {STREAM}", writing=False)
    wrong = misfits(found["config"])
    if wrong:
        raise LogMisconfigured(f"the stream {STREAM} is not usable: {', '.join(wrong)}")


def stream_config(replicas: int) -> dict[str, Any]:
    return {
        "name": STREAM,
        "description": "Commands to Tenantry that wait to be carried out",
        "subjects": [f"{COMMANDS_PREFIX}*.*"],
        "retention": "workqueue",
        "storage": "file",
        "discard": "new",
        "num_replicas": replicas,
        "max_age": KEEP_DAYS * 86400 * _NANO,
        "max_msgs": WAITING_MAX,
        "max_bytes": WAITING_BYTES_MAX,
        "max_msg_size": MESSAGE_BYTES_MAX,
        "duplicate_window": 120 * _NANO,
    }


def misfits(found: dict[str, Any]) -> list[str]:
    """What of a stream's configuration could lose a command or let it happen twice."""
    wrong = [
        f"{name} is {found.get(name)!r}"
        for name, right in (
            ("subjects", [f"{COMMANDS_PREFIX}*.*"]),
            ("retention", "workqueue"),
            ("storage", "file"),
            ("discard", "new"),
        )
        if found.get(name) != right
    ]
    if not 0 < found.get("max_age", 0) <= KEEP_DAYS * 86400 * _NANO:
        wrong.append("max_age is not between 0 and 30 days, the life of command ids")
    return wrong


def _consumer() -> dict[str, Any]:
    return {
        "durable_name": CONSUMER,
        "ack_policy": "explicit",
        "deliver_policy": "all",
        "replay_policy": "instant",
        "ack_wait": int(ACK_SECONDS * _NANO),
        "max_deliver": -1,
        "max_ack_pending": 1,
    }


def _unfit(request: Request, message: Msg) -> Answer | None:
    """What speaks against a durable command before it is read."""
    sent_id = (message.headers or {}).get("Nats-Msg-Id", "")
    if not request.command_id:
        text = "a durable command needs the header Tenantry-Command-Id"
        return refusal(sent_id, "malformed", text, "command_id")
    if sent_id and sent_id != request.command_id:
        text = "the headers Nats-Msg-Id and Tenantry-Command-Id differ"
        return refusal(request.command_id, "malformed", text, "command_id")
    return None


class Delivery(NamedTuple):
    """How often a message was delivered, its sequence, and when it was stored (Unix seconds)."""

    delivered: int
    sequence: int
    stored_at: float


def delivery(reply: str) -> Delivery:
    """What an acknowledgement subject tells (events.reader.delivery has its forms). Raises
    ValueError."""
    tokens = reply.split(".")
    at = 4 if len(tokens) == 9 else 6
    if at == 6 and len(tokens) < 11:
        raise ValueError(f"unknown acknowledgement subject of {len(tokens)} tokens")
    return Delivery(int(tokens[at]), int(tokens[at + 1]), int(tokens[at + 3]) / _NANO)
