"""The matrix of leaks as data: kinds of pools, outcomes, which cells are played, what came of them.

`python -m support.leak_page`, in tests/, writes docs/leak-matrix.md from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.leak_kinds import KINDS
from support.leak_ways import HASTY, WAYS

OUTCOMES = Path(__file__).parents[1] / "fixtures" / "leak_outcomes.txt"

PASSED = "="
OWN = "o"
CLOSED = "x"
REFUSED = "r"
EXEMPT = "e"
LETTERS = {
    PASSED: "clean: the same server process served the other tenant next and showed nothing",
    OWN: "own server: the same tenant's next client had it and saw nothing; no other tenant can",
    CLOSED: "server closed: the next clients had another process",
    REFUSED: "refused: the state cannot be made there",
    EXEMPT: "exception: something is left, see below",
}
# Whether a server outlives these is a matter of who is faster.
UNSTEADY = frozenset(way for way in WAYS if "cancel" in way or "crash" in way) | set(HASTY)
# Cells of each kind in an ordinary run, with the ways in turn; without those that take their time.
PER_KIND = 2
STRIDE = 7  # has no divisor in common with the number of ways


@dataclass(frozen=True)
class PoolKind:
    """How servers serve tenants.

    shared      one server serves several of them
    same_first  the next client is one of the same tenant, and only then comes the other
    """

    label: str
    strategy: str
    shared: bool = False
    mode: str = "transaction"
    budget: int = 1
    dedicated: bool = False
    enforcement: str = "both"
    same_first: bool = True

    @property
    def slug(self) -> str:
        return self.label.replace(", ", "-").replace(" ", "-")


POOLS = {
    kind.label: kind
    for kind in (
        PoolKind("row, shared", "row", shared=True, same_first=False),
        PoolKind("row, shared, own tenant first", "row", shared=True),
        PoolKind(
            "row, shared, rewrite alone",
            "row",
            shared=True,
            same_first=False,
            enforcement="rewrite",
        ),
        PoolKind("row, dedicated", "row", dedicated=True),
        PoolKind("row, session", "row", mode="session", budget=4),
        PoolKind("schema", "schema"),
        PoolKind("database", "database"),
    )
}


def thinned(pool: str) -> Iterator[tuple[str, str]]:
    """Cells of an ordinary run: every kind, and every way, at least once."""
    ways = list(WAYS)
    start = list(POOLS).index(pool)
    for at, kind in enumerate(KINDS):
        for turn in range(PER_KIND):
            way = ways[(start + at * STRIDE + turn * 11) % len(ways)]
            if turn == 0 or way not in HASTY:
                yield kind, way


def recorded() -> dict[str, dict[str, str]]:
    """Pool → kind → one letter for each way, in the order of WAYS."""
    found: dict[str, dict[str, str]] = {}
    for line in OUTCOMES.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            found[line.strip("[]")] = rows = {}
        elif line:
            letters, _, kind = line.partition(" ")
            rows[kind] = letters
    return found


def record(pool: str, letters: dict[str, str]) -> None:
    """Puts what came of a whole matrix of one kind of pool into the file."""
    known = recorded() if OUTCOMES.exists() else {}
    known[pool] = letters
    parts = []
    for each in POOLS:
        if each in known:
            lines = [f"{known[each][kind]} {kind}" for kind in KINDS if kind in known[each]]
            parts.append("\n".join([f"[{each}]", *lines]))
    OUTCOMES.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def agree(way: str, seen: str, known: str) -> bool:
    """Whether an outcome is the recorded one, as far as it is certain."""
    return seen == known or (way in UNSTEADY and {seen, known} <= {PASSED, OWN, CLOSED})
