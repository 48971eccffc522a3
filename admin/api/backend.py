"""What routes need of the process they live in: the folded state, statistics, the audit."""

from __future__ import annotations

import asyncio
import bisect
import time
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, cast

from pykka import ActorDeadError

from actors import analytics
from actors.analytics_fold import View
from actors.mailbox import MailboxFull
from admin.api.limits import READERS_MAX, WAIT_SECONDS, Buckets, Rates
from admin.api.problems import Problem, missing, mistake
from events.audit_sink import LIMIT, LOGIN_FAILED, REFUSAL, REFUSED
from events.installation import Installation
from events.model import Isolation, RateLimits, Tenant
from events.projection import Projection, Record
from events.stream import LogError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from admin.control import Control

T = TypeVar("T")

# Tenants resolved before others have their turn on the loop: some 10 ms.
RESOLVED_AT_ONCE: Final = 100
LOOK_SECONDS: Final = 0.01


class Slim(NamedTuple):
    """Of a tenant, what statistics over all of them need: 100,000 whole ones would be 400 MB."""

    id: str
    name: str
    isolation: Isolation
    rate_limits: RateLimits


def page_of(names: list[str], after: str, limit: int) -> tuple[list[str], str]:
    """`limit` of the sorted names behind `after`, and the next page's cursor, "" on the last."""
    start = bisect.bisect_right(names, after) if after else 0
    found = names[start : start + limit]
    return found, found[-1] if start + limit < len(names) else ""


class Backend:
    """`control` is asked anew each time: it may be replaced while we serve. `insecure` lets in
    whoever has no token, as operator; `loopback`: only this machine reaches us."""

    def __init__(
        self,
        control: Callable[[], Control | None],
        *,
        rates: Rates | None = None,
        insecure: bool = False,
        loopback: bool = True,
    ) -> None:
        self._control = control
        self.insecure = insecure
        self.loopback = loopback
        self.rates = rates = rates or Rates()
        self.tokens = Buckets(rates.token)
        self.failures = Buckets(rates.failures)
        self.streams: dict[str, int] = {}
        self.closing = asyncio.Event()
        self.verifying = asyncio.Lock()
        self._readers = asyncio.Semaphore(READERS_MAX)
        self._sorted: tuple[Projection, int, list[str]] | None = None
        self._slim: tuple[Projection, int, list[Slim]] | None = None

    def now(self) -> float:
        """Seconds since 1970."""
        return time.time()

    # --- the state -------------------------------------------------------------------------------

    @property
    def control_or_none(self) -> Control | None:
        return self._control()

    @property
    def control(self) -> Control:
        """Raises Problem while there is none."""
        found = self._control()
        if found is None:
            raise Problem("unavailable", "the control process starts or stops")
        return found

    @property
    def state(self) -> Projection:
        return self.control.projection

    @property
    def installation(self) -> Installation:
        return self.state.installation() or Installation()

    def record(self, id: str) -> Record:
        """Of a tenant that exists. Raises Problem."""
        found = self.state.record(id)
        if found is None or not found.exists or found.deleted:
            hint = ""
            if found is not None and found.deleted and not found.purged:
                hint = f"It was deleted; POST /tenants/{id}/restore brings it back."
            raise missing(f"tenant {id}", hint)
        return found

    def tenant(self, id: str) -> Tenant:
        """Resolved. Raises Problem."""
        self.record(id)
        found = self.state.tenant(id)
        if found is None:
            raise missing(f"tenant {id}")
        return found

    def ids(self) -> list[str]:
        """All tenants, sorted."""
        state = self.state
        if self._sorted is None or self._sorted[:2] != (state, state.position):
            self._sorted = (state, state.position, sorted(state.ids()))
        return self._sorted[2]

    def page(self, after: str, limit: int) -> tuple[list[str], str]:
        """`limit` ids behind `after`, and the cursor of the next page, "" on the last one."""
        return page_of(self.ids(), after, limit)

    async def everybody(self) -> Sequence[Tenant]:
        """All tenants, as far as `Slim` goes. May be as old as the last change."""
        state = self.state
        position = state.position
        if self._slim is None or self._slim[:2] != (state, position):
            found: list[Slim] = []
            # Most tenants have the limits of a tier: equal ones are kept once.
            shared: dict[str, RateLimits] = {}
            for number, id in enumerate(self.ids(), 1):
                tenant = state.tenant(id)
                if tenant is not None:
                    limits = shared.setdefault(repr(tenant.rate_limits), tenant.rate_limits)
                    found.append(Slim(id, tenant.name, tenant.isolation, limits))
                if number % RESOLVED_AT_ONCE == 0:
                    await asyncio.sleep(0)
            self._slim = (state, position, found)
        return cast("Sequence[Tenant]", self._slim[2])

    async def reach(self, sequence: int) -> None:
        """Wait until the folded state has `sequence`. Raises Problem after WAIT_SECONDS, and for an
        event that was never stored."""
        if self.state.position >= sequence:
            return
        try:
            stored = await self.control.log.last_sequence()
        except LogError as error:
            raise Problem("unavailable", str(error)) from None
        if sequence > stored:
            raise mistake("Tenantry-After", f"there is no event {sequence} yet")
        deadline = time.monotonic() + WAIT_SECONDS
        while self.state.position < sequence:
            if time.monotonic() > deadline:
                raise Problem("unavailable", f"event {sequence} is not known here yet")
            await asyncio.sleep(LOOK_SECONDS)

    # --- statistics ------------------------------------------------------------------------------

    async def ask(self, question: Callable[[View], T]) -> T:
        """The answer of the analytics; of nothing at all when they are switched off."""
        actor = self.control.analytics
        if actor is None:
            return question(View())
        try:
            return await analytics.ask(actor, question)
        except (ActorDeadError, MailboxFull):
            raise Problem("unavailable", "the statistics are being made anew") from None

    @property
    def counts(self) -> bool:
        """Whether there are statistics."""
        return self.control.analytics is not None

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """For whoever reads the past. Raises Problem when enough do."""
        if self._readers.locked():
            raise Problem("busy", "too many requests read the past", status=503)
        async with self._readers:
            yield

    # --- the audit -------------------------------------------------------------------------------

    def note(self, kind: str, address: str, reason: str, *, actor: str = "", **more: Any) -> None:
        """A request was turned away. Equal notes become one."""
        control = self._control()
        if control is not None:
            control.service.audit.note(
                kind,
                more.pop("tenant", ""),
                actor=actor,
                address=address,
                outcome=REFUSED,
                reason=reason,
                detail="http",
                **more,
            )

    def note_login(self, address: str, reason: str) -> None:
        self.note(LOGIN_FAILED, address, reason)

    def note_limit(self, address: str, reason: str, actor: str = "") -> None:
        self.note(LIMIT, address, reason, actor=actor)

    def note_refusal(self, address: str, reason: str, actor: str = "", tenant: str = "") -> None:
        self.note(REFUSAL, address, reason, actor=actor, tenant=tenant)
