"""Whether evaluating a statement's expressions may fail on some row, and so tell of that row.

PostgreSQL orders the conditions on one table by their cost, and puts an equality with a constant
behind others of the same cost, wherever it is written. So a client's own condition may be evaluated
on rows that the predicate would have thrown out, and fail with their values in the message:
`date_trunc(note, …) IS NOT NULL` did. Row-level security prevents that. Where it is missing, the
predicate has the form = ANY (ARRAY[…]), which PostgreSQL takes for half as costly as the cheapest
function, if any of the statement's expressions may fail. (The equality is better otherwise: by it
PostgreSQL knows that an index on tenant and id yields the order of id.)
"""

from __future__ import annotations

from typing import Any, Final

LEAVES: Final = frozenset(["A_Const", "ColumnRef", "ParamRef", "String"])
"""Nodes that hold no expression and no table."""

# Nodes that are no expressions, or expressions that never fail on the values of a row.
_STRUCTURE: Final = frozenset(
    [
        *("Alias", "CommonTableExpr", "CopyStmt", "DeclareCursorStmt", "DefElem", "DeleteStmt"),
        *("ExplainStmt", "IndexElem", "JoinExpr", "List", "LockingClause", "PrepareStmt"),
        *("RangeSubselect", "RangeTableSample", "RangeVar", "ResTarget", "SelectStmt", "SortBy"),
        *("TypeName", "WindowDef", "WithClause"),
        *("A_ArrayExpr", "A_Expr", "A_Star", "BoolExpr", "BooleanTest", "CaseExpr"),
        *("CaseWhen", "CoalesceExpr", "CurrentOfExpr", "FuncCall", "GroupingSet"),
        *("NullTest", "RowExpr", "SQLValueFunction", "SubLink", "TypeCast"),
    ]
)
_COMPARISONS: Final = frozenset(["=", "<>", "<", ">", "<=", ">="])
_BETWEEN: Final = frozenset(["AEXPR_BETWEEN", "AEXPR_NOT_BETWEEN"])
# Aggregates are evaluated behind all conditions; the rest takes any value.
_FUNCTIONS: Final = frozenset(["avg", "count", "lower", "max", "min", "now", "sum", "upper"])
_CONSTANTS: Final = frozenset(["A_Const", "ParamRef"])


def may_fail(tree: Any) -> bool:
    """Whether a statement has an expression that may fail; also for all that we do not know."""
    stack: list[Any] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack.extend(node)
            continue
        for field, child in node.items():
            if field in LEAVES:
                continue
            if field[:1].isupper() and (field not in _STRUCTURE or _fails(field, child)):
                return True
            if isinstance(child, (dict, list)):
                stack.append(child)
    return False


def _fails(kind: str, node: Any) -> bool:
    if kind == "FuncCall":
        names = [each["String"]["sval"] for each in node["funcname"]]
        return names[-1] not in _FUNCTIONS or names[:-1] not in ([], ["pg_catalog"])
    if kind == "TypeCast":
        return _CONSTANTS.isdisjoint(node["arg"])
    if kind == "A_Expr":
        name = node["name"][-1]["String"]["sval"]
        return name not in _COMPARISONS and node["kind"] not in _BETWEEN
    return False
