"""pykka's Future for one event loop: awaited without blocking, never waited for by a thread."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

import pykka
from pykka._future import _Unset

if TYPE_CHECKING:
    from pykka._future import GetHookFunc
    from pykka._types import OptExcInfo

T = TypeVar("T")
J = TypeVar("J")
M = TypeVar("M")
R = TypeVar("R")
Many: TypeAlias = pykka.Future[Iterable[J]]


class WouldBlock(RuntimeError):
    """A blocking wait was asked for on the event loop, where it would stop everything."""

    def __init__(self) -> None:
        super().__init__("this would block the event loop; await the future instead")


class AlreadySet(RuntimeError):
    """A future takes one result, or one hook that computes it."""


class AsyncioFuture(pykka.Future[T]):
    """The answer to an `ask`. `await` it, any number of times, from any number of tasks.

    A task that is cancelled while it awaits leaves the future as it was. An exception that nobody
    awaits is not reported here: the actor has logged it.
    """

    __slots__ = ("_done", "_error", "_sources", "_value", "_waiters")

    # pykka sets these on each instance; as class attributes they cost nothing until used.
    _get_hook: GetHookFunc[T] | None = None
    _get_hook_result: T | _Unset = _Unset()
    _no_sources: ClassVar[tuple[pykka.Future[Any], ...]] = ()

    def __init__(self) -> None:
        self._done = False
        self._value: T | None = None
        self._error: BaseException | None = None
        self._waiters: list[asyncio.Future[None]] | None = None
        # The futures that a derived one (map, join …) is computed from.
        self._sources = self._no_sources

    def __repr__(self) -> str:
        return f"<AsyncioFuture {'done' if self.done() else 'pending'}>"

    def done(self) -> bool:
        """True when `get` has something to return or raise."""
        if self._sources:
            return all(isinstance(each, AsyncioFuture) and each.done() for each in self._sources)
        return self._done or self._get_hook is not None

    def get(self, *, timeout: float | None = None) -> T:
        """The result that is already there. Raises what the actor raised; WouldBlock when there is
        no result yet, whatever the timeout: waiting is what `await` is for."""
        if self._done:
            if self._error is not None:
                raise self._error
            return self._value  # type: ignore[return-value]  # set(None) means T may be None
        if self._get_hook is None or not self.done():
            raise WouldBlock
        return super().get(timeout=timeout)

    def set(self, value: T | None = None) -> None:
        """Answer. Raises AlreadySet the second time."""
        self._claim()
        self._value = value
        self._done = True
        if self._waiters is not None:
            self._wake()

    def fail(self, error: BaseException) -> None:
        """Answer with an exception. Raises AlreadySet the second time."""
        self._claim()
        self._error = error
        self._done = True
        if self._waiters is not None:
            self._wake()

    def set_exception(self, exc_info: OptExcInfo | None = None) -> None:
        """As pykka's: the given triple's exception, or the one being handled."""
        error = (exc_info or sys.exc_info())[1]
        if error is None:
            raise ValueError("there is no exception to set")
        self.fail(error)

    def set_get_hook(self, func: GetHookFunc[T]) -> None:
        self._claim()
        self._get_hook = func

    def _claim(self) -> None:
        if self._done or self._get_hook is not None:
            raise AlreadySet("the future has its result already")

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    def __await__(self) -> Generator[Any, None, T]:
        for source in self._sources:
            # Until it is done; whether it went well or badly is for `get` to tell.
            if isinstance(source, AsyncioFuture) and not source.done():
                with contextlib.suppress(Exception):
                    yield from source.__await__()
        if not self._done and self._get_hook is None:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            if self._waiters is None:
                self._waiters = [waiter]
            else:
                self._waiters.append(waiter)
            try:
                yield from waiter
            except BaseException:
                # Cancelled: a future that is never answered must not collect dead waiters.
                if self._waiters is not None:
                    self._waiters.remove(waiter)
                raise
        return self.get()

    __iter__ = __await__

    # Derived futures: pykka computes them in `get`; all that is added is what to await before.

    def filter(self: Many[J], func: Callable[[J], bool]) -> Many[J]:
        return _after(pykka.Future.filter(self, func), self)

    def join(self: pykka.Future[Any], *futures: pykka.Future[Any]) -> Many[Any]:
        return _after(pykka.Future.join(self, *futures), self, *futures)

    def map(self: pykka.Future[M], func: Callable[[M], R]) -> pykka.Future[R]:
        return _after(pykka.Future.map(self, func), self)

    def reduce(self: Many[J], func: Callable[[R, J], R], *args: R) -> pykka.Future[R]:
        return _after(pykka.Future.reduce(self, func, *args), self)


def _after(derived: pykka.Future[T], *sources: pykka.Future[Any]) -> pykka.Future[T]:
    assert isinstance(derived, AsyncioFuture)
    derived._sources = sources
    return derived
