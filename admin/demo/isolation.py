"""The demo's steps on isolation: rows in shared tables, attacks on them, a branch of a database."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import psycopg

from admin.demo.screen import told
from admin.demo.stage import (
    PASSWORD,
    PATIENCE_SECONDS,
    USER,
    Stage,
    check,
    refusal,
)
from admin.protect.protect import Wishes, apply
from admin.provision.sql import group_role
from admin.provision.tenant import open_admin
from events.commands import PutTenant
from events.model import Tenant
from wire.postgres.scram import make_verifier

MARKET: Final = "market_db"
BASE: Final = "delta_base"
# A row tenant's tables: the operator makes them once, for all.
TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS goods (code text PRIMARY KEY, price numeric(9, 2) NOT NULL)",
    "CREATE TABLE IF NOT EXISTS orders (tenant_id text NOT NULL, id int NOT NULL, "
    "code text NOT NULL, quantity int NOT NULL, PRIMARY KEY (tenant_id, id))",
    "INSERT INTO goods VALUES ('bolt', 0.10), ('nut', 0.05), ('gear', 12.50) "
    "ON CONFLICT DO NOTHING",
)
ROWS: Final = {
    "gamma": ((1, "bolt", 400), (2, "gear", 3)),
    "epsilon": ((1, "nut", 9000), (2, "bolt", 7), (3, "gear", 11)),
}
INSERT: Final = "INSERT INTO orders (id, code, quantity) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"
QUESTION: Final = """\
SELECT o.tenant_id, o.code, o.quantity, o.quantity * g.price AS total
FROM orders o LEFT JOIN goods g USING (code) ORDER BY o.id"""

# Statement, SQLSTATE, which layer answers, and why.
ATTACKS: Final = (
    (
        "INSERT INTO orders (tenant_id, id, code, quantity) VALUES ('epsilon', 66, 'bolt', 1)",
        ("42501", "23502"),
        "both: the proxy stamps rows with gamma's value or with nothing, and PostgreSQL's policy "
        "lets no other in",
    ),
    (
        "SELECT query_to_xml('SELECT * FROM orders', true, false, '')",
        ("42501",),
        "the proxy: what a function does with a text cannot be judged, so it is not on the list; "
        "PostgreSQL's policy would have shown gamma's rows only",
    ),
    (
        "SELECT tenantry.enter('6570.1:1.9999999999999999.00')",
        ("42501",),
        "the proxy: nobody but itself changes seals; PostgreSQL would refuse the token, which "
        "only the holder of a key can make",
    ),
)


async def rows(stage: Stage) -> None:
    """Two tenants in the same tables, protected by one command, asked the same question."""
    async with await stage.admin(MARKET) as admin:
        for statement in TABLES:
            await admin.execute(statement.encode())
    done = await _protect(stage)
    what = f"{done} steps" if done else "was done in an earlier run"
    stage.screen.done(f"the operator made tables; `tenantry protect --apply`: {what}")
    stage.screen.sql(QUESTION)
    seen: dict[str, list[Any]] = {}
    for tenant, orders in ROWS.items():
        async with await stage.connect(tenant) as connection:
            await _until_known(connection)
            async with connection.cursor() as cursor:
                await cursor.executemany(INSERT.encode(), orders)
            answer = await connection.execute(QUESTION.encode())
            seen[tenant] = await answer.fetchall()
            names = [column.name for column in answer.description or ()]
        stage.screen.table(f"{tenant} sees", names, seen[tenant])
        check({row[0] for row in seen[tenant]} == {tenant}, f"{tenant} sees {seen[tenant]}")
        check(len(seen[tenant]) == len(orders), f"{tenant} does not see all of its rows")
    stage.screen.done("one table, and each sees exactly its own rows")


async def _protect(stage: Stage) -> int:
    """What `tenantry protect --database market_db --apply` does; answers the steps it took."""
    found = [stage.projection.tenant(id) for id in ROWS]
    tenants: list[Tenant] = [tenant for tenant in found if tenant is not None]
    async with await open_admin(stage.node, stage.node.password, MARKET) as admin:
        looked, done = await apply(admin, Wishes(MARKET), tenants, lambda line: None)
    check(looked.plan.complete, "some tables could not be protected")
    return done


async def _until_known(connection: psycopg.AsyncConnection[Any]) -> None:
    """Proxies hear of new tables when they are protected, or a second later."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            await connection.execute("SELECT 1 FROM orders")
            return
        except psycopg.errors.InsufficientPrivilege as error:
            check(time.monotonic() < deadline, f"the tables stay unknown: {told(error)}")
            await asyncio.sleep(0.05)


async def attacks(stage: Stage) -> None:
    """What gamma tries, and which layer it meets; then each layer without the other."""
    async with await stage.connect("gamma") as gamma:
        sneaky = "SELECT count(*) FROM orders WHERE tenant_id = 'epsilon' OR 1 = 1"
        found = await (await gamma.execute(sneaky.encode())).fetchone()
        stage.screen.sql(f"gamma=> {sneaky}")
        stage.screen.say(f"{found and found[0]}: its own rows, whatever the condition says")
        check(found == (len(ROWS["gamma"]),), f"{sneaky}: {found}")
        for statement, sqlstates, why in ATTACKS:
            error = await refusal(gamma, statement)
            stage.screen.refused("gamma", statement, error)
            stage.screen.say(f"refused by {why}.")
            check(error.sqlstate in sqlstates, f"{statement}: {error.sqlstate} {told(error)}")
    async with await stage.admin(MARKET) as admin:
        # As a role with all rights of row tenants on the tables, but without a seal.
        role = group_role("select", MARKET)
        await admin.execute(f'SET ROLE "{role}"'.encode())
        found = await (await admin.execute("SELECT count(*) FROM orders")).fetchone()
    stage.screen.say("Past the proxy, with the rights of row tenants but no seal:")
    stage.screen.sql("SELECT count(*) FROM orders")
    stage.screen.say(f"{found and found[0]}: without the proxy's seal there is nothing to see")
    check(found == (0,), f"without a seal: {found}")
    stage.screen.done("no row of epsilon was read or changed")


async def branch(stage: Stage) -> None:
    """A tenant with a copy of a prepared database, made by a command while running."""
    record = stage.projection.record("delta")
    if record is None:
        async with await stage.admin("postgres") as admin:
            await admin.execute(f"CREATE DATABASE {BASE}".encode())
        async with await stage.admin(BASE) as base:
            await base.execute("CREATE TABLE plans (name text PRIMARY KEY, seats int)")
            await base.execute("INSERT INTO plans VALUES ('start', 1), ('team', 10)")
        settings = {
            "name": "Delta Labs",
            "isolation": {"strategy": "branch", "branch_base": BASE},
            "permissions": {"allow_ddl": True},
            "users": [{"name": USER, "scram": make_verifier(PASSWORD)}],
        }
        await stage.command(PutTenant(id="delta", settings=settings))
        stage.screen.say(f"command: tenant delta, a branch of the database {BASE}")
    deadline = time.monotonic() + PATIENCE_SECONDS * 3
    while True:
        await stage.catch_up()
        delta = stage.projection.tenant("delta")
        if delta is not None and delta.provisioned is not None:
            break
        check(time.monotonic() < deadline, "delta was not provisioned in time")
        await asyncio.sleep(0.05)
    async with await stage.connect("delta", dbname="delta") as connection:
        await connection.execute("UPDATE plans SET seats = 25 WHERE name = 'team'")
        mine = await (await connection.execute("SELECT * FROM plans ORDER BY name")).fetchall()
    async with await stage.admin(BASE) as base:
        theirs = await (await base.execute("SELECT * FROM plans ORDER BY name")).fetchall()
    stage.screen.table("delta's copy", ("name", "seats"), mine)
    stage.screen.table(BASE, ("name", "seats"), theirs)
    check(("team", 25) in mine and ("team", 10) in theirs, "the branch and its base are one")
    stage.screen.done("its own database, begun from a copy; `tenantry branches refresh` renews it")
