"""Row tenants get what a database of their own would give them: generated queries, and TPC-H's 22.

One seed gives one list of queries; each is sent as one of three tenants who take turns on few
servers, and in one of four ways. `make soak` runs 10,000 of them under each enforcement.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.engines import Postgres
from support.oracle import ENFORCEMENTS, Query, Tally, World, run, world
from support.oracle_data import TENANTS
from support.oracle_queries import queries
from support.provisioning import lone_postgres

__all__ = ["lone_postgres"]

TPCH = Path(__file__).parent / "tpch" / "queries.sql"
COUNT = 600
SOAK_COUNT = 10_000
# Ordinary statements that are refused, of all.
REFUSED_SHARE = 0.005
# Answers with rows: an oracle that compares nothing with nothing sees nothing.
FILLED_SHARE = 0.4


@pytest.fixture(scope="module")
def worlds(lone_postgres: Postgres) -> Iterator[dict[str, World]]:
    """One of each enforcement, made when it is asked for."""
    with contextlib.ExitStack() as stack:

        class Worlds(dict[str, World]):
            def __missing__(self, enforcement: str) -> World:
                self[enforcement] = stack.enter_context(world(lone_postgres, enforcement))
                return self[enforcement]

        yield Worlds()


def judged(tally: Tally) -> None:
    print(tally)
    assert not tally.wrong, str(tally)
    assert tally.refused.total() <= tally.seen * REFUSED_SHARE, str(tally)
    assert tally.filled >= tally.seen * FILLED_SHARE, str(tally)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("enforcement", ENFORCEMENTS)
def test_generated_queries(worlds: Any, enforcement: str, seed: int) -> None:
    tally = Tally()
    run(worlds[enforcement], list(queries(seed, COUNT // 2)), tally)
    judged(tally)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("enforcement", ENFORCEMENTS)
def test_ten_thousand_generated_queries(worlds: Any, enforcement: str) -> None:
    """ORACLE_SEED=… tries others."""
    tally = Tally()
    seed = int(os.environ.get("ORACLE_SEED", "1000"))
    run(worlds[enforcement], list(queries(seed, SOAK_COUNT)), tally)
    judged(tally)


# Some tenants have rows that these fail on; acme has none.
RISKY = [
    "SELECT count(*) FROM part WHERE (7 / p_size) IS NOT NULL",
    "SELECT p_name FROM part WHERE (7 / p_size) IS NOT NULL AND p_brand <> ''",
    "SELECT s_name FROM supplier JOIN part ON (7 / p_size) IS NOT NULL",
    "SELECT c_name FROM customer LEFT JOIN part ON (7 / p_size) IS NOT NULL",
    "SELECT c_name FROM customer WHERE EXISTS (SELECT FROM part WHERE (7 / p_size) IS NULL)",
    "SELECT p_name FROM part WHERE NOT (substr(p_brand, 7)::int IS NULL)",
    "SELECT count(*) FROM part WHERE 100 / p_size > 1",
    "SELECT max(100 / p_size) FROM part",
]


@pytest.mark.parametrize("enforcement", ENFORCEMENTS)
def test_a_condition_fails_on_no_row_of_others(worlds: Any, enforcement: str) -> None:
    tally = Tally()
    for text in RISKY:
        for name in TENANTS:
            worlds[enforcement].compare(name, Query(text), "simple", tally)
    assert tally.equal == tally.seen, str(tally)
    assert tally.errors.total() == len(RISKY) * 2


def tpch() -> list[Query]:
    texts = TPCH.read_text().split(";\n")
    return [Query(text.strip(), ordered=True) for text in texts if text.strip()]


@pytest.mark.parametrize("enforcement", ENFORCEMENTS)
def test_the_22_queries_of_tpch(worlds: Any, enforcement: str) -> None:
    made = tpch()
    assert len(made) == 22
    for query in made:
        tally = Tally()
        for name in TENANTS:
            for drive in ("simple", "prepared", "binary"):
                worlds[enforcement].compare(name, query, drive, tally)
        assert tally.equal == tally.seen, str(tally)
        assert not tally.errors, str(tally)
        assert tally.filled, f"nobody has rows for {query.text}"
