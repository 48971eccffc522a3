"""Edits lifted from one text fit every text of its template, as if made for it."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from support.edited import VALUES, edits_of, rendered, skeletons

from wire.sql.edits import Edit, apply
from wire.sql.splices import Splices, lift
from wire.sql.template import marked_template

HARD = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


def check_pair(one: bytes, other: bytes, rows: bool, seed: int) -> bool:
    """The invariant: edits made by way of the template are those made on the text itself.

    Tells whether the two have one template."""
    marks: list[int] = []
    key = marked_template(one, marks, rows)
    other_marks: list[int] = []
    if key is None or marked_template(other, other_marks, rows) != key:
        return False
    edits = edits_of(one, rows, seed)
    lifted = lift(edits, one, marks)
    assert lifted is not None, (one, key)
    splices = Splices(lifted, VALUES, True, rows)
    assert splices.made(one, marks) == apply(one, edits, VALUES)
    expected = apply(other, edits_of(other, rows, seed), VALUES)
    made = splices.made(other, other_marks)
    assert made == expected, (one, other)
    for position in range(len(made)):
        found = splices.original(position, other_marks)
        assert found < 0 or other[found] == made[position], (other, made, position)
    kept = sum(splices.original(at, other_marks) >= 0 for at in range(len(made)))
    assert kept == len(other) - sum(edit.end - edit.start for edit in edits_of(other, rows, seed))
    return True


@HARD
@given(st.data(), skeletons(), st.booleans(), st.integers(0, 1000))
def test_texts_of_one_template_are_edited_alike(
    data: st.DataObject, parts: list[list[bytes]], rows: bool, seed: int
) -> None:
    one = rendered(data.draw, parts, rows)
    assume(check_pair(one, rendered(data.draw, parts, rows), rows, seed))


@pytest.mark.fuzz
@pytest.mark.timeout(3600)
@settings(HARD, max_examples=50_000)
@given(st.data(), skeletons(), st.booleans(), st.integers(0, 1000))
def test_texts_of_one_template_are_edited_alike_for_long(
    data: st.DataObject, parts: list[list[bytes]], rows: bool, seed: int
) -> None:
    one = rendered(data.draw, parts, rows)
    assume(check_pair(one, rendered(data.draw, parts, rows), rows, seed))


PAIRS = [
    (b"SELECT * FROM t WHERE a = 1 AND b", b"SELECT * FROM t WHERE a = 12345 AND b"),
    (b"SELECT 'a' , b", b"SELECT $x$ it's $x$\n/* , */, b"),
    (b"a IN (1) AND b", b"a IN (1, 2 ,\n3) AND b"),
    (b"a in((1,'x')) AND b IN (-1)", b"a in((1,'x'), (2,'y')) AND b IN (-1,-2)"),
    (b"a IN (f(1), f(1)) AND b", b"a IN (f(12), f(13)) AND b"),
    (b"x IN (SELECT a, a FROM t WHERE b = '') ", b"x IN (SELECT a, a FROM t WHERE b = 'y') "),
    (b'a IN ("b", "b") = 1', b'a IN ("b", "b") = 100'),
]


@pytest.mark.parametrize(("one", "other"), PAIRS)
@pytest.mark.parametrize("rows", [False, True])
def test_pairs(one: bytes, other: bytes, rows: bool) -> None:
    keys = [marked_template(text, [], rows) for text in (one, other)]
    assert keys[0] == keys[1]
    for seed in range(100):
        assert check_pair(one, other, rows, seed)


def test_rows_are_kept_where_each_may_be_edited() -> None:
    one, two = b"INSERT INTO t VALUES (1)", b"INSERT INTO t VALUES (1), (2)"
    assert marked_template(one, [], False) != marked_template(two, [], False)
    assert marked_template(one, [], True) == marked_template(two, [], True)
    call = b"INSERT INTO t VALUES (f(1)), (f(2))"
    assert marked_template(call, [], True) == b"INSERT INTO t VALUES (f(\x05)), (f(\x05))"


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (Edit(7, 10, (b"x",)), "a literal"),
        (Edit(8, 8, (b"x",)), "inside of a literal"),
        (Edit(11, 11, (b"x",)), "inside of white space"),
        (Edit(13, 14, (b"x",)), "a literal of one byte"),
        (Edit(4, 15, (b"x",)), "words and literals"),
        (Edit(22, 22, (b"x",)), "in a list that the template makes short"),
    ],
)
def test_what_fits_one_text_only(edit: Edit, why: str) -> None:
    sql = b"SELECT 'a'   1 IN (1, 2) b"
    marks: list[int] = []
    key = marked_template(sql, marks, True)
    assert key == b"SELECT \x01 \x05 IN (\x05) b"
    assert lift([edit], sql, marks) is None, why


def test_hostile_repetition_ends_in_marked_templates_too() -> None:
    for piece in (b"in(1,", b"in(", b"values(1),", b"values(", b"in(1,a", b"values(1,1,1,(", b"'"):
        marked_template(piece * (200_000 // len(piece)), [], True)
    long = b"1," * 100_000
    marked_template(b"in(" + long + b"a in(" + long + b"b in(" + long, [], True)
