"""The facts of a text of SQL: what it does, whoever sends it. No tenant and no policy here."""

from __future__ import annotations

from typing import Any, Final

from wire.errors import TenantryError
from wire.sql.edits import Edit
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
    escapes     turns standard_conforming_strings off for the session
    named       may make up a setting ("app.user"), whose name stays whatever undoes its value, or
                leave another trace of that kind
    literal     the facts depend on the value of a literal
    schemas     that it names, also in search_path; gathered for databases with several tenants
    unknown_path  sets search_path to what cannot be seen here
    edits       changes to the text before it is forwarded, in order (see edits.py)
    effect, key, start, end   as in verdict.Effect; the text is sql[start:end]
    """

    def __init__(self) -> None:
        self.operations: set[str] = set()
        self.ddl = ""
        self.system = ""
        self.relations: set[tuple[str, str]] = set()
        self.functions: set[str] = set()
        self.schemas: set[str] = set()
        self.unknown_path = False
        self.explain = False
        self.writes = False
        self.read_write = False
        self.forbidden = ""
        self.literal = False
        self.escapes = False
        self.pin = ""
        self.unsure = False
        self.unpin = False
        self.named = False
        self.block = False
        self.edits: list[Edit] = []
        self.effect = NONE
        self.key = ""
        self.start = 0
        self.end = 0


class Facts:
    """The facts of a text, or why it cannot be judged.

    exact     they hold for this text only, not for all of its template
    weight    how many different statements it holds; neighbours with equal facts are one object
    names     how many relations and functions these name
    edits     those of all statements, in order
    lifted    their positions are those of the template, not of the text
    """

    def __init__(self, statements: list[Statement], refusal: TenantryError | None = None) -> None:
        self.statements = statements
        self.refusal = refusal
        self.exact = any(statement.literal for statement in statements)
        distinct = {id(statement): statement for statement in statements}.values()
        self.weight = len(distinct)
        self.names = sum(len(one.relations) + len(one.functions) for one in distinct)
        self.edits = [edit for statement in distinct for edit in statement.edits]
        self.lifted = False


FIELDS: Final = tuple(vars(Statement()))


def same(one: Statement, other: Statement) -> bool:
    """Whether two statements have the same facts; never for those with a text of their own."""
    if one.end or other.end:
        return False
    return all(getattr(one, name) == getattr(other, name) for name in FIELDS)


def dump(facts: Facts) -> list[list[Any]]:
    """As plain values, for the way between processes: [repetitions, values of FIELDS]."""
    plain: list[list[Any]] = []
    last: Statement | None = None
    for statement in facts.statements:
        if statement is last:
            plain[-1][0] += 1
            continue
        last = statement
        plain.append([1, [_plain(getattr(statement, name)) for name in FIELDS]])
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, set):
        return sorted(value)
    return _plain_edits(value) if isinstance(value, list) else value


def _plain_edits(edits: list[Edit]) -> dict[str, Any]:
    """Edits by their texts, of which long statements have few: a row of VALUES has its neighbour's.

    Bytes travel as the characters of Latin-1.
    """
    numbers: dict[tuple[tuple[bytes, ...], tuple[int, ...]], int] = {}
    places: list[int] = []
    for edit in edits:
        number = numbers.setdefault((edit.parts, edit.holes), len(numbers))
        places += (edit.start, edit.end, number)
    texts = [[[part.decode("latin-1") for part in parts], holes] for parts, holes in numbers]
    return {"texts": texts, "places": places}


def _load_edits(plain: dict[str, Any]) -> list[Edit]:
    texts = [
        (tuple(part.encode("latin-1") for part in parts), tuple(holes))
        for parts, holes in plain["texts"]
    ]
    places = iter(plain["places"])
    return [Edit(start, end, *texts[text]) for start, end, text in zip(*[places] * 3, strict=True)]


def load(plain: list[list[Any]]) -> Facts:
    """The inverse of dump."""
    statements: list[Statement] = []
    for count, values in plain:
        statement = Statement()
        for name, value in zip(FIELDS, values, strict=True):
            if name == "relations":
                statement.relations = {(schema, relation) for schema, relation in value}
            elif name == "edits":
                statement.edits = _load_edits(value)
            else:
                setattr(statement, name, set(value) if isinstance(value, list) else value)
        statements.extend([statement] * count)
    return Facts(statements)
