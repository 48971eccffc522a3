"""Rewrites a row tenant's statement so that it meets the tenant's own rows only.

The client's text is spliced, never generated anew. Every table that holds rows of many tenants
gets a predicate, every new row is stamped, and what cannot be made safe is refused by name. The
outcome is proven by another module, which shares no code with this one: rewrite_check.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from wire.errors import NotSupported
from wire.sql.catalog import Catalog
from wire.sql.edits import Edit
from wire.sql.rewrite_errors import LEAVES, may_fail
from wire.sql.rewrite_from import select
from wire.sql.rewrite_insert import insert
from wire.sql.rewrite_state import Node, Rewriter, Scope
from wire.sql.rewrite_text import Text
from wire.sql.rewrite_utility import PLAIN, copy, explain, refusal
from wire.sql.rewrite_write import delete, merge, update

_HANDLERS: Final[dict[str, Callable[[Rewriter, Node, Scope], None]]] = {
    "SelectStmt": select,
    "InsertStmt": insert,
    "UpdateStmt": update,
    "DeleteStmt": delete,
    "MergeStmt": merge,
    "CopyStmt": copy,
    "ExplainStmt": explain,
}


def rewrite(
    tree: dict[str, Any], text: bytes, start: int, end: int, catalog: Catalog
) -> list[Edit]:
    """The edits that keep one statement to the tenant's rows; positions are those of `text`.

    tree  the statement's node as libpg_query writes it in JSON: {"SelectStmt": {…}}
    text  all of the text, UTF-8; the statement is text[start:end]

    Raises Forbidden and NotSupported, which name the construct.
    """
    try:
        first = catalog.rewrite and not catalog.sealed and may_fail(tree)
        rewriter = Rewriter(Text(text, start, end), catalog, first=first)
        rewriter.push(tree, frozenset())
        while rewriter.queue:
            kind, value, scope = rewriter.queue.pop()
            _visit(rewriter, kind, value, scope)
        _all_seen(rewriter, tree)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        # A shape of the tree that we do not know.
        raise NotSupported(
            "statement cannot be kept to the tenant's rows", hint="Write it in a simpler form."
        ) from error
    return rewriter.splice.edits()


def _visit(rewriter: Rewriter, kind: str, value: Any, scope: Scope) -> None:
    if kind:
        _HANDLERS[kind](rewriter, value, scope)
        return
    stack: list[Any] = [value]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack.extend(node)
            continue
        for field, child in node.items():
            if isinstance(child, dict):
                if field in LEAVES:
                    continue
                if field.endswith("Stmt") and field[0].isupper():
                    _statement(rewriter, field, child, scope)
                elif not _repeated(field, child):
                    stack.append(child)
            elif isinstance(child, list):
                stack.append(child)


def _statement(rewriter: Rewriter, kind: str, node: Node, scope: Scope) -> None:
    if kind in _HANDLERS:
        rewriter.push(node, scope, kind)
    elif kind not in PLAIN:
        raise refusal(kind, node)
    elif kind == "ConstraintsSetStmt":
        # These are names of constraints.
        rewriter.seen.update(id(each["RangeVar"]) for each in node.get("constraints", []))
    else:
        rewriter.push(node, scope)


def _repeated(field: str, node: Any) -> bool:
    """Whether the parser wrote the node before: (a, b) = (…) has its right side with each name."""
    return field == "MultiAssignRef" and node["colno"] > 1


def _all_seen(rewriter: Rewriter, tree: Node) -> None:
    """A second, simpler walk: no relation may have been left out."""
    seen = rewriter.seen
    stack: list[Any] = [tree]
    while stack:
        value = stack.pop()
        if isinstance(value, list):
            stack.extend(value)
            continue
        if "relpersistence" in value and id(value) not in seen:
            name = value.get("relname", "")
            raise NotSupported(
                f"table {name} is named in a place that is not supported",
                hint="Write the statement in a simpler form.",
            )
        for field, child in value.items():
            if isinstance(child, list) or (
                isinstance(child, dict) and field not in LEAVES and not _repeated(field, child)
            ):
                stack.append(child)
