"""Cuts long lists of literals short, so that a slow parser can read the statement around them.

A literal names no relation; sqlglot's reading of a hundred thousand of them takes half a second.
Only the referee reads the result.
"""

from __future__ import annotations

from typing import Final

from wire.sql.lexer import BITS, HEX, NUMBER, OPERATOR, PARAM, STRING, USTRING, WORD, tokens
from wire.sql.referee_plain import Lexed, words

LIST_MAX: Final = 8  # items and rows that are kept: no function needs more arguments


def shortened(text: str) -> str:
    """The text without what repeats in long lists of literals and of rows of literals.

    A literal names no relation; the reading of a hundred thousand of them takes half a second.
    """
    sql = text.encode()
    found = tokens(sql)
    if found is None:
        return text
    out: list[bytes] = []
    copied = at = run = 0
    while at < len(found):
        end = _item(sql, found, at) if run else 0
        if end:
            run += 1
            if run > LIST_MAX:
                out.append(sql[copied : found[at][1]])
                copied = found[end - 1][2]
            at = end
            continue
        end = _atom(sql, found, at)
        run = 1 if end else 0
        at = end or at + 1
    out.append(sql[copied:])
    return _without_rows(b"".join(out)).decode()


_COMMA: Final = ord(",")
_OPEN: Final = ord("(")
_CLOSE: Final = ord(")")
_CAST: Final = ord(":")
_ATOM_WORDS: Final = frozenset([b"null", b"true", b"false"])
_LITERALS: Final = (STRING, USTRING, HEX, BITS, NUMBER, PARAM)


def _atom(sql: bytes, found: Lexed, at: int) -> int:
    """The index after the literal at index `at`, with its sign and cast; 0 if there is none."""
    if at >= len(found):
        return 0
    kind, start, end = found[at]
    if kind == OPERATOR and sql[start:end] == b"-" and at + 1 < len(found):
        at += 1
        kind, start, end = found[at]
    if kind not in _LITERALS and not (kind == WORD and sql[start:end].lower() in _ATOM_WORDS):
        return 0
    at += 1
    if _is(sql, found, at, _CAST) and words(sql, found, at, b"::") and at + 1 < len(found):
        return at + 2 if found[at + 1][0] == WORD else at
    return at


def _item(sql: bytes, found: Lexed, at: int) -> int:
    """The index after ", literal" at index `at` when the list ends or goes on behind it; else 0."""
    if not _is(sql, found, at, _COMMA):
        return 0
    end = _atom(sql, found, at + 1)
    return end if end and end < len(found) and sql[found[end][1]] in b",)]" else 0


def _is(sql: bytes, found: Lexed, at: int, char: int) -> bool:
    """Whether the token at index `at` begins with this punctuation; words() is slower."""
    return at < len(found) and sql[found[at][1]] == char


def _without_rows(sql: bytes) -> bytes:
    """Of the rows of literals that follow each other, the first ones only."""
    found = tokens(sql)
    if found is None:
        return sql
    out: list[bytes] = []
    copied = at = run = 0
    while at < len(found):
        begin = at
        if run and _is(sql, found, at, _COMMA):
            begin += 1
        end = _row(sql, found, begin) if begin > at or not run else 0
        if end:
            run += 1
            if run > LIST_MAX:
                out.append(sql[copied : found[at][1]])
                copied = found[end - 1][2]
            at = end
        else:
            run = 0
            at += 1
    out.append(sql[copied:])
    return b"".join(out)


def _row(sql: bytes, found: Lexed, at: int) -> int:
    """The index after "(literal, …)" at index `at`; 0 if there is none."""
    if not _is(sql, found, at, _OPEN):
        return 0
    at = _atom(sql, found, at + 1)
    while at and _is(sql, found, at, _COMMA):
        at = _atom(sql, found, at + 1)
    return at + 1 if at and _is(sql, found, at, _CLOSE) else 0
