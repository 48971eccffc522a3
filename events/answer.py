"""The answer to a command, the same over NATS, HTTP and the command line.

    {"accepted": true, "command_id", "sequence", "events": [{"type", "version", "data"}],
     "repeated": false, "dry_run": false}
    {"accepted": false, "command_id", "code", "mistakes": [{"path", "message", "hint"}]}

Verifiers and sealed texts are never in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from events.commands_model import Mistake
from events.facts import Fact

# Code → HTTP status. "unknown" is the only one after which the command may have been carried out:
# the same command again tells.
STATUS: Final = {
    "": 200,
    "malformed": 400,  # not a command at all
    "unauthenticated": 401,
    "forbidden": 403,
    "missing": 404,
    "exists": 409,
    "changed": 412,  # not at the version that was expected, or changed again since
    "too_large": 413,
    "refused": 422,
    "conflict": 409,  # others were faster again and again: try again
    "reused": 409,  # the command id belongs to another command
    "busy": 429,
    "failed": 500,
    "unavailable": 503,
    "unknown": 503,
}
_HIDDEN: Final = "********"
_SECRET_KEYS: Final = frozenset({"scram", "secret", "password"})


@dataclass(frozen=True, slots=True)
class Answer:
    """`code` is empty when it was accepted, else one of STATUS."""

    command_id: str
    code: str = ""
    sequence: int = 0
    events: tuple[Fact, ...] = ()
    mistakes: tuple[Mistake, ...] = ()
    repeated: bool = False
    dry_run: bool = False

    @property
    def accepted(self) -> bool:
        return not self.code

    @property
    def status(self) -> int:
        """The HTTP status."""
        return STATUS[self.code]

    @property
    def final(self) -> bool:
        """Whether asking again would bring the same."""
        return self.code not in ("conflict", "busy", "failed", "unavailable", "unknown")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        if not self.accepted:
            return {
                "accepted": False,
                "command_id": self.command_id,
                "code": self.code,
                "mistakes": [
                    {"path": each.path, "message": each.message, "hint": each.hint}
                    for each in self.mistakes
                ],
            }
        return {
            "accepted": True,
            "command_id": self.command_id,
            "sequence": self.sequence,
            "events": shown(self.events),
            "repeated": self.repeated,
            "dry_run": self.dry_run,
        }


def refusal(command_id: str, code: str, message: str, path: str = "", hint: str = "") -> Answer:
    """An answer with one mistake."""
    return Answer(command_id, code, mistakes=(Mistake(path, message, hint),))


def shown(facts: Sequence[Fact]) -> list[dict[str, Any]]:
    """Facts for others to see."""
    return [
        {"type": fact.TYPE, "version": fact.VERSION, "data": _masked(fact.model_dump(mode="json"))}
        for fact in facts
    ]


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _HIDDEN if key in _SECRET_KEYS and below else _masked(below)
            for key, below in value.items()
        }
    return [_masked(below) for below in value] if isinstance(value, list) else value
