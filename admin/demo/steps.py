"""The demo's steps: each shows one thing with a real driver and checks that it is so."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import psycopg
from psycopg import sql

from admin.demo.changes import live_change, past, switch, trace
from admin.demo.data import ACME, INSERTS, QUESTION, TABLES, WIDGETCO, Shop
from admin.demo.isolation import attacks, branch, rows
from admin.demo.log import describe, repeated
from admin.demo.screen import told
from admin.demo.stage import (
    DATABASES,
    USER,
    Connection,
    Stage,
    StepFailed,
    check,
    login_refused,
    refusal,
)
from events.projection import Projection

# Tables and roles are made in about a second at the first start.
PROVISION_SECONDS: Final = 120.0
# Far over what the trial tenant may do at once (ten).
BURST: Final = 60
# What of the log is shown; the rest is counted.
LOG_LINES: Final = 14


# --- 1 -------------------------------------------------------------------------------------------


async def log_is_as_left(stage: Stage) -> None:
    """The configuration came from the file into the log, and only what was new."""
    deadline = time.monotonic() + PROVISION_SECONDS
    while not all(_provisioned(stage, tenant) for tenant in DATABASES):
        check(time.monotonic() < deadline, "the tenants were not provisioned in time")
        await asyncio.sleep(0.05)
        await stage.catch_up()
    entries = await stage.entries()
    twice = repeated(entries)
    check(not twice, f"the log says the same thing twice: {', '.join(twice)}")
    old = [entry for entry in entries if entry.commit.time < stage.started]
    new = entries[len(old) :]
    if not old:
        stage.screen.done(f"first start: {len(new)} events, from the file and from provisioning")
        return
    added = "none added" if not new else f"{len(new)} added, because something had changed"
    stage.screen.done(f"started from the log an earlier run left: {len(old)} events, {added}")
    for entry in new:
        stage.screen.say(describe(entry))


def _provisioned(stage: Stage, tenant: str) -> bool:
    found = stage.projection.tenant(tenant)
    return found is not None and found.enabled and found.provisioned is not None


# --- 2 -------------------------------------------------------------------------------------------


async def load(stage: Stage) -> None:
    """acme makes its own tables through the proxy; widgetco may not, so the admin does."""
    async with await stage.connect("acme") as acme:
        for statement in TABLES:
            await acme.execute(statement.encode())
        rows = await _fill(acme, ACME)
    stage.screen.done(f"acme made its tables itself, through the proxy ({rows})")
    async with await stage.admin("widgetco_db") as admin:
        for statement in TABLES:
            await admin.execute(statement.encode())
    async with await stage.connect("widgetco") as widgetco:
        rows = await _fill(widgetco, WIDGETCO)
    stage.screen.done(f"widgetco may not, so the administrator did; its rows are its own ({rows})")


async def _fill(connection: Connection, shop: Shop) -> str:
    found = await (await connection.execute("SELECT count(*) FROM orders")).fetchone()
    if found is not None and found[0]:
        return "rows are there from an earlier run"
    async with connection.cursor() as cursor:
        for table, rows in shop.tables().items():
            await cursor.executemany(INSERTS[table].encode(), rows)
    return f"{sum(map(len, shop.tables().values()))} rows"


# --- 3 -------------------------------------------------------------------------------------------


async def same_question(stage: Stage) -> None:
    """The same SQL text shows each tenant its own rows, and exactly those."""
    stage.screen.sql(QUESTION)
    seen: dict[str, list[Any]] = {}
    for tenant, schema in (("acme", "acme"), ("widgetco", "public")):
        async with await stage.connect(tenant) as connection:
            cursor = await connection.execute(QUESTION.encode())
            seen[tenant] = await cursor.fetchall()
            names = [column.name for column in cursor.description or ()]
        stage.screen.table(f"{tenant} sees", names, seen[tenant])
        async with await stage.admin(DATABASES[tenant]) as admin:
            await admin.execute(sql.SQL("SET search_path = {}").format(sql.Identifier(schema)))
            there = await (await admin.execute(QUESTION.encode())).fetchall()
        check(bool(there), f"{tenant} has no rows")
        check(seen[tenant] == there, f"{tenant} does not see what is in its own place")
    check(seen["acme"] != seen["widgetco"], "both tenants see the same rows")
    stage.screen.done("each sees what PostgreSQL holds in its own place, nothing else")


# --- 4 -------------------------------------------------------------------------------------------

REFUSALS: Final = (
    ("widgetco", "CREATE TABLE notes (id int)", "42501"),
    (
        "widgetco",
        "WITH gone AS (DELETE FROM orders RETURNING *) SELECT * INTO x FROM gone",
        "42501",
    ),
    ("trial", "INSERT INTO orders VALUES (99)", "42501"),
    ("trial", "SELECT * FROM acme.orders", "42501"),
    ("acme", "CREATE ROLE friend SUPERUSER", "42501"),
    ("acme", "SET SESSION AUTHORIZATION postgres", "42501"),
)


async def refusals(stage: Stage) -> None:
    """Statements are judged by what they do; what a place holds is guarded by PostgreSQL too."""
    for tenant, statement, sqlstate in REFUSALS:
        async with await stage.connect(tenant) as connection:
            error = await refusal(connection, statement)
            check(
                error.sqlstate == sqlstate,
                f"{tenant}: {statement}: {error.sqlstate} instead of {sqlstate}: {told(error)}",
            )
            stage.screen.refused(tenant, statement, error)
            await connection.execute("SELECT 1")
    text = await login_refused(stage, "acme", dbname="widgetco_db")
    stage.screen.sql("acme tries psql -U acme.appuser -d widgetco_db")
    stage.screen.say(f"FATAL: {text}", style="yellow")
    check("widgetco_db" in text and "does not exist" in text, f"acme in widgetco_db: {text}")
    stage.screen.done("all refused; each connection went on working")


# --- 5 -------------------------------------------------------------------------------------------


async def logins(stage: Stage) -> None:
    """A wrong password, an unknown user and an unknown tenant get one answer."""
    told_to = {
        f"acme.{USER}": await login_refused(stage, "acme", password="guess"),  # noqa: S106
        "acme.nobody": await login_refused(stage, "acme", user="nobody"),
        f"globex.{USER}": await login_refused(stage, "globex"),
    }
    answers = set()
    for user, text in told_to.items():
        stage.screen.say(f"{user:<16} {text}", style="yellow")
        answers.add(text.replace(user, "<user>"))
    check(len(answers) == 1, "the answers differ, so names can be probed")
    stage.screen.done("a wrong password, an unknown user and an unknown tenant look alike")


# --- 6 -------------------------------------------------------------------------------------------


async def limits(stage: Stage) -> None:
    """The trial tenant may have 100 rows, one second, five statements a second."""
    for statement, sqlstate in (
        # No more rows than a busy machine makes within the second.
        ("SELECT * FROM generate_series(1, 10000)", "54000"),
        ("SELECT pg_sleep(30)", "57014"),
    ):
        # On a connection of its own: one whose query does not heed its cancel for five seconds is
        # ended, and a busy machine may take that long.
        async with await stage.connect("trial") as trial:
            error = await refusal(trial, statement)
            check(error.sqlstate == sqlstate, f"{statement}: {error.sqlstate} {told(error)}")
            stage.screen.refused("trial", statement, error)
    async with await stage.connect("trial") as trial:
        answered, error = await _burst(trial)
        stage.screen.refused("trial", f"SELECT 1    -- after {answered} at once", error)
        hint = re.search(r"(\d+) ms", error.diag.message_hint or "")
        check(hint is not None, "the refusal does not say when to try again")
        await asyncio.sleep(int(hint[1]) / 1000 if hint else 0)
        await trial.execute("SELECT 1")
    stage.screen.done("over a limit comes an error with a code; after the time it names, it works")


async def _burst(connection: Connection) -> tuple[int, psycopg.Error]:
    """How many statements in a row are answered, and how the next one is refused."""
    for answered in range(BURST):
        try:
            await connection.execute("SELECT 1")
        except psycopg.Error as error:
            check(error.sqlstate == "53400", f"rate limit: {error.sqlstate} {told(error)}")
            check(answered > 0, "not one statement was answered")
            return answered, error
    raise StepFailed(f"{BURST} statements at once were answered")


# --- the last -------------------------------------------------------------------------------------


async def show_log(stage: Stage) -> None:
    """The log that led here: every change, by whom and when."""
    entries = await stage.entries()
    twice = repeated(entries)
    check(not twice, f"the log says the same thing twice: {', '.join(twice)}")
    hidden = len(entries) - LOG_LINES
    if hidden > 0:
        stage.screen.say(f"{hidden} earlier ones")
    for entry in entries[-LOG_LINES:]:
        stage.screen.say(describe(entry))
    again = Projection()
    for entry in entries:
        again.apply(entry.sequence, entry.kind, entry.id, entry.commit)
    await stage.catch_up()
    check(again.digest() == stage.projection.digest(), "folding the log again gives another state")
    stage.screen.done(f"{len(entries)} events; folded again they give the same state")


Step = Callable[[Stage], Awaitable[None]]

STEPS: Final[tuple[tuple[str, str, Step], ...]] = (
    ("log", "The configuration is a log of events", log_is_as_left),
    ("data", "Tables and rows", load),
    ("question", "The same query, asked by two tenants", same_question),
    ("refusals", "What is refused, and why", refusals),
    ("logins", "What somebody learns who guesses", logins),
    ("limits", "Limits of the trial tenant: 100 rows, 1 second, 5 statements a second", limits),
    ("rows", "Two tenants in the same tables", rows),
    ("attacks", "A tenant that wants its neighbour's rows", attacks),
    ("branch", "A tenant with a copy of a database", branch),
    ("live", "A limit changed over NATS, and over HTTP, reaches an open connection", live_change),
    ("trace", "Who changed it, and what followed: event, audit and spans of one trace", trace),
    ("past", "The state as it was", past),
    ("switch", "A tenant is switched off and on", switch),
    ("history", "The events that led here", show_log),
)
