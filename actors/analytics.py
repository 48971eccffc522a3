"""The actor that knows what all tenants use: folds the usage stream, answers questions about it.

    usage stream ─▶ tail ─Fold─▶ Analytics ◀─Ask─ admin API, console, metrics
                     ▲              │
                     └── answered ──┘   one batch at a time, so its mailbox never fills

It reads the stream from its beginning when it starts; `Ready` says when it has caught up. It runs
in the control process: no query waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from nats.aio.client import Client

from actors.analytics_fold import DETAILS_MAX, View
from actors.reference import AsyncioActorRef
from actors.runtime import AsyncioActor
from events import tail
from events.stream import LogUnavailable
from events.usage import STREAM
from events.usage_delta import decode
from wire.tasks import end, spawn

log = logging.getLogger("tenantry.analytics")

# Between attempts to learn how long the stream is.
RETRY_SECONDS = 0.5

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """Messages of the usage stream, in its order."""

    batch: list[tail.Stored]


@dataclass(frozen=True, slots=True, eq=False)
class Ask:
    """Answered with question(view). The question must neither keep nor change the view."""

    question: Callable[[View], Any]


@dataclass(frozen=True, slots=True, eq=False)
class Ready:
    """Answered with whether everything that was stored at the start has been folded."""


class Analytics(AsyncioActor):
    """Start it with `start(nats)` on the event loop of the control process, end it with `stop`."""

    def __init__(self, nats: Client, details_max: int = DETAILS_MAX) -> None:
        super().__init__()
        self.view = View(details_max=details_max)
        self._nats = nats
        # The sequence that the stream had when we began; None until it is known.
        self._until: int | None = None
        self._reading: asyncio.Task[None] | None = None

    def on_start(self) -> None:
        self._reading = spawn(read(self._nats, self.actor_ref), name="analytics reads usage")

    async def on_stop(self) -> None:  # type: ignore[override]
        if self._reading is not None:
            # It has nothing to clean up.
            await end(self._reading, again=RETRY_SECONDS)

    async def on_failure(self, *_: object) -> None:  # type: ignore[override]
        # Only `read` makes it fail, as its last act.
        await self.on_stop()

    def on_receive(self, message: object) -> object:
        if isinstance(message, Fold):
            for stored in message.batch:
                self.view.apply(decode(stored.data), stored.stored_at / 1e9)
                self.view.position = stored.sequence
        elif isinstance(message, Ask):
            return message.question(self.view)
        elif isinstance(message, Ready):
            return self._until is not None and self.view.position >= self._until
        elif isinstance(message, _Until):
            self._until = message.sequence
        elif isinstance(message, _Failed):
            raise message.error
        return None


@dataclass(frozen=True, slots=True, eq=False)
class _Until:
    sequence: int


@dataclass(frozen=True, slots=True, eq=False)
class _Failed:
    """Nothing more will be folded: the actor must not go on answering as if it were."""

    error: Exception


async def read(nats: Client, actor: AsyncioActorRef[Analytics]) -> None:
    """Feed the actor from the stream's beginning on, for ever."""
    try:
        actor.tell(_Until(await _length(nats)))
        async with contextlib.aclosing(tail.read(nats, STREAM, follow=True)) as batches:
            async for batch in batches:
                await actor.ask(Fold(batch))
                # The next batch may be here already; others have something to do as well.
                await asyncio.sleep(0)
    except Exception as error:
        actor.try_tell(_Failed(error))


async def _length(nats: Client) -> int:
    while True:
        try:
            found = await tail.info(nats, STREAM)
            if found is None or not found["state"]["messages"]:
                return 0
            return int(found["state"]["last_seq"])
        except LogUnavailable as reason:
            log.debug("%s", reason)
            await asyncio.sleep(RETRY_SECONDS)


async def ask(actor: AsyncioActorRef[Analytics], question: Callable[[View], T]) -> T:
    """The answer to `question`, computed in the actor's turn. Raises ActorDeadError, MailboxFull,
    and what the question raises."""
    answer: T = await actor.ask(Ask(question))
    return answer
