"""pykka's actors on the running asyncio loop: no threads, one loop callback per actor at a time.

    start ──▶ starting ──on_start──▶ idle ◀──▶ handling ──stop──▶ on_stop ───▶ dead
                  └───── raises ──────────────────┴───── raises ─▶ on_failure ─▶ dead

Handlers and hooks may be plain or `async def`. While one of them awaits, the actor's next messages
wait (so an actor that awaits the answer to a question it asked itself waits for ever), and other
actors go on.

What differs from pykka's threads, on purpose:
- nothing blocks: `ask` gives a future to await, `stop` another; a full mailbox refuses;
- after `stop` nothing more is accepted, instead of being accepted and discarded;
- an exception, CancelledError included, stops no actor but the one whose handler raised it;
- the death of an actor can be watched, so that somebody can supervise;
- actors are found in `reference.running`, not in pykka.ActorRegistry, whose removal is O(n).
"""

from __future__ import annotations

import asyncio
import collections.abc
import logging
import threading
import types
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, Final, Self, cast

import pykka
from pykka import ActorDeadError
from pykka._actor import ActorInbox
from pykka._envelope import Envelope
from pykka.messages import ProxyCall, ProxyGetAttr, ProxySetAttr, _ActorStop

from actors.future import AsyncioFuture
from actors.mailbox import MAILBOX_CAPACITY
from actors.reference import STOP, AsyncioActorRef, Inbox, dead_error, register, unregister, urn_of
from wire.errors import TenantryError

log = logging.getLogger("tenantry.actors")

# Messages that one actor handles before the loop serves others: at about a microsecond each, a
# flooded actor delays them by well under a millisecond.
TURN: Final = 64

_PYKKA_MESSAGES: Final = frozenset({_ActorStop, ProxyCall, ProxyGetAttr, ProxySetAttr})


class HandlerCancelled(Exception):
    """The handler was cancelled. As a plain error it does not cancel whoever asked, too."""

    def __init__(self) -> None:
        super().__init__("the actor's handler was cancelled")


class AsyncioActor(pykka.Actor):
    """An actor of the running event loop. Subclass it, override `on_receive` and the hooks.

    `start` needs a running loop. `on_start` runs before the first message, never inside `start`.
    """

    # Messages it may have waiting.
    mailbox_capacity: ClassVar[int] = MAILBOX_CAPACITY
    # Exceptions that are just an answer to whoever asked. Any other kills the actor as well: after
    # a surprise its state cannot be trusted. As in pykka, all are answers unless narrowed.
    answers: ClassVar[tuple[type[Exception], ...]] = (Exception,)

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        # Not super().__init__(): it makes a UUID, a threading.Event and a weak reference, which is
        # more than all the rest of an idle actor.
        box = Inbox(self.mailbox_capacity)
        box.actor = self
        self.actor_inbox = self._box = box
        self._actor_ref = AsyncioActorRef(self)

    @property
    def actor_urn(self) -> str:  # type: ignore[override]  # computed when somebody asks
        return urn_of(self._box.serial)

    @property
    def actor_stopped(self) -> threading.Event:  # type: ignore[override]
        return cast("threading.Event", self._box)

    @property
    def actor_ref(self) -> AsyncioActorRef[Self]:
        return cast("AsyncioActorRef[Self]", self._actor_ref)

    @classmethod
    def start(cls, *args: Any, **kwargs: Any) -> AsyncioActorRef[Self]:
        """Make an actor with these arguments and let it run on the running loop."""
        actor = cls(*args, **kwargs)
        actor._start_actor_loop()
        return actor.actor_ref

    @staticmethod
    def _create_actor_inbox() -> ActorInbox:
        return Inbox(MAILBOX_CAPACITY)

    @staticmethod
    def _create_future() -> AsyncioFuture[Any]:
        return AsyncioFuture()

    def _start_actor_loop(self) -> None:
        box = self._box
        register(self.actor_ref)
        if not box.awake:
            box.wake()

    def stop(self) -> None:
        """As `AsyncioActorRef.stop`, for the actor itself."""
        self.actor_ref.stop()

    # Hooks. Each may be overridden by a plain or an asynchronous method. An asynchronous one needs
    # a `type: ignore[override]`, because mypy compares it with pykka's, too.

    def on_start(self) -> Coroutine[Any, Any, None] | None:  # type: ignore[override]
        """Before the first message. If it raises, the actor is dead; no other hook is called."""
        return None

    def on_stop(self) -> Coroutine[Any, Any, None] | None:  # type: ignore[override]
        """After the last message before an orderly stop."""
        return None

    def on_failure(  # type: ignore[override]
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> Coroutine[Any, Any, None] | None:
        """After a handler raised and before the actor is dead. Its answer was given already."""
        return None

    # The loop. Everything below runs on the event loop, one turn after the other.

    def _actor_loop(self) -> None:
        """One turn: up to TURN messages, or until a handler awaits something."""
        box = self._box
        if not box.started and self._begin(box):
            return
        for _ in range(TURN):
            if box.dead:
                return
            envelope = box.take()
            if envelope is None:
                box.awake = False
                return
            try:
                message = envelope.message
                if message.__class__ in _PYKKA_MESSAGES:
                    result = self._handle_receive(message)
                else:
                    result = self.on_receive(message)
            except BaseException as error:
                self._raised(envelope, error)
                if isinstance(error, (KeyboardInterrupt, SystemExit)):
                    raise
                continue
            if result is not None and _is_coroutine(result):
                box.handling = envelope
                self._in_task(result, self._handled)
                return
            if envelope.reply_to is not None:
                envelope.reply_to.set(result)
        if not box.dead:
            box.wake()

    def _in_task(
        self,
        work: Coroutine[Any, Any, Any],
        done: Callable[[asyncio.Task[Any]], None],
    ) -> None:
        # Not wire.tasks.spawn: its failure is the actor's to handle. A callback rather than a
        # coroutine around `work`, because a task can be cancelled before its first step.
        box = self._box
        task = box.loop.create_task(work, name=f"actor {self.__class__.__name__}")
        box.task = task
        task.add_done_callback(done, context=box.context)

    def _outcome(self, task: asyncio.Task[Any]) -> tuple[bool, BaseException | None]:
        """Whether the actor has been killed meanwhile, and what the task raised."""
        box = self._box
        box.task = None
        error = HandlerCancelled() if task.cancelled() else task.exception()
        return box.actor is None, error

    def _handled(self, task: asyncio.Task[Any]) -> None:
        """An asynchronous handler is through: answer, and go on with the next message."""
        killed, error = self._outcome(task)
        box = self._box
        envelope, box.handling = box.handling, None
        if killed or envelope is None:
            return
        if error is not None:
            self._raised(envelope, error)
        elif envelope.reply_to is not None:
            envelope.reply_to.set(task.result())
        if not box.dead:
            self._actor_loop()

    def _begin(self, box: Inbox) -> bool:
        """Run on_start; True when the turn is over with it (it awaits, or has failed)."""
        try:
            result = self.on_start()
        except BaseException as error:
            self._not_started(error)
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            return True
        if result is None:
            box.started = True
            return False
        self._in_task(result, self._begun)
        return True

    def _begun(self, task: asyncio.Task[Any]) -> None:
        killed, error = self._outcome(task)
        if killed:
            return
        if error is not None:
            self._not_started(error)
        else:
            self._box.started = True
            self._actor_loop()

    def _not_started(self, error: BaseException) -> None:
        error = _as_failure(error)
        if isinstance(error, TenantryError):
            log.warning("%s refused to start: %s", self, error)
        else:
            log.error("%s could not start: %r", self, error, exc_info=error)
        self._bury(error)

    def _raised(self, envelope: Envelope[Any], error: BaseException) -> None:
        """A handler raised: answer, and die unless the error is no more than an answer."""
        error = _as_failure(error)
        if envelope.reply_to is not None:
            envelope.reply_to.set_exception((type(error), error, error.__traceback__))
            if isinstance(error, self.answers):
                log.debug("%s answered with %r", self, error)
                return
        self._handle_failure(type(error), error, error.__traceback__)
        self._hook_then_bury(self.on_failure, (type(error), error, error.__traceback__), error)

    def _handle_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        log.error("%s failed: %r", self, exception_value, exc_info=exception_value)
        self._close()

    def _stop(self) -> None:
        """The order to stop has come to the front of the mailbox."""
        self._close()
        self._hook_then_bury(self.on_stop, (), None)

    def _close(self) -> None:
        box = self._box
        box.closed = True
        box.dead = True
        unregister(box.serial)

    def _hook_then_bury(
        self,
        hook: Callable[..., Coroutine[Any, Any, None] | None],
        args: tuple[Any, ...],
        cause: BaseException | None,
    ) -> None:
        result = None
        try:
            result = hook(*args)
        except (Exception, asyncio.CancelledError) as error:
            self._hook_raised(error)
        if result is None:
            self._bury(cause)
        else:
            self._box.cause = cause
            self._in_task(result, self._hook_done)

    def _hook_done(self, task: asyncio.Task[Any]) -> None:
        killed, error = self._outcome(task)
        if killed:
            return
        if error is not None:
            self._hook_raised(error)
        self._bury(self._box.cause)

    def _hook_raised(self, error: BaseException) -> None:
        # It dies anyway; there is nothing left to do but tell.
        log.error("%s: its last hook raised %r", self, error, exc_info=error)

    def _bury(self, cause: BaseException | None) -> None:
        """The end: nobody is left waiting for an answer, and who watches is told."""
        self._close()
        box = self._box
        box.cause = cause
        box.actor = None
        discarded = 0
        if box.handling is not None and box.handling.reply_to is not None:
            # Killed while it handled this one.
            box.handling.reply_to.set_exception(
                (ActorDeadError, dead_error(f"{self} was killed", cause), None)
            )
        box.handling = None
        while (envelope := box.take()) is not None:
            if envelope.reply_to is not None:
                text = f"{self} stopped before handling the message"
                error = dead_error(text, cause)
                envelope.reply_to.set_exception((ActorDeadError, error, None))
            elif envelope.message is not STOP:
                discarded += 1
        if discarded:
            log.warning("%s died with %d messages that nobody will handle", self, discarded)
        watchers, box.watchers = box.watchers, None
        for died in watchers or ():
            died(cause)


def _as_failure(error: BaseException) -> BaseException:
    """CancelledError means something to whoever awaits; as the handler's failure it must not."""
    if not isinstance(error, asyncio.CancelledError):
        return error
    failure = HandlerCancelled()
    failure.__cause__ = error
    return failure


def _is_coroutine(result: object) -> bool:
    # The second test is for coroutines of compiled code, which have a type of their own.
    return type(result) is types.CoroutineType or isinstance(result, collections.abc.Coroutine)
