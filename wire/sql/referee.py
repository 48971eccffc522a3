"""A second reading of a statement, by another parser: sqlglot must see what PostgreSQL's own sees.

libpg_query tells what a statement does and which relations it names; predicates are spliced where
it says. Were it wrong, or our walk over its tree, a relation would go unguarded. So sqlglot reads
the same text, we walk its tree by rules written separately, and where the two readings differ the
statement is not to be trusted.

sqlglot does not know all of PostgreSQL. A text that it fails on is tried once more with those
constructs replaced that name no relation (referee_plain.py). What is then still not read is
`unreadable`: the caller decides whether one reading is enough.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any, Final

from sqlglot import exp
from sqlglot.dialects.postgres import Postgres
from sqlglot.parsers.postgres import PostgresParser
from sqlglot.tokenizer_core import Token, TokenType

from wire.sql.lexer import tokens
from wire.sql.referee_long import shortened
from wire.sql.referee_plain import Lexed, closed, words
from wire.sql.referee_plain import plain as made_plain

# Its warnings would carry the text of statements into our log.
logging.getLogger("sqlglot").setLevel(logging.CRITICAL)

UNREADABLE: Final = "unreadable"
"""How a reason begins when sqlglot cannot read the statement; others tell of a contradiction."""

NAME_MAX: Final = 63  # bytes of an identifier that PostgreSQL keeps (NAMEDATALEN - 1)
# sqlglot recurses for every level of nesting, compiled code does not look at its stack, and some
# functions cost the square of their depth. Twice what people and ORMs write.
MAX_DEPTH: Final = 64
# a[1][1]… costs the square of its length: 128 ms for 300. Arrays have six dimensions at most.
MAX_SUBSCRIPTS: Final = 32
# text(, date(, array[ … are first tried as types and then read again, so each level of them doubles
# the time. Deeper than this we tell sqlglot that they are plain names.
MAX_TYPE_DEPTH: Final = 2
# From this length on lists of literals are cut short before the reading.
LONG: Final = 4096

_KINDS: Final[dict[str, type[exp.Expr] | tuple[type[exp.Expr], ...]]] = {
    "SELECT": (exp.Select, exp.SetOperation, exp.Values, exp.Subquery),
    "INSERT": exp.Insert,
    "UPDATE": exp.Update,
    "DELETE": exp.Delete,
    "MERGE": exp.Merge,
}
_CHANGES: Final = (exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.Into)

# Written without quotes these are functions, also in FROM; sqlglot takes them for tables there.
_FUNCTION_WORDS: Final = frozenset(
    [
        *("current_catalog", "current_date", "current_role", "current_schema", "current_time"),
        *("current_timestamp", "current_user", "localtime", "localtimestamp", "session_user"),
        *("user", "system_user"),
    ]
)

_OPENING: Final = (TokenType.L_PAREN, TokenType.L_BRACKET)
_CLOSING: Final = (TokenType.R_PAREN, TokenType.R_BRACKET)
_TYPES: Final = frozenset(PostgresParser.TYPE_TOKENS)

_LOWER: Final = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


def _dialect() -> Postgres:
    dialect = Postgres()
    # Else sqlglot counts subscripts from 0, and simplifies whatever expression stands in them.
    dialect.INDEX_OFFSET = 0
    return dialect


_DIALECT: Final = _dialect()


def disagreement(text: str, kind: str, relations: Collection[tuple[str, str]]) -> str | None:
    """Why sqlglot's reading of one statement contradicts PostgreSQL's; None when they agree.

    text       the statement, without EXPLAIN, PREPARE, DECLARE or COPY around it (see `inner`)
    kind       what PostgreSQL's parser found: SELECT, INSERT, UPDATE, DELETE, MERGE, or the name of
               its node (SelectStmt, …)
    relations  (schema or "", name) of all relations it found, CTEs left out
    """
    kind = kind.removesuffix("Stmt").upper()
    expected = _KINDS.get(kind)
    if expected is None:
        return f"{UNREADABLE}: {kind} is read by one parser only"
    if len(text) > LONG:
        text = shortened(text)
    try:
        try:
            trees, queries = _read(text)
        except _TooDeep:
            raise
        except Exception as first:
            # A parser that is not ours may raise anything.
            plain = made_plain(text)
            if plain == text:
                raise first
            trees, queries = _read(plain)
        if len(trees) != 1 or trees[0] is None:
            return "one parser reads one statement, the other does not"
        found, read = _relations(trees[0])
        if read < queries:
            return f"{UNREADABLE}: part of it is not read"
    except _TooDeep as reason:
        return f"{UNREADABLE}: {reason}"
    except RecursionError:
        return f"{UNREADABLE}: nested too deeply"
    except Exception as error:
        return f"{UNREADABLE}: {type(error).__name__}"
    if not isinstance(trees[0], expected):
        return f"one parser reads {kind}, the other {type(trees[0]).__name__}"
    wanted = set(relations)
    if found == wanted:
        return None
    differing = sorted(found ^ wanted)[:3]
    return "the parsers disagree on " + ", ".join(".".join(filter(None, one)) for one in differing)


class _TooDeep(Exception):
    """sqlglot would need too much of the stack or of the time."""


def _read(text: str) -> tuple[list[exp.Expr | None], int]:
    """sqlglot's trees, and how many SELECTs stand in the text."""
    lexed = _DIALECT.tokenize(text)
    queries = _bound(lexed)
    return PostgresParser(dialect=_DIALECT).parse(lexed, text), queries


def _bound(lexed: list[Token]) -> int:
    """Raises _TooDeep for what sqlglot cannot read within bounds, and eases what it can.

    Returns how many SELECTs there are: sqlglot leaves out arguments that a function of its own
    does not have, and a query in them must not go unnoticed.
    """
    depth = types = subscripts = queries = 0
    stack: list[bool] = []
    before: Token | None = None
    for token in lexed:
        kind = token.token_type
        if kind in _OPENING:
            typed = before is not None and before.token_type in _TYPES
            if typed:
                types += 1
                if types > MAX_TYPE_DEPTH and before is not None:
                    before.token_type = TokenType.IDENTIFIER
            if kind == TokenType.L_BRACKET and before is not None:
                subscripts = subscripts + 1 if before.token_type == TokenType.R_BRACKET else 0
            stack.append(typed)
            depth += 1
            if depth > MAX_DEPTH:
                raise _TooDeep("nested too deeply")
            if subscripts > MAX_SUBSCRIPTS:
                raise _TooDeep("too many subscripts")
        elif kind in _CLOSING and stack:
            depth -= 1
            if stack.pop():
                types -= 1
        elif kind == TokenType.SELECT:
            queries += 1
        before = token
    return queries


# --- the walk over sqlglot's tree


def _relations(root: exp.Expr) -> tuple[set[tuple[str, str]], int]:
    """(schema or "", name) of the relations of a statement, its CTEs left out where they hide, and
    the number of SELECTs."""
    queries = 0
    found: set[tuple[str, str]] = set()
    stack: list[tuple[Any, frozenset[str]]] = [(root, frozenset())]
    real: set[int] = set()  # nodes that are tables whatever CTEs there are: they are written to
    while stack:
        node, scope = stack.pop()
        if isinstance(node, list):
            stack.extend([(item, scope) for item in node if isinstance(item, (exp.Expr, list))])
            continue
        args = node.args
        if isinstance(node, exp.Table):
            this = args.get("this")
            if isinstance(this, exp.Identifier):
                name = _folded(this)
                schema = args.get("db")
                if isinstance(schema, exp.Identifier):
                    found.add((_folded(schema), name))
                elif (name not in scope or id(node) in real) and not _function_word(this):
                    found.add(("", name))
        elif isinstance(node, exp.Select):
            queries += 1
        elif isinstance(node, exp.Lock):
            continue  # FOR UPDATE OF: names of what stands in FROM
        elif isinstance(node, _CHANGES):
            target = args.get("this")
            if isinstance(target, exp.Schema):
                target = target.args.get("this")
            real.add(id(target))
        ctes = args.get("with_")
        if isinstance(ctes, exp.With):
            scope = _with(ctes, scope, stack)
        for value in args.values():
            if isinstance(value, (exp.Expr, list)) and value is not ctes:
                if isinstance(value, exp.Identifier):
                    continue
                stack.append((value, scope))
    return found, queries


def _with(
    clause: exp.Expr, scope: frozenset[str], stack: list[tuple[Any, frozenset[str]]]
) -> frozenset[str]:
    """Queues the CTEs' queries; returns the scope of the statement that they belong to."""
    ctes = clause.args.get("expressions") or []
    named = [(_folded(cte.args["alias"].args["this"]), cte) for cte in ctes]
    everything = scope | {name for name, _ in named}
    for name, cte in named:
        # Without RECURSIVE a CTE sees only those before it.
        stack.append((cte, everything if clause.args.get("recursive") else scope))
        scope = scope | {name}
    return everything


def _folded(identifier: exp.Expr) -> str:
    """An identifier as PostgreSQL knows it."""
    name = str(identifier.args["this"])
    if not identifier.args.get("quoted"):
        name = name.translate(_LOWER)
    if len(name) * 4 <= NAME_MAX:
        return name
    return name.encode()[:NAME_MAX].decode(errors="ignore")


def _function_word(identifier: exp.Expr) -> bool:
    return not identifier.args.get("quoted") and _folded(identifier) in _FUNCTION_WORDS


# --- the statement inside


_WRAPPED: Final = ("ExplainStmt", "PrepareStmt", "DeclareCursorStmt", "CopyStmt")


def inner(
    tree: dict[str, Any], text: bytes, start: int, end: int
) -> tuple[dict[str, Any], int, int]:
    """The statement that EXPLAIN, PREPARE, DECLARE or COPY (…) wraps, and where its text is.

    tree        {kind: node} of the statement in text[start:end], as libpg_query writes it
    returns     the same of the innermost statement, without white space, comments and the
                semicolon around it; the statement itself where nothing is wrapped
    Raises ValueError where the tokens do not fit the tree.
    """
    lexed = tokens(text[start:end])
    if not lexed:
        raise ValueError("no statement there")
    found = [(kind, at + start, to + start) for kind, at, to in lexed]
    while found and text[found[-1][1] : found[-1][2]] == b";":
        found.pop()
    while True:
        if not found:
            raise ValueError("no statement there")
        kind, node = next(iter(tree.items()))
        query = node.get("query") if kind in _WRAPPED else None
        if not isinstance(query, dict):
            return tree, found[0][1], found[-1][2]
        tree = query
        found = _unwrapped(kind, node, text, found)


def _unwrapped(kind: str, node: dict[str, Any], text: bytes, found: Lexed) -> Lexed:
    if kind == "CopyStmt":
        return found[2 : closed(text, found, 1) - 1]
    if kind == "ExplainStmt":
        at = 1
        if words(text, found, 1, b"("):
            # A list of options, or the query's own parenthesis.
            return found[closed(text, found, 1) :] if node.get("options") else found[1:]
        while words(text, found, at, b"analyze") or words(text, found, at, b"analyse"):
            at += 1
        return found[at + 1 :] if words(text, found, at, b"verbose") else found[at:]
    word = b"as" if kind == "PrepareStmt" else b"for"
    at = 0
    while at < len(found) and not words(text, found, at, word):
        # The types of PREPARE's parameters may be anything, in parentheses.
        at = closed(text, found, at) if words(text, found, at, b"(") else at + 1
    return found[at + 1 :]
