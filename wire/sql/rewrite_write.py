"""UPDATE, DELETE and MERGE: predicates for what is changed, and no way to move a row to another."""

from __future__ import annotations

from typing import Final

from wire.sql.catalog import Relation
from wire.sql.rewrite_assign import SET_END, assign
from wire.sql.rewrite_from import SELECT, WHERE, Items
from wire.sql.rewrite_insert import columns, stamp_row
from wire.sql.rewrite_splice import CLAUSE, lost, quote
from wire.sql.rewrite_state import (
    Node,
    Pieces,
    Rewriter,
    Scope,
    joined,
    literal,
)
from wire.sql.rewrite_text import CLAUSES

_WHEN: Final = frozenset([b"when", b"returning"])
_THEN: Final = frozenset([b"then"])


def update(rewriter: Rewriter, node: Node, scope: Scope) -> None:
    relation, scope = _target(rewriter, node, scope)
    target = node["relation"]
    rewriter.push_fields(node, scope, "withClause", "relation", "fromClause")
    items = _items(rewriter, node, "fromClause", scope)
    if not rewriter.on:
        return
    text = rewriter.text
    _, last = rewriter.bounds(target)
    begin = text.expect(rewriter.alias_end(last, target) + 1, b"set")
    assign(rewriter, relation, node["targetList"])
    end = text.forward(begin, SET_END, cases=True)
    if "fromClause" in node:
        end = text.expect(end, b"from")
    _restrict(rewriter, node, relation, items, end if "fromClause" in node else begin)


def delete(rewriter: Rewriter, node: Node, scope: Scope) -> None:
    relation, scope = _target(rewriter, node, scope)
    target = node["relation"]
    rewriter.push_fields(node, scope, "withClause", "relation", "usingClause")
    items = _items(rewriter, node, "usingClause", scope)
    if not rewriter.on:
        return
    _, last = rewriter.bounds(target)
    last = rewriter.alias_end(last, target)
    begin = last + 1
    if "usingClause" in node:
        begin = rewriter.text.expect(begin, b"using")
    _restrict(rewriter, node, relation, items, begin)


def _target(rewriter: Rewriter, node: Node, scope: Scope) -> tuple[Relation, Scope]:
    scope = rewriter.with_clause(node, scope)
    return rewriter.target(node["relation"]), scope


def _name(node: Node) -> str:
    name: str = node.get("alias", {}).get("aliasname", node["relname"])
    return name


def _items(rewriter: Rewriter, node: Node, field: str, scope: Scope) -> Items:
    """The tables beside the target, read."""
    place = SELECT if _at_cursor(node) else WHERE
    items = Items(rewriter, scope, place, (_name(node["relation"]),))
    items.read(node.get(field, []))
    return items


def _at_cursor(node: Node) -> bool:
    """WHERE CURRENT OF takes no other condition; the cursor's own query has the predicate."""
    return "CurrentOfExpr" in node.get("whereClause", {})


def _restrict(rewriter: Rewriter, node: Node, relation: Relation, items: Items, begin: int) -> None:
    """Puts all predicates in. The tables beside the target, if any, begin at token `begin`."""
    wheres = items.splice(begin, rewriter.text.forward(begin, CLAUSES))
    if not _at_cursor(node):
        found = rewriter.predicate(relation, items.reference(node["relation"], relation))
        rewriter.conjoin(begin, "whereClause" in node, [found, *wheres])


def merge(rewriter: Rewriter, node: Node, scope: Scope) -> None:
    relation, scope = _target(rewriter, node, scope)
    rewriter.push_fields(node, scope, "withClause", "relation", "sourceRelation")
    # A source row of another tenant must not come as one that has no match.
    items = Items(rewriter, scope, SELECT, (_name(node["relation"]),))
    items.read([node["sourceRelation"]])
    # Also where the database alone enforces: PostgreSQL hides others' rows from a MERGE that reads
    # no column of the target only by an error, which tells that there are such rows.
    text = rewriter.text
    target = node["relation"]
    _, last = rewriter.bounds(target)
    begin = text.expect(rewriter.alias_end(last, target) + 1, b"using")
    when = text.forward(begin, _WHEN, cases=True)
    conditions = text.conditions(begin, when)
    if not conditions or not conditions[-1][0]:
        lost("ON")
    _, first, last = conditions[-1]
    items.splice(begin, first - 1)
    found = rewriter.predicate(relation, items.reference(target, relation))
    rewriter.condition(first, last, [found])
    for each in node["mergeWhenClauses"]:
        text.expect(when, b"when")
        following = text.forward(when + 1, _WHEN, cases=True)
        _merge_when(rewriter, relation, each["MergeWhenClause"], when, found)
        when = following
    if text.word(when) == b"when":
        lost("WHEN")


def _merge_when(
    rewriter: Rewriter, relation: Relation, node: Node, when: int, found: Pieces
) -> None:
    text = rewriter.text
    then = text.forward(when + 1, _THEN, cases=True)
    action = text.expect(then, b"then")
    if node["matchKind"] == "MERGE_WHEN_NOT_MATCHED_BY_SOURCE":
        # These are all rows of the table, whoever's, that the condition of ON leaves over.
        after = text.expect(when + 4, b"source")
        if "condition" in node:
            rewriter.condition(text.expect(after, b"and"), then, [found])
        else:
            rewriter.splice.insert(text.ends[after - 1], CLAUSE, b" AND ", *joined([found]))
    if not rewriter.on:
        return
    if node["commandType"] == "CMD_UPDATE":
        assign(rewriter, relation, node["targetList"])
    elif node["commandType"] == "CMD_INSERT":
        _merge_insert(rewriter, relation, node, text.expect(action, b"insert"))


def _merge_insert(rewriter: Rewriter, relation: Relation, node: Node, index: int) -> None:
    """`index` is the token behind INSERT."""
    text = rewriter.text
    if "values" not in node:
        last = text.expect(text.expect(index, b"default"), b"values") - 1
        given = (b"(" + quote(relation.column) + b") VALUES (", *literal(relation), b")")
        rewriter.splice.replace(text.starts[index], text.ends[last], *given)
        return
    rows = [node["values"]]
    number, index = columns(rewriter, relation, node.get("targetList"), rows, index)
    if text.word(index) == b"overriding":
        index += 3
    stamp_row(rewriter, relation, rows[0], text.expect(index, b"values"), number)
