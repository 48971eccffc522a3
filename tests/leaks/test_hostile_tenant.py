"""A tenant with valid credentials tries what the matrix of leaks does not: each was a hole once.

Its second client must not find what the first has hidden, the server must read what the guard has
read, and no bytes of its own may fill the worker's memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import psycopg
import pytest
from support.engines import Postgres
from support.proxy import WireProxy, own_database, wire_proxy
from support.raw import Raw, outcome, raw
from support.transcript import Bind, Execute, Parse, Query, Sync, packet

from wire.postgres.cancel import CancelKeys
from wire.postgres.client import ClientConnection
from wire.postgres.prepared import MAX_CLIENT_BYTES, MAX_INTERNED_BYTES, Statements
from wire.postgres.session import MAX_STATE_BYTES
from wire.sql.verdict import Verdict

# Read with standard_conforming_strings on: one SELECT of two literals. Off: a literal, then more.
TWO_READINGS = r"select '\' , '; select 666; --'"
HIDDEN = "do $$ begin perform set_config('standard_conforming_strings', 'off', false); end $$"


@pytest.fixture(scope="module")
def home(postgres: Postgres) -> Iterator[tuple[Postgres, str]]:
    with own_database(postgres) as made:
        yield made


@pytest.fixture
def single(home: tuple[Postgres, str]) -> Iterator[WireProxy]:
    """Transaction pooling over one server connection: whoever comes next gets the same one."""
    with wire_proxy(home[0], database=home[1], servers=1) as made:
        yield made


# --- the server reads what the guard has read --------------------------------------------------


@pytest.mark.parametrize("mode", ["session", "transaction"])
@pytest.mark.parametrize("option", ["standard_conforming_strings", "client_encoding"])
def test_startup_settings_are_judged_in_both_modes(
    home: tuple[Postgres, str], mode: str, option: str
) -> None:
    value = "off" if option == "standard_conforming_strings" else "SJIS"
    with wire_proxy(home[0], database=home[1], mode=mode) as proxy:
        try:
            client = proxy.connect(options=f"-c {option}={value}", client_encoding="")
        except psycopg.OperationalError:
            return
        # Whoever is let in with them is refused what could be read in two ways.
        with client, pytest.raises(psycopg.errors.FeatureNotSupported):
            client.execute(TWO_READINGS)
        assert option != "client_encoding"


def test_defaults_that_a_role_gives_itself_do_not_count(home: tuple[Postgres, str]) -> None:
    server, database = home
    with psycopg.connect(server.dsn(database), autocommit=True) as direct:
        direct.execute(f"alter role {server.user} set standard_conforming_strings = off")
        try:
            with wire_proxy(server, database=database) as proxy, raw(proxy) as client:
                assert client.ask("show standard_conforming_strings") == "on"
                assert client.ask(TWO_READINGS) != "666"
        finally:
            direct.execute(f"alter role {server.user} reset standard_conforming_strings")


@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
def test_a_pipeline_cannot_hide_a_change_of_reading(single: WireProxy, extended: bool) -> None:
    with raw(single) as client:
        if extended:
            client >> Parse("", HIDDEN) + Bind() + Execute() + Parse("", TWO_READINGS) + Sync
            heard = client.answers()
        else:
            client >> Query(HIDDEN) + Query(TWO_READINGS)
            heard = client.answers(2)
        assert b"0A000" in heard
        assert b"666" not in heard


def test_the_same_text_is_fine_when_nothing_is_under_way(single: WireProxy) -> None:
    with raw(single) as client:
        client.ask("do $$ begin perform 1; end $$")
        assert client.ask(TWO_READINGS) == "\\"


# --- the next client finds nothing ---------------------------------------------------------------


def rolled_back(a: Raw) -> None:
    a.ask("begin")
    a.ask("prepare hidden as select 'A'")
    a.ask("rollback")


def failed(a: Raw) -> None:
    assert a.ask("prepare hidden as select 'A'; select 1/0") == "error 22012"


def back_to_savepoint(a: Raw) -> None:
    a.ask("begin; savepoint s; prepare hidden as select 'A'; rollback to s; commit")


@pytest.mark.parametrize("way", [rolled_back, failed, back_to_savepoint])
def test_prepare_outlives_a_rollback_for_its_client_only(
    single: WireProxy, way: Callable[[Raw], None]
) -> None:
    with raw(single) as a, raw(single) as b:
        way(a)
        assert b.ask("execute hidden") == "error 26000"
        assert a.ask("execute hidden") == "A"


def test_deallocate_in_a_rolled_back_block_stays_done(single: WireProxy) -> None:
    with raw(single) as a, raw(single) as b:
        a.ask("prepare hidden as select 'A'")
        a.ask("begin; deallocate hidden; rollback")
        assert b.ask("select 1") == "1"
        assert a.ask("execute hidden") == "error 26000"


def test_a_temporary_function_goes_with_its_client(single: WireProxy) -> None:
    with raw(single) as a, raw(single) as b:
        a.ask("create function pg_temp.hidden() returns text language sql as $$ select 'A' $$")
        # The probe that follows a DROP sees tables only.
        a.ask("create temp table seen (x int)")
        a.ask("drop table seen")
        assert b.ask("select pg_temp.hidden()") == "error 42883"


def test_a_portal_is_not_taken_for_the_one_that_failed_to_replace_it(single: WireProxy) -> None:
    with raw(single) as a, raw(single) as b:
        a.ask("begin")
        a >> Parse("lock", "select pg_advisory_lock(77)") + Parse("one", "select 1")
        a >> Bind("p", "lock") + Sync
        a.answers()
        a.ask("savepoint s")
        a >> Bind("p", "one") + Sync
        assert outcome(a.answers()) == "error 42P03"
        a.ask("rollback to s")
        a >> Execute("p") + Sync
        a.answers()
        a.ask("commit")
        held = (
            "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"
        )
        assert b.ask(held) == "0"


# --- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["B", "F"])
def test_a_large_message_is_not_collected_whole(single: WireProxy, kind: str) -> None:
    with raw(single) as client:
        client.ask("select 1")
        # The header comes alone, as slow networks have it.
        client >> kind.encode() + (0x3FFFFFF0).to_bytes(4, "big")
        most = 0
        with contextlib.suppress(OSError):
            for _ in range(100):
                client >> b"\1" * 65536
                most = max(most, kept(single))
        assert most < 1_000_000


def kept(proxy: WireProxy) -> int:
    """Bytes that the proxy holds of unfinished messages."""
    held: int = proxy.call(
        lambda: sum(len(piece) for c in proxy.listener.clients for piece in c.rest or ())
    )
    return held


def test_prepared_statements_of_a_client_have_a_limit_in_bytes(single: WireProxy) -> None:
    large = "x" * (MAX_CLIENT_BYTES // 4)
    with raw(single) as client:
        seen = []
        for number in range(5):
            client >> Parse(f"s{number}", f"select '{number}{large}'") + Sync
            seen.append(outcome(client.answers()))
        assert seen[:3] == ["nothing"] * 3
        assert seen[-1] == "error 54000"
        client >> packet("C", b"Ss0\0") + packet("C", b"Ss1\0") + packet("C", b"Ss2\0") + Sync
        client.answers()
        client >> Parse("again", f"select '{large}'") + Sync
        assert outcome(client.answers()) == "nothing"


def test_interned_statements_have_a_limit_in_bytes() -> None:
    statements = Statements()
    size = MAX_INTERNED_BYTES // 8
    for number in range(40):
        tail = b"%d" % number + b"x" * size
        statements.intern(tail, tail, b"", Verdict(), None)
    assert len(statements._interned) <= 8


def test_session_state_has_a_limit_in_bytes(single: WireProxy) -> None:
    half = "x" * (MAX_STATE_BYTES // 2)
    with raw(single) as client:
        for number in range(6):
            client.ask(f"prepare s{number} as select '{half}'")
        sizes = single.call(
            lambda: [sum(map(len, c.session.state.values())) for c in single.listener.clients]
        )
        assert max(sizes) <= MAX_STATE_BYTES


# --- the time of reading ------------------------------------------------------------------------


def test_reading_new_texts_counts_as_queries_even_when_they_are_refused(
    home: tuple[Postgres, str],
) -> None:
    limits = {"qps_limit": 0.01, "burst_multiplier": 500.0}
    with wire_proxy(home[0], database=home[1], limits=limits) as proxy, raw(proxy) as client:
        assert client.ask("select from from a") == "error 42601"
        answers = [client.ask(f"select from from b{number}") for number in range(10)]
        assert answers[0] == "error 42601"
        assert answers[-1] == "error 53400"
        client >> b"".join(Parse("", f"select c{n}") for n in range(3)) + Sync
        assert outcome(client.answers()) == "error 53400"


def test_a_text_and_its_first_run_cost_one_query(home: tuple[Postgres, str]) -> None:
    limits = {"qps_limit": 0.01, "burst_multiplier": 500.0}
    with wire_proxy(home[0], database=home[1], limits=limits) as proxy, raw(proxy) as client:
        seen = [client.ask(f"select {number} as c{number}") for number in range(6)]
        assert seen == ["0", "1", "2", "3", "4", "error 53400"]


# --- cancel keys ---------------------------------------------------------------------------------


def test_a_cancel_key_tells_its_worker_to_workers_only(single: WireProxy) -> None:
    def issue() -> list[tuple[int, bytes]]:
        keys = CancelKeys(7, b"secret of all workers")
        client = ClientConnection(single.listener)
        return [keys.issue(client, long=False, process_id=99) for _ in range(200)]

    issued = single.call(issue)
    assert len({key[0] for _, key in issued}) > 50
    other = CancelKeys(3, b"secret of all workers")
    assert {other.owner(pid, key) for pid, key in issued} == {7}
