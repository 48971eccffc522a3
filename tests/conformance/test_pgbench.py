"""pgbench's own scripts through both modes: every transaction counted, the books in balance."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.pg_programs import run
from support.proxy import WireProxy

PIPELINE = r"""
\set a random(1, 1000)
\startpipeline
select abalance from pgbench_accounts where aid = :a;
update pgbench_accounts set abalance = abalance + 0 where aid = :a;
\syncpipeline
select abalance from pgbench_accounts where aid = :a;
\endpipeline
"""


def bench(proxy: WireProxy, *arguments: str) -> tuple[int, int]:
    """Transactions processed and failed; AssertionError for what pgbench complains of."""
    said = run("pgbench", proxy.dsn(), "-n", *arguments)
    assert "pgbench: error" not in said, said
    done = re.search(r"transactions actually processed: (\d+)", said)
    failed = re.search(r"failed transactions: (\d+)", said)
    assert done is not None, said
    assert failed is not None, said
    return int(done[1]), int(failed[1])


@pytest.fixture
def accounts(proxy: WireProxy) -> WireProxy:
    """pgbench's tables, filled through the proxy by COPY, with keys."""
    said = run("pgbench", proxy.dsn(), "-i", "-s", "1", "-q", "-I", "dtgvpf")
    assert "done in" in said, said
    return proxy


@pytest.mark.parametrize("protocol", ["simple", "extended", "prepared"])
def test_every_protocol(accounts: WireProxy, protocol: str) -> None:
    how = ("-M", protocol)
    assert bench(accounts, *how, "-c", "4", "-t", "25") == (100, 0)
    assert bench(accounts, *how, "-S", "-c", "4", "-t", "25") == (100, 0)
    assert bench(accounts, *how, "-N", "-C", "-c", "2", "-t", "5") == (10, 0)
    with accounts.direct() as direct:
        totals = direct.execute(
            "select (select sum(abalance) from pgbench_accounts),"
            " (select sum(delta) from pgbench_history), (select count(*) from pgbench_history)"
        ).fetchone()
    assert totals is not None
    assert totals[0] == totals[1]
    assert totals[2] == 110


def test_pipelines(accounts: WireProxy, tmp_path: Path) -> None:
    script = tmp_path / "pipeline.sql"
    script.write_text(PIPELINE)
    for protocol in ("extended", "prepared"):
        assert bench(accounts, "-M", protocol, "-f", str(script), "-c", "4", "-t", "10") == (40, 0)
