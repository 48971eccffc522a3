"""`tenantry branches list|refresh|drop`: the clones that branch tenants of an installation have."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import orjson
import psycopg
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from admin.cli.failure import MISSING, MISTAKE, Failure
from admin.control import Control
from admin.find_log import open_log
from admin.find_node import node_of
from admin.provision.branch import drop_clone, read_note, replace_clone
from admin.provision.plan import ProvisioningFailed, plan
from admin.provision.steps import Connection, rows
from admin.provision.tenant import MAINTENANCE_DATABASE, open_admin, provision, provision_lock
from events.commands import RecordProvisioned
from events.installation import Installation, Node
from events.model import Tenant

ACTOR: Final = "branches command"
COLUMNS: Final = ("tenant", "database", "base", "cloned", "size")

_DATABASES: Final = """
SELECT datname, shobj_description(oid, 'pg_database'), pg_database_size(oid) FROM pg_database
WHERE datname = ANY(%(names)s)"""


@dataclass(frozen=True, slots=True)
class Branch:
    """One branch. `base` and `cloned` (ISO 8601, UTC) tell of what is there, "" when nothing is;
    `size` is in bytes, as if nothing were shared with the base."""

    tenant: str
    database: str
    base: str
    cloned: str
    size: int | None


@dataclass(frozen=True, slots=True)
class _Place:
    control: Control
    node: Node
    conn: Connection


def list_branches(data_dir: Path, config: Path | None, *, as_json: bool) -> int:
    """One line a branch."""

    async def read() -> list[Branch]:
        async with _open(data_dir, config) as place:
            return await _branches(place)

    found = asyncio.run(read())
    if as_json:
        print(orjson.dumps([asdict(each) for each in found], option=orjson.OPT_INDENT_2).decode())
        return 0
    table = Table(box=None, pad_edge=False)
    for name in COLUMNS:
        table.add_column(name.upper(), overflow="fold")
    for each in found:
        size = "missing" if each.size is None else f"{each.size / 1024**2:.1f} MiB"
        table.add_row(
            escape(each.tenant), escape(each.database), escape(each.base), each.cloned, size
        )
    Console(highlight=False).print(table if found else "No tenant has a branch.")
    return 0


def refresh(tenant: str, data_dir: Path, config: Path | None, *, yes: bool, as_json: bool) -> int:
    """Clone again; the old branch goes when the new one is there."""

    async def work() -> Branch:
        async with _open(data_dir, config) as place:
            found = _tenant(place.control, tenant)
            base = plan(found).base
            assert base is not None
            _confirm(f'All that "{found.id}" wrote in {found.database} will be lost.', yes)
            notes: list[str] = []
            async with provision_lock(place.conn, f"tenant {found.id}"):
                await replace_clone(place.conn, base, found.database, notes)
            made = await provision(
                found,
                place.node,
                place.control.vault,
                node_password=place.node.password,
                previous=found.provisioned,
            )
            command = RecordProvisioned(id=found.id, **made.model_dump())
            await _record(place.control, data_dir, command)
            for note in notes:
                print(note, file=sys.stderr)
            return next(each for each in await _branches(place) if each.tenant == found.id)

    branch = _run(work())
    _tell(branch, f"{branch.database} is a fresh clone of {branch.base}.", as_json)
    return 0


def drop(tenant: str, data_dir: Path, config: Path | None, *, yes: bool, as_json: bool) -> int:
    """Drop the database of a disabled tenant, and let provisioning know that it is gone."""

    async def work() -> Branch:
        async with _open(data_dir, config) as place:
            found = _tenant(place.control, tenant)
            if found.enabled:
                raise Failure(
                    f'Tenant "{found.id}" is enabled and would get a new branch at once: disable '
                    "it first, or use `tenantry branches refresh`."
                )
            _confirm(f"The database {found.database} will be lost.", yes)
            async with provision_lock(place.conn, f"tenant {found.id}"):
                await drop_clone(place.conn, found.database)
            if found.provisioned is not None:
                gone = found.provisioned.model_copy(update={"fingerprint": ""})
                command = RecordProvisioned(id=found.id, **gone.model_dump())
                await _record(place.control, data_dir, command)
            return next(each for each in await _branches(place) if each.tenant == found.id)

    branch = _run(work())
    _tell(branch, f"{branch.database} is gone.", as_json)
    return 0


def _run(work: Coroutine[Any, Any, Branch]) -> Branch:
    try:
        return asyncio.run(work)
    except ProvisioningFailed as error:
        raise Failure(f"{error.message} {error.hint}".strip()) from error
    except psycopg.Error as error:
        raise Failure(f"PostgreSQL: {str(error).strip()}") from error


def _tell(branch: Branch, text: str, as_json: bool) -> None:
    print(orjson.dumps(asdict(branch)).decode() if as_json else text)


@asynccontextmanager
async def _open(data_dir: Path, config: Path | None) -> AsyncIterator[_Place]:
    async with open_log(data_dir, config) as control:
        node = node_of(data_dir, control)
        async with await open_admin(node, node.password, MAINTENANCE_DATABASE) as conn:
            yield _Place(control, node, conn)


async def _record(control: Control, data_dir: Path, command: RecordProvisioned) -> None:
    control.open_audit(data_dir, control.projection.installation() or Installation(), "command")
    await control.execute(command, ACTOR)


def _tenant(control: Control, id: str) -> Tenant:
    found = control.projection.tenant(id)
    if found is None:
        raise Failure(
            f'There is no tenant "{id}": `tenantry tenants list` names them all.', MISSING
        )
    if found.isolation.strategy != "branch":
        raise Failure(
            f'Tenant "{id}" has no branch: its strategy is {found.isolation.strategy}.', MISTAKE
        )
    return found


def _confirm(consequence: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise Failure(f"{consequence} Say --yes if that is what you want.")
    if input(f"{consequence} Type yes to go on: ").strip() != "yes":
        raise Failure("Nothing was changed.")


async def _branches(place: _Place) -> list[Branch]:
    control = place.control
    found = (control.projection.tenant(id) for id in control.projection.ids())
    tenants = [each for each in found if each and each.isolation.strategy == "branch"]
    names = [each.database for each in tenants]
    there = {row[0]: row for row in await rows(place.conn, _DATABASES, names=names)}
    branches: list[Branch] = []
    for each in tenants:
        _, comment, size = there.get(each.database, (None, None, None))
        base, cloned = read_note(comment)
        branches.append(Branch(each.id, each.database, base, cloned, size))
    return branches
