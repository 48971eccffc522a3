"""The attack corpus: whatever a hostile tenant sends, another tenant's things stay its own.

Each combination of strategy, enforcement and pool gets a house with a victim full of canaries
(support/attack_house.py); every attack of attacks.toml is run in it by simple query, by the unnamed
statement, and by a named one that outlives the visits of another tenant. With one layer off the
rows must be safe all the same; with both off the attacks must succeed, or the canaries are worth
nothing. The ordinary run takes the ways by turns, `make soak` takes all of them everywhere.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from support.attack_client import WAYS
from support.attack_house import Combination, house, swapped
from support.attacks import Attack, load
from support.engines import Postgres
from support.provisioning import lone_postgres

__all__ = ["lone_postgres"]

CORPUS = load()
ATTACKS_MIN = 200
# Of the attacks that hope for rows or changes, so many must succeed where nothing protects: the
# rest needs what only other places have (a function, a schema, an error of the guard).
OPENED_MIN = 150
SECURITY = Path(__file__).resolve().parents[2] / "docs" / "security.md"

# Each once in the ordinary run, the ways by turns.
ORDINARY = [
    Combination("row"),
    Combination("row", "seal"),
    Combination("row", "rewrite"),
    Combination("row", dedicated=True),
    Combination("row", mode="session"),
    Combination("schema"),
    Combination("database"),
]
# Past the proxy: what the database alone does. Few ways, for there is no guard to confuse.
DIRECT = [
    Combination("row", dedicated=True, direct=True),
    Combination("row", direct=True),
    Combination("schema", direct=True),
    Combination("database", direct=True),
]
EVERYTHING = [
    *(
        Combination("row", enforcement, dedicated, mode)
        for enforcement in ("both", "seal", "rewrite")
        for dedicated, mode in [(False, "transaction"), (True, "transaction"), (False, "session")]
    ),
    *(
        Combination(strategy, mode=mode)
        for strategy in ("schema", "database", "branch")
        for mode in ("transaction", "session")
    ),
]


def attack_all(server: Postgres, combination: Combination, *, all_ways: bool) -> list[str]:
    """Every attack in this combination; what went wrong."""
    found: list[str] = []
    with house(server, combination) as made:
        for number, attack in enumerate(CORPUS.attacks):
            ways = WAYS if all_ways else (WAYS[number % len(WAYS)],)
            found += made.run(attack, ways)
        found += made.close()
    return found


def test_the_corpus_is_in_order() -> None:
    assert CORPUS.mistakes == []
    assert len(CORPUS.attacks) >= ATTACKS_MIN
    texts = Counter((each.sql, each.values, each.data, each.call) for each in CORPUS.attacks)
    assert [text for text, count in texts.items() if count > 1] == []


def test_what_remains_is_named_in_the_documentation() -> None:
    told = SECURITY.read_text().lower()
    assert [a.name for a in CORPUS.attacks if a.residual and a.residual.lower() not in told] == []


@pytest.mark.parametrize("combination", ORDINARY, ids=str)
def test_attacks(lone_postgres: Postgres, combination: Combination) -> None:
    assert attack_all(lone_postgres, combination, all_ways=False) == []


@pytest.mark.parametrize("combination", DIRECT, ids=str)
def test_the_database_alone(lone_postgres: Postgres, combination: Combination) -> None:
    assert attack_all(lone_postgres, combination, all_ways=False) == []


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("combination", EVERYTHING, ids=str)
def test_attacks_in_every_way(lone_postgres: Postgres, combination: Combination) -> None:
    assert attack_all(lone_postgres, combination, all_ways=True) == []


def test_attacks_succeed_where_nothing_protects(lone_postgres: Postgres) -> None:
    """The guard's rewriting is off, and so is row-level security: the canaries must be seen."""
    won: Counter[str] = Counter()
    with house(lone_postgres, Combination("row", opened=True)) as made:
        for number, attack in enumerate(CORPUS.attacks):
            if attack.gain in ("rows", "change"):
                won[attack.family] += bool(made.run(attack, (WAYS[number % len(WAYS)],)))
    assert won.total() >= OPENED_MIN, won
    for family in ("predicates", "shapes", "writes", "copy", "errors", "statements"):
        assert won[family] > 0, family
