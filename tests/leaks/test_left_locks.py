"""What a client took where the proxy does not look, in a function, goes when the client goes."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic, sleep

import pytest
from support.engines import Postgres
from support.proxy import WireProxy, wire_proxy
from support.raw import PATIENCE_SECONDS, raw


@pytest.fixture
def proxy(postgres: Postgres) -> Iterator[WireProxy]:
    with wire_proxy(postgres, servers=2) as made:
        yield made


def test_an_advisory_lock_taken_in_a_function(proxy: WireProxy, postgres: Postgres) -> None:
    with raw(proxy) as a:
        a.ask("do $$ begin perform pg_advisory_lock(815); end $$")
    deadline = monotonic() + PATIENCE_SECONDS
    with postgres.connect(proxy.database) as other:
        while monotonic() < deadline:
            row = other.execute("select pg_try_advisory_lock(815)").fetchone()
            if row == (True,):
                break
            sleep(0.01)
        assert row == (True,), "it outlives its client"
