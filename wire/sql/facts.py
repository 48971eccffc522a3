"""The facts of a text of SQL: what it does, whoever sends it. No tenant and no policy here."""

from __future__ import annotations

from typing import Any

from wire.sql.verdict import NONE


class Statement:
    """The facts of one top-level statement.

    operations  what it does, EXPLAIN and PREPARE taken as what they wrap: SELECT, INSERT, UPDATE
                (SELECT … FOR UPDATE counts), DELETE, TRUNCATE, LOCK, CALL, DO
    ddl         verb of the schema change, or ""
    system      what reaches beyond the tenant's own data (server files, roles …), or ""
    relations   (schema or "", name) of every table, view … it names, except its own CTEs
    functions   names of the functions called, with their schema if written
    writes      may write, in PostgreSQL's sense of a read-only transaction
    read_write  asks for a transaction that is not read-only
    forbidden   why nobody may run it, or ""
    literal     the facts depend on the value of a literal
    effect, key, start, end   as in verdict.Effect; the text is sql[start:end]
    """

    def __init__(self) -> None:
        self.operations: set[str] = set()
        self.ddl = ""
        self.system = ""
        self.relations: set[tuple[str, str]] = set()
        self.functions: set[str] = set()
        self.explain = False
        self.writes = False
        self.read_write = False
        self.forbidden = ""
        self.literal = False
        self.pin = ""
        self.unsure = False
        self.unpin = False
        self.block = False
        self.effect = NONE
        self.key = ""
        self.start = 0
        self.end = 0


class Facts:
    """The facts of a text. `exact`: they hold for this text only, not for all of its template."""

    def __init__(self, statements: list[Statement]) -> None:
        self.statements = statements
        self.exact = any(s.literal for s in statements)


def dump(facts: Facts) -> list[dict[str, Any]]:
    """As plain values, for the way between processes."""
    return [
        {k: sorted(x) if isinstance(x, set) else x for k, x in vars(s).items()}
        for s in facts.statements
    ]


def load(plain: list[dict[str, Any]]) -> Facts:
    """The inverse of dump."""
    statements = []
    for values in plain:
        statement = Statement()
        for name, value in values.items():
            if name == "relations":
                statement.relations = {(schema, relation) for schema, relation in value}
            else:
                setattr(statement, name, set(value) if isinstance(value, list) else value)
        statements.append(statement)
    return Facts(statements)
