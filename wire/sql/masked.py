"""Shows tenants of a shared database parts of those catalogs that also tell of others.

pg_class holds estimates of how many rows a table has, all tenants' together; pg_roles, pg_user,
pg_database and pg_db_role_setting hold names made of other tenants' ids. Tools need them (psql's
\\d reads pg_class and pg_roles). So a sub-select takes the place of the catalog's name in FROM.
"""

from __future__ import annotations

from typing import Any, Final

from wire.errors import NotSupported
from wire.sql.edits import Edit
from wire.sql.lexer import PUNCTUATION, QUOTED, UQUOTED, WORD, tokens

_MEMBER: Final = b", 'MEMBER'::pg_catalog.text))"

# pg_class has had these columns since PostgreSQL 12, and relallfrozen since 18.
_CLASS: Final = b"""(SELECT tableoid, oid, relname, relnamespace, reltype, reloftype, relowner,
 relam, relfilenode, reltablespace, 0 AS relpages, (-1)::pg_catalog.float4 AS reltuples,
 0 AS relallvisible, 0 AS relallfrozen, reltoastrelid, relhasindex, relisshared, relpersistence,
 relkind, relnatts, relchecks, relhasrules, relhastriggers, relhassubclass, relrowsecurity,
 relforcerowsecurity, relispopulated, relreplident, relispartition, relrewrite, relfrozenxid,
 relminmxid, relacl, reloptions, relpartbound FROM pg_catalog.pg_class)"""

MASKS: Final[dict[str, bytes]] = {
    "pg_class": _CLASS.replace(b"\n", b""),
    # Without the privileges, which name other tenants' roles; columns differ between versions.
    "pg_database": b"(SELECT d.tableoid, (pg_catalog.jsonb_populate_record(d,"
    b" '{\"datacl\": null}'::pg_catalog.jsonb)).* FROM pg_catalog.pg_database AS d"
    b" WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())",
    "pg_db_role_setting": b"(SELECT * FROM pg_catalog.pg_db_role_setting"
    b" WHERE pg_catalog.pg_has_role(setrole" + _MEMBER,
    "pg_roles": b"(SELECT * FROM pg_catalog.pg_roles WHERE pg_catalog.pg_has_role(oid" + _MEMBER,
    "pg_user": b"(SELECT * FROM pg_catalog.pg_user WHERE pg_catalog.pg_has_role(usesysid" + _MEMBER,
}
"""What takes the place of a relation of pg_catalog: a sub-select without a name."""

# pg_dump wants a role for every owner that it meets, also of what it leaves out. psql's \du leaves
# out what begins with pg_.
_ROLES: Final = b"""(SELECT CASE WHEN pg_catalog.pg_has_role(oid, 'MEMBER'::pg_catalog.text)
 OR NOT pg_catalog.starts_with(rolname::pg_catalog.text, 'tenantry'::pg_catalog.text)
 THEN rolname ELSE pg_catalog.concat('pg_other_', oid)::pg_catalog.name END AS rolname,
 rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolconnlimit,
 rolpassword, rolvaliduntil, rolbypassrls, NULL::pg_catalog.text[] AS rolconfig, oid
 FROM pg_catalog.pg_roles)"""

MASKS_OF_SCHEMAS: Final[dict[str, bytes]] = MASKS | {
    "pg_roles": _ROLES.replace(b"\n", b""),
    "pg_foreign_server": b"(SELECT tableoid, * FROM pg_catalog.pg_foreign_server"
    b" WHERE pg_catalog.pg_has_role(srvowner" + _MEMBER,
    "pg_largeobject_metadata": b"(SELECT tableoid, * FROM pg_catalog.pg_largeobject_metadata"
    b" WHERE pg_catalog.pg_has_role(lomowner" + _MEMBER,
    # Only superusers may read how it connects.
    "pg_subscription": b"(SELECT oid, subdbid, subname, subowner FROM pg_catalog.pg_subscription"
    b" WHERE pg_catalog.pg_has_role(subowner" + _MEMBER,
}
"""The same for tenants with a schema of their own, who can dump it."""


def is_masked(schema: str, name: str, *, row: bool = True) -> bool:
    """Whether `mask` puts a sub-select in place of this relation; "" for no schema."""
    return name in (MASKS if row else MASKS_OF_SCHEMAS) and schema in ("", "pg_catalog")


def mask(
    tree: dict[str, Any], text: bytes, start: int, end: int, *, row: bool = True
) -> list[Edit]:
    """The edits that put sub-selects in place of the catalogs in a statement's FROM clauses.

    tree  {kind: node} of the statement text[start:end], as libpg_query writes it
    row   for a tenant whose rows are in shared tables; else it has a schema of its own

    Raises NotSupported where a catalog stands otherwise than by its name in FROM.
    """
    masks = MASKS if row else MASKS_OF_SCHEMAS
    found: list[tuple[dict[str, Any], bool]] = []
    columns: list[int] = []  # where pg_catalog.pg_class.… stands
    queries: set[str] = set()
    stack: list[tuple[Any, str, bool]] = [(tree, "", False)]
    while stack:
        value, key, in_from = stack.pop()
        if isinstance(value, list):
            within = in_from or key in ("fromClause", "usingClause")
            stack.extend([(item, "", within) for item in value if isinstance(item, (dict, list))])
            continue
        if "ctename" in value:
            queries.add(value["ctename"])
        if "relname" in value and "relpersistence" in value:
            if is_masked(value.get("schemaname", ""), value["relname"], row=row):
                found.append((value, in_from))
            continue
        for name, child in value.items():
            if name == "lockingClause" or not isinstance(child, (dict, list)):
                continue
            if name == "ColumnRef" and isinstance(child, dict) and _qualified(child, masks):
                columns.append(child.get("location", 0))
            # A join's condition, a function's arguments and a sub-select are not items of FROM.
            item = name in ("RangeVar", "JoinExpr", "larg", "rarg") and in_from
            source = name == "sourceRelation" or (name in ("larg", "rarg") and "jointype" in value)
            stack.append((child, name, item or source))
    if not found:
        return []
    lexed = [(kind, at + start, to + start) for kind, at, to in tokens(text[start:end]) or []]
    edits = [_edit(node, in_from, queries, text, lexed, masks) for node, in_from in found]
    at = {token[1]: index for index, token in enumerate(lexed)}
    for location in columns:
        # A sub-select has no schema: what is left is the name that we give it.
        index = at.get(location, len(lexed))
        if index + 2 >= len(lexed) or _other(lexed, index, index + 2):
            raise NotSupported("cannot tell where a column's name is")
        edits.append(Edit(location, lexed[index + 1][2], (b"",)))
    return sorted(edits, key=lambda edit: edit.start)


def _qualified(node: dict[str, Any], masks: dict[str, bytes]) -> bool:
    """Whether a column is written as pg_catalog.pg_class.relname."""
    words = [each["String"].get("sval", "") for each in node["fields"] if "String" in each]
    return len(node["fields"]) == 3 and words[:1] == ["pg_catalog"] and words[1] in masks


def _edit(
    node: dict[str, Any],
    in_from: bool,
    queries: set[str],
    text: bytes,
    lexed: list[tuple[int, int, int]],
    masks: dict[str, bytes],
) -> Edit:
    name = node["relname"]
    if not in_from or not node.get("inh") or (name in queries and "schemaname" not in node):
        raise NotSupported(f"{name} can be read by its name in FROM only")
    location = node.get("location", 0)
    first = next((i for i, token in enumerate(lexed) if token[1] == location), -1)
    last = first + 2 * (("schemaname" in node) + ("catalogname" in node))
    if first < 0 or last >= len(lexed) or _other(lexed, first, last):
        raise NotSupported(f"{name} can be read by its name in FROM only")
    before = text[lexed[first - 1][1] : lexed[first - 1][2]].lower() if first else b""
    after = text[lexed[last + 1][1] : lexed[last + 1][2]].lower() if last + 1 < len(lexed) else b""
    if before in (b"table", b"only") or after in (b"*", b"tablesample", b"uescape"):
        raise NotSupported(f"{name} can be read by its name in FROM only")
    piece = masks[name]
    if "alias" not in node:
        piece += b" AS " + name.encode()
    return Edit(lexed[first][1], lexed[last][2], (piece,))


def _other(lexed: list[tuple[int, int, int]], first: int, last: int) -> bool:
    """Whether these tokens are something else than names with dots between them."""
    names = all(kind in (WORD, QUOTED, UQUOTED) for kind, _, _ in lexed[first : last + 1 : 2])
    return not names or any(kind != PUNCTUATION for kind, _, _ in lexed[first + 1 : last : 2])
