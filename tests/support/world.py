"""A projection that takes commands at once, without a log."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from events import codec
from events.commands import Command, CommandRefused, Undo, decide
from events.commands_undo import inverse
from events.facts import Commit, Fact
from events.projection import Projection

VERIFIER = "SCRAM-SHA-256$4096:c2FsdA==$a2V5:a2V5"
SEALED = "sealed:1:0badcafe:AAAA"


class World:
    """What `does` gives are the facts that followed; `now` is what time it is."""

    def __init__(self, *commands: Command) -> None:
        self.projection = Projection()
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.history: list[tuple[int, str, str, Commit]] = []
        for command in commands:
            self.does(command)

    def decides(self, command: Command) -> list[Fact]:
        if isinstance(command, Undo):
            history = [
                (sequence, commit)
                for sequence, kind, id, commit in self.history
                if (kind, id) == (command.of_kind, command.id)
            ]
            return decide(
                self.projection, inverse(command, history, self.projection, None), self.now
            )
        return decide(self.projection, command, self.now)

    def does(self, command: Command) -> list[Fact]:
        facts = self.decides(command)
        if facts:
            self.stores(command, *facts)
        return facts

    def stores(self, command: Command, *facts: Fact) -> int:
        commit = Commit(command.command_id, "ann", self.now.isoformat(), facts)
        sequence = self.projection.position + 1
        stored = codec.decode(codec.encode(commit))
        self.projection.apply(sequence, command.kind, command.subject_id, stored)
        self.history.append((sequence, command.kind, command.subject_id, stored))
        return sequence

    def refuses(self, command: Command) -> dict[str, str]:
        return {mistake.path: mistake.message for mistake in self.refusal(command).mistakes}

    def refusal(self, command: Command) -> CommandRefused:
        with pytest.raises(CommandRefused) as caught:
            self.does(command)
        return caught.value
