"""`tenantry tenants create|change|disable|enable|delete|purge|undo`."""

from __future__ import annotations

import argparse
from typing import Any

from pydantic import ValidationError

from admin.cli.failure import MISTAKE, Failure
from admin.cli.leftovers import leftovers
from admin.cli.patch import read_patch, without_nothing
from admin.cli.send import send
from admin.find_log import open_log
from events.commands_checks import told
from events.commands_model import (
    ChangeTenant,
    Command,
    DeleteTenant,
    DisableTenant,
    EnableTenant,
    PurgeTenant,
    PutTenant,
    Undo,
)
from events.places import place_of
from events.projection import Projection


def made(kind: type[Command], given: argparse.Namespace, **fields: Any) -> Command:
    """The command, with what is common to all. Raises Failure (wrong usage)."""
    common = {"dry_run": given.dry_run}
    if given.command_id is not None:
        common["command_id"] = given.command_id
    try:
        return kind.model_validate({**common, **fields})
    except ValidationError as error:
        raise Failure("; ".join(map(str, told(error))) + ".", MISTAKE) from None


async def create(given: argparse.Namespace) -> int:
    settings = without_nothing(read_patch(given.settings, given.file))
    command = made(PutTenant, given, id=given.id, settings=settings, create_only=True)
    return await send(given, command, f"{given.id} is made")


async def change(given: argparse.Namespace) -> int:
    patch = read_patch(given.settings, given.file)
    if not patch:
        raise Failure("Nothing to change is named: write KEY=VALUE, or --file.", MISTAKE)
    command = made(ChangeTenant, given, id=given.id, patch=patch, force=given.force)
    return await send(given, command, f"{given.id} is changed")


async def disable(given: argparse.Namespace) -> int:
    return await send(given, made(DisableTenant, given, id=given.id), f"{given.id} is disabled")


async def enable(given: argparse.Namespace) -> int:
    return await send(given, made(EnableTenant, given, id=given.id), f"{given.id} is enabled")


async def delete(given: argparse.Namespace) -> int:
    done = f"{given.id} is deleted; `tenantry tenants undo {given.id} {{event}}` restores it"
    return await send(given, made(DeleteTenant, given, id=given.id), done)


async def purge(given: argparse.Namespace) -> int:
    command = made(PurgeTenant, given, id=given.id, force=given.force)
    code = await send(given, command, f"the personal data of {given.id} is erased")
    if not code and not given.json and not given.later:
        async with open_log(given.data_dir, given.config) as control:
            print("\n".join(_left(control.projection, given.id)))
    return code


def _left(state: Projection, id: str) -> list[str]:
    """What is still in PostgreSQL, for people."""
    record = state.record(id)
    if record is None:
        return []
    tenant = place_of(id, record.settings, state.defaults())
    there = [state.tenant(other) for other in state.ids() if other != id]
    others = [each.id for each in there if tenant and each and each.database == tenant.database]
    return leftovers(id, record.settings, state.defaults(), others)


async def undo(given: argparse.Namespace) -> int:
    command = made(Undo, given, id=given.id, sequence=given.sequence, force=given.force)
    return await send(given, command, f"event {given.sequence} is taken back")
