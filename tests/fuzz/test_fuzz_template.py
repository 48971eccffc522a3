"""Invariant: what PostgreSQL's scanner accepts, `tokens` splits at the same positions or declines.

And for `template`: a text and its template with the holes filled again have the same tokens, so
nothing but literals, white space, comments and repetition was lost. Edits that go through the
template of a text come out as if made on the text, which stays byte for byte outside of them.
"""

from __future__ import annotations

import random
import re

import pytest
from support.edited import VALUES, edits_of
from support.scanner import COMMENTS, scan

from wire.sql import lexer as t
from wire.sql.edits import apply
from wire.sql.splices import Splices, lift
from wire.sql.template import marked_template, template

SHORT_CASES = 10_000
LONG_CASES = 1_500_000
LONG_SECONDS = 3600

PIECES = [
    *(b"'", b"''", b'"', b'""', b"$", b"$$", b"$a$", b"$b$", b"$1", b"E'", b"e'", b"U&'", b'u&"'),
    *(b"B'", b"x'", b"N'", b"n'", b"\\", b"\\'", b"\n", b"\r\n", b" ", b"\t", b"\v", b"--", b"-"),
    *(b"/*", b"*/", b"/", b"*", b"+", b"=", b"<", b">", b"!", b"@", b"|", b"?", b"%", b"::"),
    *(b":=", b":", b".", b"..", b",", b"(", b")", b"[", b"]", b";", b"0", b"1", b"9", b"0x", b"0b"),
    *(
        b"0o",
        b"_",
        b"e",
        b"E",
        b"1e",
        b"1e+",
        b"1.",
        b"1e5$",
        b"1e+5$1",
        b"1_000",
        b"0x1F",
        b"a",
        b"in",
        b"IN",
    ),
    *(b"values", b"VALUES", b"select", b"b", b"n", b"u", b"x", "é".encode(), "京".encode()),
    *(b"abc$d", b"'abc'", b"'a' \n 'b'", b"'a'--c\n'b'", b"(1,2)", b"UESCAPE", b"\x01", b"\x7f"),
    *(b"IN (1, 2 ,3)", b"VALUES (1,'a') , (2,'b')", b", (", b" , "),
]
STATEMENTS = [
    b"SELECT abalance FROM pgbench_accounts WHERE aid = 12345",
    b"INSERT INTO t (a, b) VALUES (1, 'x'), (2, E'y\\'z'), (-3.5e-7, $q$w$q$) RETURNING a::int8",
    b"select * from \"T\" where a in (1,2,3) and b->>'k' ~* '^x' -- end\n and c = any($1)",
    b"UPDATE x SET a = a || U&'\\0041' WHERE b <> B'01' /* n /* es */ ted */ AND c=-.5 LIMIT 1e3",
    b"SELECT 'a'\n  'b', 0x1F, 1_000.5, arr[1:2], f(x => 1), n'z' FROM s.t WHERE a!=-1 OR b@>'{}'",
]

# Where we decline what the reference accepts: a long run of signs; and a name stuck to a parameter,
# an error in PostgreSQL since 15, which libpg_query lets pass.
DECLINED = re.compile(rb"[-~!@#^&|`?+*/%<>=]{65}|\$[0-9]+[A-Za-z_\x80-\xff]")
# libpg_query reports comments as tokens and so ends a literal where PostgreSQL continues it behind
# a comment. (Its parser then finds a syntax error: two literals never stand side by side.)
COMMENT_IN_LITERAL = re.compile(rb"'\s*(--[^\n\r]*[\n\r]\s*)+'")
HOLES = {t.STRING: b"\x01", t.BITS: b"\x03", t.HEX: b"\x04", t.NUMBER: b"\x05"}
# Tokens of PostgreSQL's grammar (gram.y) whose kind is compared; of others the position is.
KINDS = {
    261: t.STRING,  # SCONST
    262: t.USTRING,  # USCONST
    263: t.BITS,  # BCONST
    264: t.HEX,  # XCONST
    266: t.NUMBER,  # ICONST
    260: t.NUMBER,  # FCONST
    267: t.PARAM,
    259: t.UQUOTED,  # UIDENT
}


def reference(sql: bytes) -> list[tuple[int, int, int]] | None:
    """PostgreSQL's own tokens (kind -1 where only the position is compared), None on an error."""
    found = scan(sql)
    if found is None:
        return None
    return [(KINDS.get(kind, -1), start, end) for kind, start, end in found if kind not in COMMENTS]


def check(sql: bytes) -> bool:
    """Raises AssertionError where the invariant breaks; tells whether both accepted the text."""
    if COMMENT_IN_LITERAL.search(sql):
        return False
    theirs = reference(sql)
    ours = t.tokens(sql)
    lifted = template(sql)
    if theirs is None:
        return False
    if ours is None:
        assert DECLINED.search(sql), (sql, "declined", theirs)
        return False
    assert [(s, e) for _, s, e in ours] == [(s, e) for _, s, e in theirs], (sql, ours, theirs)
    for (kind, start, end), (their_kind, _, _) in zip(ours, theirs, strict=True):
        if their_kind >= 0 or kind in KINDS.values():
            assert kind == their_kind, (sql, sql[start:end], kind, their_kind)
    if lifted is not None:
        kept = t.tokens(lifted)
        assert kept is not None, (sql, lifted)
        left = [lifted[start:end] for _, start, end in kept]
        right = [HOLES.get(kind, sql[start:end]) for kind, start, end in ours]
        assert shortened(left) == shortened(right), (sql, lifted)
        check_edits(sql)
    return True


def check_edits(sql: bytes) -> None:
    """What goes through the marks of the text's own template comes out at the same places."""
    for rows in (False, True):
        marks: list[int] = []
        key = marked_template(sql, marks, rows)
        if key is None:
            assert unbalanced(sql), (sql, rows)
            continue
        edits = edits_of(sql, rows, len(sql))
        lifted = lift(edits, sql, marks)
        if lifted is None:
            assert unbalanced(sql), (sql, rows)
            continue
        made = Splices(lifted, VALUES, True, rows).made(sql, marks)
        assert made == apply(sql, edits, VALUES), (sql, rows)


def unbalanced(sql: bytes) -> bool:
    """Whether a parenthesis lacks its counterpart."""
    depth = 0
    for kind, start, _ in t.tokens(sql) or []:
        if kind == t.PUNCTUATION:
            depth += (sql[start] == 40) - (sql[start] == 41)
            if depth < 0:
                return True
    return depth != 0


def shortened(items: list[bytes]) -> list[object]:
    """The tokens with, in every list separated by commas, equal neighbours dropped: the slow,
    obvious way. (A group in parentheses also goes when the item before ends with its equal.)"""
    stack: list[list[object]] = [[]]
    for item in items:
        if item == b"(":
            stack.append([])
        elif item == b")" and len(stack) > 1:
            group = without_repetition(stack.pop())
            stack[-1].append(group)
        else:
            stack[-1].append(item)
    return [without_repetition(level) for level in stack]


def without_repetition(level: list[object]) -> list[object]:
    parts: list[list[object]] = [[]]
    for item in level:
        if item == b",":
            parts.append([])
        else:
            parts[-1].append(item)
    kept = parts[:1]
    for part in parts[1:]:
        if part[:1] == kept[-1][-1:] and part and isinstance(part[0], list):
            kept[-1].extend(part[1:])
        elif isinstance((kept[-1] or [b""])[-1], list) and part[: len(kept[-1])] == kept[-1]:
            # VALUES (1), VALUES (1), (2) x: which of them goes depends on who looks first.
            kept[-1] = part
        elif part != kept[-1]:
            kept.append(part)
    return kept  # type: ignore[return-value]


def generated(rng: random.Random) -> bytes:
    if rng.random() < 0.6:
        return b"".join(rng.choice(PIECES) for _ in range(rng.randint(1, 12)))
    text = bytearray(rng.choice(STATEMENTS))
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text) + 1)
        choice = rng.random()
        if choice < 0.5:
            text[at:at] = rng.choice(PIECES)
        elif choice < 0.8:
            del text[at : at + rng.randint(1, 3)]
        else:
            text[at:at] = text[rng.randrange(len(text)) :][: rng.randint(1, 20)]
    return bytes(text)


def run(cases: int, seed: int) -> int:
    rng = random.Random(seed)
    return sum(check(generated(rng)) for _ in range(cases))


def test_the_lexer_agrees_with_postgresql_on_generated_texts() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    assert run(SHORT_CASES, seed) > 100


@pytest.mark.parametrize("sql", STATEMENTS)
def test_the_lexer_agrees_with_postgresql_on_every_prefix(sql: bytes) -> None:
    assert check(sql)
    for end in range(len(sql)):
        check(sql[:end])
        check(sql[end:])


@pytest.mark.fuzz
@pytest.mark.timeout(LONG_SECONDS)
def test_long_fuzzing_of_the_lexer() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    accepted = run(LONG_CASES, seed)
    print(f"{LONG_CASES} texts, {accepted} accepted by both")
    assert accepted > LONG_CASES // 10
