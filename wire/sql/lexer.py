"""Splits SQL into tokens as PostgreSQL's scanner does.

Invariant: what PostgreSQL's scanner accepts we split at the same byte positions, or decline.

The rules are those of src/backend/parser/scan.l (PostgreSQL 18, standard_conforming_strings on).
Texts in client-only encodings (SJIS, BIG5, GBK, UHC, GB18030, JOHAB) must not come here: there a
byte of a character may look like a quote. Every step is linear in the length of the text.
"""

from __future__ import annotations

from typing import Final

from mypy_extensions import i64

# Token kinds.
SPACE: Final = 0  # white space and comments
WORD: Final = 1  # identifier or key word, not quoted
QUOTED: Final = 2  # "identifier"
UQUOTED: Final = 3  # U&"identifier": its text depends on a later UESCAPE literal
STRING: Final = 4  # '', E'', $$ $$; continued over lines
USTRING: Final = 5  # U&''
BITS: Final = 6  # B''
HEX: Final = 7  # X''
NUMBER: Final = 8
PARAM: Final = 9  # $1
OPERATOR: Final = 10
PUNCTUATION: Final = 11  # , ( ) [ ] ; . : :: := ..
OTHER: Final = 12  # a byte that no PostgreSQL token starts with: always a syntax error there

KIND_BITS: Final = 16  # an end position and a kind travel in one integer: end * 16 + kind

# Byte classes. The first three make up the rest of an identifier.
LETTER: Final = 0  # a-z A-Z _ and every byte from 0x80
DIGIT: Final = 1
DOLLAR: Final = 2
BLANK: Final = 3
QUOTE: Final = 4
DOUBLE: Final = 5
OP: Final = 6
MINUS: Final = 7
SLASH: Final = 8
DOT: Final = 9
OPEN: Final = 10
CLOSE: Final = 11
COMMA: Final = 12
MARK: Final = 13  # [ ] ; :
ILLEGAL: Final = 14


def _classes() -> bytes:
    table = bytearray([ILLEGAL]) * 256
    for chars, kind in (
        (b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_", LETTER),
        (bytes(range(0x80, 0x100)), LETTER),
        (b"0123456789", DIGIT),
        (b"$", DOLLAR),
        (b" \t\n\r\f\v", BLANK),
        (b"'", QUOTE),
        (b'"', DOUBLE),
        (b"~!@#^&|`?+*%<>=", OP),
        (b"-", MINUS),
        (b"/", SLASH),
        (b".", DOT),
        (b"(", OPEN),
        (b")", CLOSE),
        (b",", COMMA),
        (b"[];:", MARK),
    ):
        for char in chars:
            table[char] = kind
    return bytes(table)


CLASS: Final = _classes()

# PostgreSQL takes 63 characters; a longer run of signs is as many operators, each found by looking
# at the rest of the run. We decline such a run, and stay linear.
_MAX_OPERATOR_RUN: Final = 64


def _comment_end(sql: bytes, i: i64, n: i64) -> i64:
    """The position after the nested /* */ that opens at `i`; -1 when it never closes."""
    depth: i64 = 1
    i += 2
    while i + 1 < n:
        char: i64 = sql[i]
        if char == 42 and sql[i + 1] == 47:  # */
            depth -= 1
            i += 2
            if depth == 0:
                return i
        elif char == 47 and sql[i + 1] == 42:  # /*
            depth += 1
            i += 2
        else:
            i += 1
    return -1


def _line_end(sql: bytes, i: i64, n: i64) -> i64:
    """The position of the newline (either kind) that ends a -- comment, or the end of the text."""
    while i < n and sql[i] != 10 and sql[i] != 13:
        i += 1
    return i


def _continued(sql: bytes, i: i64, n: i64) -> i64:
    """Where a string literal goes on after its closing quote (`i` is behind it), or -1.

    It does when white space and -- comments with at least one newline lead to another quote.
    """
    newline = False
    while i < n:
        char: i64 = sql[i]
        if char == 10 or char == 13:
            newline = True
            i += 1
        elif CLASS[char] == BLANK:
            i += 1
        elif char == 45 and i + 1 < n and sql[i + 1] == 45:
            i = _line_end(sql, i, n)
        elif char == 39 and newline:
            return i + 1
        else:
            return -1
    return -1


def _quoted_end(sql: bytes, i: i64, n: i64, doubling: bool, escapes: bool) -> i64:
    """The position after a string literal whose first quote is before `i`; -1 if unterminated."""
    while True:
        if escapes:
            while i < n and sql[i] != 39:
                i += 2 if sql[i] == 92 else 1
            if i >= n:
                return -1
        else:
            i = sql.find(b"'", i)
            if i < 0:
                return -1
        i += 1
        if doubling and i < n and sql[i] == 39:
            i += 1
            continue
        if i >= n or sql[i] > 45:  # neither blank nor '-' can follow: the common case
            return i
        again = _continued(sql, i, n)
        if again < 0:
            return i
        i = again


def _identifier_end(sql: bytes, i: i64, n: i64) -> i64:
    """The position after a "quoted" identifier whose first quote is before `i`; -1 on error."""
    start = i
    while True:
        i = sql.find(b'"', i)
        if i < 0:
            return -1
        i += 1
        if i < n and sql[i] == 34:
            i += 1
            continue
        return i if i - 1 > start else -1  # an empty identifier is an error


def _digits_end(sql: bytes, i: i64, n: i64, base: i64) -> i64:
    """The position after digits of `base` that single underscores may separate."""
    while i < n:
        char: i64 = sql[i]
        if char == 95 and i + 1 < n:
            if not _is_digit(sql[i + 1], base):
                return i
            i += 2
        elif _is_digit(char, base):
            i += 1
        else:
            return i
    return i


def _is_digit(char: i64, base: i64) -> bool:
    if base == 16:
        return 48 <= char <= 57 or 97 <= (char | 32) <= 102
    return 48 <= char < 48 + base


def _radix(char: i64) -> i64:
    """16, 8 or 2 for the letter of 0x, 0o, 0b; else 0."""
    char |= 32
    return 16 if char == 120 else 8 if char == 111 else 2 if char == 98 else 0


def _number_end(sql: bytes, i: i64, n: i64) -> i64:
    """The position after the number at `i` (a digit, or a dot before a digit); -1 on junk."""
    if sql[i] == 48 and i + 1 < n:
        base = _radix(sql[i + 1])
        if base:
            # 0x, 0o, 0b: whatever of an identifier is left over is junk.
            end = i + 2
            if end < n and sql[end] == 95:
                end += 1
            stop = _digits_end(sql, end, n, base) if end < n and sql[end] != 95 else end
            if stop == end or (stop < n and CLASS[sql[stop]] <= DOLLAR):
                return -1
            return stop
    fraction = sql[i] == 46
    if not fraction:
        i = _digits_end(sql, i, n, 10)
        if i < n and sql[i] == 46:
            if i + 1 < n and sql[i + 1] == 46:
                return i  # 1..10 is 1, .., 10
            fraction = True
    if fraction:
        i += 1
        if i < n and CLASS[sql[i]] == DIGIT:
            i = _digits_end(sql, i, n, 10)
    if i >= n or CLASS[sql[i]] != LETTER:
        return i
    return _exponent_end(sql, i, n)


def _exponent_end(sql: bytes, i: i64, n: i64) -> i64:
    """The position after the exponent at `i`; -1 when the letter there makes the number junk."""
    if sql[i] | 32 != 101 or i + 1 >= n:
        return -1
    i += 1
    signed = sql[i] == 43 or sql[i] == 45
    if signed:
        i += 1
    if i >= n or CLASS[sql[i]] != DIGIT:
        return -1
    i = _digits_end(sql, i, n, 10)
    if i < n:
        after: i64 = CLASS[sql[i]]
        # Without a sign the letter and all after it could be read as an identifier, dollars too.
        if after == LETTER or (after == DOLLAR and not signed):
            return -1
    return i


def _dollar(sql: bytes, i: i64, n: i64) -> i64:
    """The token that starts with the dollar sign at `i`, as end * 16 + kind; -1 on error."""
    end = i + 1
    if end < n and CLASS[sql[end]] == DIGIT:
        while end < n and CLASS[sql[end]] == DIGIT:
            end += 1
        if end < n and CLASS[sql[end]] == LETTER:
            return -1
        return end * KIND_BITS + PARAM
    while end < n and CLASS[sql[end]] <= DIGIT:
        end += 1
    if end >= n or sql[end] != 36:
        return (i + 1) * KIND_BITS + OTHER
    end += 1
    tag = sql[i:end]
    close: i64 = sql.find(tag, end)
    if close < 0:
        return -1
    return (close + len(tag)) * KIND_BITS + STRING


def _operator_end(sql: bytes, i: i64, n: i64) -> i64:
    """The position after the operator at `i` (unmoved: a comment starts there); -1 if too long.

    It ends before a comment, and before trailing + and - unless it holds a character that no
    operator of the SQL standard has.
    """
    start = i
    special = False
    while i < n:
        char: i64 = sql[i]
        kind: i64 = CLASS[char]
        if kind == MINUS:
            if i + 1 < n and sql[i + 1] == 45:
                break
        elif kind == SLASH:
            if i + 1 < n and sql[i + 1] == 42:
                break
        elif kind != OP:
            break
        elif char not in (42, 43, 60, 61, 62):  # ~ ! @ # ^ & | ` ? %
            special = True
        i += 1
    if i - start > _MAX_OPERATOR_RUN:
        return -1
    if not special:
        while i - start > 1 and (sql[i - 1] == 43 or sql[i - 1] == 45):
            i -= 1
    return i


def _space_end(sql: bytes, i: i64, n: i64) -> i64:
    """The position after white space and comments from `i` on; -1 on an unterminated comment."""
    while i < n:
        char: i64 = sql[i]
        kind: i64 = CLASS[char]
        if kind == BLANK:
            i += 1
        elif kind == MINUS and i + 1 < n and sql[i + 1] == 45:
            i = _line_end(sql, i, n)
        elif kind == SLASH and i + 1 < n and sql[i + 1] == 42:
            i = _comment_end(sql, i, n)
            if i < 0:
                return -1
        else:
            return i
    return i


def prefixed(sql: bytes, i: i64, n: i64) -> i64:
    """The literal or identifier whose prefix letter is at `i`, as end * 16 + kind.

    0 when there is no such prefix; -1 when what it starts is not terminated.
    """
    if i + 1 >= n:
        return 0
    mark: i64 = sql[i + 1]
    letter: i64 = sql[i] | 32
    end: i64 = 0
    kind: i64 = STRING
    if mark == 39:
        if letter == 101:  # e
            end = _quoted_end(sql, i + 2, n, True, True)
        elif letter == 98:  # b
            end = _quoted_end(sql, i + 2, n, False, False)
            kind = BITS
        elif letter == 120:  # x
            end = _quoted_end(sql, i + 2, n, False, False)
            kind = HEX
        elif letter == 110:  # n: stands for the key word NCHAR; the string is a token of its own
            return (i + 1) * KIND_BITS + WORD
        else:
            return 0
    elif mark == 38 and letter == 117 and i + 2 < n:  # u&
        if sql[i + 2] == 39:
            end = _quoted_end(sql, i + 3, n, True, False)
            kind = USTRING
        elif sql[i + 2] == 34:
            end = _identifier_end(sql, i + 3, n)
            kind = UQUOTED
        else:
            return 0
    else:
        return 0
    return end * KIND_BITS + kind if end > 0 else -1


def lex(sql: bytes, i: i64, n: i64) -> i64:
    """The token at `i` (i < n), as end * 16 + kind; -1 where PostgreSQL reports an error."""
    kind: i64 = CLASS[sql[i]]
    end: i64
    if kind == LETTER:
        end = prefixed(sql, i, n)
        if end:
            return end
        i += 1
        while i < n and CLASS[sql[i]] <= DOLLAR:
            i += 1
        return i * KIND_BITS + WORD
    if kind == BLANK:
        end = _space_end(sql, i, n)
        return end * KIND_BITS + SPACE if end > 0 else -1
    if kind == DIGIT or (kind == DOT and i + 1 < n and CLASS[sql[i + 1]] == DIGIT):
        end = _number_end(sql, i, n)
        return end * KIND_BITS + NUMBER if end > 0 else -1
    if kind == QUOTE:
        end = _quoted_end(sql, i + 1, n, True, False)
        return end * KIND_BITS + STRING if end > 0 else -1
    if kind == DOUBLE:
        end = _identifier_end(sql, i + 1, n)
        return end * KIND_BITS + QUOTED if end > 0 else -1
    if kind == DOLLAR:
        return _dollar(sql, i, n)
    if kind in (OP, MINUS, SLASH):
        end = _operator_end(sql, i, n)
        if end < 0:
            return -1
        if end == i:
            end = _space_end(sql, i, n)
            return end * KIND_BITS + SPACE if end > 0 else -1
        return end * KIND_BITS + OPERATOR
    if kind == ILLEGAL:
        return (i + 1) * KIND_BITS + OTHER
    end = i + 1
    if end < n and (
        (sql[i] == 58 and (sql[end] == 58 or sql[end] == 61)) or (sql[i] == 46 and sql[end] == 46)
    ):
        end += 1  # ::  :=  ..
    return end * KIND_BITS + PUNCTUATION


def tokens(sql: bytes) -> list[tuple[int, int, int]] | None:
    """All tokens but white space and comments, as (kind, start, end); None where PostgreSQL's
    scanner raises an error."""
    found: list[tuple[int, int, int]] = []
    n: i64 = len(sql)
    i: i64 = 0
    while i < n:
        packed = lex(sql, i, n)
        if packed < 0:
            return None
        end = packed // KIND_BITS
        kind = packed % KIND_BITS
        if kind != SPACE:
            found.append((int(kind), int(i), int(end)))
        i = end
    return found


def without_comments(sql: bytes) -> bytes | None:
    """The text with blanks in place of comments, all else where it was; None if it has none, or
    where PostgreSQL's scanner raises an error. Comments within continued literals stay."""
    out: list[bytes] = []
    copied: i64 = 0
    n: i64 = len(sql)
    i: i64 = 0
    while i < n:
        packed = lex(sql, i, n)
        if packed < 0:
            return None
        end = packed // KIND_BITS
        if packed % KIND_BITS != SPACE:
            i = end
            continue
        while i < end:
            stop = i + 1
            if sql[i] == 45:  # --
                stop = _line_end(sql, i, n)
            elif sql[i] == 47:  # /*
                stop = _comment_end(sql, i, n)
            if stop > i + 1:
                out.append(sql[copied:i])
                out.append(b" " * int(stop - i))
                copied = stop
            i = stop
    if copied == 0:
        return None
    out.append(sql[copied:])
    return b"".join(out)


def plain_backslash(sql: bytes) -> bool:
    """Whether a literal without E, of one quote or more, holds a backslash.

    If none does, the text reads the same with standard_conforming_strings off. What cannot be
    split is taken to hold one.
    """
    found = tokens(sql)
    if found is None:
        return True
    for kind, start, end in found:
        plain = kind == USTRING or (kind == STRING and sql[start] not in b"Ee$")
        if plain and b"\\" in sql[start:end]:
            return True
    return False
