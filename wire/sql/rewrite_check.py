"""Proves of a rewritten text that every row it meets is the tenant's: the second opinion.

It sees the outcome alone, by PostgreSQL's own parser, and shares no code with what made it. A
table is covered when its query cannot yield a row but through a condition on the tenant column; a
new row when its tenant column is a constant. Whatever is not recognised counts as uncovered.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from wire.errors import TenantryError
from wire.sql.analyse import parse
from wire.sql.catalog import GUARDED, Catalog, Relation
from wire.sql.rewrite_errors import may_fail
from wire.sql.rewrite_proof import (
    COMMANDS,
    NAMES,
    Node,
    Scope,
    Uncovered,
    Values,
    keys,
    own_rows,
    repeated,
    spreads,
    tables,
)

# Fields that are walked where their node is.
_ELSEWHERE: Final = frozenset(
    ["fromClause", "larg", "rarg", "sourceRelation", "usingClause", "withClause"]
)
_EXPLAIN: Final = frozenset(["costs", "format", "verbose", "settings"])
_LEFT_ONLY: Final = frozenset(["JOIN_INNER", "JOIN_RIGHT"])  # ON holds for all rows of the left
_RIGHT_ONLY: Final = frozenset(["JOIN_INNER", "JOIN_LEFT"])

# The conditions that rows of a table pass, each a set of keys() of tables: (set, rest) or None.
# (The rest is one of these again: mypyc does not survive a type that names itself.)
_Pools = tuple[frozenset[tuple[str, ...]], Any] | None


def check(sql: bytes, catalog: Catalog, value: bytes) -> str | None:
    """Why a rewritten text may meet other tenants' rows; None: it cannot.

    sql    all of the text as it goes to the server, UTF-8
    value  what the VALUE hole was filled with: a quoted literal
    """
    try:
        constant = parse(b"SELECT " + value)[0]["stmt"]["SelectStmt"]["targetList"][0]
        text = constant["ResTarget"]["val"]["A_Const"]["sval"].get("sval", "")
        for tree in parse(sql):
            if "stmt" in tree:
                _Check(catalog, text).run(tree["stmt"])
    except Uncovered as reason:
        return str(reason)
    except TenantryError as error:
        return f"rewritten text cannot be read: {error.message}"
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        return f"rewritten text has an unknown shape: {error!r}"
    return None


class _Check:
    def __init__(self, catalog: Catalog, value: str) -> None:
        self.catalog = catalog
        self.values = Values(value)
        self.known: set[int] = set()
        self.first = False  # predicates have to be evaluated before all else
        self.queue: list[tuple[str, Any, Scope]] = []
        self.staging = {
            each.staging for each in catalog.relations.values() if each.staging is not None
        }

    def run(self, root: Node) -> None:
        self.first = not self.catalog.sealed and may_fail(root)
        self.queue.append(("", root, frozenset()))
        while self.queue:
            kind, node, scope = self.queue.pop()
            if not kind:
                if node is not None:
                    self._any(node, scope)
                continue
            if "withClause" in node:
                scope = self._with(node["withClause"], scope)
            self._statement(kind, node, scope)
        for node in tables(root):
            if id(node) not in self.known:
                raise Uncovered(f"table {node.get('relname')} stands where none is expected")

    def _any(self, root: Any, scope: Scope) -> None:
        """Finds the statements in what is no statement itself."""
        stack: list[Any] = [root]
        while stack:
            node = stack.pop()
            if isinstance(node, list):
                stack.extend(node)
                continue
            for field, child in node.items():
                if not isinstance(child, (dict, list)) or field in NAMES:
                    continue
                if field.endswith("Stmt") and field[0].isupper():
                    self.queue.append((field, child, scope))
                elif field not in _ELSEWHERE and not repeated(field, child):
                    stack.append(child)

    def _with(self, clause: Node, scope: Scope) -> Scope:
        visible = scope
        for each in clause["ctes"]:
            query = each["CommonTableExpr"]
            recursive = [other["CommonTableExpr"]["ctename"] for other in clause["ctes"]]
            sees = scope.union(recursive) if clause.get("recursive") else visible
            self.queue.append(("", query, sees))
            visible = visible | {query["ctename"]}
        return visible

    def _statement(self, kind: str, node: Node, scope: Scope) -> None:
        if kind == "SelectStmt":
            self._select(node, scope)
        elif kind == "InsertStmt":
            self._insert(node)
        elif kind in ("UpdateStmt", "DeleteStmt"):
            self._change(node, scope)
        elif kind == "MergeStmt":
            self._merge(node, scope)
        elif kind == "CopyStmt":
            self._copy(node, scope)
        elif kind == "ConstraintsSetStmt":
            self.known.update(id(each["RangeVar"]) for each in node.get("constraints", []))
        elif kind == "ExplainStmt":
            self._explain(node)
        elif kind not in COMMANDS:
            raise Uncovered(f"{kind} is not a statement of row tenants")
        self._any(node, scope)

    def _find(self, node: Node, scope: Scope) -> Relation | None:
        self.known.add(id(node))
        schema, name = node.get("schemaname", ""), node["relname"]
        if not schema and name in scope:
            return None
        found = self.catalog.find(schema, name)
        system = schema in ("pg_catalog", "information_schema")
        if found is None and not system and (schema or not name.startswith("pg_")):
            raise Uncovered(f"table {name} is not known")
        return found

    def _target(self, node: Node) -> Relation:
        found = self._find(node, frozenset())
        if found is None or found.use != GUARDED or not found.is_table:
            raise Uncovered(f"table {node['relname']} is not one that tenants change")
        return found

    def _require(
        self, node: Node, relation: Relation, pools: _Pools, columns_renamed: bool = False
    ) -> None:
        """Raises unless one of the conditions keeps the table to the tenant's rows."""
        if not self.catalog.rewrite:
            return
        plain = self.catalog.sealed or (relation.is_table and not self.first)
        wanted = keys(node, relation, plain=plain)
        while pools is not None and not columns_renamed:
            if not wanted.isdisjoint(pools[0]):
                return
            pools = pools[1]
        raise Uncovered(f"table {node['relname']} is not kept to the tenant's rows")

    def _from(self, items: list[Any], pools: _Pools, scope: Scope) -> None:
        stack = [(item, pools) for item in items]
        while stack:
            item, pools = stack.pop()
            join = item.get("JoinExpr")
            if join is not None:
                # Names inside of (…) AS alias mean nothing outside.
                outer = None if "alias" in join else pools
                own = self.values.conditions(join.get("quals"))
                kind = join["jointype"]
                stack.append((join["larg"], (own, outer) if kind in _LEFT_ONLY else outer))
                stack.append((join["rarg"], (own, outer) if kind in _RIGHT_ONLY else outer))
                self.queue.append(("", join.get("quals"), scope))
                continue
            sample = item.get("RangeTableSample")
            if sample is not None:
                rest = {field: child for field, child in sample.items() if field != "relation"}
                self.queue.append(("", rest, scope))
                item = sample["relation"]
            table = item.get("RangeVar")
            if table is None:
                self.queue.append(("", item, scope))
                continue
            relation = self._find(table, scope)
            if relation is not None and relation.use == GUARDED:
                self._require(table, relation, pools, "colnames" in table.get("alias", {}))

    def _select(self, node: Node, scope: Scope) -> None:
        if "intoClause" in node:
            raise Uncovered("SELECT INTO makes a table")
        for side in ("larg", "rarg"):
            if side in node:
                self.queue.append(("SelectStmt", node[side], scope))
        for lock in node.get("lockingClause", []):
            names = lock["LockingClause"].get("lockedRels", [])
            self.known.update(id(each["RangeVar"]) for each in names)
        where = self.values.conditions(node.get("whereClause"))
        self._from(node.get("fromClause", []), (where, None), scope)

    def _change(self, node: Node, scope: Scope) -> None:
        relation = self._target(node["relation"])
        where = self.values.conditions(node.get("whereClause"))
        if "CurrentOfExpr" not in node.get("whereClause", {}):
            self._require(node["relation"], relation, (where, None))
        items = node.get("fromClause", []) + node.get("usingClause", [])
        self._from(items, (where, None), scope)
        self._assigned(relation, node.get("targetList", []))

    def _assigned(self, relation: Relation, targets: list[Any]) -> None:
        """What SET gives to the tenant column."""
        for each in targets:
            target = each["ResTarget"]
            if target["name"] != relation.column or not self.catalog.rewrite:
                continue
            value = target["val"]
            if "MultiAssignRef" in value:
                row = value["MultiAssignRef"]
                value = row["source"].get("RowExpr", {"args": [{}] * row["colno"]})
                value = value["args"][row["colno"] - 1]
            if "indirection" in target or not self.values.stamps(value, relation):
                raise Uncovered(f"column {relation.column} is set to something else")

    def _stamped(self, relation: Relation, names: list[Any], rows: Iterable[list[Any]]) -> None:
        """What new rows hold in the tenant column. PostgreSQL wants as many values as names."""
        if not self.catalog.rewrite:
            return
        places = [
            number
            for number, each in enumerate(names)
            if each["ResTarget"]["name"] == relation.column
        ]
        if len(places) != 1 or "indirection" in names[places[0]]["ResTarget"]:
            raise Uncovered(f"new rows are not given a {relation.column}")
        for row in rows:
            place = places[0]
            if any(map(spreads, row[: place + 1])):
                # Counted from the end, then.
                place = place - len(names)
                if any(map(spreads, row[place:])):
                    raise Uncovered(f"cannot tell what column {relation.column} is given")
            if not -len(row) <= place < len(row) or not self.values.stamps(row[place], relation):
                raise Uncovered(f"new rows of {relation.name} are not the tenant's")

    def _insert(self, node: Node) -> None:
        relation = self._target(node["relation"])
        self._stamped(relation, node.get("cols", []), own_rows(node))
        conflict = node.get("onConflictClause", {})
        if conflict.get("action") == "ONCONFLICT_UPDATE":
            where = self.values.conditions(conflict.get("whereClause"))
            self._require(node["relation"], relation, (where, None))
            self._assigned(relation, conflict["targetList"])

    def _merge(self, node: Node, scope: Scope) -> None:
        relation = self._target(node["relation"])
        matched = self.values.conditions(node["joinCondition"])
        self._require(node["relation"], relation, (matched, None))
        self._from([node["sourceRelation"]], None, scope)
        for each in node["mergeWhenClauses"]:
            clause = each["MergeWhenClause"]
            if clause["matchKind"] == "MERGE_WHEN_NOT_MATCHED_BY_SOURCE":
                condition = self.values.conditions(clause.get("condition"))
                self._require(node["relation"], relation, (condition, None))
            if clause["commandType"] == "CMD_INSERT":
                row = clause.get("values", [])
                self._stamped(relation, clause.get("targetList", []), [row])
            elif clause["commandType"] == "CMD_UPDATE":
                self._assigned(relation, clause["targetList"])

    def _copy(self, node: Node, scope: Scope) -> None:
        if "filename" in node or node.get("is_program"):
            raise Uncovered("COPY reaches beyond the connection")
        table = node.get("relation")
        if table is None:
            return
        if node.get("is_from"):
            self.known.add(id(table))
            if (table.get("schemaname", ""), table["relname"]) not in self.staging:
                raise Uncovered(f"COPY FROM goes straight into table {table['relname']}")
            return
        relation = self._find(table, scope)
        if relation is not None and relation.use == GUARDED and self.catalog.rewrite:
            raise Uncovered(f"COPY sends all rows of table {table['relname']}")

    def _explain(self, node: Node) -> None:
        costs = True
        for each in node.get("options", []):
            option = each["DefElem"]
            if option["defname"] not in _EXPLAIN:
                raise Uncovered(f"EXPLAIN {option['defname']} tells of other rows")
            if option["defname"] == "costs":
                costs = option.get("arg", {}).get("String", {}).get("sval") != "off"
        if costs:
            raise Uncovered("EXPLAIN tells costs")
