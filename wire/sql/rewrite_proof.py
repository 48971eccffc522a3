"""What the proof of a rewritten text recognises: conditions on the tenant column, and stamps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from wire.sql.catalog import Relation

Node = dict[str, Any]
Scope = frozenset[str]


COMMANDS: Final = frozenset(
    [
        *("CallStmt", "ClosePortalStmt", "ConstraintsSetStmt", "DeallocateStmt", "DiscardStmt"),
        *("DeclareCursorStmt", "ExecuteStmt", "FetchStmt", "ListenStmt", "NotifyStmt"),
        *("PrepareStmt", "TransactionStmt", "UnlistenStmt", "VariableSetStmt"),
        "VariableShowStmt",
    ]
)
"""Statements that by themselves meet no rows."""
NAMES: Final = frozenset(["A_Const", "ColumnRef", "ParamRef", "String"])
"""Nodes that hold no table."""
_EQUAL: Final = "AEXPR_OP"
_ANY: Final = "AEXPR_OP_ANY"


class Uncovered(Exception):
    """Something in a rewritten text may meet other tenants' rows."""


def repeated(field: str, node: Any) -> bool:
    """Whether a node is another copy of the right side in SET (a, b) = (…)."""
    return field == "MultiAssignRef" and node["colno"] != 1


def tables(root: Node) -> list[Node]:
    """Every node that names a relation."""
    out: list[Node] = []
    stack: list[Any] = [root]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack.extend(node)
            continue
        if "relpersistence" in node:
            out.append(node)
        for field, child in node.items():
            if field in NAMES or not isinstance(child, (dict, list)):
                continue
            if not repeated(field, child):
                stack.append(child)
    return out


def keys(node: Node, relation: Relation, *, plain: bool) -> frozenset[tuple[str, ...]]:
    """How a condition may name the tenant column of a table: operator, name, type.

    `plain`: by equality, too, not only by what is evaluated before all other conditions.
    """
    column = (relation.column, relation.type)
    name = node["relname"]
    names = [(name,), (relation.schema, name)]
    if "alias" in node:
        names = [(node["alias"]["aliasname"],)]
    operators = [_ANY, _EQUAL] if plain else [_ANY]
    return frozenset((operator, *each, *column) for each in names for operator in operators)


def spreads(node: Node) -> bool:
    """Whether an expression may yield several columns."""
    inner = node.get("ColumnRef") or node.get("A_Indirection") or {}
    fields: list[Any] = inner.get("fields") or inner.get("indirection") or []
    return any("A_Star" in each for each in fields)


def own_rows(insert: Node) -> Iterator[list[Any]]:
    """The rows of expressions that an INSERT gives, of each query of set operations."""
    stack = [insert.get("selectStmt", {}).get("SelectStmt")]
    while stack:
        query = stack.pop()
        if query is None:
            raise Uncovered("INSERT gives default values")
        if "larg" in query:
            stack += [query["larg"], query["rarg"]]
        elif "valuesLists" in query:
            for each in query["valuesLists"]:
                yield each["List"].get("items", [])
        else:
            yield [each["ResTarget"]["val"] for each in query.get("targetList", [])]


class Values:
    """Recognises the tenant's value, which is `value`."""

    def __init__(self, value: str) -> None:
        self._value = value

    def _type(self, node: Node) -> str:
        """The type in pg_catalog of 'value'::type; "" for anything else."""
        cast = node.get("TypeCast", {})
        constant = cast.get("arg", {}).get("A_Const", {})
        if "sval" not in constant or constant["sval"].get("sval", "") != self._value:
            return ""
        kind = cast["typeName"]
        names = [each["String"]["sval"] for each in kind.get("names", [])]
        plain = not any(kind.get(field) for field in ("arrayBounds", "typmods", "setof"))
        return names[1] if plain and len(names) == 2 and names[0] == "pg_catalog" else ""

    def conditions(self, node: Any) -> frozenset[tuple[str, ...]]:
        """The columns that a condition holds to the value, as keys() has them."""
        found: set[tuple[str, ...]] = set()
        stack: list[Any] = [node]
        while stack:
            each = stack.pop()
            if each is None:
                continue
            both = each.get("BoolExpr", {})
            if both.get("boolop") == "AND_EXPR":
                stack.extend(both["args"])
                continue
            test = each.get("A_Expr", {})
            kind = test.get("kind", "")
            operator = [word.get("String", {}).get("sval") for word in test.get("name", [])]
            if kind not in (_ANY, _EQUAL) or operator != ["pg_catalog", "="]:
                continue
            value = test.get("rexpr", {})
            if kind == _ANY:
                elements = value.get("A_ArrayExpr", {}).get("elements", [])
                value = elements[0] if len(elements) == 1 else {}
            fields = test.get("lexpr", {}).get("ColumnRef", {}).get("fields", [])
            names = [field.get("String", {}).get("sval", "") for field in fields]
            type = self._type(value)
            if type and len(names) in (2, 3) and all(names):
                found.add((kind, *names, type))
        return frozenset(found)

    def stamps(self, node: Any, relation: Relation) -> bool:
        """Whether an expression can only be the tenant's value, or NULL."""
        case = node.get("CaseExpr")
        if case is not None:
            whens = case["args"]
            if len(whens) != 1 or "defresult" in case or "arg" in case:
                return False
            node = whens[0]["CaseWhen"]["result"]
        return self._type(node) == relation.type
