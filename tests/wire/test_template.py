"""Literals are lifted as PostgreSQL's scanner reads them; tests/fuzz compares all of it."""

from __future__ import annotations

import pytest
from support.engines import Postgres

from wire.sql.lexer import NUMBER, PARAM, STRING, WORD, tokens
from wire.sql.template import template

HOLES = {0x01: b"<s>", 0x03: b"<b>", 0x04: b"<x>", 0x05: b"<n>"}

LIFTED = [
    (b"SELECT 1", b"SELECT <n>"),
    (b"select -1, +1.5e-7, .5, 1., 1_000, 0x1F", b"select -<n>, +<n>, <n>, <n>, <n>, <n>"),
    (b"select a1, t.b2, $1, c$3", b"select a1, t.b2, $1, c$3"),
    (b"select 1..10", b"select <n>..<n>"),
    (b"select 'a''b', E'c\\'d', $$e$$, $x$ $$ $x$", b"select <s>, <s>, <s>, <s>"),
    (b"select B'01', x'1F'", b"select <b>, <x>"),
    (b"select n'a', e'b', de'c'", b"select n<s>, <s>, de<s>"),
    (b"select 'a' -- continued\n  'b', 'c' 'd'", b"select <s>, <s> <s>"),
    (b'select "a""1", "b 2"', b'select "a""1", "b 2"'),
    (b"select a--1\n,/* 2 /* 3 */ 4 */b", b"select a , b"),
    (b"select 1-- end", b"select <n> "),
    (b"select a\n\t  from   b", b"select a from b"),
    (b"select '\xe9', \xe9t\xe91", b"select <s>, \xe9t\xe91"),
    (b"a IN (1)", b"a IN (<n>)"),
    (b"a in(1 , 2,\n3)", b"a in(<n>)"),
    (b"a IN (1, 'x', 'y', 2)", b"a IN (<n>,<s>,<n>)"),
    (b"(a, b) IN ((1, 2), (3, 4))", b"(a, b) IN ((<n>, <n>))"),
    (b"VALUES (1, 'a'), (2, 'b') RETURNING x", b"VALUES (<n>, <s>) RETURNING x"),
    (b"values (1), (2), (3, 4), (5, 6)", b"values (<n>),(<n>, <n>)"),
    (b"values (1), (a) on conflict (b), (b)", b"values (<n>),(a) on conflict (b), (b)"),
]


@pytest.mark.parametrize(("sql", "expected"), LIFTED)
def test_what_is_lifted(sql: bytes, expected: bytes) -> None:
    lifted = template(sql)
    assert lifted is not None
    assert b"".join(HOLES.get(char, bytes([char])) for char in lifted) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"select 1", b"select '1'"),
        (b"select -1", b"select 1"),
        (b"select 'a'", b"select B'1'"),
        (b"select 'a'", b"select n'a'"),
        (b"select 'a'", b"select 'a' 'b'"),
        (b"select 'a'", b"select a"),
        (b"select 1", b"select $1"),
        (b"select 1 2", b"select 12"),
        (b'select "a"', b'select "b"'),
        (b"f(1)", b"f(1, 2)"),
        (b"a in (1, b)", b"a in (1, c)"),
        (b"values (1)", b"values ('1')"),
        (b"values (1)", b"values (1, 2)"),
        (b"select a/* */b", b"select ab"),
        (b"select 1; delete from t", b"select '1; delete from t'"),
        (b"select '\\'; delete from t --'", b"select E'\\'; delete from t --'"),
    ],
)
def test_what_differs_in_more_than_literals_has_another_template(one: bytes, other: bytes) -> None:
    assert template(one) != template(other)


@pytest.mark.parametrize(
    "sql",
    [
        *(
            b"select 'a",
            b'select "a',
            b"select $$a",
            b"select $x$a$y$",
            b"select E'a\\'",
            b"/* /* */",
        ),
        *(
            b"select 1a",
            b"select 0x",
            b"select 0b12",
            b"select 1__0",
            b"select 1e5$1",
            b"select 1e",
            b"select $1a",
        ),
        *(b"select \x00", b"select \x05", b"select \\", b"select $", b'select ""', b"select {"),
        # A literal decides which column this is.
        *(b"select U&\"!0061\" UESCAPE '!'", b"select U&'a'"),
    ],
)
def test_what_has_no_template(sql: bytes) -> None:
    assert template(sql) is None


def test_tokens_tell_kind_and_position() -> None:
    sql = b"SELECT 'x'--c\n'y' /* n */ ,$1, 2"
    found = tokens(sql)
    assert found is not None
    named = [(kind, sql[start:end]) for kind, start, end in found if kind in (WORD, STRING, PARAM)]
    assert named == [(WORD, b"SELECT"), (STRING, b"'x'--c\n'y'"), (PARAM, b"$1")]
    assert found[-1] == (NUMBER, len(sql) - 1, len(sql))


PIECES = [b"'' ", b"'a'\n", b"$a", b"/*", b"--\n", b"+-", b"(", b"in(", b"values(1),", b"1.", b'"']


@pytest.mark.parametrize("piece", [*PIECES, b"E'\\'", b"in(1,"])
def test_hostile_repetition_ends(piece: bytes) -> None:
    # Were any of these quadratic, this would take minutes.
    sql = piece * (200_000 // len(piece))
    template(sql)
    tokens(sql)


def test_the_server_continues_literals_where_we_do(postgres: Postgres) -> None:
    # libpg_query does not, so this one rule is compared with a real server.
    sql = "SELECT 'a'-- c\n'b', E'a' -- c\n '\\'; SELECT 2 --'"
    assert postgres.execute(sql) == [("ab", "a'; SELECT 2 --")]
    found = tokens(sql.encode())
    assert found is not None
    assert [kind for kind, _, _ in found].count(STRING) == 2
