"""`tenantry tokens create|list|revoke` and `tenantry operators list|put|delete`."""

from __future__ import annotations

import argparse
import re
import sys
import time
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from admin.cli.failure import FAILED, MISTAKE, Failure
from admin.cli.send import EXIT_CODES, client, connected, me, send, tell_mistakes
from admin.cli.tables import print_table
from admin.cli.tenant_commands import made
from admin.cli.tiers import read_kind
from admin.cli.users import verifier
from events.commands_model import TOKEN_ID, DeleteOperator, PutOperator, RevokeToken
from events.facts import KIND_OPERATOR, KIND_TOKEN
from events.model import Settings, parse_duration
from events.tokens import TokenSigner

JTI: Final = re.compile(TOKEN_ID)


async def create(given: argparse.Namespace) -> int:
    """The token alone goes to the output, so that it can be caught there."""
    try:
        seconds = parse_duration(given.ttl)
        if not isinstance(seconds, float):
            raise ValueError("a token has an end: write e.g. --ttl 8h")
        async with connected(given) as (source, vault):
            signer = TokenSigner(vault)
            token, noted = signer.make(
                given.name or me(), given.role, tenant=given.tenant, seconds=seconds
            )
            answer = await client(source, vault).send(noted)
    except ValueError as error:
        raise Failure(f"{str(error)[:1].upper()}{str(error)[1:]}.", MISTAKE) from None
    if not answer["accepted"]:
        tell_mistakes(answer)
        return EXIT_CODES.get(answer["code"], FAILED)
    if given.json:
        fields = noted.model_dump(include={"jti", "name", "role", "tenant", "expires_at"})
        print(orjson.dumps({"token": token, **fields}).decode())
    else:
        print(f"{noted.jti}: {noted.role}, until {_when(noted.expires_at)}", file=sys.stderr)
        print(token)
    return 0


async def list_tokens(given: argparse.Namespace) -> int:
    state = await read_kind(given, KIND_TOKEN)
    now = time.time()
    rows = [
        {"jti": jti, **each.settings}
        for jti, each in state.named_all(KIND_TOKEN).items()
        if each.settings.get("expires_at", 0) > now
    ]
    if given.json:
        print(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode())
        return 0
    head = ("TOKEN", "NAME", "ROLE", "TENANT", "UNTIL", "STATE")
    print_table(head, [_row(row) for row in rows], "There are no tokens.", whole=("TOKEN",))
    return 0


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    state = "revoked" if row["revoked"] else "valid"
    until = _when(row["expires_at"])
    return (
        row["jti"],
        row.get("name", ""),
        row.get("role", ""),
        row.get("tenant", ""),
        until,
        state,
    )


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


async def revoke(given: argparse.Namespace) -> int:
    if JTI.fullmatch(given.jti) is None:
        raise Failure(
            f'"{given.jti}" is not the id of a token: `tenantry tokens list` shows them.', MISTAKE
        )
    return await send(given, made(RevokeToken, given, jti=given.jti), f"{given.jti} is revoked")


async def list_operators(given: argparse.Namespace) -> int:
    state = await read_kind(given, KIND_OPERATOR)
    rows = [_operator(name, each.settings) for name, each in state.named_all(KIND_OPERATOR).items()]
    if given.json:
        print(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode())
        return 0
    shown = [
        (
            row["name"],
            row["role"],
            "disabled" if row["disabled"] else "enabled",
            "yes" if row["sql"] else "no",
            ", ".join(row["tenants"]),
        )
        for row in rows
    ]
    print_table(("OPERATOR", "ROLE", "STATE", "SQL", "TENANTS"), shown, "There are no operators.")
    return 0


def _operator(name: str, settings: Settings) -> dict[str, Any]:
    """What is shown of an operator; the verifier is not."""
    kept = {key: value for key, value in settings.items() if key != "scram"}
    return {"name": name, "tenants": [], **kept, "sql": bool(settings.get("scram"))}


async def put_operator(given: argparse.Namespace) -> int:
    fields: dict[str, Any] = {
        "name": given.name,
        "role": given.role,
        "disabled": given.disabled,
    }
    if given.tenants is not None:
        names = [name.strip() for name in given.tenants.split(",")]
        fields["tenants"] = [name for name in names if name]
    if given.no_sql:
        fields["scram"] = ""
    elif given.sql_password or given.password_stdin or given.scram is not None:
        fields["scram"] = verifier(given)
    return await send(given, made(PutOperator, given, **fields), f"{given.name} is set")


async def delete_operator(given: argparse.Namespace) -> int:
    return await send(given, made(DeleteOperator, given, name=given.name), f"{given.name} is out")
