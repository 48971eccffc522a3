"""Commands over NATS, asked and answered at once: `tenantry.request.<tenant>.<verb>`.

    headers   Tenantry-Token (or Authorization: Bearer …), Tenantry-Command-Id, traceparent
    body      events.verbs
    answer    events.answer

No stream may hold these subjects: its acknowledgement would come before our answer. All control
processes are one queue group, so exactly one of them answers. What may be lost on the way (the
request, the answer) is found out by asking again with the same command id.

The durable way is in events.bus_durable.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Final

import orjson
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from events.answer import Answer, refusal
from events.connection import Connection
from events.verbs import REQUEST_PREFIX

log = logging.getLogger("tenantry.bus")

QUEUE_GROUP: Final = "tenantry-control"
COMMAND_ID_HEADER: Final = "Tenantry-Command-Id"
TOKEN_HEADER: Final = "Tenantry-Token"  # noqa: S105 - a header's name
REPLY_HEADER: Final = "Tenantry-Reply-To"
TRACE_HEADER: Final = "traceparent"

# A commit may have as much (events.log), and a command is smaller than what follows from it.
BODY_BYTES_MAX: Final = 512 * 1024
# Requests in work at once; each holds its body and waits for the log, which stores hundreds a
# second. Whoever is beyond them is told to come back rather than kept waiting.
IN_WORK_MAX: Final = 1024
# Work that is under way is let finish this long when the bus stops. Seconds.
STOP_SECONDS: Final = 5.0
# Subjects that are ours or the server's. Whoever may ask may name any subject for the answer,
# whatever it may not publish to itself: an answer must not become a fact or an order.
_OWN_SUBJECTS: Final = ("tenantry.", "$")


@dataclass(frozen=True, slots=True)
class Request:
    """A command as it came. `surface` says by which way; `shown_at` (Unix seconds) when, if that
    was not now. The token is not in its repr."""

    surface: str
    tenant: str
    verb: str
    body: bytes = field(repr=False)
    command_id: str = ""
    token: str = field(default="", repr=False)
    traceparent: str = ""
    shown_at: float | None = None


Handle = Callable[[Request], Awaitable[Answer]]
"""Carries a request out, from its token to its audit; raises nothing but cancellation."""


class RequestBus:
    """Answers requests from `start` to `stop`."""

    def __init__(self, connection: Connection, handle: Handle) -> None:
        self.answered = 0
        self._connection = connection
        self._handle = handle
        self._subscription: Subscription | None = None
        self._working: set[asyncio.Task[None]] = set()
        self._forget: Callable[[], None] | None = None
        self._stopped = False

    async def start(self) -> None:
        """Listen. Raises NatsError, OSError when there is no connection."""
        self._subscription = await self._subscribe()
        self._forget = self._connection.on_reconnect(self._reconnected)
        # So that whoever asks from now on finds us.
        await self._connection.client.flush()

    async def stop(self) -> None:
        """Take nothing more; what is under way is finished, for STOP_SECONDS at most."""
        self._stopped = True
        if self._forget is not None:
            self._forget()
        await _leave(self._subscription)
        if self._working:
            _, late = await asyncio.wait(self._working, timeout=STOP_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _subscribe(self) -> Subscription:
        return await self._connection.client.subscribe(
            f"{REQUEST_PREFIX}*.*", queue=QUEUE_GROUP, cb=self._received
        )

    def _reconnected(self) -> None:
        """A connection that was dialled anew has forgotten us. Two subscriptions for a moment are
        two members of one group: still one answer."""
        self._spawn(self._resubscribe(), "bus subscribes again")

    async def _resubscribe(self) -> None:
        before = self._subscription
        if self._stopped:
            return
        try:
            self._subscription = await self._subscribe()
        except (NatsError, OSError) as error:
            log.warning("cannot listen for requests: %r", error)
            return
        await _leave(before)

    async def _received(self, message: Msg) -> None:
        # Only starts the work: the library calls this for one message after the other.
        if len(self._working) >= IN_WORK_MAX:
            request = as_request(message, REQUEST_PREFIX, "nats request")
            busy = refusal(request.command_id, "busy", "too many requests at once", hint="Wait.")
            await reply(self._connection, message.reply, busy)
            return
        self._spawn(self._work(message), f"command {message.subject}")

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._working.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._working.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed: %r", task.get_name(), error, exc_info=error)

    async def _work(self, message: Msg) -> None:
        answer = await self._handle(as_request(message, REQUEST_PREFIX, "nats request"))
        self.answered += 1
        await reply(self._connection, message.reply, answer)


def as_request(message: Msg, prefix: str, surface: str) -> Request:
    """The parts of a message that the answer depends on."""
    tenant, _, verb = message.subject[len(prefix) :].partition(".")
    headers: Mapping[str, str] = message.headers or {}
    return Request(
        surface=surface,
        tenant=tenant,
        verb=verb,
        body=message.data,
        command_id=headers.get(COMMAND_ID_HEADER, ""),
        token=token_of(headers),
        traceparent=headers.get(TRACE_HEADER, ""),
    )


def token_of(headers: Mapping[str, str]) -> str:
    """The token that the headers carry, "" when they carry none."""
    token = headers.get(TOKEN_HEADER, "")
    if token:
        return token.strip()
    scheme, _, given = headers.get("Authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else ""


async def reply(connection: Connection, subject: str, answer: Answer) -> bool:
    """Publish the answer where it was asked for; whether that was possible. An answer that is lost
    is found by asking again."""
    if not subject:
        return False
    if not may_answer_to(subject):
        log.warning("an answer to %r was asked for, which is not for answers", subject[:80])
        return False
    data = orjson.dumps(answer.as_dict())
    if len(data) > connection.client.max_payload:
        short = Answer(answer.command_id, answer.code, answer.sequence, repeated=answer.repeated)
        data = orjson.dumps(short.as_dict())
    if not connection.connected:
        # The library would keep it and send it whenever the server is back.
        return False
    with contextlib.suppress(NatsError, OSError, ValueError):
        await connection.client.publish(subject, data)
        return True
    return False


def may_answer_to(subject: str) -> bool:
    """Whether a stranger may have an answer published there."""
    return (
        not subject.startswith(_OWN_SUBJECTS)
        and len(subject) <= 255
        and subject.isascii()
        and subject.isprintable()
        and not set(" *>") & set(subject)
        and all(subject.split("."))
    )


async def _leave(subscription: Subscription | None) -> None:
    if subscription is not None:
        with contextlib.suppress(NatsError, OSError):
            await subscription.unsubscribe()
