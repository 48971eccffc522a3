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

from wire.errors import NotSupported, SyntaxRefused, TenantryError, TooLarge
from wire.sql import effects, framed, libpg
from wire.sql import verdict as v
from wire.sql.builtins import BUILTINS
from wire.sql.commands import (
    BODIES,
    DDL,
    LOCKING,
    OBJECT_FIELDS,
    OF_RELATIONS,
    SYSTEM,
    SYSTEM_OBJECTS,
    UNLOCKING,
    system_function,
)
from wire.sql.edits import Edit
from wire.sql.facts import Facts, Statement, same
from wire.sql.fields import Fields
from wire.sql.frame import DATABASE, Frame
from wire.sql.lexer import PUNCTUATION, tokens, without_comments

MAX_STATEMENTS: Final = 10_000  # in one text: 10 MB of facts, a second of a processor
_ROW_SHARE: Final = 2  # LOCK TABLE modes above this one conflict with writers
_NO_SCOPE: Final[frozenset[str]] = frozenset()

_MERGE: Final = {"CMD_INSERT": "INSERT", "CMD_UPDATE": "UPDATE", "CMD_DELETE": "DELETE"}

# Always allowed by themselves; what they wrap is judged.
_PLAIN: Final = frozenset(
    [
        "VariableSetStmt",
        "VariableShowStmt",
        "TransactionStmt",
        "PrepareStmt",
        "DeallocateStmt",
        "DeclareCursorStmt",
        "FetchStmt",
        "ClosePortalStmt",
        "DiscardStmt",
        "ConstraintsSetStmt",
        "ReturnStmt",
    ]
)
# Statements that are an operation of their own. Who listens learns what others do, so LISTEN (and
# its like) needs what reading needs.
_OPERATIONS: Final[dict[str, str]] = {
    "TruncateStmt": "TRUNCATE",
    "CallStmt": "CALL",
    "DoStmt": "DO",
    "ListenStmt": "SELECT",
    "UnlistenStmt": "SELECT",
    "NotifyStmt": "SELECT",
}


def parse(sql: bytes) -> list[dict[str, Any]]:
    """The parse tree's statements as libpg_query writes them in JSON; `sql` is UTF-8.

    Raises SyntaxRefused (PostgreSQL's own message), TooLarge, NotSupported.
    """
    tree, message, position = libpg.parse(sql)
    if message and not message.startswith("memory exhausted"):
        # libpg_query stumbles over comments where PostgreSQL looks ahead: NOT /* … */ IN.
        bare = without_comments(sql)
        if bare is not None:
            tree, message, position = libpg.parse(bare)
            if position:
                # Characters of several bytes may have become as many blanks.
                at = len(bare.decode()[: position - 1].encode())
                position = len(sql[:at].decode()) + 1
    if message.startswith("memory exhausted"):
        raise TooLarge("statement is nested too deeply to be judged")
    if message:
        raise SyntaxRefused(message, position=position)
    try:
        statements: list[dict[str, Any]] = orjson.loads(tree).get("stmts", [])
    except orjson.JSONDecodeError as error:
        if "depth" in str(error):
            raise TooLarge("statement is nested too deeply to be judged") from None
        raise NotSupported("statement cannot be judged") from None
    return statements


def analyse(sql: str | bytes, frame: Frame = DATABASE) -> Facts:
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
    if len(trees) > MAX_STATEMENTS:
        raise TooLarge(f"text holds more than {MAX_STATEMENTS} statements")
    statements = _statements(trees, text, frame)
    if foreign:
        for statement in {id(each): each for each in statements}.values():
            _translate(statement, text)
    return Facts(statements)


def _statements(trees: list[dict[str, Any]], text: bytes, frame: Frame) -> list[Statement]:
    statements: list[Statement] = []
    for tree in trees:
        if "stmt" not in tree:
            continue
        walk = _Walk(tree["stmt"])
        statement = walk.out
        start = tree.get("stmt_location", 0)
        length = tree.get("stmt_len", 0)
        end = start + length if length else len(text)
        if frame.shared:
            framed.fit(statement, tree["stmt"], text, start, end, frame, walk.fields)
        if statement.effect in (v.SET, v.PREPARE):
            _locate(statement, text, start, end)
        if statements and same(statements[-1], statement):
            statement = statements[-1]
        statements.append(statement)
    if frame.shared:
        framed.finish(statements, text, frame)
    return statements


def analyse_or_refuse(sql: bytes, frame: Frame = DATABASE) -> Facts:
    """As analyse, with what it raises as the facts' refusal."""
    try:
        return analyse(sql, frame)
    except TenantryError as error:
        return Facts([], error)


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
    if statement.effect in (v.SET, v.PREPARE) and not statement.key.isascii():
        # We could replay it, but not undo it: its name is not what the server knows.
        statement.effect = v.NONE
        statement.pin = "a name that is not UTF-8"
    edits: list[Edit] = []
    seen = characters = 0
    for edit in statement.edits:
        if not all(part.isascii() for part in edit.parts):
            raise NotSupported("a name that is not UTF-8 cannot be used in this statement")
        characters += len(text[seen : edit.start].decode())
        start = characters
        characters += len(text[edit.start : edit.end].decode())
        seen = edit.end
        edits.append(Edit(start, characters, edit.parts, edit.holes))
    statement.edits = edits


class _Walk:
    """Walks one statement's tree and collects its facts in `out`."""

    def __init__(self, root: dict[str, Any]) -> None:
        self.out = Statement()
        self.body = False  # in a statement whose queries are stored, not run
        self.fields = Fields()
        self.stack: list[tuple[Any, frozenset[str]]] = [(root, _NO_SCOPE)]
        for kind, node in root.items():
            effects.session(self.out, kind, node)
        while self.stack:
            value, scope = self.stack.pop()
            if isinstance(value, dict):
                self._node(value, scope)
            else:
                for item in value:
                    if isinstance(item, (dict, list)):
                        self.stack.append((item, scope))
        hidden = self.fields.sensitive(root)
        if hidden:
            self.out.forbidden = f"function {hidden} can be called as {hidden}(…) only"

    def _node(self, node: dict[str, Any], scope: frozenset[str]) -> None:
        if "relpersistence" in node and "relname" in node:
            self._relation(node)
            return
        if "withClause" in node:
            scope = self._with(node["withClause"], scope)
        for key, child in node.items():
            if isinstance(child, dict):
                if key == "RangeVar":
                    if "schemaname" in child or child.get("relname") not in scope:
                        self._relation(child)
                elif key == "withClause":
                    pass  # queued above
                elif key.endswith("Stmt") and key[0].isupper():
                    self._statement(key, child, scope)
                else:
                    if key in ("FuncCall", "funccall"):
                        self._function(child)
                    elif key == "ColumnRef" or key == "A_Indirection":
                        self.fields.add(key, child)
                    elif key == "intoClause":
                        self._ddl("CREATE")
                    self.stack.append((child, scope))
            elif isinstance(child, list):
                if key == "lockingClause":
                    # As PostgreSQL's privileges have it: who may update may lock rows.
                    # The names in it are aliases of tables in FROM.
                    self._operation("UPDATE")
                else:
                    self.stack.append((child, scope))

    def _with(self, clause: dict[str, Any], scope: frozenset[str]) -> frozenset[str]:
        """Queues the CTEs' queries; returns the scope of the statement that they belong to."""
        ctes = [cte["CommonTableExpr"] for cte in clause.get("ctes", [])]
        everything = scope | {cte["ctename"] for cte in ctes}
        for cte in ctes:
            # Without RECURSIVE a CTE sees only those before it.
            self.stack.append((cte, everything if clause.get("recursive") else scope))
            scope = scope | {cte["ctename"]}
        return everything

    def _relation(self, node: dict[str, Any]) -> None:
        schema = node.get("schemaname", "")
        self.out.relations.add((schema, node.get("relname", "")))
        if node.get("relpersistence") == "t" or (self.out.ddl and schema.startswith("pg_temp")):
            self.out.pin = "temporary objects"

    def _operation(self, name: str) -> None:
        if not self.body:
            self.out.operations.add(name)
            if name != "SELECT":
                self.out.writes = True

    def _ddl(self, verb: str) -> None:
        self.out.ddl = verb
        self.out.writes = True

    def _statement(self, kind: str, node: dict[str, Any], scope: frozenset[str]) -> None:
        if kind == "SelectStmt":
            self._operation("SELECT")
        elif kind == "InsertStmt":
            self._operation("INSERT")
            self._changed(node)
            if node.get("onConflictClause", {}).get("action") == "ONCONFLICT_UPDATE":
                self._operation("UPDATE")
            source = node.get("selectStmt", {}).get("SelectStmt", {})
            if "valuesLists" in source:
                # VALUES reads no table; what stands in it may.
                within = self._with(node["withClause"], scope) if "withClause" in node else scope
                self.stack.append((source, within))
                rest = {k: c for k, c in node.items() if k not in ("selectStmt", "withClause")}
                self.stack.append((rest, within))
                return
        elif kind in ("UpdateStmt", "DeleteStmt"):
            self._operation("UPDATE" if kind == "UpdateStmt" else "DELETE")
            self._changed(node)
            if "fromClause" in node or "usingClause" in node:
                self._operation("SELECT")
        elif kind == "MergeStmt":
            self._operation("SELECT")
            self._changed(node)
            for clause in node.get("mergeWhenClauses", []):
                action = clause["MergeWhenClause"].get("commandType", "")
                if action in _MERGE:
                    self._operation(_MERGE[action])
        elif kind not in _PLAIN:
            self._command(kind, node)
        self.stack.append((node, scope))

    def _changed(self, node: dict[str, Any]) -> None:
        target = node.get("relation", {})
        if target.get("relname") == "pg_settings":
            # It has a rule that does what set_config does, on values that we do not see.
            self.out.forbidden = "pg_settings cannot be changed; use SET"

    def _command(self, kind: str, node: dict[str, Any]) -> None:
        out = self.out
        if kind in _OPERATIONS:
            self._operation(_OPERATIONS[kind])
        elif kind == "ExplainStmt":
            out.explain = True
        elif kind == "ExecuteStmt":
            # What it runs was judged when it was prepared; what that does to the session is
            # remembered nowhere.
            out.unsure = True
        elif kind == "CopyStmt":
            self._copy(node)
        elif kind == "LockStmt":
            self._operation("LOCK" if node.get("mode", 0) > _ROW_SHARE else "SELECT")
        else:
            self.body = self.body or kind in BODIES
            self._schema_change(kind, node)

    def _copy(self, node: dict[str, Any]) -> None:
        if "relation" in node:
            self._operation("INSERT" if node.get("is_from") else "SELECT")
            if node.get("is_from"):
                self._changed(node)
        if node.get("is_program"):
            self.out.system = "COPY with PROGRAM"
        elif "filename" in node:
            self.out.system = "COPY with a file of the server"

    def _schema_change(self, kind: str, node: dict[str, Any]) -> None:
        out = self.out
        out.system = SYSTEM.get(kind, out.system)
        verb = DDL.get(kind, "ALTER" if kind.startswith("Alter") else kind.removesuffix("Stmt"))
        if kind == "GrantStmt" and not node.get("is_grant"):
            verb = "REVOKE"
        elif kind == "VacuumStmt" and not node.get("is_vacuumcmd"):
            verb = "ANALYZE"
        self._ddl(SYSTEM.get(kind, verb))
        for field in OBJECT_FIELDS:
            if node.get(field) in SYSTEM_OBJECTS:
                out.system = f"{verb} of {SYSTEM_OBJECTS[node[field]]}"
        # Names that are lists of words here, not RangeVar nodes.
        for field in ("funcname", "defnames", "domainname", "typeName"):
            if isinstance(node.get(field), list) and "pg_temp" in effects.names(node[field])[:1]:
                out.pin = "temporary objects"
        objects = node.get("objects", [])
        for named in [*objects, node.get("object")]:
            if isinstance(named, dict) and "List" in named:
                words = effects.names(named["List"].get("items", []))
                if OF_RELATIONS.intersection((node.get("objtype"), node.get("removeType"))):
                    words = words[:-1]
                if words:
                    out.relations.add((words[-2] if len(words) > 1 else "", words[-1]))

    def _function(self, node: dict[str, Any]) -> None:
        out = self.out
        words = effects.names(node.get("funcname", []))
        if not words:
            return
        name = words[-1]
        out.functions.add(".".join(words))
        if system_function(name):
            if not _own_backend(name, node):
                out.system = f"function {name}"
        elif name in LOCKING:
            out.pin = "an advisory lock"
        elif name in UNLOCKING:
            out.unpin = True
        elif name == "set_config":
            effects.set_config(out, node.get("args", []))
        elif words[0] != "information_schema" and (
            name not in BUILTINS or (len(words) > 1 and words[-2] != "pg_catalog")
        ):
            out.unsure = True


def _own_backend(name: str, node: dict[str, Any]) -> bool:
    """Whether the call is pg_terminate_backend(pg_backend_pid()), which only ends the caller."""
    args = node.get("args", [])
    if name != "pg_terminate_backend" or len(args) != 1:
        return False
    inner = args[0].get("FuncCall", {})
    return effects.names(inner.get("funcname", []))[-1:] == ["pg_backend_pid"]
