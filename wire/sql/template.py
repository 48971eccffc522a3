"""Lifts the literals out of SQL, so that texts that differ in nothing else are judged once.

Invariant: two texts with one template differ in nothing but the values of literals, white space,
comments, and how often an item of an IN list or a row of VALUES is repeated.

Where texts are edited, marks tell how positions of the template and of the text belong together.
No edit can stand inside of a list that was made short, so there only those lists are made short
that hold literals alone: no name, no key word, no call. For a row of VALUES that is not enough
where rows get a column more.
"""

from __future__ import annotations

from typing import Final

from mypy_extensions import i64

from wire.sql.lexer import (
    BLANK,
    CLASS,
    CLOSE,
    COMMA,
    DIGIT,
    DOLLAR,
    KIND_BITS,
    LETTER,
    NUMBER,
    OP,
    OPEN,
    OPERATOR,
    OTHER,
    QUOTED,
    SPACE,
    STRING,
    UQUOTED,
    USTRING,
    WORD,
    lex,
    prefixed,
)
from wire.sql.splices import MARK_BITS

# What stands for a literal. Control characters outside quotes are syntax errors in PostgreSQL and
# make us decline, so a placeholder cannot be mistaken for text of the statement.
_HOLES: Final = (b"", b"", b"", b"", b"\x01", b"\x02", b"\x03", b"\x04", b"\x05")

_NO_LIST: Final = 0
_IN_LIST: Final = 1
_ROWS: Final = 2


def _list_word(sql: bytes, start: i64, end: i64) -> i64:
    """Which kind of list the key word sql[start:end] opens when a parenthesis follows."""
    if end - start == 2:
        if sql[start] | 32 == 105 and sql[start + 1] | 32 == 110:
            return _IN_LIST
    elif end - start == 6 and sql[start] | 32 == 118 and sql[start:end].lower() == b"values":
        return _ROWS
    return _NO_LIST


class _Output:
    """The template in pieces, and the IN list or the rows of VALUES that are being read.

    Of equal neighbours among items only the first is kept. An inner list replaces the outer one,
    which then simply stays as long as it was.
    """

    def __init__(self, sql: bytes, marked: bool) -> None:
        self.sql = sql
        self.parts: list[bytes] = []
        self.copied: i64 = 0  # sql[:copied] is in parts
        self.depth: i64 = 0  # open parentheses
        self.list: i64 = _NO_LIST
        self.outside: i64 = 0  # depth around the list's items
        self.first: i64 = 0  # parts[first:] belong to the item being read
        self.last = b""
        self.last_pieces: list[bytes] = []  # the same, before it was put together
        self.many = False
        self.awaits: i64 = 0  # between two rows: COMMA, then OPEN
        self.marked = marked
        self.marks: list[int] = []
        self.length: i64 = 0  # of the parts before the list, if marked
        self.list_start: i64 = 0  # where the list's parenthesis opens in the text
        self.list_begin: i64 = 0  # where its items begin in the text
        self.list_parts: i64 = 0  # parts[list_parts:] belong to the list
        self.list_depth: i64 = 0
        self.rows_end: i64 = 0  # where the last row ends in the text
        self.rows_parts: i64 = 0  # parts[:rows_parts] go up to there

    def put(self, end: i64, start: i64, piece: bytes) -> None:
        """Copies the text up to `end`, then `piece`, of one byte, in place of sql[end:start]."""
        self.parts.append(self.sql[self.copied : end])
        self.parts.append(piece)
        if self.marked and self.list == _NO_LIST:
            self.length += end - self.copied + 1
            if start - end != 1:
                self._mark(end, start)
        self.copied = start

    def _mark(self, start: i64, end: i64) -> None:
        """The template so far ends with what stands for sql[start:end]."""
        self.marks.append(int((((start << MARK_BITS) | self.length) << MARK_BITS) | end))

    def _flush(self, end: i64) -> None:
        self.parts.append(self.sql[self.copied : end])
        self.copied = end

    def _end_item(self) -> None:
        """parts[first:] is one item with, from the second on, the comma before it."""
        parts = self.parts
        pieces = parts[self.first :]
        del parts[self.first :]
        if pieces == self.last_pieces:
            return
        self.last_pieces = pieces
        item = b"".join(pieces).strip(b" ,")
        if not self.many or item != self.last:
            if self.many:
                parts.append(b",")
            parts.append(item)
            self.last = item
            self.many = True
        self.first = len(parts)

    def opened(self, start: i64, listed: i64) -> None:
        """A parenthesis opens at `start`; `listed` says what list the word before it opens."""
        if listed != _NO_LIST:
            # Items of IN are inside of this parenthesis; this one and its like enclose rows.
            begin = start + 1 if listed == _IN_LIST else start
            self.length += begin - self.copied
            self._flush(begin)
            self.list = listed
            self.outside = self.depth + 1 if listed == _IN_LIST else self.depth
            self.first = len(self.parts)
            self.last_pieces = []
            self.many = False
            self.awaits = OPEN
            self.list_start = start
            self.list_begin = begin
            self.list_parts = self.first
            self.list_depth = self.depth
            self.rows_end = begin
            self.rows_parts = self.first
        self.depth += 1

    def closed(self, start: i64) -> None:
        """A parenthesis closes at `start`."""
        self.depth -= 1
        if self.list == _IN_LIST and self.depth == self.outside - 1:
            self._flush(start)
            self._end_item()
            self.end_list()
        elif self.list == _ROWS and self.depth == self.outside:
            self._flush(start + 1)
            self._end_item()
            self.awaits = COMMA
            self.rows_end = start + 1
            self.rows_parts = len(self.parts)

    def end_list(self) -> None:
        """All items are in the parts. If marked, the text is to be read on from `copied`."""
        if self.list == _ROWS and self.marked:
            # Behind the last row may be a comma that belongs to something else.
            del self.parts[self.rows_parts :]
            self.copied = self.rows_end
        self.list = _NO_LIST
        if self.marked:
            for part in self.parts[self.list_parts :]:
                self.length += len(part)
            self._mark(self.list_begin, self.copied)

    def keep_list(self) -> i64:
        """Undoes the list, which is to be kept as it is; returns where its parenthesis opens."""
        del self.parts[self.list_parts :]
        self.list = _NO_LIST
        self.depth = self.list_depth
        self.copied = self.list_begin
        return self.list_start

    def listed(self, token: i64, kind: i64, start: i64) -> i64:
        """While a list is read, comes a token. Returns where to read again from, or -1."""
        if self.depth == self.outside:
            self.between(kind, start)
            if self.list == _NO_LIST:
                return self.copied if self.marked else -1
        if self.marked and token in (WORD, QUOTED):
            return self.keep_list()
        return -1

    def between(self, kind: i64, start: i64) -> None:
        """A token of the byte class `kind` starts at `start`, outside of all items of the list."""
        if self.list == _IN_LIST:
            if kind == COMMA:
                self._flush(start)
                self._end_item()
        elif kind != self.awaits:
            self.end_list()
        elif kind == COMMA:
            self.awaits = OPEN


def template(sql: bytes) -> bytes | None:
    """The text with literals lifted, blanks and comments made one blank, and lists made short.

    None where there is none to be had: PostgreSQL's scanner would raise an error, or a literal
    decides what an identifier is (U&"" with UESCAPE). Such a text is judged by itself only.
    """
    return _template(sql, _Output(sql, False), True)


def marked_template(sql: bytes, marks: list[int], rows: bool) -> bytes | None:
    """As `template`, for texts that are edited: adds to `marks` (see splices.py).

    rows  whether rows of VALUES that hold literals only are made short
    """
    if len(sql) >> MARK_BITS:
        return None
    out = _Output(sql, True)
    out.marks = marks
    return _template(sql, out, rows)


def _template(sql: bytes, out: _Output, rows: bool) -> bytes | None:
    n: i64 = len(sql)
    word: i64 = 0
    word_end: i64 = 0  # of the last token, if it was a word; else 0
    i: i64 = 0
    while True:
        if i >= n:
            if not out.marked or out.list == _NO_LIST:
                break
            if out.list == _IN_LIST:
                return None  # it never ends
            out.end_list()
            i = out.copied
            continue
        start = i
        kind: i64 = CLASS[sql[i]]
        packed: i64 = 0
        if kind == LETTER:
            # A prefix is one letter with a quote or an ampersand behind it.
            if i + 1 < n and sql[i + 1] < 40:
                packed = prefixed(sql, i, n)
            if packed == 0:
                i += 1
                while i < n and CLASS[sql[i]] <= DOLLAR:
                    i += 1
                packed = i * KIND_BITS + WORD
        elif kind == BLANK and sql[i] == 32 and i + 1 < n and CLASS[sql[i + 1]] <= DIGIT:
            i += 1
            continue
        elif kind == OP and i + 1 < n and CLASS[sql[i + 1]] <= BLANK:
            packed = (i + 1) * KIND_BITS + OPERATOR
        else:
            packed = lex(sql, i, n)
        if packed < 0:
            return None
        i = packed // KIND_BITS
        token = packed % KIND_BITS
        if token == SPACE:
            if i - start > 1 or sql[start] != 32:
                out.put(start, i, b" ")
            continue
        if out.list != _NO_LIST:
            again: i64 = out.listed(token, kind, start)
            if again >= 0:
                i = again
                word_end = 0  # a list opens behind a word only: it does not open again
                continue
        if token == WORD:
            word = start
            word_end = i
            continue
        if token >= STRING and token <= NUMBER:
            if token == USTRING:
                return None
            out.put(start, i, _HOLES[token])
        elif kind == OPEN:
            listed: i64 = _list_word(sql, word, word_end) if word_end else _NO_LIST
            out.opened(start, listed if rows or listed != _ROWS else _NO_LIST)
        elif kind == CLOSE:
            out.closed(start)
        elif token in (OTHER, UQUOTED):
            return None
        word_end = 0
    if out.copied == 0:
        return sql
    out.parts.append(sql[out.copied :])
    return b"".join(out.parts)
