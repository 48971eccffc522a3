"""What a statement needs among other tenants: edits, or a refusal.

Refusals are raised, so that they hold for one text only: one tenant's literals must not decide what
all texts of a template may do.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

from wire.errors import Forbidden, NotSupported
from wire.sql.edits import Edit
from wire.sql.facts import Statement
from wire.sql.frame import Frame
from wire.sql.qualified import schemas

# Prepared transactions outlive their session, and every client of a role may end them.
_TWO_PHASE: Final = frozenset(
    ["TRANS_STMT_PREPARE", "TRANS_STMT_COMMIT_PREPARED", "TRANS_STMT_ROLLBACK_PREPARED"]
)


def ready(frame: Frame) -> None:
    """Loads what texts of the frame are read with, before the first of them comes."""
    if frame.catalog is not None:
        from wire.sql import rows  # noqa: F401


def fit(
    statement: Statement, tree: dict[str, Any], text: bytes, start: int, end: int, frame: Frame
) -> None:
    """Adds to the facts what the frame asks for: schemas that are named, edits.

    tree  {kind: node} of the statement text[start:end], as libpg_query writes it

    Raises Forbidden and NotSupported.
    """
    kind, node = next(iter(tree.items()))
    if kind == "TransactionStmt" and node.get("kind") in _TWO_PHASE:
        raise Forbidden("prepared transactions are not available in a shared database")
    own: list[Edit] = []
    if frame.catalog is None:
        schemas(statement, tree)
    else:
        from wire.sql import rows

        own = rows.keep(statement, tree, text, start, end, frame.catalog)
    statement.edits = merged(own)


def finish(statements: list[Statement], text: bytes, frame: Frame) -> None:
    """Looks at all statements of a text together. Raises NotSupported."""
    if frame.catalog is not None:
        from wire.sql import rows

        rows.prove(statements, text, frame.catalog)


def merged(*lists: list[Edit]) -> list[Edit]:
    """All edits in order. Raises NotSupported where they overlap."""
    edits = sorted((edit for each in lists for edit in each), key=lambda e: (e.start, e.end))
    for one, other in pairwise(edits):
        if other.start < one.end:
            raise NotSupported("statement needs changes within changes")
    return edits
