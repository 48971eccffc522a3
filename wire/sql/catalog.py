"""What the proxy knows of a database with shared tables: which relations hold rows of all tenants.

A snapshot, never changed once made. What it does not know is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

# How a relation may be used by tenants.
GUARDED: Final = 0  # it has the tenant column: rows of all tenants
SHARED: Final = 1  # declared as readable by every tenant; nobody writes it through the proxy
TYPES: Final = frozenset({"text", "varchar", "bpchar", "int2", "int4", "int8", "uuid"})
"""Types (names in pg_catalog) that the tenant column may have."""


class Relation:
    """One table, partition or view of the shared database.

    use        GUARDED or SHARED
    columns    names of the columns as INSERT without a list fills them: generated ones are in, too
    generated  those of them that are always generated (they take DEFAULT only)
    column     the tenant column, and `type` its type in pg_catalog (one of TYPES); "" for SHARED
    is_table   an ordinary or partitioned table: FOR UPDATE and writes are possible
    staging    view that COPY FROM goes through (schema, name), or None
    keys       the columns of each unique index without expressions, in alphabetical order
    """

    __slots__ = (
        *("column", "columns", "generated", "is_table", "keys", "name"),
        *("schema", "staging", "type", "use"),
    )

    def __init__(
        self,
        schema: str,
        name: str,
        use: int,
        columns: tuple[str, ...],
        *,
        column: str = "",
        type: str = "",
        generated: frozenset[str] = frozenset(),
        is_table: bool = True,
        staging: tuple[str, str] | None = None,
        keys: frozenset[tuple[str, ...]] = frozenset(),
    ) -> None:
        self.schema = schema
        self.name = name
        self.use = use
        self.columns = columns
        self.column = column
        self.type = type
        self.generated = generated
        self.is_table = is_table
        self.staging = staging
        self.keys = keys


class Catalog:
    """The relations and functions that row tenants of one database may use.

    version    changes whenever anything else here does
    path       the schemas in which unqualified names are looked up, in order
    functions  the operator's functions that may be called: (schema, name)
    rewrite    statements get the tenant predicate; otherwise only the database enforces
    sealed     the database enforces, too: no expression meets other tenants' rows
    settings   names of settings that hold the tenant's value and that clients may not change
    calls      names of functions on the search path that one argument is enough for (fields.py);
               of PostgreSQL's own, those that builtins.py does not know
    row_calls  those of them that take a row
    overloads  names of functions on the search path that could show other tenants' rows, though no
               extension made them
    operators  names of operators made of such functions
    """

    def __init__(
        self,
        version: str,
        relations: Iterable[Relation],
        *,
        path: tuple[str, ...] = ("public",),
        functions: frozenset[tuple[str, str]] = frozenset(),
        rewrite: bool = True,
        sealed: bool = False,
        settings: frozenset[str] = frozenset(),
        calls: frozenset[str] = frozenset(),
        row_calls: frozenset[str] = frozenset(),
        overloads: frozenset[str] = frozenset(),
        operators: frozenset[str] = frozenset(),
    ) -> None:
        self.version = version
        self.relations = {(each.schema, each.name): each for each in relations}
        self.path = path
        self.functions = functions
        self.rewrite = rewrite
        self.sealed = sealed
        self.settings = settings
        self.calls = calls
        self.row_calls = row_calls
        self.overloads = overloads
        self.operators = operators

    def find(self, schema: str, name: str) -> Relation | None:
        """The relation that SQL means by this name; "" for no schema. None: refuse it.

        PostgreSQL looks into pg_catalog first: whoever asks sees to that before.
        """
        if schema:
            return self.relations.get((schema, name))
        for each in self.path:
            found = self.relations.get((each, name))
            if found is not None:
                return found
        return None

    def dump(self) -> dict[str, Any]:
        """As plain values, for the way between processes."""
        return {
            "version": self.version,
            "relations": [
                {
                    "schema": each.schema,
                    "name": each.name,
                    "use": each.use,
                    "columns": list(each.columns),
                    "column": each.column,
                    "type": each.type,
                    "generated": sorted(each.generated),
                    "is_table": each.is_table,
                    "staging": each.staging,
                    "keys": sorted(each.keys),
                }
                for each in self.relations.values()
            ],
            "path": list(self.path),
            "functions": sorted(self.functions),
            "rewrite": self.rewrite,
            "sealed": self.sealed,
            "settings": sorted(self.settings),
            "calls": sorted(self.calls),
            "row_calls": sorted(self.row_calls),
            "overloads": sorted(self.overloads),
            "operators": sorted(self.operators),
        }


def load(plain: dict[str, Any]) -> Catalog:
    """The inverse of Catalog.dump."""
    return Catalog(
        plain["version"],
        [
            Relation(
                each["schema"],
                each["name"],
                each["use"],
                tuple(each["columns"]),
                column=each["column"],
                type=each["type"],
                generated=frozenset(each["generated"]),
                is_table=each["is_table"],
                staging=tuple(each["staging"]) if each["staging"] else None,
                keys=frozenset(tuple(key) for key in each["keys"]),
            )
            for each in plain["relations"]
        ],
        path=tuple(plain["path"]),
        functions=frozenset((schema, name) for schema, name in plain["functions"]),
        rewrite=plain["rewrite"],
        sealed=plain["sealed"],
        settings=frozenset(plain["settings"]),
        calls=frozenset(plain["calls"]),
        row_calls=frozenset(plain["row_calls"]),
        overloads=frozenset(plain["overloads"]),
        operators=frozenset(plain["operators"]),
    )
