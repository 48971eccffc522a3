"""Gives each tenant of a shared database notification channels and advisory-lock keys of its own.

PostgreSQL shares both among all who use a database. Channels get the tenant's prefix, which nobody
else knows; the key of an advisory lock becomes a hash of what the client wrote, mixed with the
tenant's seed:

    LISTEN chat              LISTEN "5f1c…/chat"
    pg_notify(a, b)          pg_notify('5f1c…/'::text || (a)::text, b)
    pg_advisory_lock(7)      pg_advisory_lock(hashtextextended(((7)::int8)::text, seed))
    pg_advisory_lock(7, 8)   … hashtextextended(((7)::int4)::text || ' ' || ((8)::int4)::text, seed)

One key and two keys have different texts, so they do not meet, as in PostgreSQL. The hash has 64
bits, the size of the lock's key; hashint8extended would do with less text, but takes (1, 2) for
(2, 1). Nothing of the client's text is moved: we put pieces around it. All that we add is
qualified, so that no function or operator of the tenant's own comes between.
"""

from __future__ import annotations

from typing import Any, Final

from wire.errors import NotSupported, TooLarge
from wire.sql.edits import CHANNEL, LOCK_SEED, Edit
from wire.sql.lexer import PUNCTUATION, QUOTED, UQUOTED, WORD, tokens

PREFIX_MAX: Final = 24  # bytes of a tenant's prefix
NAME_MAX: Final = 63  # bytes of a channel's name (NAMEDATALEN - 1)
CHANNEL_MAX: Final = NAME_MAX - PREFIX_MAX
"""Bytes of a channel's name as clients write it; what is longer could be cut off by PostgreSQL."""

_LOCKS: Final = frozenset(
    [
        *("pg_advisory_lock", "pg_advisory_lock_shared", "pg_try_advisory_lock"),
        *("pg_try_advisory_lock_shared", "pg_advisory_xact_lock", "pg_advisory_xact_lock_shared"),
        *("pg_try_advisory_xact_lock", "pg_try_advisory_xact_lock_shared", "pg_advisory_unlock"),
        "pg_advisory_unlock_shared",
    ]
)
_NOTIFY: Final = "pg_notify"
_LISTENING: Final = "pg_listening_channels"
CALLED: Final = _LOCKS | {_NOTIFY, _LISTENING}
_STATEMENTS: Final = ("ListenStmt", "UnlistenStmt", "NotifyStmt")

# Fields of the tree that name functions without calling them: for operators, aggregates, triggers.
_NAMES: Final = ("objname", "names", "func_name")
# What else may stand between the parentheses of a call, or behind them.
_DECORATED: Final = (
    *("agg_order", "agg_filter", "agg_star", "agg_distinct", "agg_within_group"),
    *("func_variadic", "over"),
)
_TEXT: Final = b"::pg_catalog.text"
_CONCAT: Final = b" OPERATOR(pg_catalog.||) "

Lexed = list[tuple[int, int, int]]


class _Text:
    """A statement's text by its tokens."""

    def __init__(self, text: bytes, start: int, end: int) -> None:
        self.text = text
        self.lexed: Lexed = [
            (kind, at + start, to + start) for kind, at, to in tokens(text[start:end]) or []
        ]
        self._at = {at: index for index, (_, at, _) in enumerate(self.lexed)}

    def index(self, location: int) -> int:
        """The token that starts at a position of the text."""
        found = self._at.get(location)
        if found is None:
            raise _lost()
        return found

    def mark(self, index: int) -> bytes:
        """The punctuation at an index; empty for anything else."""
        if index >= len(self.lexed) or self.lexed[index][0] != PUNCTUATION:
            return b""
        return self.text[self.lexed[index][1] : self.lexed[index][2]]

    def arguments(self, index: int) -> tuple[list[tuple[int, int]], int]:
        """First and last token of each argument of the call whose name begins at an index, and the
        token of its closing parenthesis."""
        while self.mark(index + 1) == b".":
            index += 2
        index += 1
        if self.mark(index) != b"(":
            raise _lost()
        found: list[tuple[int, int]] = []
        first = index + 1
        depth = 0
        for here in range(index, len(self.lexed)):
            mark = self.mark(here)
            if mark in (b"(", b"["):
                depth += 1
            elif mark in (b")", b"]"):
                depth -= 1
            if (depth == 1 and mark == b",") or depth == 0:
                if here > first:
                    found.append((first, here - 1))
                first = here + 1
            if depth == 0:
                return found, here
        raise _lost()

    def before(self, index: int, *parts: bytes, holes: tuple[int, ...] = ()) -> Edit:
        at = self.lexed[index][1]
        return Edit(at, at, parts, holes)

    def after(self, index: int, *parts: bytes, holes: tuple[int, ...] = ()) -> Edit:
        at = self.lexed[index][2]
        return Edit(at, at, parts, holes)


def _lost() -> NotSupported:
    return NotSupported("cannot tell where a function's arguments are")


def namespace(tree: dict[str, Any], text: bytes, start: int, end: int) -> list[Edit]:
    """The edits that give a statement the tenant's channels and lock keys, in order.

    tree  {kind: node} of the statement text[start:end], as libpg_query writes it

    Raises TooLarge for a channel's name that leaves no room for the prefix, NotSupported for a form
    that cannot be changed safely.
    """
    kind, top = next(iter(tree.items()))
    if kind in _STATEMENTS:
        return _channel(top, _Text(text, start, end))
    calls: list[tuple[dict[str, Any], Any]] = []  # with the node around, for a name to be kept
    stack: list[tuple[Any, Any]] = [(tree, None)]
    while stack:
        value, around = stack.pop()
        if isinstance(value, list):
            stack.extend([(item, around) for item in value if isinstance(item, (dict, list))])
            continue
        for key, child in value.items():
            if not isinstance(child, (dict, list)):
                continue
            if key in ("FuncCall", "funccall"):
                if isinstance(child, dict) and _called(child.get("funcname")):
                    calls.append((child, around))
                stack.append((child, None))
            elif key in _STATEMENTS:
                raise NotSupported("LISTEN, NOTIFY and UNLISTEN cannot be part of a definition")
            elif key in _NAMES and _called(child):
                raise NotSupported("this function can only be called in a shared database")
            elif key in ("ResTarget", "RangeFunction"):
                stack.append((child, (key, child)))
            else:
                # A call that is all of an item still gives it its name.
                stack.append(
                    (child, around if key in ("val", "functions", "List", "items") else None)
                )
    if not calls:
        return []
    located = _Text(text, start, end)
    edits: list[Edit] = []
    for node, around in calls:
        edits += _call(node, around, located)
    return sorted(edits, key=lambda edit: (edit.start, edit.end))


def _called(words: Any) -> str:
    """The function of ours that a list of words names, or ""."""
    if not isinstance(words, list):
        return ""
    names = [each["String"].get("sval", "") for each in words if "String" in each]
    if not names or names[-1] not in CALLED or names[:-1] not in ([], ["pg_catalog"]):
        return ""
    return str(names[-1])


def _channel(node: dict[str, Any], located: _Text) -> list[Edit]:
    """LISTEN, UNLISTEN and NOTIFY: their second token is the channel."""
    name = node.get("conditionname")
    if name is None:
        return []  # UNLISTEN *
    if len(name.encode()) > CHANNEL_MAX:
        raise TooLarge(f"channel name is longer than {CHANNEL_MAX} bytes")
    if len(located.lexed) < 2 or located.lexed[1][0] not in (WORD, QUOTED, UQUOTED):
        raise _lost()
    first = last = located.lexed[1]
    if first[0] == UQUOTED and len(located.lexed) > 3:
        word = located.text[located.lexed[2][1] : located.lexed[2][2]]
        if word.lower() == b"uescape":
            last = located.lexed[3]
    quoted = name.replace('"', '""').encode() + b'"'
    return [Edit(first[1], last[2], (b'"', quoted), (CHANNEL,))]


def _call(node: dict[str, Any], around: Any, located: _Text) -> list[Edit]:
    name = _called(node["funcname"])
    args = node.get("args", [])
    if any(field in node for field in _DECORATED) or any("NamedArgExpr" in arg for arg in args):
        raise NotSupported(f"{name} can only be called with plain arguments")
    index = located.index(node.get("location", 0))
    spans, close = located.arguments(index)
    if len(spans) != len(args):
        raise _lost()
    if name == _LISTENING and not args:
        return [_listening(around, index, close, located)]
    if name == _NOTIFY and len(args) == 2:
        first, last = spans[0]
        prefix = (b"'", b"'" + _TEXT + _CONCAT + b"(")
        return [
            located.before(first, *prefix, holes=(CHANNEL,)),
            located.after(last, b")" + _TEXT),
        ]
    if name in _LOCKS and len(args) in (1, 2):
        return _lock(spans, located)
    # PostgreSQL has no such function; a tenant's own would see changed arguments.
    raise NotSupported(f"function {name} does not exist with {len(args)} arguments")


def _lock(spans: list[tuple[int, int]], located: _Text) -> list[Edit]:
    cast = b")::pg_catalog.int8)" if len(spans) == 1 else b")::pg_catalog.int4)"
    edits = [
        located.before(spans[0][0], b"pg_catalog.hashtextextended((("),
        located.after(spans[0][1], cast + _TEXT),
    ]
    if len(spans) == 2:
        _, at, to = located.lexed[spans[0][1] + 1]  # the comma
        edits += [
            Edit(at, to, (_CONCAT + b"' '" + _TEXT + _CONCAT,)),
            located.before(spans[1][0], b"(("),
            located.after(spans[1][1], cast + _TEXT),
        ]
    seed = (b", (", b")::pg_catalog.int8)")
    edits.append(located.after(spans[-1][1], *seed, holes=(LOCK_SEED,)))
    return edits


def _listening(around: Any, index: int, close: int, located: _Text) -> Edit:
    """pg_listening_channels(): without the prefixes, and with its name as the column's."""
    name = b""
    if around is not None:
        kind, node = around
        if kind == "RangeFunction" and ("ordinality" in node or "is_rowsfrom" in node):
            raise NotSupported(f"{_LISTENING} can only be called plainly")
        if "name" not in node and "alias" not in node:
            name = b" AS " + _LISTENING.encode()
    start = located.lexed[index][1]
    end = located.lexed[close][2]
    parts = (
        b"pg_catalog.unnest(ARRAY(SELECT pg_catalog.substr(c, pg_catalog.length('",
        b"'" + _TEXT + b") OPERATOR(pg_catalog.+) 1)"
        b" FROM pg_catalog.pg_listening_channels() AS l(c)))" + name,
    )
    return Edit(start, end, parts, (CHANNEL,))
