"""Expressions that a statement gives for the tenant column: they yield the tenant, or NULL."""

from __future__ import annotations

from typing import Any, Final

from wire.errors import NotSupported
from wire.sql.catalog import Relation
from wire.sql.rewrite_splice import INNER, OPEN, lost
from wire.sql.rewrite_state import Node, Rewriter, checked, literal

SET_END: Final = frozenset([b"from", b"where", b"returning", b"when"])
_ASSIGNMENT_END: Final = SET_END | {b","}


def part_of(relation: Relation) -> NotSupported:
    return NotSupported(
        f"cannot set a part of column {relation.column}",
        hint="Leave the column out: the proxy fills it in.",
    )


def check_expression(
    rewriter: Rewriter, relation: Relation, value: Node, first: int, last: int
) -> None:
    """Lets the tokens [first, last), given for the tenant column, yield the tenant or NULL.

    The cast keeps the type that a parameter had.
    """
    text = rewriter.text
    if "SetToDefault" in value:
        rewriter.splice.replace(text.starts[first], text.ends[last - 1], *literal(relation))
        return
    before, behind = checked(relation)
    rewriter.splice.insert(text.starts[first], OPEN, *before)
    rewriter.splice.insert(text.ends[last - 1], INNER, *behind)


def assign(rewriter: Rewriter, relation: Relation, targets: list[Any]) -> None:
    """Checks what SET gives to the tenant column."""
    for each in targets:
        target = each["ResTarget"]
        if target["name"] != relation.column:
            continue
        if "indirection" in target:
            raise part_of(relation)
        value = target["val"]
        index = rewriter.text.at(target["location"])
        if "MultiAssignRef" in value:
            _assign_row(rewriter, relation, value["MultiAssignRef"], index)
            continue
        first = rewriter.text.expect(rewriter.text.name_end(index) + 1, b"=")
        last = rewriter.text.forward(first, _ASSIGNMENT_END, cases=True)
        check_expression(rewriter, relation, value, first, last)


def _assign_row(rewriter: Rewriter, relation: Relation, node: Node, index: int) -> None:
    """(a, b) = (x, y): `index` is the token of one of the names on the left."""
    text = rewriter.text
    row = node["source"].get("RowExpr")
    if row is None:
        raise NotSupported(
            f"cannot set column {relation.column} from a sub-select",
            hint="Leave the column out: it keeps its value.",
        )
    while text.word(index) != b")":
        index += 1
    index = text.expect(index + 1, b"=")
    if text.word(index) == b"row":
        index += 1
    values = text.split(*text.group(index))
    args = row.get("args", [])
    number = node["colno"] - 1
    if len(values) != len(args) or number >= len(args):
        lost("a value")
    check_expression(rewriter, relation, args[number], *values[number])
