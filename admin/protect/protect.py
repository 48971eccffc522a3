"""`tenantry protect`: brings a shared database to what its row tenants need, or tells what lacks.

Safe to kill and to repeat: every table is closed before anything is opened, each step is one
transaction, and a run begins by looking at what there is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Final, LiteralString

import psycopg
from psycopg import sql

from admin.cli.failure import Failure
from admin.find_node import Found
from admin.protect.concerns import chosen
from admin.protect.database import remember
from admin.protect.facts import Facts, label, read
from admin.protect.plan import Plan, plan
from admin.protect.step import Step
from admin.protect.unsealed import is_unsealed, manageable, plan_unsealed
from admin.provision.plan import name_parts
from admin.provision.steps import Connection, rows
from admin.provision.tenant import open_admin
from events.model import Tenant

Say = Callable[[str], None]

# Two runs at once would wait for each other's CREATE INDEX CONCURRENTLY; the second gives up.
# A run that was broken off holds its lock until PostgreSQL has noticed.
LOCK_SECONDS: Final = 5.0
LOCK_AGAIN_SECONDS: Final = 0.1
_LOCK: Final = "SELECT pg_try_advisory_lock(hashtextextended('tenantry protect', 0))"
# What a large table takes its time for, while others go on reading and writing.
_LONG: Final = ("CONCURRENTLY", "VALIDATE CONSTRAINT")
_SHARED: Final = "shared "
# After a run something may be left that only shows then; each run comes nearer, so few will do.
_RUNS_MAX: Final = 3

# More names than fit into a sentence help nobody.
DATABASES_SHOWN: Final = 10


@dataclass(frozen=True)
class Wishes:
    """What the command line asks for; `shared` and `accept` as people wrote them."""

    database: str
    column: str | None = None
    schemas: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    accept: tuple[str, ...] = ()
    accept_primary_keys: bool = False


@dataclass(frozen=True)
class Looked:
    """What a look has come to: shared tables by their names, and what is accepted from now on."""

    facts: Facts
    plan: Plan
    shared: tuple[str, ...]
    accepting: dict[str, str]


@asynccontextmanager
async def connected(found: Found, database: str) -> AsyncIterator[Connection]:
    """A connection of the node's user. Raises Failure."""
    node = found.node
    try:
        conn = await open_admin(node, node.password, database)
    except psycopg.Error as error:
        what = "See that PostgreSQL runs, and that [[nodes]] has its host, port, user and password."
        if "does not exist" in str(error):
            known = sorted({tenant.database for tenant in found.tenants})
            what = f"Databases of tenants are: {', '.join(known[:DATABASES_SHOWN]) or '(none)'}."
        raise Failure(
            f'Database "{database}" on {node.host}:{node.port} cannot be entered as '
            f'"{node.user}": {str(error).strip()}. {what}'
        ) from None
    async with conn:
        yield conn


def settled(wishes: Wishes, tenants: Sequence[Tenant]) -> tuple[str, tuple[str, ...]]:
    """The tenant column and the schemas to look at. Raises Failure."""
    row = [each for each in tenants if each.isolation.strategy == "row"]
    columns = sorted({each.isolation.tenant_column for each in row})
    if wishes.column is None and len(columns) > 1:
        raise Failure(
            f'The row tenants of "{wishes.database}" have different tenant columns '
            f"({', '.join(columns)}): say which with --column."
        )
    column = wishes.column or (columns[0] if columns else "tenant_id")
    schemas = wishes.schemas or tuple(sorted({each.row_schema for each in row})) or ("public",)
    return column, schemas


async def look(conn: Connection, wishes: Wishes, tenants: Sequence[Tenant]) -> Looked:
    """What is missing. Changes nothing. Raises Failure, psycopg.Error."""
    column, schemas = settled(wishes, tenants)
    facts = await read(conn, wishes.database, column, schemas)
    if is_unsealed(tenants):
        return await _look_unsealed(conn, wishes, tenants, facts)
    if not facts.sealed:
        raise Failure(
            f'Database "{wishes.database}" has no seal yet: it comes with the first tenant of '
            'strategy "row". Add one to the configuration, and run this again.'
        )
    named = _named(wishes, tenants)
    remembered = (key.removeprefix(_SHARED) for key in facts.accepted if key.startswith(_SHARED))
    shared = tuple(dict.fromkeys([*(_label(name, facts) for name in named), *remembered]))
    first = plan(facts, shared)
    keys, unknown = chosen(first.concerns, wishes.accept, wishes.accept_primary_keys)
    if unknown:
        acceptable = sorted(each.key for each in first.concerns if each.definition)
        raise Failure(
            f"There is nothing to accept by the name of {', '.join(unknown)}. "
            + (f"These can be: {', '.join(acceptable)}." if acceptable else "Nothing can be.")
        )
    accepting = {each.key: each.definition for each in first.concerns if each.key in keys}
    accepting |= {f"{_SHARED}{_label(name, facts)}": "shared" for name in wishes.shared}
    new = {key: text for key, text in accepting.items() if facts.accepted.get(key) != text}
    return Looked(facts, plan(facts, shared, keys), shared, new)


def _named(wishes: Wishes, tenants: Sequence[Tenant]) -> list[str]:
    """Shared tables as people wrote them."""
    named = [*wishes.shared]
    for tenant in tenants:
        if tenant.isolation.strategy == "row":
            named += tenant.isolation.shared_tables
    return named


async def _look_unsealed(
    conn: Connection, wishes: Wishes, tenants: Sequence[Tenant], facts: Facts
) -> Looked:
    if wishes.accept:
        raise Failure(
            f'Nothing has to be accepted in "{wishes.database}": its row tenants have enforcement '
            '"rewrite", where keys close no table.'
        )
    shared = tuple(dict.fromkeys(_label(name, facts) for name in _named(wishes, tenants)))
    return Looked(facts, plan_unsealed(facts, shared, await manageable(conn, facts)), shared, {})


def _label(name: str, facts: Facts) -> str:
    """The label of a table that a configuration names, looked up in the schemas in order."""
    parts = name_parts(name)
    if len(parts) > 1:
        return label(parts[0], parts[1])
    there = {(row[1], row[2]) for row in facts.others}
    there |= {(table.schema, table.name) for table in facts.tables}
    schema = next((each for each in facts.schemas if (each, parts[0]) in there), facts.schemas[0])
    return label(schema, parts[0])


async def apply(
    conn: Connection, wishes: Wishes, tenants: Sequence[Tenant], say: Say
) -> tuple[Looked, int]:
    """Do what is missing, telling each step; answers how it is then, and the steps done.

    Raises Failure when a step cannot be done: what was done stays, and is right by itself.
    """
    deadline = monotonic() + LOCK_SECONDS
    while not (await rows(conn, _LOCK))[0][0]:
        if monotonic() < deadline:
            await asyncio.sleep(LOCK_AGAIN_SECONDS)
            continue
        raise Failure(f'Another `tenantry protect` works on "{wishes.database}": wait for it.')
    looked = await look(conn, wishes, tenants)
    done = 0
    if looked.accepting:
        async with conn.transaction():
            for statement in remember(looked.accepting):
                await conn.execute(statement)
        for key in looked.accepting:
            say(f"accepted: {key}")
    for _ in range(_RUNS_MAX):
        steps = looked.plan.steps
        for number, step in enumerate(steps, 1):
            what = f"{step.table or wishes.database}: {'; '.join(step.missing)}"
            say(f"[{number}/{len(steps)}] {what}")
            await _run(conn, step, wishes.database)
            done += 1
        looked = await look(conn, wishes, tenants)
        if not steps or not looked.plan.steps:
            break
    return looked, done


async def _run(conn: Connection, step: Step, database: str) -> None:
    try:
        if step.whole:
            async with conn.transaction():
                for statement in step.changes:
                    await conn.execute(statement)
            return
        for statement in step.changes:
            patient = any(word in statement.as_string(None) for word in _LONG)
            await _limits(conn, "0" if patient else "DEFAULT")
            await conn.execute(statement)
        await _limits(conn, "DEFAULT")
    except psycopg.errors.LockNotAvailable:
        raise Failure(
            f"{step.table or database} is in use by long transactions, so it could not be changed: "
            "run the same command again; what was done so far stays."
        ) from None
    except psycopg.Error as error:
        raise Failure(
            f"{step.table or database}: {'; '.join(step.missing)}: PostgreSQL refuses: "
            f"{str(error).strip()}. What was done so far stays; run the same command again."
        ) from None


async def _limits(conn: Connection, value: LiteralString) -> None:
    for name in ("statement_timeout", "lock_timeout"):
        await conn.execute(sql.SQL("SET {} TO {}").format(sql.Identifier(name), sql.SQL(value)))
