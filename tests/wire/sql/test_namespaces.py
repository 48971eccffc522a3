"""Channels and advisory locks of two tenants in one database: they meet themselves only."""

from __future__ import annotations

import random
from collections.abc import Iterator

import psycopg
import pytest
from support.engines import Postgres

from wire.errors import NotSupported, TenantryError, TooLarge
from wire.sql.analyse import parse
from wire.sql.edits import apply
from wire.sql.namespaces import CHANNEL_MAX, namespace

ACME = (b"'acme'", b"acme/", b"7301444403300810752")
BETA = (b"'beta'", b"beta/", b"-9223372036854775808")


def fitted(sql: str, tenant: tuple[bytes, bytes, bytes] = ACME) -> str:
    """The text as it goes to the server for a tenant."""
    text = sql.encode()
    edits = []
    for tree in parse(text):
        start = tree.get("stmt_location", 0)
        length = tree.get("stmt_len", 0)
        end = start + length if length else len(text)
        edits += namespace(tree["stmt"], text, start, end)
    return apply(text, edits, tenant).decode()


class Client:
    """A connection whose texts are fitted to one tenant."""

    def __init__(self, postgres: Postgres, tenant: tuple[bytes, bytes, bytes]) -> None:
        self.tenant = tenant
        self.connection = postgres.connect()

    def run(self, sql: str, parameters: tuple[object, ...] | None = None) -> list[tuple]:
        cursor = psycopg.RawCursor(self.connection)
        cursor.execute(fitted(sql, self.tenant).encode(), parameters)
        return cursor.fetchall() if cursor.description else []

    def heard(self) -> list[tuple[str, str]]:
        self.run("SELECT 1")
        found = self.connection.notifies(timeout=0.2)
        prefix = self.tenant[1].decode()
        return [(note.channel.removeprefix(prefix), note.payload) for note in found]


@pytest.fixture
def clients(postgres: Postgres) -> Iterator[tuple[Client, Client, Client]]:
    """Two clients of acme and one of beta, with seeds that no other test has."""
    acme = (*ACME[:2], b"%d" % random.randrange(-(2**63), 0))
    beta = (*BETA[:2], b"%d" % random.randrange(2**63))
    found = (Client(postgres, acme), Client(postgres, acme), Client(postgres, beta))
    yield found
    for each in found:
        each.connection.close()


@pytest.mark.parametrize(
    "listen", ["LISTEN chat", 'listen "chat" ;', "LISTEN /* c */ CHAT -- x", 'LISTEN U&"ch\\0061t"']
)
def test_a_tenant_hears_its_own_notifications_and_no_others(
    clients: tuple[Client, Client, Client], listen: str
) -> None:
    speaker, hearer, stranger = clients
    hearer.run(listen)
    stranger.run(listen)
    speaker.run("NOTIFY chat, 'one'")
    speaker.run("SELECT pg_notify('chat', 'two')")
    speaker.run("SELECT pg_catalog.pg_notify($1, $2)", ("chat", "three"))
    speaker.run("SELECT pg_notify(c::varchar(9), 'four') FROM (VALUES ('chat')) AS v (c)")
    assert hearer.heard() == [("chat", "one"), ("chat", "two"), ("chat", "three"), ("chat", "four")]
    assert stranger.heard() == []
    assert hearer.run("SELECT pg_listening_channels()") == [("chat",)]
    hearer.run("UNLISTEN chat")
    assert hearer.run("SELECT * FROM pg_listening_channels() AS c") == []
    speaker.run("NOTIFY chat")
    assert hearer.heard() == []


def test_the_column_of_pg_listening_channels_keeps_its_name(
    clients: tuple[Client, Client, Client],
) -> None:
    client = clients[0]
    client.run('LISTEN "A b"')
    for sql, name in [
        ("SELECT pg_listening_channels()", "pg_listening_channels"),
        ("SELECT * FROM pg_listening_channels()", "pg_listening_channels"),
        ("SELECT pg_listening_channels() AS c", "c"),
        ("SELECT c.* FROM pg_catalog.pg_listening_channels() c", "c"),
        ("SELECT x FROM pg_listening_channels() AS c (x)", "x"),
    ]:
        cursor = client.connection.execute(fitted(sql).encode())
        assert [column.name for column in cursor.description or []] == [name], sql
        assert cursor.fetchall() == [("A b",)]


LOCKS = [
    ("pg_try_advisory_lock(42)", "pg_advisory_unlock(42)"),
    ("pg_catalog.pg_try_advisory_lock('42')", "pg_advisory_unlock(40 + 2)"),
    ("pg_try_advisory_lock(-1)", "pg_catalog.pg_advisory_unlock( - 1 )"),
    ("pg_try_advisory_lock(1, 2)", "pg_advisory_unlock(1,2)"),
    ("pg_try_advisory_lock(length('a' || ','), (SELECT 2))", "pg_advisory_unlock(2, 2)"),
    ("pg_try_advisory_lock((ARRAY[7,8])[1])", "pg_advisory_unlock(7::smallint)"),
    ("\"pg_try_advisory_lock\"(hashtext('job'))", "pg_advisory_unlock(hashtext('job')::bigint)"),
    ("pg_try_advisory_lock /* ( */ (3 -- )\n)", "pg_advisory_unlock(3)"),
]


@pytest.mark.parametrize(("lock", "unlock"), LOCKS)
def test_a_tenant_meets_its_own_locks_and_no_others(
    clients: tuple[Client, Client, Client], lock: str, unlock: str
) -> None:
    one, other, stranger = clients
    assert one.run(f"SELECT {lock}") == [(True,)]
    assert other.run(f"SELECT {lock}") == [(False,)]
    assert stranger.run(f"SELECT {lock}") == [(True,)]
    assert one.run(f"SELECT {unlock}") == [(True,)]
    assert other.run(f"SELECT {lock}") == [(True,)]


def test_locks_of_other_keys_are_other_locks(clients: tuple[Client, Client, Client]) -> None:
    one, other, _ = clients
    keys = ["1", "2", "12", "1, 2", "2, 1", "0, 1", "1, 0", "-1", "4294967296", "1, 12", "11, 2"]
    for key in keys:
        assert one.run(f"SELECT pg_try_advisory_lock({key})") == [(True,)]
        assert other.run(f"SELECT pg_try_advisory_lock({key})") == [(False,)]
        one.run("SELECT pg_advisory_unlock_all()")
    for key in keys:
        assert other.run(f"SELECT pg_try_advisory_lock({key})") == [(True,)], key


def test_parameters_and_null_keep_their_types(clients: tuple[Client, Client, Client]) -> None:
    one, other, _ = clients
    assert one.run("SELECT pg_try_advisory_lock($1)", (2**40,)) == [(True,)]
    assert other.run("SELECT pg_try_advisory_lock($1)", (2**40,)) == [(False,)]
    assert one.run("SELECT pg_try_advisory_lock($1, $2)", (5, 6)) == [(True,)]
    assert other.run("SELECT pg_try_advisory_lock(5, 6)") == [(False,)]
    assert one.run("SELECT pg_try_advisory_lock(NULL)") == [(None,)]
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="cannot be empty"):
        one.run("SELECT pg_notify(NULL, 'x')")


def test_every_kind_of_lock_is_in_the_namespace(clients: tuple[Client, Client, Client]) -> None:
    one, other, stranger = clients
    for shared in ("", "_shared"):
        for scope in ("", "_xact"):
            name = f"pg_advisory{scope}_lock{shared}"
            attempt = f"SELECT pg_try_advisory{scope}_lock(9)"
            one.run(f"BEGIN; SELECT {name}(9)")
            assert other.run(attempt) == [(False,)], name
            assert stranger.run(attempt) == [(True,)], name
            one.run("COMMIT")
            for client in clients:
                client.run("SELECT pg_advisory_unlock_all()")
    one.run("SELECT pg_advisory_lock_shared(1)")
    assert one.run("SELECT pg_advisory_unlock_shared(1)") == [(True,)]
    assert one.run("SELECT pg_try_advisory_lock_shared(1), pg_try_advisory_xact_lock_shared(1)")


def test_calls_are_found_wherever_they_stand() -> None:
    call = "pg_advisory_xact_lock(1)"
    changed = fitted(call.join(["SELECT ", ""])).removeprefix("SELECT ")
    for around in [
        "SELECT 1 FROM t WHERE a IN (SELECT {} FROM u)",
        "WITH x AS (SELECT {}) SELECT * FROM x ORDER BY {}",
        "INSERT INTO t SELECT {} ON CONFLICT (a) DO UPDATE SET b = {} RETURNING {}",
        "UPDATE t SET a = CASE WHEN {} IS NULL THEN 1 END",
        "EXPLAIN SELECT {}",
        "PREPARE p AS SELECT {}",
        "DECLARE c CURSOR FOR SELECT {}",
        "COPY (SELECT {}) TO STDOUT",
        "CREATE VIEW v AS SELECT {}",
        "SELECT * FROM {} AS f, LATERAL (SELECT {}) AS g",
        "SELECT sum({}) OVER (PARTITION BY {}), ARRAY[{}], ROW({}) FROM t; SELECT {}",
        "SELECT 'ü', {}",
    ]:
        sql = around.replace("{}", call)
        assert fitted(sql) == around.replace("{}", changed)
    nested = "SELECT pg_try_advisory_lock(pg_try_advisory_lock(1)::int, 2)"
    assert fitted(nested).count("hashtextextended") == 2
    for untouched in [
        "UNLISTEN *",
        "SELECT pg_advisory_unlock_all()",
        "SELECT mine.pg_advisory_lock(1)",
        "SELECT 'pg_notify(1, 2)'",
    ]:
        assert fitted(untouched) == untouched


REFUSED = [
    "SELECT pg_advisory_lock(key => 1)",
    "SELECT pg_advisory_lock(VARIADIC ARRAY[1])",
    "SELECT pg_advisory_lock(1, 2, 3)",
    "SELECT pg_advisory_lock()",
    "SELECT pg_advisory_lock(*)",
    "SELECT pg_advisory_lock(DISTINCT 1)",
    "SELECT pg_notify('a')",
    "SELECT pg_notify(channel := 'a', payload := 'b')",
    "SELECT * FROM pg_listening_channels() WITH ORDINALITY",
    "CREATE RULE r AS ON INSERT TO t DO NOTIFY chat",
    "CREATE OPERATOR @@@ (RIGHTARG = bigint, FUNCTION = pg_advisory_lock)",
    "CREATE AGGREGATE a (bigint) (SFUNC = pg_catalog.pg_advisory_lock, STYPE = void)",
    "CREATE CAST (bigint AS x) WITH FUNCTION pg_advisory_xact_lock(bigint)",
]


@pytest.mark.parametrize("sql", REFUSED)
def test_other_forms_are_refused(sql: str) -> None:
    with pytest.raises(NotSupported):
        fitted(sql)


def test_channel_names_leave_room_for_the_prefix(clients: tuple[Client, Client, Client]) -> None:
    longest = "c" * CHANNEL_MAX
    assert fitted(f"LISTEN {longest}") == f'LISTEN "acme/{longest}"'
    for name in [longest + "c", "é" * (CHANNEL_MAX // 2 + 1), '"' + "x" * 70 + '"']:
        with pytest.raises(TooLarge, match="channel name"):
            fitted(f"NOTIFY {name}, 'x'")
    # By function it is PostgreSQL that refuses; nothing is cut off.
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="too long"):
        clients[0].run(f"SELECT pg_notify('{'x' * 62}', 'y')")


def test_a_channel_cannot_name_another_tenants() -> None:
    assert fitted('LISTEN "beta/chat"') == 'LISTEN "acme/beta/chat"'
    assert fitted('LISTEN "a""b"') == 'LISTEN "acme/a""b"'
    for sql in ["LISTEN chat", "SELECT pg_notify('beta/chat', '')", "NOTIFY chat"]:
        try:
            assert "acme/" in fitted(sql)
        except TenantryError:
            raise AssertionError(sql) from None
