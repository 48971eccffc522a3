"""Keeps a row tenant's statement to the tenant's own rows: two readings, a rewriting, a proof.

PostgreSQL's parser decides, sqlglot is its referee, and what comes out of the rewriting is parsed
and checked once more. Where the referee cannot read a statement, one reading is enough only if
nothing had to be rewritten. Loaded for frames with a catalog only: sqlglot takes 40 MB.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from wire.errors import Forbidden, NotSupported
from wire.sql import referee
from wire.sql.catalog import GUARDED, Catalog
from wire.sql.edits import Edit, apply
from wire.sql.facts import Statement
from wire.sql.lexer import NUMBER, STRING, USTRING, WORD, tokens
from wire.sql.rewrite import rewrite
from wire.sql.rewrite_check import check

log = logging.getLogger("tenantry.guard")

# Contradictions that were logged: each is told once. They name constructs and tables.
MAX_REASONS: Final = 1_000
_told: set[str] = set()

_WRAPPING: Final = frozenset({"CopyStmt", "DeclareCursorStmt", "ExplainStmt", "PrepareStmt"})

# Fills the holes of edits where their outcome is proven.
SAMPLE: Final = (b"'tenantry sample'", b"tenantry_sample_", b"4242424242")


def keep(
    statement: Statement,
    tree: dict[str, Any],
    text: bytes,
    start: int,
    end: int,
    catalog: Catalog,
) -> list[Edit]:
    """The edits that keep the statement text[start:end] to the tenant's rows.

    Raises Forbidden and NotSupported.
    """
    if statement.pin == "temporary objects":
        raise Forbidden("permission denied for temporary objects in a shared database")
    edits = rewrite(tree, text, start, end, catalog)
    if edits or any(_is_guarded(catalog, *name) for name in statement.relations):
        _second_reading(statement, tree, text, start, end, bool(edits))
    return edits


def prove(statements: list[Statement], text: bytes, catalog: Catalog) -> None:
    """Raises NotSupported where the edited text could meet other tenants' rows."""
    if not catalog.rewrite or not any(each.edits or each.relations for each in statements):
        return
    edits = [edit for each in statements for edit in each.edits]
    reason = check(apply(text, edits, SAMPLE), catalog, SAMPLE[0])
    if reason is not None:
        _disagree(reason)


def _is_guarded(catalog: Catalog, schema: str, name: str) -> bool:
    found = catalog.find(schema, name)
    return found is not None and found.use == GUARDED


def _second_reading(
    statement: Statement, tree: dict[str, Any], text: bytes, start: int, end: int, edited: bool
) -> None:
    kind, node = next(iter(tree.items()))
    if kind in _WRAPPING:
        try:
            tree, start, end = referee.inner(tree, text, start, end)
        except ValueError:
            raise NotSupported("cannot tell where the statement's query begins") from None
        kind, node = next(iter(tree.items()))
    if kind == "CopyStmt" and "relation" in node:
        # One table, and nothing that a parser could read otherwise. The outcome is proven.
        return
    reason = referee.disagreement(_bare(text[start:end]), kind, statement.relations)
    if reason is not None and (edited or not reason.startswith(referee.UNREADABLE)):
        _disagree(reason)


def _bare(sql: bytes) -> str:
    """The statement without comments, and with the same literals in place of all others.

    What holds for one text of a template must hold for all, and sqlglot does not read all literals
    and comments as PostgreSQL does. Where they begin and end our own lexer knows.
    """
    out: list[bytes] = []
    last = 0
    escape = False  # UESCAPE's literal says how the one before it is to be read
    for kind, start, end in tokens(sql) or []:
        if start > last:
            out.append(b" ")
        if STRING <= kind <= NUMBER and kind != USTRING and not escape:
            out.append(b" 1" if kind == NUMBER else b"'1'")
        else:
            out.append(sql[start:end])
        last = end
        escape = kind == WORD and sql[start:end].lower() == b"uescape"
    return b"".join(out).decode()


def _disagree(reason: str) -> None:
    if reason not in _told and len(_told) < MAX_REASONS:
        _told.add(reason)
        log.info("refused among shared tables: %r", reason)
    raise NotSupported(
        f"statement cannot be kept to the tenant's rows: {reason}",
        hint="Write it in a simpler form.",
    )
