"""Sends one command to the running installation and tells what came of it.

Exit codes: 0 done or nothing to change, 1 failed, 2 refused or wrong usage, 3 there is no such
thing, 4 it exists already or has changed meanwhile, 5 not allowed.
"""

from __future__ import annotations

import argparse
import getpass
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import orjson

from admin.cli.events import print_changes
from admin.cli.failure import FAILED, MISTAKE
from admin.find_log import connect_log
from events.bus_client import CommandClient
from events.commands_model import Command
from events.history import compare, standing, tenant_at
from events.keys import KeyRing
from events.log import ConfigLog
from events.secrets import Vault
from events.settings import merge
from events.tokens import TokenSigner

TOKEN_VARIABLE: Final = "TENANTRY_TOKEN"  # noqa: S105 - a variable's name
# The command is sent at once; the token need not outlive it.
TOKEN_SECONDS: Final = 120
EXIT_CODES: Final = {
    "malformed": MISTAKE,
    "refused": MISTAKE,
    "too_large": MISTAKE,
    "missing": 3,
    "exists": 4,
    "changed": 4,
    "conflict": 4,
    "reused": 4,
    "unauthenticated": 5,
    "forbidden": 5,
}
_MISSING: Final = re.compile("there is no (tenant|tier|operator) ")
_IN_USE: Final = re.compile("the tier .* is in use")


def me() -> str:
    """Whom commands given here are from, when no token says."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):
        name = str(os.getuid())
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in name)
    return (kept.lstrip("_-") or "operator")[:63]


@asynccontextmanager
async def connected(given: argparse.Namespace) -> AsyncIterator[tuple[ConfigLog, Vault]]:
    """The installation's log, not read."""
    async with connect_log(given.data_dir, given.config) as found:
        yield found


def client(source: ConfigLog, vault: Vault) -> CommandClient:
    """With the token of TENANTRY_TOKEN; else whoever can read the installation's key is trusted as
    its operator."""
    token = os.environ.get(TOKEN_VARIABLE, "")
    if not token:
        token, _ = TokenSigner(vault).make(me(), "operator", seconds=TOKEN_SECONDS)
    return CommandClient(source, token)


async def send(given: argparse.Namespace, command: Command, done: str) -> int:
    """Send, tell, and give the exit code. `done` is what to say when something was changed."""
    async with connected(given) as (source, vault):
        sender = client(source, vault)
        if getattr(given, "later", False):
            sequence = await sender.store(command)
            told = {"stored": sequence, "command_id": command.command_id}
            text = f"stored as {command.command_id}; it is carried out when Tenantry runs"
            print(orjson.dumps(told).decode() if given.json else text)
            return 0
        answer = await sender.send(command)
        if given.json:
            print(orjson.dumps(answer, option=orjson.OPT_INDENT_2).decode())
        elif answer["accepted"]:
            await _tell(source, vault, command, answer, done)
    if not given.json and not answer["accepted"]:
        tell_mistakes(answer)
    return 0 if answer["accepted"] else EXIT_CODES.get(answer["code"], FAILED)


async def _tell(
    source: ConfigLog, vault: Vault, command: Command, answer: dict[str, Any], done: str
) -> None:
    if answer["repeated"]:
        print(f"done before, at event {answer['sequence']}")
        return
    if not answer["events"]:
        print("nothing to change")
        return
    if answer["dry_run"]:
        print(f"would be: {', '.join(each['type'] for each in answer['events'])}")
    else:
        print(f"{done.replace('{event}', str(answer['sequence']))} (event {answer['sequence']})")
    if command.kind == "tenant":
        await _show_changes(source, vault, command.subject_id, answer)
    else:
        for each in answer["events"]:
            settings = each["data"].get("settings")
            if settings:
                print_changes(compare({}, settings))


async def _show_changes(source: ConfigLog, vault: Vault, id: str, answer: dict[str, Any]) -> None:
    """Each setting that differs: what it was, what it is."""
    before_it = answer["sequence"] if answer["dry_run"] else answer["sequence"] - 1
    keys = KeyRing(source, vault)
    await keys.ready(id)
    state = await tenant_at(source, id, before_it, opener=keys.open)
    _, before = standing(state, "tenant", id)
    after = dict(before)
    for each in answer["events"]:
        after = merge(after, each["data"].get("changes") or each["data"].get("settings") or {})
    changes = compare(before, after)
    if changes:
        print_changes(changes)


def tell_mistakes(answer: dict[str, Any]) -> None:
    """Why nothing was changed, for people."""
    print("tenantry: refused, and nothing was changed:", file=sys.stderr)
    for each in answer["mistakes"]:
        where = f"{each['path']}: " if each["path"] else ""
        hint = f" {each['hint']}" if each["hint"] else ""
        message = each["message"].rstrip(".")
        hint = hint.replace("force it", "force it (--force)") or _what_to_do(message)
        print(f"  {where}{message}.{hint}", file=sys.stderr)


def _what_to_do(message: str) -> str:
    """Where to look, for what the other surfaces have no words about."""
    missing = _MISSING.match(message)
    if missing is not None:
        return f" `tenantry {missing[1]}s list` names them all."
    if message.startswith("nothing was stored for tenant "):
        return " `tenantry events list --tenant ID` tells the numbers."
    return " `tenantry tenants list` shows whose it is." if _IN_USE.match(message) else ""
