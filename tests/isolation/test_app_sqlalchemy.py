"""A ledger on SQLAlchemy as a tenant of each kind sees what it sees directly on PostgreSQL.

Row tenants share its tables, two of them in the shared pool; the operator runs the migrations.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from support.apps import ledger
from support.apps.running import at_once, corrections, let_operator_in, operator_dsn
from support.engines import Postgres
from support.estate import Estate, estate, protect, tenant
from support.provisioning import lone_postgres

__all__ = ["lone_postgres"]

SHARED = "shared_ledger"
# The drivers of row tenants that run at the same time.
ROWS = {"acme": "psycopg", "globex": "psycopg2", "initech": "psycopg", "umbrella": "psycopg2"}
POOLED = ("acme", "globex")
OWNED = ("account", "entry")
DRIVERS = ("psycopg", "psycopg2")
ASYNC = ("asyncpg", "psycopg")
OWN = {"permissions": {"allow_ddl": True}}
STEPS = [step.__name__ for step in (ledger.opening, *ledger.DAY[:-1])]


@pytest.fixture(scope="module")
def ledgers(lone_postgres: Postgres) -> Iterator[Estate]:
    """All of them before their first day, with the tables that row tenants share."""
    tenants = [
        tenant(f"{strategy}-{driver}", strategy, **OWN)
        for strategy in ("schema", "database")
        for driver in DRIVERS
    ]
    for name in ROWS:
        pool = {"dedicated_pool": name not in POOLED}
        tenants.append(tenant(name, database_name=SHARED, pool=pool))
    for driver in ASYNC:
        tenants.append(tenant(f"{driver}-schema", "schema", **OWN))
        tenants.append(tenant(f"{driver}-row", database_name=SHARED))
    with estate(lone_postgres, tenants, prepare=let_operator_in, budget=2) as made:
        yield made


@pytest.fixture(scope="module")
def direct(lone_postgres: Postgres) -> dict[str, dict[str, Any]]:
    """What the ledger sees without a proxy, by driver."""
    return {
        driver: whole(lone_postgres.dsn(lone_postgres.create_database("direct")), driver)
        for driver in DRIVERS
    }


def whole(dsn: str, driver: str) -> dict[str, Any]:
    steps = (ledger.first, ledger.opening, ledger.second, *ledger.DAY)
    return ledger.run(dsn, driver, *steps)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("strategy", ["schema", "database"])
def test_a_tenant_with_a_place_of_its_own(
    ledgers: Estate, direct: dict[str, dict[str, Any]], strategy: str, driver: str
) -> None:
    assert whole(ledgers.dsn(f"{strategy}-{driver}"), driver) == direct[driver]


@pytest.fixture(scope="module")
def row_days(ledgers: Estate) -> dict[str, dict[str, Any]]:
    """What each row tenant has seen; the operator has changed the tables meanwhile."""
    operator = operator_dsn(ledgers, SHARED)
    ledger.run(operator, "psycopg", ledger.first)
    with psycopg.connect(operator) as client:
        for table in OWNED:
            client.execute(f"ALTER TABLE {table} ADD COLUMN tenant_id text")
        client.commit()
        for statement in corrections(ledgers, SHARED, ["currency"]):
            client.execute(statement)
    protect(ledgers, SHARED, share=["currency"])
    seen = at_once(
        list(ROWS), lambda name: ledger.run(ledgers.dsn(name), ROWS[name], ledger.opening)
    )
    ledger.run(operator, "psycopg", ledger.second)
    protect(ledgers, SHARED, share=["currency"])
    days = at_once(list(ROWS), lambda name: ledger.run(ledgers.dsn(name), ROWS[name], *ledger.DAY))
    return {name: seen[name] | day for name, day in days.items()}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("step", STEPS)
def test_a_row_tenant_beside_others(
    direct: dict[str, dict[str, Any]], row_days: dict[str, dict[str, Any]], name: str, step: str
) -> None:
    assert row_days[name][step] == direct[ROWS[name]][step]


def test_asynchronous_engines(
    ledgers: Estate, row_days: dict[str, dict[str, Any]], lone_postgres: Postgres
) -> None:
    """Of row tenants in the shared pool, and of tenants with a schema, all at the same time."""
    pytest.importorskip("greenlet", reason="SQLAlchemy's asyncio needs greenlet")
    begun = (ledger.first, ledger.opening, ledger.second)

    def day(driver: str, dsn: str, *steps: Any) -> dict[str, Any]:
        ledger.run(dsn, "psycopg", *steps)
        return asyncio.run(ledger.run_async(dsn, driver))

    expected = {
        driver: day(driver, lone_postgres.dsn(lone_postgres.create_database("direct")), *begun)
        for driver in ASYNC
    }
    names = [f"{driver}-{strategy}" for driver in ASYNC for strategy in ("row", "schema")]
    seen = at_once(
        names,
        lambda name: day(
            name.split("-")[0],
            ledgers.dsn(name),
            *((ledger.opening,) if name.endswith("row") else begun),
        ),
    )
    assert seen == {name: expected[name.split("-")[0]] for name in names}


def test_a_model_may_have_the_column(ledgers: Estate, row_days: dict[str, dict[str, Any]]) -> None:
    """With a default of the server's that SQLAlchemy only fetches."""

    class Base(orm.DeclarativeBase):
        pass

    class Note(Base):
        __tablename__ = "account"
        id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
        tenant_id: orm.Mapped[str] = orm.mapped_column(server_default=sa.FetchedValue())
        name: orm.Mapped[str]
        kind: orm.Mapped[str]
        currency: orm.Mapped[str]
        labels: orm.Mapped[list[str]] = orm.mapped_column(ARRAY(sa.Text))
        extra: orm.Mapped[dict[str, Any]] = orm.mapped_column(JSONB)
        version: orm.Mapped[int]

    engine = sa.create_engine(ledger.url(ledgers.dsn("acme"), "psycopg"))
    with orm.Session(engine) as session:
        given = {"kind": "DEBT", "currency": "EUR", "labels": [], "extra": {}, "version": 1}
        notes = [Note(name=f"with {number}", **given) for number in range(3)]
        session.add_all(notes)
        session.flush()
        assert {each.tenant_id for each in notes} == {"acme"}
    engine.dispose()


def test_reflection_tells_a_row_tenant_what_it_tells_directly(
    ledgers: Estate, row_days: dict[str, dict[str, Any]]
) -> None:
    known = ledger.run(ledgers.server.dsn(SHARED), "psycopg", ledger.looking)["looking"]
    for name, driver in ROWS.items():
        if driver == "psycopg":
            assert row_days[name]["looking"] == known
