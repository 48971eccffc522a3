"""One step of protecting: what is missing, the SQL for it, and when it may run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from admin.provision.sql import Statement

# When a step runs. Numbers between are for steps that wait for others of their stage.
PREPARE: Final = 0.0
SECURE: Final = 1.0
INDEX: Final = 2.0
NOT_NULL: Final = 3.0
OPEN: Final = 4.0


@dataclass
class Step:
    """`table` is "" for what concerns the whole database. Not `whole`: its statements cannot share
    a transaction (CONCURRENTLY), or should not hold their locks together."""

    stage: float
    table: str
    missing: list[str]
    changes: list[Statement]
    whole: bool = True

    def sql(self) -> list[str]:
        """For people and programs, each ending in a semicolon."""
        return [f"{each.as_string(None)};" for each in self.changes]

    def as_dict(self) -> dict[str, Any]:
        return {"table": self.table, "missing": self.missing, "sql": self.sql()}
