"""The oracle's grammar of expressions: typed, seeded, and with one answer whatever the plan is.

So no expression fails on some rows only, none depends on the order of rows, and none is of a
floating type. What is to fail, fails by analysis or on every row.
"""

from __future__ import annotations

import datetime
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from support.oracle_data import FIRST_DAY, TEXTS

if TYPE_CHECKING:
    from support.oracle_queries import Queries

KINDS: Final = ("int", "num", "text", "date", "bool", "arr", "json")
COMPARISONS: Final = ("=", "<>", "<", ">", "<=", ">=", "!=")
_SQL: Final = {"int": "int", "num": "numeric", "text": "text", "date": "date"}
_ORDERED: Final = ("int", "num", "text", "date")

Columns = Sequence[tuple[str, str]]  # how SQL names it, kind


class Expressions:
    """Expressions over the columns in scope. `literals` fills up as they are made."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.literals: list[tuple[str, Any, str]] = []
        self.queries: Queries  # the grammar of sub-queries; set by it

    # --- leaves -----------------------------------------------------------------------------------

    def literal(self, kind: str) -> str:
        """A literal, now and then one that may become a parameter."""
        rng = self.rng
        value: Any
        if kind == "int":
            value = rng.choice((0, 1, 2, 3, 5, 7, 12, 40, rng.randint(0, 99)))
            text = str(value)
        elif kind == "num":
            text = f"{rng.randint(0, 500)}.{rng.randint(10, 99)}"
            value = text
        elif kind == "date":
            value = FIRST_DAY + datetime.timedelta(rng.randrange(1500))
            text = f"DATE '{value}'"
        else:
            value = rng.choice(TEXTS)
            text = self.quoted(value)
        if rng.random() < 0.3:
            return text
        return self.parameter(text, value, _SQL[kind])

    def parameter(self, text: str, value: Any, type: str) -> str:
        # Its number, so that pieces may be put together in any order; see Queries.finish.
        self.literals.append((text, value, type))
        return f"\x01{len(self.literals) - 1}\x02"

    def quoted(self, value: str) -> str:
        form = self.rng.randrange(4)
        if form == 0 and "$q$" not in value:
            return f"$q${value}$q$"
        doubled = value.replace("'", "''")
        if form == 1:
            return "E'" + doubled.replace("\\", "\\\\") + "'"
        return f"'{doubled}'"

    def column(self, kind: str, columns: Columns) -> str | None:
        named = [name for name, of in columns if of == kind]
        return self.rng.choice(named) if named else None

    # --- expressions ------------------------------------------------------------------------------

    def make(self, kind: str, columns: Columns, depth: int = 2) -> str:
        rng = self.rng
        if kind == "bool":
            return self.condition(columns, depth)
        if depth <= 0 or rng.random() < 0.35:
            found = self.column(kind, columns)
            if found is not None and rng.random() < 0.85:
                return found
            if kind in _SQL:
                return self.literal(kind)
        makers: dict[str, Callable[[Columns, int], str]] = {
            "int": self.integer,
            "num": self.number,
            "text": self.text,
            "date": self.date,
            "arr": self.array,
            "json": self.json,
        }
        if kind in _SQL and rng.random() < 0.25:
            return self.common(kind, columns, depth)
        return makers[kind](columns, depth - 1)

    def common(self, kind: str, columns: Columns, depth: int) -> str:
        """What there is for every type."""
        rng = self.rng
        form = rng.randrange(7)
        depth -= 1
        one, other = self.make(kind, columns, depth), self.make(kind, columns, depth)
        if form == 0:
            return f"coalesce({one}, {other})"
        if form == 1:
            return f"CASE WHEN {self.condition(columns, depth)} THEN {one} ELSE {other} END"
        if form == 2:
            subject = self.make("int", columns, 0)
            return f"CASE {subject} WHEN {self.literal('int')} THEN {one} ELSE {other} END"
        if form == 3:
            return f"nullif({one}, {other})"
        if form == 4:
            return f"{rng.choice(('greatest', 'least'))}({one}, {other})"
        if form == 5:
            return f"CAST({one} AS {_SQL[kind]})"
        return self.queries.scalar(kind, columns)

    def integer(self, columns: Columns, depth: int) -> str:
        rng = self.rng
        form = rng.randrange(9)
        if form <= 1:
            one, other = (self.make("int", columns, min(depth, 1)) for _ in range(2))
            return f"({one} {rng.choice('+-')} {other})"
        if form == 2:
            return f"({self.make('int', columns, 0)} % {rng.randint(2, 9)})"
        if form == 3:
            return f"{rng.choice(('length', 'char_length'))}({self.make('text', columns, depth)})"
        if form == 4:
            part = rng.choice(("year", "month", "day", "quarter", "dow"))
            return f"extract({part} FROM {self.make('date', columns, depth)})::int"
        if form == 5:
            return f"({self.make('date', columns, depth)} - {self.make('date', columns, depth)})"
        if form == 6:
            return f"cardinality({self.make('arr', columns, depth)})"
        if form == 7:
            return f"position({self.literal('text')} in {self.make('text', columns, depth)})"
        return f"abs({self.make('int', columns, depth)})"

    def number(self, columns: Columns, depth: int) -> str:
        rng = self.rng
        form = rng.randrange(6)
        one, other = (self.make("num", columns, depth) for _ in range(2))
        if form <= 1:
            return f"({one} {rng.choice('+-')} {other})"
        if form == 2:
            return f"({self.make('num', columns, 0)} * {self.make('int', columns, 0)})"
        if form == 3:
            return f"round({one} / nullif({other}, 0), 2)"
        if form == 4:
            return f"{rng.choice(('ceil', 'floor', 'trunc', 'abs', '-'))}({one})"
        return f"round({one}, {rng.randint(0, 2)})"

    def text(self, columns: Columns, depth: int) -> str:
        rng = self.rng
        one = self.make("text", columns, depth)
        other = self.make("text", columns, 0)
        number = rng.randint(1, 4)
        return rng.choice(
            (
                lambda: f"({one} || {other})",
                lambda: f"{rng.choice(('upper', 'lower', 'initcap', 'reverse', 'md5'))}({one})",
                lambda: f"substring({one} from {number} for {number + 2})",
                lambda: f"substr({one}, {number})",
                lambda: f"trim(both ' ' from {one})",
                lambda: f"overlay({one} placing 'xx' from {number} for 1)",
                lambda: f"replace({one}, 'e', {other})",
                lambda: f"concat({one}, '-', {self.make('int', columns, 0)})",
                lambda: f"concat_ws(', ', {one}, {other})",
                lambda: f"to_char({self.make('date', columns, depth)}, 'YYYY-MM')",
                lambda: f"{rng.choice(('left', 'right'))}({one}, {number})",
                lambda: f"lpad({one}, 6, '*')",
                lambda: f"split_part({one}, ' ', {number})",
                lambda: f"regexp_replace({one}, '[aeiou]+', '_', 'g')",
                lambda: f"format('%s of %L', {one}, {other})",
                lambda: f"quote_literal({one})",
                lambda: f'(({one}) COLLATE "C")',
                lambda: f"({self.make('arr', columns, depth)})[{number}]",
                lambda: f"array_to_string({self.make('arr', columns, depth)}, '+')",
                lambda: f"({self.make('json', columns, 0)} ->> 'b')",
                lambda: f"CAST({self.make('num', columns, depth)} AS text)",
                lambda: f"{self.make('int', columns, depth)}::text",
            )
        )()

    def date(self, columns: Columns, depth: int) -> str:
        rng = self.rng
        one = self.make("date", columns, depth)
        number = rng.randint(1, 40)
        return rng.choice(
            (
                lambda: f"({one} {rng.choice('+-')} {number})",
                lambda: f"date_trunc('month', {one})::date",
                lambda: f"({one} + interval '{number} days')::date",
                lambda: f"CAST({one} - INTERVAL '1' YEAR AS date)",
                lambda: f"make_date({1990 + number % 9}, {number % 12 + 1}, {number % 28 + 1})",
                lambda: f"to_date('199{number % 9}0{number % 9 + 1}15', 'YYYYMMDD')",
            )
        )()

    def array(self, columns: Columns, depth: int) -> str:
        rng = self.rng
        one, other = (self.make("text", columns, depth) for _ in range(2))
        found = self.column("arr", columns) or f"ARRAY[{other}]"
        return rng.choice(
            (
                lambda: found,
                lambda: f"ARRAY[{one}, {other}]",
                lambda: f"array_append({found}, {one})",
                lambda: f"({found} || {other})",
                lambda: f"string_to_array({one}, ' ')",
                lambda: f"({found})[1:2]",
                lambda: self.queries.array(columns),
            )
        )()

    def json(self, columns: Columns, depth: int) -> str:
        rng = self.rng
        found = self.column("json", columns)
        value = self.make(rng.choice(("int", "text", "num", "date")), columns, depth)
        made = f"jsonb_build_object('a', {value}, 'b', {self.make('text', columns, 0)})"
        if found is None:
            return rng.choice((made, f"to_jsonb({value})", f"jsonb_build_array({value}, 1)"))
        return rng.choice((found, made, f"({found} -> 'list')", f"({found} || '{{\"z\": 1}}')"))

    # --- conditions -------------------------------------------------------------------------------

    def condition(self, columns: Columns, depth: int = 2) -> str:
        rng = self.rng
        if depth > 0 and rng.random() < 0.35:
            one, other = self.condition(columns, depth - 1), self.condition(columns, depth - 1)
            if rng.random() < 0.2:
                return f"NOT ({one})"
            return f"({one} {rng.choice(('AND', 'AND', 'OR'))} {other})"
        if depth > 0 and rng.random() < 0.22:
            return self.queries.test(columns)
        return self.simple(columns, depth - 1)

    def simple(self, columns: Columns, depth: int) -> str:
        rng = self.rng
        kinds = [kind for _, kind in columns if kind in _ORDERED] or ["int"]
        kind = rng.choice(kinds)
        one, other = self.make(kind, columns, 0), self.make(kind, columns, depth)
        text = self.make("text", columns, 0)
        less = self.make(kind, columns, 0)
        no = rng.choice(("", "NOT "))
        return rng.choice(
            (
                *[lambda: f"{one} {rng.choice(COMPARISONS)} {other}"] * 5,
                lambda: f"{one} IS {no}NULL",
                lambda: f"{one} IS {no}DISTINCT FROM {other}",
                lambda: f"{one} {no}BETWEEN {other} AND {less}",
                lambda: f"{one} BETWEEN SYMMETRIC {other} AND {less}",
                lambda: f"{one} {no}IN ({other}, {less}, NULL)",
                lambda: (
                    f"{one} {no}IN ({self.literal(kind)}, {self.literal(kind)},"
                    f" {self.literal(kind)})"
                ),
                lambda: f"{text} {no}LIKE '%{rng.choice('aeiou')}%'",
                lambda: f"{text} {no}ILIKE {self.quoted('%S%')}",
                lambda: f"{text} LIKE '100!%%' ESCAPE '!'",
                lambda: f"{text} SIMILAR TO '(it|say)%'",
                lambda: f"{text} {rng.choice(('~', '!~', '~*', '^@'))} 'c'",
                lambda: f"starts_with({text}, {self.literal('text')})",
                lambda: (
                    f"({one}, {text}) {rng.choice(COMPARISONS)}"
                    f" ({other}, {self.make('text', columns, 0)})"
                ),
                lambda: f"{one} = ANY (ARRAY[{other}, {less}])",
                lambda: f"{one} {rng.choice(COMPARISONS)} ALL (ARRAY[{other}, {less}])",
                lambda: f"{text} = ANY ({self.make('arr', columns, 0)})",
                lambda: (
                    f"{self.make('arr', columns, 0)} {rng.choice(('@>', '&&', '<@', '='))}"
                    " ARRAY['red'::text]"
                ),
                lambda: f"({one} {rng.choice(COMPARISONS)} {other}) IS {no}TRUE",
                lambda: f"({one} = {other}) IS UNKNOWN",
                lambda: f"({self.make('json', columns, 0)} @> '{{\"a\": 1}}')",
                lambda: f"({self.make('json', columns, 0)} ? 'b')",
                lambda: (
                    f"({self.make('date', columns, 0)}, interval '9 days') OVERLAPS"
                    f" (DATE '1995-01-01', DATE '1996-01-01')"
                ),
                lambda: f"{one} OPERATOR(pg_catalog.=) {other}",
                lambda: f"num_nulls({one}, {text}) = 0",
            )
        )()
