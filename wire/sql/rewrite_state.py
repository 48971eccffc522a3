"""What the parts of the rewriting share: the statement at hand, and how a relation is looked up.

The tree is walked with a queue, not by recursion: (kind, node, scope), where `scope` holds the
names of the WITH queries that are visible, and `kind` is the statement's or "" for anything else.
"""

from __future__ import annotations

from typing import Any, Final

from wire.errors import Forbidden
from wire.sql.catalog import GUARDED, SHARED, Catalog, Relation
from wire.sql.edits import VALUE
from wire.sql.rewrite_splice import CLAUSE, CLOSE, OPEN, Piece, Splice, quote
from wire.sql.rewrite_text import CLAUSES, Text

Node = dict[str, Any]
Scope = frozenset[str]
Pieces = tuple[Piece, ...]

SYSTEM_SCHEMAS: Final = frozenset({"pg_catalog", "information_schema"})
PROTECT: Final = "The operator makes tables available with `tenantry protect`."


class Rewriter:
    """One statement being rewritten.

    on     predicates and stamps are wanted (not so where the database alone enforces)
    first  predicates have to be evaluated before the client's own conditions
    seen   ids of the tree's RangeVar nodes that have been dealt with
    queue  what is still to be walked
    """

    def __init__(self, text: Text, catalog: Catalog, *, first: bool) -> None:
        self.text = text
        self.first = first
        self.catalog = catalog
        self.on = catalog.rewrite
        self.splice = Splice()
        self.seen: set[int] = set()
        self.queue: list[tuple[str, Any, Scope]] = []
        self._tables: set[int] = set()

    def push(self, value: Any, scope: Scope, kind: str = "") -> None:
        if value is not None:
            self.queue.append((kind, value, scope))

    def push_fields(self, node: Node, scope: Scope, *without: str) -> None:
        """Queues all of a node but the fields that have been dealt with."""
        for field, value in node.items():
            if field not in without and isinstance(value, (dict, list)):
                self.queue.append(("", value, scope))

    def with_clause(self, node: Node, scope: Scope) -> Scope:
        """Queues a statement's WITH queries; returns what is visible in the statement itself."""
        clause = node.get("withClause")
        if clause is None:
            return scope
        queries = [each["CommonTableExpr"] for each in clause.get("ctes", [])]
        everything = scope | {each["ctename"] for each in queries}
        for each in queries:
            # Without RECURSIVE a query sees only those before it.
            self.push(each, everything if clause.get("recursive") else scope)
            scope = scope | {each["ctename"]}
        return everything

    def lookup(self, node: Node, scope: Scope) -> Relation | None:
        """The relation that a RangeVar reads; None if it is a WITH query or of the system.

        Raises Forbidden for what is neither protected nor shared.
        """
        self.seen.add(id(node))
        name = node["relname"]
        schema = node.get("schemaname", "")
        if not schema and name in scope:
            return None
        found = self.catalog.find(schema, name)
        if found is None:
            if schema in SYSTEM_SCHEMAS or (not schema and name.startswith("pg_")):
                return None
            raise Forbidden(f"permission denied for table {name}", hint=PROTECT)
        return found

    def target(self, node: Node) -> Relation:
        """The table that a statement changes. WITH queries do not hide tables here."""
        found = self.lookup(node, frozenset())
        name = node["relname"]
        if found is None:
            raise Forbidden(f"permission denied for table {name}", hint=PROTECT)
        if found.use == SHARED:
            raise Forbidden(
                f"permission denied for table {name}",
                hint="All tenants share this table: it can only be read.",
            )
        if not found.is_table:
            raise Forbidden(
                f"cannot change view {name}", hint="Change the tables that it is made of."
            )
        return found

    def guarded(self, relation: Relation | None) -> bool:
        """Whether the relation's rows need a predicate of ours."""
        return self.on and relation is not None and relation.use == GUARDED

    def predicate(self, relation: Relation, reference: bytes) -> Pieces:
        """That a row is the tenant's; `reference` is the statement's name for the relation."""
        column = b"(" + reference + b"." + quote(relation.column) + b" OPERATOR(pg_catalog.=) "
        value: Pieces = (VALUE, b"::pg_catalog." + relation.type.encode())
        # A view's columns may be expressions. See rewrite_errors.py.
        if self.first or not (self.catalog.sealed or relation.is_table):
            return column + b"ANY (ARRAY[", *value, b"]))"
        return column, *value, b")"

    def bounds(self, node: Node) -> tuple[int, int]:
        """First and last token of a table as written, with ONLY or *, without its alias."""
        text = self.text
        first = text.at(node.get("location", 0))
        last = text.name_end(first)
        if node.get("inh"):
            # In INSERT and COPY no * can follow.
            return first, last + 1 if text.word(last + 1) == b"*" else last
        if text.word(first - 1) == b"(":
            last = text.pairs[first - 1]
            first -= 1
        text.expect(first - 1, b"only")
        return first - 1, last

    def alias_end(self, last: int, node: Node) -> int:
        """The last token of a table's alias; `last` is the one before it."""
        text = self.text
        alias = node.get("alias")
        if alias is None:
            return last
        last += 2 if text.word(last + 1) == b"as" else 1
        last = text.identifier_end(last)
        return text.group(last + 1)[1] if "colnames" in alias else last

    def table_command(self, index: int, *result: Piece) -> None:
        """Makes SELECT * FROM of the TABLE at a token; `result` is selected, too."""
        if index not in self._tables:
            self._tables.add(index)
            text = self.text
            self.splice.replace(
                text.starts[index], text.ends[index], b"SELECT *", *result, b" FROM"
            )

    def conjoin(self, index: int, has: bool, predicates: list[Pieces]) -> None:
        """Puts predicates into the WHERE of a statement.

        `index` is a token after which comes, at the same depth, WHERE (if it `has` one) or what
        would follow it.
        """
        text = self.text
        end = text.forward(index, CLAUSES)
        if not has:
            place = text.ends[end - 1]
            self.splice.insert(place, CLAUSE, b" WHERE ", *joined(predicates))
            return
        first = text.expect(end, b"where")
        self.condition(first, text.forward(first, CLAUSES), predicates)

    def condition(self, first: int, last: int, predicates: list[Pieces]) -> None:
        """Puts predicates before the condition that is the tokens [first, last)."""
        text = self.text
        self.splice.insert(text.starts[first], OPEN, *joined(predicates), b" AND (")
        self.splice.insert(text.ends[last - 1], CLOSE, b")")


def joined(predicates: list[Pieces]) -> Pieces:
    out: list[Piece] = []
    for number, predicate in enumerate(predicates):
        if number:
            out.append(b" AND ")
        out.extend(predicate)
    return tuple(out)


def literal(relation: Relation) -> Pieces:
    """The tenant's value in the type of the tenant column."""
    return b"(", VALUE, b"::pg_catalog." + relation.type.encode() + b")"


def checked(relation: Relation) -> tuple[Pieces, Pieces]:
    """What goes before and behind an expression that is given for the tenant column."""
    before: Pieces = (b"(CASE WHEN (",)
    typed = b")::pg_catalog." + relation.type.encode() + b" OPERATOR(pg_catalog.=) "
    return before, (typed, *literal(relation), b" THEN ", *literal(relation), b" END)")


def reference(node: Node) -> bytes:
    """How expressions name a table: by its alias, else as it is written."""
    alias = node.get("alias")
    if alias is not None:
        return quote(alias["aliasname"])
    schema = node.get("schemaname", "")
    name = quote(node["relname"])
    return quote(schema) + b"." + name if schema else name
