"""Where the predicates of the tables in a FROM clause go, so that each join keeps its meaning.

A predicate stands in WHERE when its table is not on the nullable side of an outer join, in that
join's ON when it is, and else in a sub-select that takes the table's place. The last is second
best: a sub-select has no system columns, and GROUP BY knows no primary key of it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from wire.errors import Forbidden
from wire.sql.catalog import SHARED, Relation
from wire.sql.rewrite_splice import INNER, OPEN, TAIL, lost, quote
from wire.sql.rewrite_state import (
    Node,
    Pieces,
    Rewriter,
    Scope,
    reference,
)
from wire.sql.rewrite_text import CLAUSES

# Places for predicates: these, or the number of a join that has a condition.
WHERE: Final = -1
SELECT: Final = -2


class Items:
    """The items of a FROM clause (or of USING in DELETE and MERGE).

    place   where the predicates of tables that no outer join can extend go: WHERE, or SELECT
    others  names of the statement's other tables
    """

    def __init__(
        self, rewriter: Rewriter, scope: Scope, place: int = WHERE, others: tuple[str, ...] = ()
    ) -> None:
        self._rewriter = rewriter
        self._scope = scope
        self._place = place
        self._names = Counter(others)
        self._order: dict[int, int] = {}  # id of a join with a condition → its number
        self._ons: list[bool] = []  # for each of those: ON, not USING
        self._tables: list[tuple[Node, Node | None, Relation, int]] = []
        self.tables: list[tuple[Node, Relation]] = []
        self.first: Node | None = None

    def read(self, items: list[Any]) -> None:
        """Finds the tables and their places; queues whatever else stands in the items."""
        self._number(items)
        stack = [(item, self._place) for item in items[::-1]]
        while stack:
            item, place = stack.pop()
            if "JoinExpr" in item:
                stack.extend(self._sides(item["JoinExpr"], place))
            elif "RangeVar" in item:
                self._table(item["RangeVar"], None, place)
            elif "RangeTableSample" in item:
                sample = item["RangeTableSample"]
                self._table(sample["relation"]["RangeVar"], sample, place)
                self._rewriter.push_fields(sample, self._scope, "relation")
            else:
                for node in item.values():
                    self._names[node.get("alias", {}).get("aliasname", "")] += 1
                self._rewriter.push(item, self._scope)

    def _number(self, items: list[Any]) -> None:
        """Numbers the joins in the order in which their conditions stand in the text."""
        stack = [(item, False) for item in items[::-1]]
        while stack:
            item, done = stack.pop()
            join = item.get("JoinExpr")
            if join is None:
                continue
            if not done:
                stack += [(item, True), (join["rarg"], False), (join["larg"], False)]
            elif "quals" in join or "usingClause" in join:
                self._order[id(join)] = len(self._ons)
                self._ons.append("quals" in join)

    def _sides(self, join: Node, place: int) -> list[tuple[Any, int]]:
        """Both sides of a join with their places, the right one first."""
        self._rewriter.push(join.get("quals"), self._scope)
        own = self._order[id(join)] if "quals" in join else SELECT
        if "alias" in join:
            # Outside of the join its alias hides the names within.
            place = SELECT
            self._names[join["alias"]["aliasname"]] += 1
        left = right = place
        kind = join["jointype"]
        if kind == "JOIN_INNER":
            # Among conditions of equal cost the innermost are evaluated first.
            if place == SELECT or (self._rewriter.first and own != SELECT):
                left = right = own
        elif kind == "JOIN_LEFT":
            right = own
        elif kind == "JOIN_RIGHT":
            left = own
        else:
            left = right = SELECT
        return [(join["rarg"], right), (join["larg"], left)]

    def _table(self, node: Node, sample: Node | None, place: int) -> None:
        self._names[node.get("alias", {}).get("aliasname", node["relname"])] += 1
        if self.first is None:
            self.first = node
        relation = self._rewriter.lookup(node, self._scope)
        if relation is None:
            return
        self.tables.append((node, relation))
        if self._rewriter.guarded(relation):
            # Behind a list of column names the tenant column may have any name.
            renamed = "colnames" in node.get("alias", {})
            self._tables.append((node, sample, relation, SELECT if renamed else place))

    def guarded(self) -> bool:
        """Whether any table needs a predicate."""
        return bool(self._tables)

    def splice(self, begin: int, end: int) -> list[Pieces]:
        """Puts the predicates in, but for those that belong into WHERE, which it returns.

        The items are the tokens [begin, end).
        """
        rewriter = self._rewriter
        wheres: list[Pieces] = []
        ons: dict[int, list[Pieces]] = {}
        for node, sample, relation, place in self._tables:
            if not begin <= rewriter.text.at(node.get("location", 0)) < end:
                lost(f"table {node['relname']}")
            if place == SELECT:
                self._select(node, sample, relation)
                continue
            found = rewriter.predicate(relation, self.reference(node, relation))
            (wheres if place == WHERE else ons.setdefault(place, [])).append(found)
        if ons:
            conditions = rewriter.text.conditions(begin, end)
            if [is_on for is_on, _, _ in conditions] != self._ons:
                lost("ON")
            for number, predicates in ons.items():
                rewriter.condition(*conditions[number][1:], predicates)
        return wheres

    def reference(self, node: Node, relation: Relation) -> bytes:
        """The table's name; with its schema where another one is called the same."""
        if "alias" not in node and "schemaname" not in node and self._names[node["relname"]] > 1:
            return quote(relation.schema) + b"." + quote(relation.name)
        return reference(node)

    def _select(self, node: Node, sample: Node | None, relation: Relation) -> None:
        """Puts a sub-select in place of a table."""
        text = self._rewriter.text
        splice = self._rewriter.splice
        first, last = self._rewriter.bounds(node)
        alias = node.get("alias", {})
        name = quote(alias.get("aliasname", node["relname"]))
        tail = self._rewriter.alias_end(last, node)
        splice.insert(text.starts[first], OPEN, b"(SELECT * FROM ")
        if tail > last:
            splice.replace(text.ends[last], text.ends[tail], b" AS " + name)
        else:
            splice.insert(text.ends[last], INNER, b" AS " + name)
        if sample is not None:
            index = text.name_end(text.expect(tail + 1, b"tablesample"))
            tail = text.group(index + 1)[1]
            if "repeatable" in sample:
                tail = text.group(text.expect(tail + 1, b"repeatable"))[1]
        columns = b", ".join(quote(each["String"]["sval"]) for each in alias.get("colnames", []))
        outer = b") AS " + name + (b"(" + columns + b")" if columns else b"")
        found = self._rewriter.predicate(relation, name)
        splice.insert(text.ends[tail], TAIL, b" WHERE ", *found, outer)


def select(rewriter: Rewriter, node: Node, scope: Scope) -> None:
    """One SELECT, VALUES or TABLE, or set operations on them."""
    if "intoClause" in node:
        raise Forbidden(
            "permission denied for SELECT INTO",
            hint="Tables are made by the operator's migrations.",
        )
    scope = rewriter.with_clause(node, scope)
    for side in ("larg", "rarg"):
        rewriter.push(node.get(side), scope, "SelectStmt")
    fields = ("withClause", "larg", "rarg", "fromClause", "lockingClause")
    rewriter.push_fields(node, scope, *fields)
    locks = [each["LockingClause"] for each in node.get("lockingClause", [])]
    locked = [name["RangeVar"] for lock in locks for name in lock.get("lockedRels", [])]
    # These are aliases.
    rewriter.seen.update(map(id, locked))
    if "fromClause" not in node:
        return
    items = Items(rewriter, scope)
    items.read(node["fromClause"])
    if locks:
        _refuse_locks(items, {name["relname"] for name in locked})
    if items.guarded() and items.first is not None:
        _splice_select(rewriter, node, items, items.first)


def _splice_select(rewriter: Rewriter, node: Node, items: Items, first: Node) -> None:
    text = rewriter.text
    inside = text.at(first.get("location", 0))
    table = inside
    if not first.get("inh"):
        table = rewriter.bounds(first)[0]
    if text.word(table - 1) == b"table":
        begin = table
        rewriter.table_command(table - 1)
    else:
        begin = text.from_clause(inside)
    end = text.forward(begin, CLAUSES)
    wheres = items.splice(begin, end)
    if wheres:
        rewriter.conjoin(begin, "whereClause" in node, wheres)


def _refuse_locks(items: Items, names: set[str]) -> None:
    for node, relation in items.tables:
        name = node.get("alias", {}).get("aliasname", node["relname"])
        if relation.use == SHARED and (not names or name in names):
            raise Forbidden(
                f"permission denied to lock rows of table {node['relname']}",
                hint="All tenants share this table: name the others in FOR … OF.",
            )
