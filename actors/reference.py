"""How everybody else sees an actor: its reference, its inbox, and the list of those that run."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import pykka
from pykka import ActorDeadError
from pykka._actor import ActorInbox
from pykka._envelope import Envelope
from pykka.messages import _ActorStop

from actors.future import AsyncioFuture, WouldBlock
from actors.mailbox import ACCEPTED, FULL, OWED, WORK, Lane, Mailbox, MailboxFull, Verdict

if TYPE_CHECKING:
    from actors.runtime import AsyncioActor

A = TypeVar("A", bound="AsyncioActor")

STOP: Final = _ActorStop()

_serials: Final = itertools.count(1)
# Started and not yet dead, by serial number. It also is what keeps an actor alive.
_running: Final[dict[int, AsyncioActorRef[Any]]] = {}


class WrongThread(RuntimeError):
    """Actors of a loop are spoken to on that loop; elsewhere use loop.call_soon_threadsafe."""

    def __init__(self) -> None:
        super().__init__("an actor can only be told or asked on the event loop that it runs on")


class Inbox(Mailbox):
    """The mailbox with what is needed to wake the actor that reads it."""

    __slots__ = (
        "actor",
        "awake",
        "cause",
        "context",
        "dead",
        "handling",
        "loop",
        "serial",
        "started",
        "task",
        "thread",
        "watchers",
    )

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.serial = next(_serials)
        # None once the actor is dead, so that a kept reference keeps no more than this.
        self.actor: AsyncioActor | None = None
        self.loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()
        # The actor's own: what a sender has in its context variables is not the actor's business.
        self.context = contextvars.Context()
        # A turn is scheduled or under way: whoever adds a message need not wake the actor.
        self.awake = False
        # on_start is over, and went well.
        self.started = False
        self.dead = False
        self.cause: BaseException | None = None
        # The task of an asynchronous handler or hook that runs now.
        self.task: asyncio.Task[Any] | None = None
        # The message of that handler.
        self.handling: Envelope[Any] | None = None
        self.watchers: list[Callable[[BaseException | None], None]] | None = None

    # pykka's `actor_stopped` is a threading.Event; these two are all that is used of it.

    def is_set(self) -> bool:
        return self.dead

    def set(self) -> None:
        self.dead = True

    def send(self, message: Any, reply_to: AsyncioFuture[Any] | None, lane: Lane) -> Verdict:
        if threading.get_ident() != self.thread:
            raise WrongThread
        verdict = self.offer(Envelope(message, reply_to), lane)
        if verdict is ACCEPTED and not self.awake:
            self.wake()
        return verdict

    def wake(self) -> None:
        assert self.actor is not None
        self.awake = True
        self.loop.call_soon(self.actor._actor_loop, context=self.context)


class AsyncioActorRef(pykka.ActorRef[A]):
    """Speaks to one actor, dead or alive. Use it on the actor's own event loop only."""

    __slots__ = ("_inbox", "_type")

    def __init__(self, actor: A) -> None:
        self._inbox = actor._box
        self._type: type[A] = actor.__class__

    @property
    def actor_class(self) -> type[A]:  # type: ignore[override]  # read-only, so that it costs nothing
        return self._type

    @property
    def actor_urn(self) -> str:  # type: ignore[override]
        return urn_of(self._inbox.serial)

    @property
    def actor_inbox(self) -> ActorInbox:  # type: ignore[override]
        return self._inbox

    @property
    def actor_stopped(self) -> threading.Event:  # type: ignore[override]
        return cast("threading.Event", self._inbox)

    def _actor_weakref(self) -> A | None:  # type: ignore[override]  # called, never stored
        """Where pykka's proxies look for the actor."""
        return cast("A | None", self._inbox.actor)

    def is_alive(self) -> bool:
        return not self._inbox.dead

    def is_stopping(self) -> bool:
        """It was asked to stop (or is dead): it takes no more messages."""
        return self._inbox.closed

    def has_started(self) -> bool:
        """Its on_start has been through without an error."""
        return self._inbox.started

    def try_tell(self, message: Any, *, lane: Lane = WORK) -> Verdict:
        """Send without an answer, and say at once whether it was taken. Raises only WrongThread."""
        return self._inbox.send(message, None, lane)

    def tell(self, message: Any, *, lane: Lane = WORK) -> None:
        """Send without an answer. Raises ActorDeadError (also while it stops), MailboxFull."""
        verdict = self._inbox.send(message, None, lane)
        if verdict is not ACCEPTED:
            raise self._refusal(verdict)

    def ask(
        self, message: Any, *, block: bool = False, timeout: float | None = None, lane: Lane = WORK
    ) -> AsyncioFuture[Any]:
        """Send, and give the future of the answer. Awaiting it raises what the handler raised,
        ActorDeadError when the message was not handled (its cause is what killed the actor), or
        MailboxFull. Put asyncio.timeout around the await for a time limit.

        Raises WouldBlock when asked to block or to time a blocking wait.
        """
        if block or timeout is not None:
            raise WouldBlock
        future: AsyncioFuture[Any] = AsyncioFuture()
        verdict = self._inbox.send(message, future, lane)
        if verdict is not ACCEPTED:
            future.fail(self._refusal(verdict))
        return future

    def _refusal(self, verdict: Verdict) -> Exception:
        if verdict is FULL:
            return MailboxFull(f"the mailbox of {self} is full")
        return dead_error(f"{self} not found", self._inbox.cause)

    def watch(self, died: Callable[[BaseException | None], None]) -> None:
        """Call `died` once when the actor is dead, with what killed it; None for an orderly stop.
        At once when it is dead already. `died` must not raise."""
        box = self._inbox
        if box.actor is None:
            died(box.cause)
        elif box.watchers is None:
            box.watchers = [died]
        else:
            box.watchers.append(died)

    def stop(  # type: ignore[override]
        self, *, block: bool = False, timeout: float | None = None
    ) -> AsyncioFuture[bool]:
        """Let it handle what it has got, then stop. The future says False if it was dead before,
        and comes when `on_stop` is over. Raises WouldBlock as `ask` does."""
        if block or timeout is not None:
            raise WouldBlock
        stopped: AsyncioFuture[bool] = AsyncioFuture()
        box = self._inbox
        if box.actor is None:
            stopped.set(False)
            return stopped
        self.watch(lambda _cause: stopped.set(True))
        if not box.closed:
            box.send(STOP, None, OWED)
            box.closed = True
        return stopped

    def kill(self) -> None:
        """Stop now: what it does is cancelled, what it has got is answered with ActorDeadError,
        and no hook is called. For actors that do not stop when asked to."""
        box = self._inbox
        if box.actor is not None:
            box.actor._bury(None)
            if box.task is not None:
                box.task.cancel()


def register(ref: AsyncioActorRef[Any]) -> None:
    _running[ref._inbox.serial] = ref


def unregister(serial: int) -> None:
    _running.pop(serial, None)


def running() -> list[AsyncioActorRef[Any]]:
    """All actors that have started and not stopped, oldest first."""
    return list(_running.values())


def find(urn: str) -> AsyncioActorRef[Any] | None:
    """The running actor with this URN."""
    serial = urn.rpartition(":")[2]
    ref = _running.get(int(serial)) if serial.isdecimal() else None
    return ref if ref is not None and ref.actor_urn == urn else None


async def stop_all() -> None:
    """Stop every actor of the running loop, the youngest first, each after its last message."""
    loop = asyncio.get_running_loop()
    for ref in reversed(running()):
        if ref._inbox.loop is loop:
            await ref.stop()
        elif ref._inbox.loop.is_closed():
            _running.pop(ref._inbox.serial, None)


def urn_of(serial: int) -> str:
    return f"urn:tenantry:actor:{os.getpid()}:{serial}"


def dead_error(text: str, cause: BaseException | None) -> ActorDeadError:
    error = ActorDeadError(text)
    error.__cause__ = cause
    return error
