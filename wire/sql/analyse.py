"""Reads a text with PostgreSQL's own parser and tells the facts that judging needs.

Facts know no tenant and no policy, so one parse serves all. The tree comes as JSON (less than half
the cost of the protobuf form, and ten times its depth) and is walked with a list, not by recursion.

libpg_query recurses over expressions that are nested to the left without looking at its stack: at
the worst, "1+1+1…", it needs 256 bytes of stack for two bytes of text (measured). So a thread with
S bytes of stack must not parse more than S / 256 bytes: see PARSE_HERE_MAX in guard.py.
"""

from __future__ import annotations

from typing import Any, Final

import orjson
from postgast.native import lib

from wire.errors import NotSupported, SyntaxRefused, TenantryError, TooLarge
from wire.sql import verdict as v
from wire.sql.builtins import BUILTINS
from wire.sql.commands import (
    BODIES,
    DDL,
    LOCKING,
    OBJECT_FIELDS,
    READ_ONLY,
    READING,
    SYSTEM,
    SYSTEM_OBJECTS,
    TRUE,
    UNLOCKING,
    client_only_encoding,
    system_function,
)
from wire.sql.template import PUNCTUATION, tokens

_HOLD: Final = 0x20  # CURSOR_OPT_HOLD
_ROW_SHARE: Final = 2  # LOCK TABLE modes above this one conflict with writers
_NO_SCOPE: Final[frozenset[str]] = frozenset()

_TRANSACTION: Final[dict[str, int]] = {
    "TRANS_STMT_BEGIN": v.BEGIN,
    "TRANS_STMT_START": v.BEGIN,
    "TRANS_STMT_COMMIT": v.COMMIT,
    "TRANS_STMT_PREPARE": v.COMMIT,
    "TRANS_STMT_ROLLBACK": v.ROLLBACK,
    "TRANS_STMT_SAVEPOINT": v.SAVEPOINT,
    "TRANS_STMT_RELEASE": v.RELEASE,
    "TRANS_STMT_ROLLBACK_TO": v.ROLLBACK_TO,
}
_MERGE: Final = {"CMD_INSERT": "INSERT", "CMD_UPDATE": "UPDATE", "CMD_DELETE": "DELETE"}


class Statement:
    """The facts of one top-level statement.

    operations  what it does, EXPLAIN and PREPARE taken as what they wrap: SELECT, INSERT, UPDATE
                (SELECT … FOR UPDATE counts), DELETE, TRUNCATE, LOCK, CALL, DO
    ddl         verb of the schema change, or ""
    system      what reaches beyond the tenant's own data (server files, roles …), or ""
    relations   (schema or "", name) of every table, view … it names, except its own CTEs
    functions   names of the functions called, with their schema if written
    writes      may write, in PostgreSQL's sense of a read-only transaction
    read_write  asks for a transaction that is not read-only
    forbidden   why nobody may run it, or ""
    literal     the facts depend on the value of a literal
    effect, key, start, end   as in verdict.Effect; the text is sql[start:end]
    """

    def __init__(self) -> None:
        self.operations: set[str] = set()
        self.ddl = ""
        self.system = ""
        self.relations: set[tuple[str, str]] = set()
        self.functions: set[str] = set()
        self.explain = False
        self.writes = False
        self.read_write = False
        self.forbidden = ""
        self.literal = False
        self.pin = ""
        self.unsure = False
        self.unpin = False
        self.block = False
        self.effect = v.NONE
        self.key = ""
        self.start = 0
        self.end = 0


class Facts:
    """The facts of a text. `exact`: they hold for this text only, not for all of its template."""

    def __init__(self, statements: list[Statement]) -> None:
        self.statements = statements
        self.exact = any([s.literal for s in statements])


def parse(sql: bytes) -> list[dict[str, Any]]:
    """The parse tree's statements as libpg_query writes them in JSON; `sql` is UTF-8.

    Raises SyntaxRefused (PostgreSQL's own message), TooLarge, NotSupported.
    """
    result = lib.pg_query_parse(sql)
    try:
        if result.error:
            error = result.error.contents
            message = (error.message or b"syntax error").decode(errors="replace")
            if message.startswith("memory exhausted"):
                raise TooLarge("statement is nested too deeply to be judged")
            raise SyntaxRefused(message, position=max(error.cursorpos, 0))
        tree: bytes = result.parse_tree
    finally:
        lib.pg_query_free_parse_result(result)
    try:
        statements: list[dict[str, Any]] = orjson.loads(tree).get("stmts", [])
    except orjson.JSONDecodeError as error:
        if "depth" in str(error):
            raise TooLarge("statement is nested too deeply to be judged") from None
        raise NotSupported("statement cannot be judged") from None
    return statements


def analyse(sql: str | bytes) -> Facts:
    """The facts of a text of one or more statements, as bytes in the client's encoding.

    A text that is not UTF-8 is read byte by byte as Latin-1: right for every encoding in which all
    bytes of other than ASCII characters are at least 0x80. (The rest are refused where they are
    asked for: commands.client_only_encoding.)
    Raises SyntaxRefused, TooLarge (nested beyond what we can follow), NotSupported.
    """
    raw = sql.encode() if isinstance(sql, str) else sql
    if b"\0" in raw:
        raise SyntaxRefused("a statement cannot hold a NUL byte")
    text = raw
    foreign = False
    try:
        raw.decode()
    except UnicodeDecodeError:
        foreign = True
        text = raw.decode("latin-1").encode()
    try:
        trees = parse(text)
    except RecursionError:
        raise TooLarge("statement is nested too deeply to be judged") from None
    statements = []
    for tree in trees:
        if "stmt" not in tree:
            continue
        statement = _Walk(tree["stmt"]).out
        if statement.effect in (v.SET, v.PREPARE):
            start = tree.get("stmt_location", 0)
            length = tree.get("stmt_len", 0)
            _locate(statement, text, start, start + length if length else len(text))
            if foreign:
                _translate(statement, text)
        statements.append(statement)
    return Facts(statements)


def _locate(statement: Statement, text: bytes, start: int, end: int) -> None:
    """Where the statement's own text is, without comments, white space and semicolon around it."""
    found = tokens(text[start:end])
    while found and found[-1][0] == PUNCTUATION and text[start + found[-1][1]] == 0x3B:
        found.pop()
    if not found:
        statement.unsure = True
        statement.effect = v.NONE
        return
    statement.start = start + found[0][1]
    statement.end = start + found[-1][2]


def _translate(statement: Statement, text: bytes) -> None:
    """From positions in the text we parsed to those in the client's."""
    statement.start = len(text[: statement.start].decode())
    statement.end = len(text[: statement.end].decode())
    if not statement.key.isascii():
        # We could replay it, but not undo it: its name is not what the server knows.
        statement.effect = v.NONE
        statement.pin = "a name that is not UTF-8"


def _const(node: Any) -> str | None:
    """The value of a literal as text; None for anything else."""
    if not isinstance(node, dict):
        return None
    const = node.get("A_Const")
    if const is None:
        return None
    if "sval" in const:
        return str(const["sval"].get("sval", ""))
    if "boolval" in const:
        return "true" if const["boolval"].get("boolval") else "false"
    if "ival" in const:
        return str(const["ival"].get("ival", 0))
    if "fval" in const:
        return str(const["fval"].get("fval", ""))
    return None


def _names(items: Any) -> list[str]:
    """The strings of a list of String nodes."""
    return [i["String"].get("sval", "") for i in items if isinstance(i, dict) and "String" in i]


class _Walk:
    """Walks one statement's tree and collects its facts in `out`."""

    def __init__(self, root: dict[str, Any]) -> None:
        self.out = Statement()
        self.body = False  # below a query that is stored, not run
        self.stack: list[tuple[Any, frozenset[str]]] = [(root, _NO_SCOPE)]
        kind = next(iter(root))
        _root(self.out, kind, root[kind])
        while self.stack:
            value, scope = self.stack.pop()
            if isinstance(value, list):
                for item in value:
                    if isinstance(item, dict):
                        self.stack.append((item, scope))
                    elif isinstance(item, list):
                        self.stack.append((item, scope))
            else:
                self._node(value, scope)

    def _node(self, node: dict[str, Any], scope: frozenset[str]) -> None:
        if "relpersistence" in node and "relname" in node:
            self._relation(node)
            return
        if "withClause" in node:
            scope = self._with(node["withClause"], scope)
        for key, child in node.items():
            if not isinstance(child, dict):
                if isinstance(child, list) and key != "lockedRels":
                    self.stack.append((child, scope))
                continue
            if key == "RangeVar":
                if "schemaname" in child or child.get("relname") not in scope:
                    self._relation(child)
            elif key == "withClause":
                continue
            elif key == "FuncCall" or key == "funccall":
                self._function(child)
                self.stack.append((child, scope))
            elif key.endswith("Stmt"):
                self._statement(key, child, scope)
            else:
                self.stack.append((child, scope))

    def _with(self, clause: dict[str, Any], scope: frozenset[str]) -> frozenset[str]:
        """Queues the CTEs' queries; returns the scope of the statement they belong to."""
        ctes = [cte["CommonTableExpr"] for cte in clause.get("ctes", [])]
        everything = scope | {cte["ctename"] for cte in ctes}
        for cte in ctes:
            # Without RECURSIVE a CTE sees those before it only.
            self.stack.append((cte, everything if clause.get("recursive") else scope))
            scope = scope | {cte["ctename"]}
        return everything

    def _relation(self, node: dict[str, Any]) -> None:
        schema = node.get("schemaname", "")
        self.out.relations.add((schema, node["relname"]))
        if node["relpersistence"] == "t":
            self.out.pin = "temporary objects"

    def _statement(self, kind: str, node: dict[str, Any], scope: frozenset[str]) -> None:
        out = self.out
        if kind in BODIES:
            self.body = True
        if kind == "SelectStmt":
            self._select(node)
        elif kind == "InsertStmt":
            self._operation("INSERT")
            source = node.get("selectStmt", {}).get("SelectStmt")
            if source is not None and "valuesLists" in source:
                # VALUES reads no table; what it holds may.
                self._queue_query(source, scope)
                node = {k: child for k, child in node.items() if k != "selectStmt"}
        elif kind in ("UpdateStmt", "DeleteStmt"):
            self._operation("UPDATE" if kind == "UpdateStmt" else "DELETE")
            if node.get("fromClause") or node.get("usingClause"):
                self._operation("SELECT")
            if ("", "pg_settings") == _target(node) or _target(node)[0] == "pg_catalog":
                out.forbidden = "catalogs cannot be changed; use SET for settings"
        elif kind == "MergeStmt":
            self._operation("SELECT")
            for clause in node.get("mergeWhenClauses", []):
                operation = _MERGE.get(clause["MergeWhenClause"].get("commandType", ""))
                if operation is not None:
                    self._operation(operation)
        elif kind not in _PLAIN:
            _command(out, kind, node)
        self._queue_query(node, scope)

    def _queue_query(self, node: dict[str, Any], scope: frozenset[str]) -> None:
        self.stack.append((node, scope))

    def _operation(self, name: str) -> None:
        if not self.body:
            self.out.operations.add(name)
            if name != "SELECT":
                self.out.writes = True

    def _select(self, node: dict[str, Any]) -> None:
        self._operation("SELECT")
        if "intoClause" in node:
            self.out.ddl = "CREATE"
            self.out.writes = True
        if "lockingClause" in node:
            # As PostgreSQL's privileges have it: locking rows is the right of who may update.
            self._operation("UPDATE")

    def _function(self, node: dict[str, Any]) -> None:
        out = self.out
        names = _names(node.get("funcname", []))
        if not names:
            return
        name = names[-1]
        out.functions.add(".".join(names))
        if system_function(name):
            if not _own_backend(name, node):
                out.system = f"function {name}"
        elif name in LOCKING:
            out.pin = "an advisory lock"
        elif name in UNLOCKING:
            out.unpin = True
        elif name == "set_config":
            _set_config(out, node.get("args", []))
        elif name not in BUILTINS or (len(names) > 1 and names[-2] != "pg_catalog"):
            if names[0] != "information_schema":
                out.unsure = True
