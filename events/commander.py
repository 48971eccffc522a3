"""Carries out commands: decide, append, and wait until the outcome can be read here."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from events import codec
from events.commands import Command, CommandRefused, Mistake, PutInstallation, decide
from events.facts import KIND_TENANT, Commit, Fact
from events.log import ConfigLog
from events.projection import Projection
from events.stream import CommandIdReused, Conflict

# Each conflict means that another command on the same subject was accepted. Whoever loses three
# times in a row is better told so than kept waiting.
CONFLICT_RETRIES_MAX = 3


@dataclass(frozen=True, slots=True)
class Accepted:
    """`sequence` is where the command was stored. Without `events` nothing was to be changed, or
    the command was carried out before; `sequence` is then the position that was looked at."""

    sequence: int
    events: tuple[Fact, ...]


class Commander:
    """Commands go in, facts are stored, and `projection` has them when `execute` returns.

    Somebody else may feed the same projection (ConfigLog.follow) at the same time.
    """

    def __init__(self, log: ConfigLog, projection: Projection) -> None:
        self._log = log
        self._projection = projection
        self._reading = asyncio.Lock()

    async def execute(self, command: Command, actor: str) -> Accepted:
        """Carry out `command` for `actor`.

        Raises CommandRefused, Conflict (after CONFLICT_RETRIES_MAX), and what the log raises.
        """
        caught_up = False
        conflicts = 0
        while True:
            accepted = await self._attempt(command, actor, caught_up)
            if accepted is not None:
                return accepted
            if caught_up:
                conflicts += 1
                if conflicts > CONFLICT_RETRIES_MAX:
                    raise Conflict(f"{command.KIND} {command.subject_id} is changed too often")
            await self.catch_up()
            caught_up = True

    async def execute_all(self, commands: Sequence[Command], actor: str) -> list[Accepted]:
        """Carry out all of them, or none if any is refused as things stand at the start.

        Made for configuration files: the log is read once, so what is already as asked costs no
        round trip. Raises CommandRefused with the mistakes of all; paths begin with kind and id.
        """
        await self.catch_up()
        mistakes: list[Mistake] = []
        changing: list[bool] = []
        for command in commands:
            try:
                changing.append(bool(decide(self._projection, command)))
            except CommandRefused as refused:
                changing.append(False)
                where = f"{command.KIND}.{command.subject_id}"
                mistakes += [
                    Mistake(f"{where}.{each.path}" if each.path else where, each.message)
                    for each in refused.mistakes
                ]
                continue
        if mistakes:
            raise CommandRefused(mistakes)
        position = self._projection.position
        return [
            await self.execute(command, actor) if needed else Accepted(position, ())
            for command, needed in zip(commands, changing, strict=True)
        ]

    async def catch_up(self) -> None:
        """Fold all that is stored. Raises LogUnavailable, LogGap."""
        async with self._reading:
            await self._log.read_all(self._projection.position + 1, self._projection.apply)

    async def _attempt(self, command: Command, actor: str, caught_up: bool) -> Accepted | None:
        """One try; None asks to catch up and try again."""
        state = self._projection
        seen = state.seen(command.command_id)
        if seen is not None:
            if (seen.kind, seen.id) != (command.KIND, command.subject_id):
                raise CommandIdReused(f"command {command.command_id} was used for another subject")
            return Accepted(seen.sequence, ())
        try:
            facts = decide(state, command)
        except CommandRefused:
            # What was refused for a reason that is no longer true should not be refused.
            if caught_up:
                raise
            return None
        if not facts:
            # "It is so already" must hold of the log, not just of what was read so far.
            return Accepted(state.position, ()) if caught_up else None
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        commit = Commit(command.command_id, actor, now, tuple(facts))
        expected = self._expected(command)
        try:
            sequence = await self._log.append(command.KIND, command.subject_id, commit, expected)
        except Conflict:
            return None
        await self._applied(sequence, command, commit)
        return Accepted(sequence, commit.events)

    def _expected(self, command: Command) -> int:
        if isinstance(command, PutInstallation):
            return self._projection.installation_version
        assert command.KIND == KIND_TENANT
        record = self._projection.record(command.subject_id)
        return 0 if record is None else record.version

    async def _applied(self, sequence: int, command: Command, commit: Commit) -> None:
        """Return when the projection has `sequence`."""
        state = self._projection
        if state.position == sequence - 1:
            # Nothing came between: what everybody else will read can be folded at once.
            stored = codec.decode(codec.encode(commit))
            state.apply(sequence, command.KIND, command.subject_id, stored)
        async with self._reading:
            if state.position < sequence:
                await self._log.read_all(state.position + 1, state.apply)
