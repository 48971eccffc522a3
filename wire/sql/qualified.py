"""Which schemas, functions and settings a statement names, for tenants beside others.

The database refuses a tenant the schemas of others, by itself. The guard refuses them before: names
that stand in literals (regclass, function bodies) are the database's alone.
"""

from __future__ import annotations

from typing import Any, Final

from wire.sql.commands import OBJECT_FIELDS, OF_RELATIONS
from wire.sql.effects import config_arguments, const, names
from wire.sql.facts import Statement

# Fields of parse nodes (src/include/nodes/parsenodes.h, PostgreSQL 18) that hold a name as a list
# of words: a schema, if written, stands before the last.
_NAMES: Final = frozenset(
    [
        *("funcname", "func_name", "name", "operName", "useOp", "collname", "defnames", "dictname"),
        *("cfgname", "typeName", "domainname", "objname", "opclass", "opclassname", "opfamilyname"),
        *("conversion_name", "handler_name"),
    ]
)
_OPERATORS: Final = frozenset({"name", "operName", "useOp"})


class Uses:
    """What a statement uses.

    calls      (schema or "", name, arguments) of the functions it calls
    sets       nodes of SET and RESET, also where they are clauses of other commands
    operators  schemas of the operators that are written with one
    symbols    names of the others
    Schemas, and what search_path is set to, go to the statement's facts.
    """

    def __init__(self, out: Statement, root: dict[str, Any]) -> None:
        self.calls: list[tuple[str, str, list[Any]]] = []
        self.sets: list[dict[str, Any]] = []
        self.operators: set[str] = set()
        self.symbols: set[str] = set()
        self._out = out
        stack: list[Any] = [root]
        while stack:
            node = stack.pop()
            if isinstance(node, list):
                for item in node:
                    if isinstance(item, (dict, list)):
                        stack.append(item)
                continue
            for key, child in node.items():
                if isinstance(child, list):
                    self._words(key, child, node)
                    stack.append(child)
                elif isinstance(child, dict):
                    if key in ("VariableSetStmt", "setstmt"):
                        self.sets.append(child)
                        _path(out, child)
                    elif key in ("FuncCall", "funccall"):
                        self._call(child)
                    stack.append(child)
                elif key in ("schemaname", "newschema", "local_schema") and child:
                    out.schemas.add(child)
            if out.ddl:
                _objects(out, node)

    def _words(self, key: str, child: list[Any], node: dict[str, Any]) -> None:
        if key in _NAMES:
            words = names(child)
            _add(self._out, words)
            if key in _OPERATORS and words:
                if len(words) > 1:
                    self.operators.add(words[-2])
                else:
                    self.symbols.add(words[0])
        elif key == "names":
            # t.c%TYPE names a column.
            words = names(child)
            _add(self._out, words[:-1] if node.get("pct_type") else words)

    def _call(self, node: dict[str, Any]) -> None:
        words = names(node.get("funcname", []))
        if not words:
            return
        args = node.get("args", [])
        self.calls.append((words[-2] if len(words) > 1 else "", words[-1], args))
        if words[-1] == "set_config":
            _config(self._out, args)


def _add(out: Statement, words: list[str]) -> None:
    if len(words) > 1:
        out.schemas.add(words[-2])


def _objects(out: Statement, node: dict[str, Any]) -> None:
    """What DROP, ALTER, COMMENT, GRANT … name otherwise than with a RangeVar."""
    kind = next((node[field] for field in OBJECT_FIELDS if field in node), "")
    if node.get("targtype") == "ACL_TARGET_ALL_IN_SCHEMA" or (
        node.get("defname") == "schemas" and "arg" in node
    ):
        kind = "OBJECT_SCHEMA"
    elif node.get("kind") == "REINDEX_OBJECT_SCHEMA":
        out.schemas.add(node.get("name", ""))
        return
    if not kind:
        return
    named = [*node.get("objects", []), node.get("object"), node.get("arg")]
    if kind == "OBJECT_SCHEMA":
        out.schemas.update(node[field] for field in ("subname", "newname") if node.get(field))
        for each in named:
            if isinstance(each, dict):
                items = each["List"].get("items", []) if "List" in each else [each]
                out.schemas.update(names(items))
        return
    for each in named:
        if isinstance(each, dict) and "List" in each:
            words = names(each["List"].get("items", []))
            if kind in OF_RELATIONS:
                words = words[:-1]
            elif kind in ("OBJECT_OPCLASS", "OBJECT_OPFAMILY"):
                words = words[1:]  # the first is the access method
            _add(out, words)


# --- search_path ----------------------------------------------------------------------------------


def _path(out: Statement, node: dict[str, Any]) -> None:
    """SET search_path, also as a clause of another command."""
    if str(node.get("name", "")).lower() != "search_path":
        return
    for arg in node.get("args", []):
        value = const(arg)
        if value is None:
            out.unknown_path = True
        else:
            _searched(out, value)


# pg_dump: SELECT set_config(name, 'view, foreign-table', false) FROM pg_settings WHERE name =
# 'restrict_nonsystem_relation_kind'. As a search_path it would name two schemas that no tenant has.
_PG_DUMP: Final = "view, foreign-table"


def _config(out: Statement, args: list[dict[str, Any]]) -> None:
    name, value, _ = config_arguments(args)
    setting = const(name)
    if setting is not None and setting.lower() != "search_path":
        return
    text = const(value)
    if setting is None and text == _PG_DUMP:
        return
    if setting is None or text is None:
        # It could be the search_path.
        out.unknown_path = True
        return
    words = split_path(text)
    if words is None:
        out.unknown_path = True
        return
    for word in words:
        _searched(out, word)


def _searched(out: Statement, name: str) -> None:
    # Our roles bear no schemas' names but their own.
    if name not in ("", "$user"):
        out.schemas.add(name)


def split_path(text: str) -> list[str] | None:
    """The names in the value of search_path, as SplitIdentifierString (varlena.c) reads it;
    None where it would report an error."""
    found: list[str] = []
    at = 0
    text = text.strip(" \t\n\r\f\v")
    if not text:
        return found
    while True:
        while at < len(text) and text[at] in " \t\n\r\f\v":
            at += 1
        if at < len(text) and text[at] == '"':
            word, at = _unquoted(text, at + 1)
            if at < 0:
                return None
        else:
            start = at
            while at < len(text) and text[at] not in ", \t\n\r\f\v":
                at += 1
            if at == start:
                return None
            word = "".join(c.lower() if c.isascii() else c for c in text[start:at])
        found.append(word)
        while at < len(text) and text[at] in " \t\n\r\f\v":
            at += 1
        if at == len(text):
            return found
        if text[at] != ",":
            return None
        at += 1


def _unquoted(text: str, at: int) -> tuple[str, int]:
    """The name whose opening quote is before `at`, and where it ends; -1 without an end."""
    word = ""
    while True:
        end = text.find('"', at)
        if end < 0:
            return word, -1
        word += text[at:end]
        if text[end + 1 : end + 2] != '"':
            return word, end + 1
        word += '"'
        at = end + 2
