"""What a statement does to the session: its settings, prepared statements, transaction, server."""

from __future__ import annotations

from typing import Any, Final

from wire.sql import verdict as v
from wire.sql.commands import READ_ONLY, READING, TRUE, client_only_encoding
from wire.sql.facts import Statement

# Settings that change how fast a query runs and nothing else: to find another value on the next
# server does no harm. (asyncpg switches jit off and on around its own queries.)
SPEED: Final = frozenset({"jit"})
# Settings that PostgreSQL does not RESET: those of one transaction, and the seed of random(). That
# they were SET can be seen in pg_settings as long as the server lives.
NO_RESET: Final = frozenset(
    ["seed", "transaction_isolation", "transaction_read_only", "transaction_deferrable"]
)
_HOLD: Final = 0x20  # CURSOR_OPT_HOLD

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


def const(node: Any) -> str | None:
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


def names(items: Any) -> list[str]:
    """The strings of a list of String nodes."""
    return [i["String"].get("sval", "") for i in items if isinstance(i, dict) and "String" in i]


def session(out: Statement, kind: str, node: dict[str, Any]) -> None:
    """The effect on the session of a top-level statement."""
    if kind == "VariableSetStmt":
        _set(out, node)
    elif kind == "TransactionStmt":
        _transaction(out, node)
    elif kind == "PrepareStmt":
        out.effect = v.PREPARE
        out.key = "prepare:" + str(node.get("name", ""))
        out.literal = True
    elif kind == "DeallocateStmt":
        everything = "name" not in node
        out.effect = v.DEALLOCATE_ALL if everything else v.DEALLOCATE
        out.key = "" if everything else "prepare:" + str(node["name"])
    elif kind == "DiscardStmt":
        if node.get("target", "DISCARD_ALL") == "DISCARD_ALL":
            out.effect = v.DISCARD_ALL
        out.unpin = True
    elif kind == "ListenStmt":
        out.pin = "LISTEN"
    elif kind in ("UnlistenStmt", "ClosePortalStmt", "DropStmt"):
        out.unpin = True
    elif kind == "LoadStmt":
        out.pin = "LOAD"
    elif kind == "DeclareCursorStmt":
        if node.get("options", 0) & _HOLD:
            out.pin = "a cursor WITH HOLD"
    elif kind in ("DoStmt", "CallStmt"):
        out.unsure = True


def _transaction(out: Statement, node: dict[str, Any]) -> None:
    out.block = True
    out.effect = _TRANSACTION.get(node.get("kind", "TRANS_STMT_BEGIN"), v.NONE)
    if out.effect in (v.SAVEPOINT, v.RELEASE, v.ROLLBACK_TO):
        out.key = str(node.get("savepoint_name", ""))
    else:
        # A temporary table can go with its transaction.
        out.unpin = out.effect in (v.COMMIT, v.ROLLBACK)
    _modes(out, node.get("options", []))


def _modes(out: Statement, options: list[dict[str, Any]]) -> None:
    for option in options:
        mode = option.get("DefElem", {})
        if mode.get("defname") == "transaction_read_only" and const(mode.get("arg")) == "0":
            out.read_write = True


def _set(out: Statement, node: dict[str, Any]) -> None:
    """SET and RESET. Their words are literals, so their facts are not those of their template."""
    kind = node.get("kind", "VAR_SET_VALUE")
    name = str(node.get("name", "")).lower()
    args = node.get("args", [])
    out.literal = True
    if kind == "VAR_RESET_ALL":
        out.effect = v.RESET_ALL
        out.unpin = True
        return
    if kind == "VAR_SET_MULTI":
        _modes(out, args)
        if name == "session characteristics":
            out.effect = v.SET
            out.key = "characteristics"
        return
    out.named = "." in name or name in NO_RESET
    key = name if name in ("role", "session_authorization") else "guc:" + name
    if kind in ("VAR_SET_DEFAULT", "VAR_RESET"):
        if not node.get("is_local"):
            out.effect = v.RESET
            out.key = key
        return
    values = [const(arg) for arg in args]
    if name in READING and not node.get("is_local"):
        out.escapes = len(values) != 1 or (values[0] or "").strip().lower() not in READING[name]
    else:
        setting(out, name, values)
    if name == "seed":
        # As setseed() does: nothing undoes it but another seed.
        out.unsure = True
    if node.get("is_local") or name in NO_RESET:
        return
    out.effect = v.SET
    out.key = key
    if "." in name:
        # DISCARD ALL empties such a setting and leaves its name behind.
        out.unsure = True


def setting(out: Statement, name: str, values: list[str | None]) -> None:
    """A setting gets new values; None among them is a value that we do not know."""
    value = values[0] if len(values) == 1 else None
    plain = None if value is None else value.strip().lower()
    if name in READING and (plain is None or plain not in READING[name]):
        out.forbidden = f"{name} cannot be changed here"
    elif name == "client_encoding" and (value is None or client_only_encoding(value)):
        out.forbidden = "this client_encoding is not supported; use UTF8"
    elif name == "session_authorization":
        out.forbidden = "session_authorization cannot be changed here"
    elif name in READ_ONLY and (plain is None or plain not in TRUE):
        out.read_write = True
    elif name == "search_path":
        for path in values:
            if path is None:
                out.unsure = True
            elif "pg_temp" in path.lower():
                # What is created from now on may be temporary without saying so, so the pin must
                # last as long as the setting, even while there are no temporary objects.
                out.pin = "set_config"


def config_arguments(args: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """name, value and is_local of set_config, given in positional or in named notation."""
    given: list[dict[str, Any]] = [{}, {}, {}]
    for position, arg in enumerate(args[:3]):
        named = arg.get("NamedArgExpr")
        if named is None:
            given[position] = arg
        else:
            order = {"setting_name": 0, "new_value": 1, "is_local": 2}
            given[order.get(named.get("name", ""), 2)] = named.get("arg", {})
    return given


def set_config(out: Statement, args: list[dict[str, Any]]) -> None:
    """What a call of set_config does."""
    given = config_arguments(args)
    out.literal = True
    name = const(given[0])
    if name is None:
        out.unsure = True
    else:
        out.named = out.named or "." in name
        value = const(given[1])
        values: list[str | None] = [value]
        setting(out, name.lower(), values)
    if const(given[2]) == "true" and "boolval" in given[2].get("A_Const", {}):
        return
    if name is not None and name.lower() in SPEED:
        out.unsure = True
    else:
        out.pin = "set_config"
