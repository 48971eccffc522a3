"""Settings that PostgreSQL does not RESET: what one client does with them harms none after it."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic, sleep

import pytest
from support.engines import Postgres
from support.proxy import WireProxy, wire_proxy
from support.raw import PATIENCE_SECONDS, raw
from support.transcript import Query

SEEDS = ["select setseed(0.42)", "set seed = 0.42", "set local seed = 0.42"]


@pytest.fixture
def proxy(postgres: Postgres) -> Iterator[WireProxy]:
    with wire_proxy(postgres, servers=1) as made:
        yield made


@pytest.mark.parametrize(
    "text",
    [
        "set seed = 0.42",
        "begin; set transaction_isolation = 'serializable'; commit",
        "begin; set transaction_read_only = on; commit",
        "begin; set transaction_deferrable = on; commit",
    ],
)
def test_the_next_client_is_served(proxy: WireProxy, text: str) -> None:
    with raw(proxy) as a, raw(proxy) as b:
        a.ask(text)
        assert b.ask("show transaction_isolation") == "read committed"
        assert a.ask("show transaction_read_only") == "off"


@pytest.mark.parametrize("seed", SEEDS)
def test_the_next_client_does_not_draw_numbers_that_another_has_seeded(
    proxy: WireProxy, postgres: Postgres, seed: str
) -> None:
    rows = postgres.execute(
        "select setseed(0.42)::text union all select random()::text from generate_series(1, 9)"
    )
    seeded = {row[0] for row in rows}
    with raw(proxy) as a, raw(proxy) as b:
        assert not a.ask(seed).startswith("error")
        assert b.ask("select random()") not in seeded
        a.ask(f"begin; {seed}")
        assert a.ask("select random()") in seeded
        a.ask("commit")
        assert b.ask("select random()") not in seeded


def test_a_query_ends_whose_client_has_gone(proxy: WireProxy, postgres: Postgres) -> None:
    """Its cancel request may overtake it, so that there must be another."""
    with raw(proxy) as a:
        for _ in range(3):
            a.ask("select 1")
    for _ in range(3):
        with raw(proxy) as a:
            a >> Query("select pg_sleep(60), 'given up'")
            a.crash()
    mine = "query ~ 'given up' and query !~ 'pg_stat_activity' and state = 'active'"
    deadline = monotonic() + PATIENCE_SECONDS
    while postgres.execute(f"select 1 from pg_stat_activity where {mine}"):
        assert monotonic() < deadline, "it runs on"
        sleep(0.02)
