"""`tenantry protect`: looks at a shared database or brings it in order, and tells of it."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any

import orjson
import psycopg
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from admin.cli.failure import FAILED, Failure
from admin.find_node import find
from admin.protect.plan import Plan
from admin.protect.protect import Looked, Wishes, apply, connected, look


def run(given: argparse.Namespace) -> int:
    """0: nothing is missing (any more); 1: something is."""
    wishes = Wishes(
        given.database,
        given.column,
        tuple(given.schema),
        tuple(given.share),
        tuple(given.accept),
        given.accept_primary_keys,
    )
    return asyncio.run(
        protect(wishes, given.data_dir, given.config, do=given.apply, as_json=given.json)
    )


async def protect(
    wishes: Wishes, data_dir: Path, config: Path | None, *, do: bool, as_json: bool
) -> int:
    found = await find(data_dir, config)
    tenants = found.of_database(wishes.database)
    say = _say_beside if as_json else _say
    done = 0
    try:
        async with connected(found, wishes.database) as conn:
            if do:
                looked, done = await apply(conn, wishes, tenants, say)
            else:
                looked = await look(conn, wishes, tenants)
    except psycopg.Error as error:
        raise Failure(f'Database "{wishes.database}": {str(error).strip()}') from None
    if as_json:
        print(orjson.dumps(as_dict(looked, done), option=orjson.OPT_INDENT_2).decode())
    else:
        show(looked, Console(highlight=False), applied=do)
    return 0 if looked.plan.complete else FAILED


def _say(text: str) -> None:
    print(text, flush=True)


def _say_beside(text: str) -> None:
    """Programs read standard output: what happens meanwhile is told beside it."""
    print(text, file=sys.stderr, flush=True)


def as_dict(looked: Looked, done: int) -> dict[str, Any]:
    """For programs."""
    plan = looked.plan
    return {
        "database": looked.facts.database,
        "column": looked.facts.column,
        "schemas": list(looked.facts.schemas),
        "complete": plan.complete,
        "done": done,
        "protected": plan.protected,
        "steps": [step.as_dict() for step in plan.steps],
        "concerns": [each.as_dict() for each in plan.concerns],
        "without_grants": plan.unreachable,
        "seal_would_add": plan.seal_adds,
    }


def show(looked: Looked, console: Console, *, applied: bool) -> None:
    """For people: what is missing, the SQL, what has to be decided, what tenants cannot reach."""
    plan, facts = looked.plan, looked.facts
    where = f'column "{facts.column}" in schema {", ".join(facts.schemas)} of {facts.database}'
    if not facts.tables:
        console.print(escape(f"No table has the {where}."))
    _missing(plan, console)
    _concerns(plan, console, facts.database)
    if plan.seal_adds:
        console.print(
            'The database enforces nothing here: its row tenants have enforcement = "rewrite", so '
            "the proxy alone keeps them apart. The seal would add:",
            soft_wrap=True,
        )
        for line in plan.seal_adds:
            console.print(f"  {escape(line)}", soft_wrap=True)
    elif not facts.superuser:
        console.print(
            "note: the node's user is no superuser, so there are no event triggers: the proxy "
            "hears of definitions changed by others within a second."
        )
    if plan.unreachable:
        console.print(f"Tenants reach nothing of: {escape(', '.join(plan.unreachable))}")
    if plan.protected:
        word = "Open to tenants" if plan.seal_adds else "Protected"
        console.print(f"{word}: {escape(', '.join(plan.protected))}")
    if plan.steps and not applied:
        console.print("Nothing was changed: --apply does it.")
    elif plan.complete:
        console.print("Nothing is missing.")


def _missing(plan: Plan, console: Console) -> None:
    if not plan.steps:
        return
    table = Table(box=None, pad_edge=False)
    for name in ("TABLE", "WHAT IS MISSING"):
        table.add_column(name, overflow="fold")
    for step in plan.steps:
        table.add_row(escape(step.table or "(database)"), escape("; ".join(step.missing)))
    console.print(table)
    console.print("\nSQL, in this order:")
    for step in plan.steps:
        for line in step.sql():
            # Not wrapped: it is to be copied.
            console.print(escape(line), soft_wrap=True)
    console.print()


def _concerns(plan: Plan, console: Console, database: str) -> None:
    blocking = [each for each in plan.concerns if each.blocks]
    if blocking:
        console.print("In the way until it is corrected or accepted:")
    for each in blocking:
        console.print(f"  {escape(each.key)}: {escape(each.what)}", soft_wrap=True)
        if each.fix:
            console.print(f"      to correct it: {escape(each.fix)}", soft_wrap=True)
        if each.definition:
            console.print(
                f"      to accept it:  tenantry protect --database {escape(database)} "
                f"--accept {escape(each.key)} --apply",
                soft_wrap=True,
            )
    if any(each.generated for each in blocking):
        console.print("  (--accept-primary-keys accepts all primary keys with generated values)")
    accepted = [each.key for each in plan.concerns if each.accepted]
    if accepted:
        console.print(f"Accepted: {escape(', '.join(accepted))}", soft_wrap=True)
    for each in plan.concerns:
        if not each.serious:
            console.print(f"note: {escape(each.key)}: {escape(each.what)}", soft_wrap=True)
