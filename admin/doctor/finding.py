"""One thing that `tenantry doctor` has looked at."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

Level = Literal["ok", "note", "warning", "error"]
LEVELS: Final[tuple[Level, ...]] = ("ok", "note", "warning", "error")


@dataclass(frozen=True, slots=True)
class Finding:
    """`what` is how it is, `why` what that means for people, `fix` what to do. An error breaks
    something or loses something; a warning will; a note is worth knowing."""

    level: Level
    area: str
    what: str
    why: str = ""
    fix: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def ok(area: str, what: str) -> Finding:
    return Finding("ok", area, what)
