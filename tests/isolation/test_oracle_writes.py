"""A row tenant's writes do what they do in a database of its own, and nothing to anybody else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from support.engines import Postgres
from support.oracle import ENFORCEMENTS, Tally, World, run_writes, world
from support.oracle_writes import units
from support.provisioning import lone_postgres

__all__ = ["lone_postgres"]

COUNT = 240
SOAK_COUNT = 4_000
REFUSED_SHARE = 0.005


@pytest.fixture(params=ENFORCEMENTS)
def made(request: pytest.FixtureRequest, lone_postgres: Postgres) -> Iterator[World]:
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(world(lone_postgres, request.param))


def judged(made: World, seed: int, count: int) -> None:
    tally = Tally()
    # COPY FROM needs the staging views that `protect` makes.
    run_writes(made, units(seed, count, copies=made.enforcement != "rewrite"), tally)
    print(tally)
    assert not tally.wrong, str(tally)
    assert tally.refused.total() <= tally.seen * REFUSED_SHARE, str(tally)
    assert tally.errors.total() < tally.seen * 0.25, str(tally)


def test_generated_writes(made: World) -> None:
    judged(made, 1, COUNT)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_many_generated_writes(made: World) -> None:
    judged(made, 1000, SOAK_COUNT)
