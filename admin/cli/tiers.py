"""`tenantry tiers list|show|put|delete`."""

from __future__ import annotations

import argparse
from typing import Any

import orjson

from admin.cli.events import show_value
from admin.cli.failure import Failure
from admin.cli.patch import read_patch, without_nothing
from admin.cli.send import connected, send
from admin.cli.tables import print_table
from admin.cli.tenant_commands import made
from admin.find_log import open_log
from events import codec, dumped
from events.commands_model import DeleteTier, PutTier
from events.facts import KIND_TIER
from events.history import compare
from events.projection import Projection
from events.reader import Stored
from events.stream import SUBJECT_PREFIX

__all__ = ["delete", "list_tiers", "put", "show"]


async def read_kind(given: argparse.Namespace, kind: str) -> Projection:
    """What the log says of one kind only, so that the number of tenants does not matter."""
    state = Projection(remember_commands=False)

    def take(stored: Stored) -> None:
        dumped.pass_over(state, stored.sequence - 1)
        state.apply(stored.sequence, stored.kind, stored.id, codec.decode(stored.data))

    async with connected(given) as (source, _):
        await source.scan(take, subjects=[f"{SUBJECT_PREFIX}{kind}.>"])
    return state


async def list_tiers(given: argparse.Namespace) -> int:
    # How many tenants have each is told by all of the log.
    async with open_log(given.data_dir, given.config) as control:
        state = control.projection
        rows: list[dict[str, Any]] = [
            {"name": name, "settings": each.settings, "tenants": state.tier_users(name)}
            for name, each in sorted(state.named_all(KIND_TIER).items())
        ]
    if given.json:
        print(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode())
        return 0
    shown = [
        (
            row["name"],
            row["tenants"],
            ", ".join(change.path for change in compare({}, row["settings"])),
        )
        for row in rows
    ]
    print_table(("TIER", "TENANTS", "SETS"), shown, "There are no tiers.")
    return 0


async def show(given: argparse.Namespace) -> int:
    found = (await read_kind(given, KIND_TIER)).named(KIND_TIER, given.name)
    if found is None or found.deleted:
        raise Failure(f'There is no tier "{given.name}": `tenantry tiers list` names them.', 3)
    if given.json:
        print(orjson.dumps({"name": given.name, "settings": found.settings}).decode())
        return 0
    rows = [(each.path, show_value(each.after)) for each in compare({}, found.settings)]
    print_table(("SETTING", "VALUE"), rows, f"The tier {given.name} sets nothing.")
    return 0


async def put(given: argparse.Namespace) -> int:
    settings = without_nothing(read_patch(given.settings, given.file))
    command = made(PutTier, given, name=given.name, settings=settings)
    return await send(given, command, f"the tier {given.name} is set")


async def delete(given: argparse.Namespace) -> int:
    command = made(DeleteTier, given, name=given.name)
    return await send(given, command, f"the tier {given.name} is deleted")
