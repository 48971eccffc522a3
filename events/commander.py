"""Carries out commands: decide, append, and wait until the outcome can be read here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from events import codec, dumped
from events.commands import Command, CommandRefused, Mistake, Undo, decide
from events.commands_undo import inverse
from events.facts import (
    KIND_TENANT,
    Commit,
    Fact,
    InstallationChanged,
    TenantChanged,
    TenantCreated,
    TenantPurged,
    TenantRestored,
    TierDeleted,
)
from events.log import ConfigLog
from events.model import Settings
from events.projection import Projection
from events.reader import Stored
from events.stream import SUBJECT_PREFIX, CommandIdReused, Conflict

# Each conflict means that another command on the same subject was accepted, by another process:
# those of this one wait for each other. Whoever loses three times in a row is better told so.
CONFLICT_RETRIES_MAX = 3
# Where the decision rests on all that is stored, any commit at all is a conflict. Provisioning
# writes hundreds a second at most, and a try takes milliseconds.
WIDE_RETRIES_MAX = 30
# Commits of one subject that Undo reads; each is a change somebody made, so this is years of them.
HISTORY_MAX = 20_000


class Keeper(Protocol):
    """Keeps the keys of personal data (events.keys)."""

    async def ready(self, id: str) -> None:
        """Be able to open the tenant's personal data, if there is any."""
        ...

    async def seal(self, id: str, facts: Sequence[Fact], settings: Settings) -> tuple[Fact, ...]:
        """`facts` as they are to be stored; `settings` are those before them, in clear."""
        ...

    async def destroy(self, id: str) -> None:
        """Let nobody open the tenant's personal data any more."""
        ...


@dataclass(frozen=True, slots=True)
class Accepted:
    """`sequence` is where the command was stored. Without `events` nothing was to be changed, or
    the command was carried out before (`repeated`); `sequence` is then the position that was looked
    at, or where it was stored. With `dry_run` nothing was stored."""

    sequence: int
    events: tuple[Fact, ...]
    repeated: bool = False
    dry_run: bool = False


class Commander:
    """Commands go in, facts are stored, and `projection` has them when `execute` returns.

    Somebody else may feed the same projection (ConfigLog.follow) at the same time. Without a
    `keeper` personal data is stored in clear.
    """

    def __init__(
        self, log: ConfigLog, projection: Projection, keeper: Keeper | None = None
    ) -> None:
        self._log = log
        self._projection = projection
        self._keeper = keeper
        self._reading = asyncio.Lock()
        # Commands of one subject one after the other, and those that rest on all subjects too.
        self._turns: dict[tuple[str, str], asyncio.Lock] = {}
        self._wide = asyncio.Lock()

    async def execute(
        self, command: Command, actor: str, headers: Mapping[str, str] | None = None
    ) -> Accepted:
        """Carry out `command` for `actor`; `headers` are stored with it (traceparent, say).

        Raises CommandRefused, Conflict (when others are faster again and again), and what the log
        raises.
        """
        async with self._turn(command.kind, command.subject_id):
            return await self._execute(command, actor, headers or {})

    async def execute_all(
        self, commands: Sequence[Command], actor: str, headers: Mapping[str, str] | None = None
    ) -> list[Accepted]:
        """Carry out all of them, or none if any is refused as things stand at the start.

        Made for configuration files: the log is read once, so what is already as asked costs no
        round trip, and each is judged as if those before it were carried out (a tier and the
        tenants that name it; two tenants that claim one place). Raises CommandRefused with the
        mistakes of all; paths begin with kind and id.
        """
        await self.catch_up()
        mistakes: list[Mistake] = []
        changing: list[bool] = []
        trial = dumped.copy(self._projection)
        for command in commands:
            try:
                facts = decide(trial, command)
            except CommandRefused as refused:
                changing.append(False)
                where = f"{command.kind}.{command.subject_id}"
                mistakes += [
                    Mistake(f"{where}.{each.path}" if each.path else where, each.message, each.hint)
                    for each in refused.mistakes
                ]
                continue
            changing.append(bool(facts))
            if facts:
                commit = Commit(command.command_id, actor, "", tuple(facts))
                trial.apply(trial.position + 1, command.kind, command.subject_id, commit)
        if mistakes:
            raise CommandRefused(mistakes)
        position = self._projection.position
        return [
            await self.execute(command, actor, headers) if needed else Accepted(position, ())
            for command, needed in zip(commands, changing, strict=True)
        ]

    async def catch_up(self) -> None:
        """Fold all that is stored. Raises LogUnavailable, LogGap."""
        async with self._reading:
            await self._log.read_all(self._projection.position + 1, self._projection.apply)

    @asynccontextmanager
    async def _turn(self, kind: str, id: str) -> AsyncIterator[None]:
        lock = self._turns.setdefault((kind, id), asyncio.Lock())
        try:
            async with lock:
                yield
        finally:
            # The last one out; who came meanwhile waits on this very lock.
            if not lock.locked() and not getattr(lock, "_waiters", None):
                self._turns.pop((kind, id), None)

    async def _execute(self, command: Command, actor: str, headers: Mapping[str, str]) -> Accepted:
        caught_up = False
        conflicts = 0
        while True:
            most = CONFLICT_RETRIES_MAX
            try:
                accepted = await self._attempt(command, actor, headers, caught_up)
                if accepted is not None:
                    return accepted
            except _WideConflict:
                most = WIDE_RETRIES_MAX
            if caught_up:
                conflicts += 1
                if conflicts > most:
                    raise Conflict(f"{command.kind} {command.subject_id} is changed too often")
            await self.catch_up()
            caught_up = True

    async def _attempt(
        self, command: Command, actor: str, headers: Mapping[str, str], caught_up: bool
    ) -> Accepted | None:
        """One try; None asks to catch up and try again."""
        before = self._seen(command, actor)
        if before is not None:
            return before
        kind, id = command.kind, command.subject_id
        if (
            self._keeper is not None
            and kind == KIND_TENANT
            and self._projection.version_of(kind, id)
        ):
            # What cannot be read would look as if it had never been set.
            await self._keeper.ready(id)
        try:
            decided = await self._decide(command)
        except CommandRefused:
            # What was refused for a reason that is no longer true should not be refused.
            if caught_up:
                raise
            return None
        if not rests_on_all(decided):
            return await self._store(command, decided, actor, headers, caught_up)
        async with self._wide:
            # Whoever had the lock before may have changed what this rests on.
            before = self._seen(command, actor)
            if before is not None:
                return before
            position = self._projection.position
            decided = await self._decide(command)
            headers = {**headers, "Nats-Expected-Last-Sequence": str(position)}
            try:
                return await self._store(command, decided, actor, headers, caught_up)
            except Conflict:
                raise _WideConflict from None

    def _seen(self, command: Command, actor: str) -> Accepted | None:
        """The answer to a command that `actor` gave before. Raises CommandIdReused."""
        seen = self._projection.seen(command.command_id)
        if seen is None or command.dry_run:
            return None
        if not seen.is_for(command.kind, command.subject_id, actor):
            raise CommandIdReused(f"command {command.command_id} was used for something else")
        return Accepted(seen.sequence, (), repeated=True)

    async def _decide(self, command: Command) -> list[Fact]:
        if not isinstance(command, Undo):
            return decide(self._projection, command)
        history = await self.history(command.of_kind, command.id)
        state = self._projection
        return decide(state, inverse(command, history, state, state.opener))

    async def history(self, kind: str, id: str) -> list[tuple[int, Commit]]:
        """All commits of one subject, in order. Raises LogUnavailable, CommandRefused."""
        found: list[tuple[int, Commit]] = []

        def take(message: Stored) -> None:
            found.append((message.sequence, codec.decode(message.data)))

        await self._log.scan(take, subjects=[f"{SUBJECT_PREFIX}{kind}.{id}"])
        return found[-HISTORY_MAX:]

    async def _store(
        self,
        command: Command,
        decided: list[Fact],
        actor: str,
        headers: Mapping[str, str],
        caught_up: bool,
    ) -> Accepted | None:
        state = self._projection
        if not decided or command.dry_run:
            # "It is so already" must hold of the log, not just of what was read so far.
            if not caught_up:
                return None
            return Accepted(state.position, tuple(decided), dry_run=command.dry_run)
        kind, id = command.kind, command.subject_id
        expected = state.version_of(kind, id)
        facts = await self._sealed(kind, id, decided)
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        commit = Commit(command.command_id, actor, now, facts)
        try:
            sequence = await self._log.append(kind, id, commit, expected, headers)
        except Conflict:
            if "Nats-Expected-Last-Sequence" in headers:
                raise
            return None
        if self._keeper is not None and any(isinstance(fact, TenantPurged) for fact in decided):
            await self._keeper.destroy(id)
        await self._applied(sequence, kind, id, commit)
        return Accepted(sequence, tuple(decided))

    async def _sealed(self, kind: str, id: str, facts: list[Fact]) -> tuple[Fact, ...]:
        if self._keeper is None or not any(
            isinstance(fact, TenantCreated | TenantChanged) for fact in facts
        ):
            return tuple(facts)
        record = self._projection.record(id)
        return await self._keeper.seal(id, facts, {} if record is None else record.settings)

    async def _applied(self, sequence: int, kind: str, id: str, commit: Commit) -> None:
        """Return when the projection has `sequence`."""
        state = self._projection
        if state.position == sequence - 1:
            # Nothing came between: what everybody else will read can be folded at once.
            state.apply(sequence, kind, id, codec.decode(codec.encode(commit)))
        async with self._reading:
            if state.position < sequence:
                await self._log.read_all(state.position + 1, state.apply)


class _WideConflict(Exception):
    """Something was stored since the decision that rests on all that is stored."""


def rests_on_all(facts: Sequence[Fact]) -> bool:
    """Whether they are right only as long as nothing at all is stored before them: nobody else
    takes the place, the tier stays, the number of tenants is what it was."""
    return any(
        isinstance(fact, TenantCreated | TenantRestored | TierDeleted | InstallationChanged)
        or (isinstance(fact, TenantChanged) and {"isolation", "tier"} & set(fact.changes))
        for fact in facts
    )
