"""What a tenant's permissions say of the facts of a statement.

Operations are judged as PostgreSQL's privileges would: MERGE by its actions, SELECT … FOR UPDATE as
UPDATE, TRUNCATE as DELETE (or by its own name), LOCK in a mode that stops writers as one of the
writing operations. LISTEN and NOTIFY need SELECT. CALL needs only a tenant that may write: what it
does inside is the business of the grants. DO needs DDL (or its own name): it runs any command, and
no grant keeps a role from changing its own password. VACUUM, ANALYZE, REINDEX and such are DDL.
Always allowed: transaction control, SET, SHOW, RESET, DISCARD, cursors and prepared statements
(whose queries are judged when they are declared or prepared).
"""

from __future__ import annotations

import re
from typing import Final

from events.model import Permissions
from wire.errors import Forbidden, NotSupported, TenantryError
from wire.sql.commands import READING_TEXT
from wire.sql.facts import Statement

# Any of these permits the operation (besides the operation's own name).
_IMPLIED: Final[dict[str, tuple[str, ...]]] = {
    "TRUNCATE": ("DELETE",),
    "LOCK": ("INSERT", "UPDATE", "DELETE", "TRUNCATE"),
}
_UNJUDGED: Final = ("CALL",)
_EVERYTHING: Final = frozenset({"ALL", "*"})
_EVERYBODYS: Final = frozenset({"pg_catalog", "information_schema", "pg_temp"})
_NAME: Final = re.compile(r'\s*("(?:[^"]|"")+"|[^".\s][^".]*)\s*(\.|$)')
_NAME_BYTES: Final = 63  # PostgreSQL cuts identifiers off there (NAMEDATALEN - 1)


def parse_name(text: str) -> tuple[str, str]:
    """(schema or "", name) of a relation as written in SQL: folded to lower case unless quoted.

    Raises ValueError for what is not one or two identifiers.
    """
    parts: list[str] = []
    position = 0
    while position < len(text):
        found = _NAME.match(text, position)
        if found is None:
            break
        word = found[1].rstrip() if found[1][0] != '"' else found[1]
        name = word[1:-1].replace('""', '"') if word[0] == '"' else _folded(word)
        parts.append(name.encode()[:_NAME_BYTES].decode(errors="ignore"))
        position = found.end()
    if position < len(text) or not 1 <= len(parts) <= 2 or text.rstrip().endswith("."):
        raise ValueError(f'"{text}" does not name a table; write name or schema.name')
    return (parts[0] if len(parts) == 2 else "", parts[-1])


def _folded(word: str) -> str:
    return "".join([c.lower() if c.isascii() else c for c in word])


def is_catalog(schema: str, name: str) -> bool:
    """Whether a relation is one of PostgreSQL's own; tools read many of them in one statement."""
    if schema:
        return schema in ("pg_catalog", "information_schema", "pg_toast")
    return name.startswith("pg_")


class Policy:
    """A tenant's permissions, made ready for judging."""

    def __init__(self, permissions: Permissions, schemas: frozenset[str] | None = None) -> None:
        """`schemas`: the only ones that may be named, besides PostgreSQL's own; None: any."""
        self._schemas = schemas
        self._permissions = permissions
        self._allowed = frozenset(op.strip().upper() for op in permissions.allowed_operations)
        self._all = not self._allowed.isdisjoint(_EVERYTHING)
        self._blocked = [parse_name(name) for name in permissions.blocked_tables]

    def check(self, statement: Statement) -> TenantryError | None:
        """The error that answers the statement, or None when it may run."""
        may = self._permissions
        if statement.forbidden:
            return NotSupported(statement.forbidden)
        if statement.explain and not may.allow_explain:
            return Forbidden("tenant may not EXPLAIN (permissions.allow_explain)")
        if statement.system and not may.allow_system_access:
            return Forbidden(
                f"tenant has no system access: {statement.system} (permissions.allow_system_access)"
            )
        if may.read_only and (statement.writes or statement.read_write):
            what = statement.ddl or ", ".join(sorted(statement.operations - {"SELECT"}))
            if not statement.writes:
                what = "start a transaction READ WRITE"
            return Forbidden(f"tenant is read-only and may not {what} (permissions.read_only)")
        return (
            self._check_ddl(statement)
            or self._check_operations(statement)
            or self._check_schemas(statement)
            or self._check_relations(statement)
        )

    def _check_ddl(self, statement: Statement) -> TenantryError | None:
        verb = statement.ddl
        if not verb or self._permissions.allow_ddl or "DDL" in self._allowed:
            return None
        if verb in self._allowed:
            return None
        return Forbidden(f"tenant may not {verb} (permissions.allow_ddl)")

    def _check_operations(self, statement: Statement) -> TenantryError | None:
        if self._all:
            return None
        for operation in sorted(statement.operations):
            if operation in self._allowed or operation in _UNJUDGED:
                continue
            if operation == "DO" and (self._permissions.allow_ddl or "DDL" in self._allowed):
                continue
            if not self._allowed.isdisjoint(_IMPLIED.get(operation, ())):
                continue
            return Forbidden(f"tenant may not {operation} (permissions.allowed_operations)")
        return None

    def _check_schemas(self, statement: Statement) -> TenantryError | None:
        if self._schemas is None:
            return None
        if statement.unknown_path:
            return NotSupported(
                "search_path can be set here to written names only", hint="Use SET search_path."
            )
        for schema in sorted(statement.schemas):
            if schema not in self._schemas and schema not in _EVERYBODYS:
                return Forbidden(f"permission denied for schema {schema}")
        return None

    def _check_relations(self, statement: Statement) -> TenantryError | None:
        for schema, name in sorted(statement.relations):
            for blocked_schema, blocked in self._blocked:
                # Without a schema on either side it could be the blocked one: the search path
                # decides, and we do not know it.
                if name == blocked and (not schema or blocked_schema in ("", schema)):
                    return Forbidden(
                        f"permission denied for table {name} (permissions.blocked_tables)"
                    )
        if self._blocked:
            for function in sorted(statement.functions):
                if function.rpartition(".")[2] in READING_TEXT:
                    return Forbidden(
                        f"function {function} may read any table, and some are blocked "
                        "(permissions.blocked_tables)"
                    )
        limit = self._permissions.max_tables_per_query
        if limit is not None and len(statement.relations) > limit:
            tables = sum(not is_catalog(schema, name) for schema, name in statement.relations)
            if tables > limit:
                return Forbidden(
                    f"statement uses {tables} tables, {limit} are allowed "
                    "(permissions.max_tables_per_query)"
                )
        return None
