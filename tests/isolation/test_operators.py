"""Operators in tenants' data: one credential for several tenants, one statement at a time."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import errors
from support.engines import Postgres
from support.estate import PASSWORD, Estate, estate, protect, tenant
from support.provisioning import lone_postgres

from wire.postgres.scram import make_verifier

__all__ = ["lone_postgres"]

DATABASE = "operated"
TABLES = """
CREATE TABLE orders (tenant_id text NOT NULL, id int NOT NULL, PRIMARY KEY (tenant_id, id));
INSERT INTO orders VALUES ('acme', 1), ('acme', 2), ('globex', 3), ('initech', 4);
"""


@pytest.fixture(scope="module")
def operated(lone_postgres: Postgres) -> Iterator[Estate]:
    tenants = [tenant(name, database_name=DATABASE) for name in ("acme", "globex", "initech")]
    tenants.append(tenant("umbrella", "database"))

    def prepare(made: Estate) -> None:
        with made.admin("acme") as admin:
            admin.execute(TABLES)
        protect(made, DATABASE)
        verifier = make_verifier(PASSWORD)
        made.operators["ops"] = {"role": "operator", "scram": verifier, "tenants": ["*"]}
        made.operators["agent"] = {
            "role": "operator",
            "scram": verifier,
            "tenants": ["acme", "globex"],
        }

    with estate(lone_postgres, tenants, prepare=prepare) as made:
        yield made


def connect(made: Estate, name: str, database: str) -> psycopg.Connection:
    return made.connect(database, user=name, dbname=database)


def refuses(made: Estate, name: str, database: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        connect(made, name, database).close()


def ids(client: psycopg.Connection, sql: str = "SELECT id FROM orders ORDER BY id") -> list[int]:
    return [row[0] for row in client.execute(sql)]


def test_set_goes_from_tenant_to_tenant(operated: Estate) -> None:
    with connect(operated, "agent", "acme") as client:
        assert ids(client) == [1, 2]
        client.execute("SET helios.tenant_id = 'globex'")
        assert ids(client) == [3]
        client.execute("SET helios.tenant_id TO 'acme'")
        assert ids(client) == [1, 2]


@pytest.mark.parametrize("cursor", [psycopg.Cursor, psycopg.ClientCursor])
def test_a_hint_is_for_its_statement_only(operated: Estate, cursor: type[psycopg.Cursor]) -> None:
    with connect(operated, "agent", "acme") as client:
        client.cursor_factory = cursor
        assert ids(client, "/*helios:tenant=globex*/ SELECT id FROM orders") == [3]
        assert ids(client) == [1, 2]


def test_an_operator_stays_with_its_tenants(operated: Estate) -> None:
    with connect(operated, "agent", "acme") as client:
        for sql in ("SET helios.tenant_id = 'initech'", "/*helios:tenant=initech*/ SELECT 1"):
            with pytest.raises(errors.InsufficientPrivilege, match="may not work in"):
                client.execute(sql)
        with pytest.raises(errors.InsufficientPrivilege):
            client.execute("SET helios.tenant_id = '@operated'")
        assert ids(client) == [1, 2]
    for database in ("initech", "@operated", "nobody"):
        refuses(operated, "agent", database)


def test_inside_a_transaction_the_tenant_stays(operated: Estate) -> None:
    with connect(operated, "agent", "acme") as client:
        client.execute("BEGIN")
        assert ids(client) == [1, 2]
        with pytest.raises(errors.FeatureNotSupported, match="inside a transaction"):
            client.execute("SET helios.tenant_id = 'globex'")
        client.execute("ROLLBACK")
        assert ids(client) == [1, 2]


def test_a_tenants_hint_and_set_do_nothing(operated: Estate) -> None:
    with operated.connect("acme") as client:
        assert ids(client, "/*helios:tenant=globex*/ SELECT id FROM orders ORDER BY id") == [1, 2]
        client.execute("SET helios.tenant_id = 'globex'")
        assert ids(client) == [1, 2]


def test_a_whole_database_is_for_who_spans_all_tenants(operated: Estate) -> None:
    with connect(operated, "ops", "@operated") as client:
        assert ids(client) == [1, 2, 3, 4]
        client.execute("CREATE TABLE migrated (tenant_id text NOT NULL, x int)")
        client.execute("SET helios.tenant_id = 'umbrella'")
        assert client.execute("SELECT current_database()").fetchone() == ("umbrella_db",)
        client.execute("SET helios.tenant_id = '@operated'")
        client.execute("DROP TABLE migrated")


def test_a_deleted_operator_cannot_log_in(operated: Estate) -> None:
    known = operated.operators.pop("ops")
    try:
        refuses(operated, "ops", "acme")
    finally:
        operated.operators["ops"] = known


def test_the_audit_is_told_of_every_change_of_tenant_and_every_statement(operated: Estate) -> None:
    operated.notes.heard.clear()
    with connect(operated, "agent", "acme") as client:
        ids(client)
        client.execute("SET helios.tenant_id = 'globex'")
        assert ids(client, "SELECT id FROM orders WHERE id <> 4711") == [3]
        with pytest.raises(errors.InsufficientPrivilege):
            client.execute("SET helios.tenant_id = 'initech'")
    login = operated.notes.of("login")[0]
    assert (login["tenant"], login["actor"], login["reason"]) == ("acme", "agent", "operator")
    override = operated.notes.of("override")[0]
    assert (override["tenant"], override["actor"], override["outcome"]) == ("globex", "agent", "ok")
    assert override["address"] == "127.0.0.1"
    ran = operated.notes.of("operator_statement")
    assert [each["tenant"] for each in ran if each["statement_kind"] == "SELECT"] == [
        "acme",
        "globex",
    ]
    assert len({each["fingerprint"] for each in ran}) == 3
    assert "4711" not in str(operated.notes.heard)
    assert operated.notes.of("refusal")[-1]["actor"] == "agent"
