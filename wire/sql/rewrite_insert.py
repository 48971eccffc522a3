"""INSERT: every new row is stamped with the tenant, whatever the statement gives for the column."""

from __future__ import annotations

from typing import Any, Final

from wire.errors import NotSupported
from wire.sql.catalog import Relation
from wire.sql.rewrite_assign import assign, check_expression, part_of
from wire.sql.rewrite_splice import CLAUSE, INNER, OPEN, OUTER, lost, quote
from wire.sql.rewrite_state import Node, Rewriter, Scope, checked, literal, reference

_SOURCE_END: Final = frozenset([b"returning"])
_WRAPPER: Final = b'"tenantry"'


def stamp_row(
    rewriter: Rewriter, relation: Relation, items: list[Any], index: int, number: int
) -> None:
    """Stamps the row in parentheses at a token: its expression `number`, or after the last (-1)."""
    text = rewriter.text
    first, last = text.group(index)
    if number < 0:
        rewriter.splice.insert(text.ends[last - 1], INNER, b", ", *literal(relation))
        return
    values = text.split(first, last)
    if len(values) != len(items):
        lost("a value")
    check_expression(rewriter, relation, items[number], *values[number])


def _spreads(node: Any) -> bool:
    """Whether an expression stands for any number of columns: *, t.*, (f()).*"""
    fields: list[Any] = node.get("ColumnRef", {}).get("fields", [])
    fields = fields or node.get("A_Indirection", {}).get("indirection", [])
    return bool(fields) and "A_Star" in fields[-1]


def columns(
    rewriter: Rewriter,
    relation: Relation,
    named: list[Any] | None,
    rows: list[list[Any]],
    index: int,
) -> tuple[int, int]:
    """Sees to the list of columns that stands, or is missing, at token `index`.

    `rows` holds the expressions of each row that is given. Returns the tenant column's number
    among them, or -1 when each row has to be extended, and the token behind the list.
    """
    text = rewriter.text
    splice = rewriter.splice
    column = quote(relation.column)
    if named:
        last = text.group(index)[1]
        number = _number(relation, named)
        if number < 0:
            splice.insert(text.ends[last - 1], INNER, b", " + column)
        elif any(_spreads(each) for row in rows for each in row[: number + 1]):
            raise NotSupported(
                f"cannot tell what * gives to column {relation.column}",
                hint="Leave the column out of the list: the proxy fills it in.",
            )
        return number, last + 1
    width = len(rows[0])
    if any(len(row) != width or any(map(_spreads, row)) for row in rows):
        raise NotSupported(
            "INSERT needs a list of columns for rows such as these",
            hint="Name the columns behind the table.",
        )
    if width > len(relation.columns):
        raise NotSupported(
            "INSERT has more expressions than target columns",
            hint="Name the columns behind the table.",
        )
    names = list(relation.columns[:width])
    number = names.index(relation.column) if relation.column in names else -1
    if number < 0:
        names.append(relation.column)
    listed = b", ".join(map(quote, names))
    splice.insert(text.ends[index - 1], CLAUSE, b" (" + listed + b")")
    return number, index


def _number(relation: Relation, named: list[Any]) -> int:
    """The tenant column's number in a list of columns, or -1."""
    for number, each in enumerate(named):
        if each["ResTarget"]["name"] == relation.column:
            if "indirection" in each["ResTarget"]:
                raise part_of(relation)
            return number
    return -1


def insert(rewriter: Rewriter, node: Node, scope: Scope) -> None:
    text = rewriter.text
    scope = rewriter.with_clause(node, scope)
    target = node["relation"]
    relation = rewriter.target(target)
    rewriter.push_fields(node, scope, "withClause", "relation")
    conflict = node.get("onConflictClause")
    if conflict is not None:
        text.halts.add(text.at(conflict["location"]))
        _conflict_target(rewriter, relation, conflict)
    if conflict is not None and conflict.get("action") != "ONCONFLICT_UPDATE":
        conflict = None
    if not rewriter.on:
        if conflict is not None and "whereClause" in conflict:
            # PostgreSQL asks this of the row in the way before row-level security has seen it, so
            # that an error in it tells what the row holds.
            _in_the_way(rewriter, relation, target, conflict)
        return
    if conflict is not None:
        assign(rewriter, relation, conflict["targetList"])
        _in_the_way(rewriter, relation, target, conflict)
    _, last = rewriter.bounds(target)
    index = rewriter.alias_end(last, target) + 1
    if "selectStmt" not in node:
        last = text.expect(text.expect(index, b"default"), b"values") - 1
        given = (b"(" + quote(relation.column) + b") VALUES (", *literal(relation), b")")
        rewriter.splice.replace(text.starts[index], text.ends[last], *given)
        return
    _source(rewriter, relation, node, index)


def _arms(node: Node) -> list[Node]:
    """The queries that set operations join, in the order of the text."""
    out: list[Node] = []
    stack = [node]
    while stack:
        arm = stack.pop()
        if "larg" in arm:
            stack += [arm["rarg"], arm["larg"]]
        else:
            out.append(arm)
    return out


def _rows(arm: Node) -> list[list[Any]]:
    """The rows of expressions that a query without set operations gives."""
    if "valuesLists" in arm:
        return [each["List"].get("items", []) for each in arm["valuesLists"]]
    return [[each["ResTarget"]["val"] for each in arm.get("targetList", [])]]


def _source(rewriter: Rewriter, relation: Relation, node: Node, index: int) -> None:
    """`index` is the token behind the table's name and alias."""
    text = rewriter.text
    named: list[Any] | None = node.get("cols")
    arms = _arms(node["selectStmt"]["SelectStmt"])
    rows = [row for arm in arms for row in _rows(arm)]
    stars = any(_spreads(each) for row in rows for each in row)
    values = "valuesLists" in node["selectStmt"]["SelectStmt"]
    if stars and not values and (not named or _number(relation, named) >= 0):
        _wrap(rewriter, relation, named, index)
        return
    number, index = columns(rewriter, relation, named, rows, index)
    if text.word(index) == b"overriding":
        index += 3
    begins = text.arms(index, text.forward(index, _SOURCE_END))
    if len(begins) != len(arms):
        lost("a query")
    for arm, begin in zip(arms, begins, strict=True):
        if "valuesLists" in arm:
            _stamp_values(rewriter, relation, arm, begin, number)
        elif text.word(begin) == b"table":
            rewriter.table_command(begin, b", ", *literal(relation))
        else:
            _stamp_select(rewriter, relation, arm, begin, number)


def _stamp_values(
    rewriter: Rewriter, relation: Relation, arm: Node, begin: int, number: int
) -> None:
    text = rewriter.text
    index = text.expect(begin, b"values")
    for count, row in enumerate(_rows(arm)):
        if count:
            index = text.expect(index, b",")
        stamp_row(rewriter, relation, row, index, number)
        index = text.pairs[index] + 1


def _stamp_select(
    rewriter: Rewriter, relation: Relation, arm: Node, begin: int, number: int
) -> None:
    text = rewriter.text
    text.expect(begin, b"select")
    first, last = text.targets(begin)
    if number < 0:
        comma = b", " if "targetList" in arm else b" "
        rewriter.splice.insert(text.ends[last - 1], INNER, comma, *literal(relation))
        return
    values = text.split(first, last)
    if len(values) != len(arm["targetList"]):
        lost("a value")
    target = arm["targetList"][number]["ResTarget"]
    first, last = values[number]
    if "name" in target:
        if text.word(last - 2) == b"uescape":
            lost("a label")
        last -= 2 if text.word(last - 2) == b"as" else 1
    check_expression(rewriter, relation, target["val"], first, last)


def _wrap(rewriter: Rewriter, relation: Relation, named: list[Any] | None, index: int) -> None:
    """INSERT … SELECT * …: takes the query's columns apart to check the one for the tenant."""
    text = rewriter.text
    splice = rewriter.splice
    if named:
        number = _number(relation, named)
        width = len(named)
        index = text.group(index)[1] + 1
    else:
        number = relation.columns.index(relation.column)
        width = len(relation.columns)
        listed = b", ".join(map(quote, relation.columns))
        splice.insert(text.ends[index - 1], CLAUSE, b" (" + listed + b")")
    if text.word(index) == b"overriding":
        index += 3
    names = [quote(f"c{each + 1}") for each in range(width)]
    items = [_WRAPPER + b"." + name for name in names]
    before, behind = checked(relation)
    splice.insert(
        text.starts[index],
        OPEN,
        b"SELECT " + b"".join(item + b", " for item in items[:number]),
        *before,
        items[number],
        *behind,
        b"".join(b", " + item for item in items[number + 1 :]) + b" FROM (",
    )
    end = text.forward(index, _SOURCE_END)
    outer = b") AS " + _WRAPPER + b"(" + b", ".join(names) + b")"
    splice.insert(text.ends[end - 1], OUTER, outer)


def _conflict_target(rewriter: Rewriter, relation: Relation, node: Node) -> None:
    """ON CONFLICT (name): where a key holds within the tenant, its columns are (tenant_id, name).

    Not where there is a key of these columns alone, which whoever protected the table accepted.
    """
    elements = [each["IndexElem"] for each in node.get("infer", {}).get("indexElems", [])]
    names = {each.get("name", "") for each in elements}
    if (
        not names
        or "" in names
        or relation.column in names
        or tuple(sorted(names)) in relation.keys
    ):
        return
    if tuple(sorted({*names, relation.column})) not in relation.keys:
        return
    text = rewriter.text
    index = text.expect(text.expect(text.at(node["location"]), b"on"), b"conflict")
    last = text.group(index)[1]
    rewriter.splice.insert(text.ends[last - 1], INNER, b", " + quote(relation.column))


def _in_the_way(rewriter: Rewriter, relation: Relation, target: Node, node: Node) -> None:
    """ON CONFLICT DO UPDATE: the row that is in the way has to be the tenant's."""
    text = rewriter.text
    index = text.forward(text.at(node["location"]) + 1, frozenset([b"do"]))
    begin = text.expect(text.expect(text.expect(index, b"do"), b"update"), b"set")
    found = rewriter.predicate(relation, reference(target))
    rewriter.conjoin(begin, "whereClause" in node, [found])
