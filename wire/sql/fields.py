"""Functions that are called as if they were fields: (x).f is f(x) where x has no field f.

PostgreSQL's parser leaves that open, so no call stands in the tree. The same holds for a.f where
the row of `a` may be a plain value, as that of a function in FROM is. Only functions that one
argument is enough for can be called so, and only without a schema: those of the search path.
"""

from __future__ import annotations

from typing import Any, Final

from wire.sql.allowed import function_refused
from wire.sql.builtins import BUILTINS
from wire.sql.catalog import Catalog
from wire.sql.commands import LOCKING, READING_TEXT, UNLOCKING, system_function
from wire.sql.effects import names
from wire.sql.namespaces import CALLED

# Of those that leave something behind, besides the locks.
_STATE: Final = frozenset(["setseed", "lo_creat", "lo_create", "lo_get", "lo_unlink", "lo_close"])
# The rows of INSERT, UPDATE, DELETE and MERGE have these names, too.
_CHANGED: Final = frozenset(["excluded", "new", "old"])


def sensitive(name: str) -> bool:
    """Whether nobody may call a function of this name as a field: its calls have to be seen."""
    return (
        name in CALLED
        or name in LOCKING
        or name in UNLOCKING
        or name in READING_TEXT
        or name in _STATE
        or name.startswith("pg_stat_")
        or system_function(name)
    )


class Fields:
    """The names in a statement that stand where a field does.

    values  those of any value: (x).f
    rows    (a, f) of those that follow a name: a.f
    """

    __slots__ = ("rows", "values")

    def __init__(self) -> None:
        self.values: set[str] = set()
        self.rows: set[tuple[str, str]] = set()

    def add(self, kind: str, node: dict[str, Any]) -> None:
        """Takes an A_Indirection or a ColumnRef in."""
        if kind == "A_Indirection":
            self.values.update(names(node.get("indirection", [])))
            return
        words = node.get("fields", [])
        if len(words) > 1 and "String" in words[-1]:
            self.rows.add(
                (words[-2]["String"].get("sval", ""), words[-1]["String"].get("sval", ""))
            )

    def sensitive(self, root: dict[str, Any]) -> str:
        """The function of `sensitive` that the statement `root` may call so, or ""."""
        for name in self.values:
            if sensitive(name):
                return name
        doubtful = [each for each in self.rows if sensitive(each[1])]
        if doubtful:
            sources = _Sources(root)
            for alias, name in doubtful:
                if sources.may_be_value(alias):
                    return name
        return ""

    def refused(self, root: dict[str, Any], catalog: Catalog) -> str | None:
        """Why a row tenant may not run the statement `root`, or None."""
        for name in self.values:
            if _calls(name, catalog):
                return f"permission denied for function {name}"
        doubtful = [each for each in self.rows if _calls(each[1], catalog)]
        if doubtful:
            sources = _Sources(root)
            for alias, name in doubtful:
                if sources.may_be_value(alias) or (
                    name in catalog.row_calls and not sources.has_column(alias, name, catalog)
                ):
                    return f"permission denied for function {name}"
        return None


def _calls(name: str, catalog: Catalog) -> bool:
    """Whether a field of this name may be a function that row tenants may not call so."""
    if name in CALLED:
        return True
    if name not in BUILTINS and name not in catalog.calls and not sensitive(name):
        return False
    return function_refused("", name, catalog) is not None


class _Sources:
    """What the names of a statement's FROM clauses stand for.

    tables  the nodes that name a relation or WITH query, by their names in the statement
    rows    names of sub-selects, joins and what else has columns
    values  names of functions; "" is among them where one has no name that we know
    targets what is changed: it has the names of _CHANGED, too
    """

    def __init__(self, root: dict[str, Any]) -> None:
        self.tables: dict[str, list[dict[str, Any]]] = {}
        self.rows: set[str] = set()
        self.values: set[str] = set()
        self.queries: set[str] = set()
        self.targets: list[dict[str, Any]] = []
        stack: list[Any] = [root]
        while stack:
            node = stack.pop()
            if isinstance(node, list):
                stack.extend([each for each in node if isinstance(each, (dict, list))])
                continue
            alias = node.get("alias", {})
            name = alias.get("aliasname", "") if isinstance(alias, dict) else ""
            if "relpersistence" in node:
                self.tables.setdefault(name or node.get("relname", ""), []).append(node)
            elif "ctename" in node:
                self.queries.add(node["ctename"])
            elif name and "functions" not in node:
                self.rows.add(name)
            for key, child in node.items():
                if key == "RangeFunction":
                    self.values.add(child.get("alias", {}).get("aliasname", ""))
                elif key == "relation" and "relpersistence" in child:
                    self.targets.append(child)
                if isinstance(child, (dict, list)):
                    stack.append(child)

    def may_be_value(self, alias: str) -> bool:
        """Whether a name may stand for a plain value, not for a row with columns."""
        if alias in self.values or "" in self.values:
            return True
        known = alias in self.tables or alias in self.rows or alias in _CHANGED
        return not known

    def has_column(self, alias: str, name: str, catalog: Catalog) -> bool:
        """Whether all that is called `alias` are tables with such a column."""
        nodes = self.tables.get(alias, self.targets if alias in _CHANGED else [])
        if alias in self.rows or not nodes:
            return False
        for node in nodes:
            schema = node.get("schemaname", "")
            found = catalog.find(schema, node.get("relname", ""))
            if found is None or name not in found.columns:
                return False
            if "colnames" in node.get("alias", {}) or node.get("relname") in self.queries:
                return False
        return True
