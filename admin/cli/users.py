"""`tenantry users list|add|remove`. A password is never an argument, which others can see: it is
asked for, or read from the input, and becomes a SCRAM verifier here."""

from __future__ import annotations

import argparse
import getpass
import sys
from pathlib import Path
from typing import Final

import orjson

from admin.cli.failure import MISTAKE, Failure
from admin.cli.send import send
from admin.cli.tables import print_table
from admin.cli.tenant_commands import made
from admin.find_log import open_log
from events.commands_model import PutUser, RemoveUser
from wire.postgres.scram import make_verifier

PASSWORD_CHARACTERS_MAX: Final = 1024


async def list_users(given: argparse.Namespace) -> int:
    async with open_log(given.data_dir, given.config) as control:
        tenant = control.projection.tenant(given.tenant)
    if tenant is None:
        raise Failure(
            f'There is no tenant "{given.tenant}": `tenantry tenants list` names them all.', 3
        )
    names = [user.name for user in tenant.users]
    if given.json:
        print(orjson.dumps([{"name": name} for name in names]).decode())
        return 0
    print_table(("USER",), [(name,) for name in names], f"{given.tenant} has no users.")
    return 0


async def add(given: argparse.Namespace) -> int:
    scram = verifier(given)
    command = made(PutUser, given, id=given.tenant, name=given.name, scram=scram)
    return await send(given, command, f"{given.name} may log in to {given.tenant}")


async def remove(given: argparse.Namespace) -> int:
    command = made(RemoveUser, given, id=given.tenant, name=given.name)
    return await send(given, command, f"{given.name} is removed from {given.tenant}")


def verifier(given: argparse.Namespace) -> str:
    """From a file, from the input, or of a password that is asked for. Raises Failure."""
    if given.scram is not None:
        try:
            return Path(given.scram).read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Failure(f"{given.scram}: {error}.", MISTAKE) from None
    if given.password_stdin:
        password = sys.stdin.readline(PASSWORD_CHARACTERS_MAX + 1).rstrip("\r\n")
    elif not sys.stdin.isatty():
        raise Failure(
            "There is no terminal to ask for the password: give it with --password-stdin, as in "
            "`… --password-stdin < password.txt`, or a verifier with --scram FILE.",
            MISTAKE,
        )
    else:
        password = getpass.getpass(f"Password of {given.name}: ")
        if getpass.getpass("Again: ") != password:
            raise Failure("The two passwords differ, and nothing was changed: try again.", MISTAKE)
    if not password or len(password) > PASSWORD_CHARACTERS_MAX:
        raise Failure("A password has 1 to 1024 characters.", MISTAKE)
    return make_verifier(password)
