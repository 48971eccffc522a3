"""The statements of provisioning. Pure: nothing here connects.

Every name goes through psycopg's Identifier, every value through Literal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, LiteralString

from psycopg import sql

from admin.provision.names import group_role as group_role
from admin.provision.names import role_name as role_name
from admin.provision.names import row_role as row_role

Statement = sql.SQL | sql.Composed

# One GRANT may name many tables; more per statement would only make errors hard to read.
NAMES_PER_STATEMENT: Final = 200


def words(keywords: Iterable[str], separator: str = ", ") -> sql.Composed:
    """Keywords of ours or of the server's catalog (privileges, signatures it quoted itself)."""
    parts: list[sql.Composable] = [sql.SQL(word) for word in keywords]
    return sql.SQL(separator).join(parts)


def names(parts: Iterable[Sequence[str]]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(*part) for part in parts)


def batches(items: Sequence[tuple[str, ...]]) -> Iterator[Sequence[tuple[str, ...]]]:
    for start in range(0, len(items), NAMES_PER_STATEMENT):
        yield items[start : start + NAMES_PER_STATEMENT]


def statement(text: LiteralString, **parts: str | int | sql.Composable) -> sql.Composed:
    """`text` with {names}: strings become identifiers, everything else is put in as it is."""
    ready = {
        key: sql.Identifier(part)
        if isinstance(part, str)
        else sql.Literal(part)
        if isinstance(part, int)
        else part
        for key, part in parts.items()
    }
    return sql.SQL(text).format(**ready)


def create_role(role: str, limit: int, verifier: str, inherits: bool) -> Statement:
    return statement(
        "CREATE ROLE {role} LOGIN {inherit} NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION "
        "NOBYPASSRLS CONNECTION LIMIT {limit} PASSWORD {verifier}",
        role=role,
        inherit=words(["INHERIT" if inherits else "NOINHERIT"]),
        limit=limit,
        verifier=sql.Literal(verifier),
    )


def alter_role(role: str, attributes: Sequence[str], limit: int, verifier: str | None) -> Statement:
    """`attributes` only names what differs: saying NOSUPERUSER at all is for superusers."""
    password: sql.Composable = sql.SQL("")
    if verifier is not None:
        password = sql.SQL("PASSWORD ") + sql.Literal(verifier)
    return statement(
        "ALTER ROLE {role} WITH {attributes} CONNECTION LIMIT {limit} {password}",
        role=role,
        attributes=words(attributes, " "),
        limit=limit,
        password=password,
    )


def grant(privileges: Iterable[str], on: sql.Composable, *to: str) -> Statement:
    return statement(
        "GRANT {privileges} ON {on} TO {to}",
        privileges=words(privileges),
        on=on,
        to=names((role,) for role in to),
    )


def revoke(privileges: Iterable[str], on: sql.Composable, grantee: str | None) -> Statement:
    """`grantee` None is PUBLIC. CASCADE: what was passed on with grant option goes too."""
    return statement(
        "REVOKE {privileges} ON {on} FROM {grantee} CASCADE",
        privileges=words(privileges),
        on=on,
        grantee=sql.SQL("PUBLIC") if grantee is None else sql.Identifier(grantee),
    )


def reassign(role: str, heir: str) -> Statement:
    """Hand all that `role` owns in this database to `heir`, except large objects: these are the
    tenant's data, not its definitions, and nobody but their owner can be given all of them."""
    body = statement(
        "DECLARE blobs oid[]; blob oid; BEGIN "
        "SELECT array_agg(lo.oid) INTO blobs FROM pg_largeobject_metadata lo "
        "WHERE lo.lomowner = (SELECT oid FROM pg_roles WHERE rolname = {name}); "
        "REASSIGN OWNED BY {role} TO {heir}; "
        "FOREACH blob IN ARRAY coalesce(blobs, '{{}}') LOOP "
        "EXECUTE format('ALTER LARGE OBJECT %s OWNER TO %I', blob, {name}); END LOOP; END",
        name=sql.Literal(role),
        role=role,
        heir=heir,
    )
    return sql.SQL("DO {}").format(sql.Literal(body.as_string(None)))


def default_privileges(
    change: LiteralString, privileges: Iterable[str], kind: str, role: str, schema: str | None
) -> Statement:
    """`change` is "GRANT" or "REVOKE"; `kind` TABLES, SEQUENCES or SCHEMAS; of the admin's."""
    return statement(
        "ALTER DEFAULT PRIVILEGES {where} {change} {privileges} ON {kind} {to} {role}",
        where=sql.SQL("")
        if schema is None
        else sql.SQL("IN SCHEMA {}").format(sql.Identifier(schema)),
        change=sql.SQL(change),
        privileges=words(privileges),
        kind=words([kind]),
        to=sql.SQL("TO" if change == "GRANT" else "FROM"),
        role=role,
    )
