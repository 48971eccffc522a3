"""Texts of row tenants: what is forwarded, afresh or by a template, here or from the helper."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.edited import GAPS, LITERALS
from support.shared_tables import VALUES, ask, catalog, forwarded, row_guard

from wire.errors import Forbidden, NotSupported, TooLarge
from wire.sql import rows
from wire.sql import verdict as v
from wire.sql.analyse import analyse, analyse_or_refuse, parse
from wire.sql.catalog import Catalog
from wire.sql.edits import HOLES, VALUE, Edit
from wire.sql.facts import Facts, Statement, dump, load
from wire.sql.frame import DATABASE, SHARED, Frame
from wire.sql.frame import load as load_frame
from wire.sql.framed import merged
from wire.sql.guard import Analyser, Guard
from wire.sql.helper import FRAMES, Helper

OWN = b'("orders"."tenant_id" OPERATOR(pg_catalog.=) \'acme\'::pg_catalog.text)'


def test_a_text_is_kept_to_the_tenants_rows() -> None:
    guard = row_guard()
    assert forwarded(guard, "SELECT * FROM orders") == b"SELECT * FROM orders WHERE " + OWN
    assert forwarded(guard, "SELECT code FROM currencies") == b"SELECT code FROM currencies"
    assert forwarded(guard, "SELECT * FROM secrets").startswith(b"refused: permission denied")
    assert not ask(guard, "SELECT 1").edited


def test_texts_of_a_template_are_edited_without_parsing() -> None:
    guard = row_guard()
    ask(guard, "SELECT * FROM orders WHERE id = 1 AND total IN (1, 2) LIMIT 5")
    text = b"SELECT * FROM orders /* no. */ WHERE id = 1234 AND total IN (1,2 ,\n3) LIMIT 50"
    verdict = guard.judge(text)
    assert verdict is not None
    assert guard.rewritten(text, verdict) == (
        b"SELECT * FROM orders /* no. */ WHERE "
        + OWN
        + b" AND (id = 1234 AND total IN (1,2 ,\n3)) LIMIT 50"
    )


def test_a_repeated_text_is_remembered_with_its_result() -> None:
    guard = row_guard()
    ask(guard, "SELECT * FROM orders WHERE id = 0")
    for _ in range(3):
        verdict = guard.judge(b"SELECT * FROM orders WHERE id = 10")
        assert verdict is not None
    assert verdict.forward == b"SELECT * FROM orders WHERE " + OWN + b" AND (id = 10)"
    assert guard.rewritten(b"SELECT * FROM orders WHERE id = 10", verdict) is verdict.forward


def test_each_tenant_has_its_own_value_and_all_share_the_facts() -> None:
    analyser = Analyser(Frame(catalog(), shared=True))
    acme = row_guard(analyser)
    beta = row_guard(analyser, (b"'beta'", b"beta_", b"1"))
    assert b"'acme'" in forwarded(acme, "SELECT * FROM orders WHERE id = 1")
    assert analyser.known(
        b"SELECT * FROM orders WHERE id = 2", beta._key(b"SELECT * FROM orders WHERE id = 2")
    )
    other = forwarded(beta, "SELECT * FROM orders WHERE id = 2")
    assert b"'beta'" in other
    assert b"acme" not in other


def test_values_that_the_clients_encoding_could_change_are_not_taken() -> None:
    with pytest.raises(ValueError, match="ASCII"):
        row_guard(values=("'é'".encode(), b"", b""))


def test_rows_of_values_are_stamped_each() -> None:
    guard = row_guard()
    one = b"INSERT INTO orders (id) VALUES (1)"
    two = b"INSERT INTO orders (id) VALUES (1), (2)"
    stamp = b", ('acme'::pg_catalog.text)"
    assert forwarded(guard, one).count(stamp) == 1
    assert guard.judge(two) is None
    assert forwarded(guard, two).count(stamp) == 2
    assert guard.judge(b"INSERT INTO orders (id) VALUES (10), (20)") is not None


def test_prepare_is_replayed_as_it_was_forwarded() -> None:
    guard = row_guard()
    sql = b"SELECT 1; PREPARE p AS SELECT * FROM orders -- all\n; SELECT id FROM items"
    effects = ask(guard, sql).effects
    assert effects[1].kind == v.PREPARE
    assert effects[1].sql == b"PREPARE p AS SELECT * FROM orders WHERE " + OWN
    assert effects[1].sql in forwarded(guard, sql)


@pytest.mark.parametrize(
    ("sql", "where"),
    [
        ("SELECT * FROM orders WHERE nope", "nope"),
        ("SELECT nope FROM orders", "nope"),
        ("SELECT 'é', 'x' FROM orders WHERE nope AND id = 1", "nope"),
        ("SELECT * FROM items JOIN orders ON orders.id = nope LIMIT 1", "nope"),
    ],
)
@pytest.mark.parametrize("known", [False, True])
def test_positions_of_errors_are_told_in_the_clients_text(
    sql: str, where: str, known: bool
) -> None:
    guard = row_guard()
    if known:
        ask(guard, sql.replace("1", "12345").replace("'x'", "'longer'"))
    verdict = ask(guard, sql)
    new = guard.rewritten(sql.encode(), verdict).decode()
    told = guard.original_position(sql.encode(), verdict, new.index(where) + 1)
    assert told == sql.index(where) + 1
    assert guard.original_position(sql.encode(), verdict, new.index("acme") + 1) == 0
    assert guard.original_position(sql.encode(), verdict, 1) == 1
    assert guard.original_position(sql.encode(), verdict, len(new) + 1) == len(sql) + 1


def test_texts_in_other_encodings_are_edited_where_only_positions_move() -> None:
    guard = row_guard()
    text = "SELECT 'é' FROM orders WHERE customer = 'ü' LIMIT 1".encode("latin-1")
    assert forwarded(guard, text) == text.replace(
        b"customer = '\xfc'", OWN + b" AND (customer = '\xfc')"
    )
    named = "SELECT * FROM orders é".encode("latin-1")
    assert forwarded(guard, named).startswith(b"refused: a name that is not UTF-8")


@pytest.mark.parametrize(
    "sql",
    [
        *("CREATE TABLE x ()", "DROP TABLE orders", "TRUNCATE orders", "DO 'BEGIN END'"),
        *("CREATE TEMP TABLE x ()", "SELECT * INTO TEMP x FROM orders", "VACUUM orders"),
        *("PREPARE TRANSACTION 'x'", "COMMIT PREPARED 'x'", "ROLLBACK PREPARED 'x'"),
        *(
            "LOAD 'x'",
            "LOCK TABLE orders",
            "SELECT * FROM pg_temp.x",
            "GRANT SELECT ON orders TO x",
        ),
        *("EXPLAIN ANALYZE SELECT * FROM orders", "SECURITY LABEL ON TABLE orders IS 'x'"),
        "CALL own()",
    ],
)
def test_what_row_tenants_may_not_do(sql: str) -> None:
    everything = {"allow_ddl": True, "allow_system_access": True}
    assert forwarded(row_guard(**everything), sql).startswith(b"refused: ")


@pytest.mark.parametrize(
    "sql",
    [
        *("BEGIN", "COMMIT", "SET datestyle = 'ISO'", "DISCARD ALL", "RESET datestyle", "SHOW x"),
        *("FETCH c", "MOVE c", "CLOSE c", "DEALLOCATE ALL", "SAVEPOINT s", ""),
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    ],
)
def test_what_passes_as_it_is(sql: str) -> None:
    verdict = ask(row_guard(), sql)
    assert verdict.refusal is None
    assert not verdict.edited


def test_a_refusal_of_one_text_is_not_one_of_its_template() -> None:
    analyser = Analyser(Frame(catalog(), shared=True))
    enemy, victim = row_guard(analyser), row_guard(analyser)
    sql = b"SELECT * FROM orders WHERE id = 1"
    refused = Facts([], NotSupported("the parsers disagree on a literal"))
    assert enemy.adopt(sql, refused).refusal is not None
    assert forwarded(victim, b"SELECT * FROM orders WHERE id = 2").startswith(b"SELECT")


def test_an_edit_of_a_literal_holds_for_its_text_only() -> None:
    guard = row_guard()
    statement = Statement()
    sql = b"SELECT 'a'"
    statement.edits = [Edit(7, 10, (b"", b""), (VALUE,))]
    verdict = guard.adopt(sql, Facts([statement]))
    assert guard.rewritten(sql, verdict) == b"SELECT 'acme'"
    assert guard.judge(b"SELECT 'b'") is None


def test_a_text_that_looks_like_a_template_is_not_edited_by_it() -> None:
    analyser = Analyser(Frame(catalog(), shared=True))
    guard = row_guard(analyser)
    ask(guard, "SELECT  id  FROM  orders  WHERE a IN ($1)")
    # The template of the first, written as a text, is a template of its own.
    text = b"SELECT id FROM orders WHERE a IN ($1)"
    assert forwarded(row_guard(analyser), text) == (
        b"SELECT id FROM orders WHERE " + OWN + b" AND (a IN ($1))"
    )


# --- by template as afresh ------------------------------------------------------------------------

SKELETONS = [
    "SELECT ~*~FROM~orders~WHERE~id~=~{n}~AND~customer~<>~{s}~ORDER~BY~id~LIMIT~{n}",
    "SELECT~o.id,~{s}~AS~x~FROM~orders~o~JOIN~items~i~ON~i.order_id~=~o.id~AND~i.id~IN~({ns})",
    "SELECT~*~FROM~currencies~LEFT~JOIN~orders~ON~total~>~-{n}~WHERE~rate~IN~({ns})~OR~code~=~{s}",
    "SELECT~count(*)~FROM~orders~o~FULL~JOIN~items~AS~i~ON~i.id~=~{n}~GROUP~BY~o.id~HAVING~{n}~>~1",
    "INSERT~INTO~orders~(id,~customer)~VALUES~({n},~{s}),~(-{n},~{s})~ON~CONFLICT~DO~NOTHING",
    "INSERT~INTO~items~SELECT~id,~{n},~{s}~FROM~orders~WHERE~id~NOT~IN~({ns})~RETURNING~id",
    "UPDATE~orders~SET~customer~=~{s}~||~{s},~total~=~-{n}~WHERE~id~IN~({ns})~AND~total~>~{n}",
    "DELETE~FROM~orders~o~USING~items~i~WHERE~i.order_id~=~o.id~AND~i.name~=~{s}",
    "WITH~x~AS~(SELECT~*~FROM~orders~WHERE~id~IN~({ns}))~SELECT~*,~{s}~FROM~x,~items~WHERE~{n}~=~1",
    "SELECT~*~FROM~orders~WHERE~(id,~customer)~IN~(({n},~{s}),~({n},~{s}))~UNION~ALL~TABLE~orders",
    "MERGE~INTO~orders~o~USING~items~i~ON~o.id~=~i.order_id~AND~i.id~=~{n}~WHEN~MATCHED~THEN"
    "~UPDATE~SET~customer~=~{s}~WHEN~NOT~MATCHED~THEN~INSERT~(id)~VALUES~({n})",
    "BEGIN;~SELECT~{n}~FROM~orders;~UPDATE~items~SET~name~=~{s};~COMMIT",
    "SELECT~(SELECT~max(id)~FROM~orders~WHERE~customer~=~{s})~-~{n}~FROM~items~WHERE~id~=~ANY~($1)",
]
STRINGS = [*LITERALS["string"], b"'a'\n'b'", b"'back\\slash'", b"'a /* b'", b"$$ from secrets $$"]
NUMBERS = [b"0", b"7", b"42", b"1234567", b"8.5", b"1e3", b"0x1F", b"1_000"]
# A literal goes on behind a newline; and -- would swallow what follows a minus.
SAFE = [each for each in GAPS if b"\n" not in each and b"\f" not in each]


def filled(draw: st.DrawFn, skeleton: str) -> bytes:
    def one(match: re.Match[str]) -> str:
        what = match[0]
        if what == "~":
            return draw(st.sampled_from(SAFE)).decode()
        if what == "{n}":
            return draw(st.sampled_from(NUMBERS)).decode()
        if what == "{s}":
            return draw(st.sampled_from(STRINGS)).decode()
        numbers = draw(st.lists(st.sampled_from(NUMBERS), min_size=1, max_size=4))
        return ", ".join(number.decode() for number in numbers)

    return re.sub(r"~|\{n\}|\{s\}|\{ns\}", one, skeleton).encode()


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data(), st.sampled_from(SKELETONS))
def test_by_template_as_afresh(data: st.DataObject, skeleton: str) -> None:
    warm = row_guard()
    assert ask(warm, filled(data.draw, skeleton)).refusal is None
    text = filled(data.draw, skeleton)
    verdict = warm.judge(text)
    assert verdict is not None, "not one template"
    by_template = warm.rewritten(text, verdict)
    afresh = forwarded(row_guard(), text)
    assert by_template == afresh
    assert afresh.count(b"'acme'") >= 1


# --- elsewhere ------------------------------------------------------------------------------------


@pytest.fixture
def helper() -> Iterator[Helper]:
    helper = Helper()
    yield helper
    helper.close()


def test_the_helper_edits_as_we_do(helper: Helper) -> None:
    frame = Frame(catalog(), shared=True)
    numbers = b", ".join(b"%d" % number for number in range(5000))
    sql = b"SELECT * FROM orders WHERE id IN (" + numbers + b") AND customer = '\xc3\xa9'"
    facts = helper.submit(sql, frame).result()
    assert facts.refusal is None
    guard = row_guard(Analyser(frame))
    verdict = guard.adopt(sql, facts)
    assert guard.rewritten(sql, verdict).startswith(
        b"SELECT * FROM orders WHERE " + OWN + b" AND (id"
    )
    assert forwarded(row_guard(Analyser(frame)), sql) == guard.rewritten(sql, verdict)
    refused = helper.submit(b"SELECT * FROM secrets", frame).result().refusal
    here = analyse_or_refuse(b"SELECT * FROM secrets", frame).refusal
    assert isinstance(refused, Forbidden)
    assert here is not None
    assert (refused.message, refused.hint) == (here.message, here.hint)


def test_long_texts_do_not_hold_up_the_others(helper: Helper) -> None:
    frame = Frame(catalog(), shared=True)
    long = b"SELECT * FROM orders WHERE " + b" OR ".join([b"id = 1"] * 50_000)
    waits = helper.submit(long, frame)
    assert helper.submit(b"SELECT * FROM orders", frame).result().refusal is None
    assert not waits.done()
    waits.result()


def test_the_helper_keeps_some_frames_and_tells_them_apart(helper: Helper) -> None:
    frames = [Frame(catalog(str(number)), shared=True) for number in range(FRAMES + 3)]
    sql = b"SELECT * FROM orders"
    for frame in [*frames, DATABASE, SHARED, frames[0], frames[-1], frames[-1]]:
        facts = helper.submit(sql, frame).result()
        assert facts.refusal is None
        assert len(facts.edits) == (frame.catalog is not None)
    assert len(helper._children) == 1


def test_facts_travel_with_their_edits() -> None:
    frame = Frame(catalog(), shared=True)
    facts = analyse("SELECT é FROM orders é WHERE 1 = 1; SELECT 2; SELECT 2", frame)
    again = load(dump(facts))
    assert facts.edits
    assert again.edits == facts.edits
    assert [vars(each) for each in again.statements] == [vars(each) for each in facts.statements]


def test_a_frame_travels() -> None:
    frame = Frame(catalog(settings=frozenset({"app.tenant"})), shared=True)
    again = load_frame(frame.dump())
    assert frame.catalog is not None
    assert (again.version, again.shared) == (frame.version, frame.shared)
    assert again.catalog is not None
    assert again.dump() == frame.dump()
    assert again.digest() == frame.digest()
    # The version alone could be that of another database.
    other = Frame(Catalog(frame.catalog.version, []), shared=True)
    assert other.digest() != frame.digest()
    assert len(VALUES) == HOLES


def test_bombs_among_shared_tables_are_refused_or_read(helper: Helper) -> None:
    frame = Frame(catalog(), shared=True)
    for bomb in [
        b"SELECT * FROM orders WHERE " + b"(" * 3000 + b"true" + b")" * 3000,
        b"SELECT * FROM orders WHERE " + b" OR ".join([b"id = 1"] * 20_000),
        b"SELECT " + b"+".join([b"1"] * 50_000) + b" FROM orders",
        b"SELECT * FROM orders" + b" UNION SELECT * FROM orders" * 3000,
        b"INSERT INTO orders VALUES " + b",".join([b"(1,2,3)"] * 10_000),
        b"SELECT * FROM " + b",".join(b"orders a%d" % n for n in range(2000)),
    ]:
        facts = helper.submit(bomb, frame).result()
        assert facts.refusal is None or isinstance(facts.refusal, (TooLarge, NotSupported))
        if len(bomb) < 8192:
            analyse_or_refuse(bomb, frame)
    assert helper.submit(b"SELECT 1", frame).result().refusal is None
    assert Guard is not None


# --- two readings and a proof ---------------------------------------------------------------------


def kept(sql: bytes, *, ghost: bool = False, rewriting: bool = True) -> list[Edit]:
    """The edits of one statement, of whose relations the facts may tell one too many."""
    known = catalog(rewrite=rewriting)
    tree = parse(sql)[0]["stmt"]
    statement = analyse(sql).statements[0]
    if ghost:
        statement.relations.add(("", "ghost"))
    return rows.keep(statement, tree, sql, 0, len(sql), known)


def test_readings_that_differ_are_refused_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "tenantry.guard")
    assert kept(b"SELECT * FROM orders")
    for _ in range(2):
        with pytest.raises(NotSupported, match="parsers disagree on ghost"):
            kept(b"SELECT * FROM orders WHERE customer = 'private'", ghost=True)
    assert len(caplog.records) == 1
    assert "ghost" in caplog.text
    assert "private" not in caplog.text


def test_one_reading_is_enough_where_nothing_is_rewritten() -> None:
    unreadable = b"SELECT id select FROM orders"
    with pytest.raises(NotSupported, match="unreadable"):
        kept(unreadable)
    assert kept(unreadable, rewriting=False) == []
    with pytest.raises(NotSupported, match="disagree"):
        kept(b"SELECT id FROM orders", ghost=True, rewriting=False)


def test_what_the_rewriting_forgets_is_found_by_the_proof() -> None:
    sql = b"SELECT * FROM orders"
    facts = analyse(sql)
    with pytest.raises(NotSupported, match="kept to the tenant's rows"):
        rows.prove(facts.statements, sql, catalog())
    rows.prove(facts.statements, sql, catalog(rewrite=False))
    facts.statements[0].edits = kept(sql)
    rows.prove(facts.statements, sql, catalog())


def test_edits_within_edits_are_refused() -> None:
    outer, inner = Edit(0, 10, (b"x",)), Edit(5, 5, (b"y",))
    with pytest.raises(NotSupported):
        merged([outer], [inner])
    ends = Edit(10, 10, (b"z",))
    assert merged([ends], [outer]) == [outer, ends]


def test_facts_of_a_template_are_not_those_of_a_text_that_looks_like_it() -> None:
    analyser = Analyser(Frame(catalog(), shared=True))
    guard = row_guard(analyser)
    ask(guard, "SELECT 'a' FROM orders")
    key = guard._key(b"SELECT 'a' FROM orders")
    assert key is not None
    assert analyser.known(b"SELECT 'b' FROM orders", key) is not None
    assert analyser.known(key, None) is None
