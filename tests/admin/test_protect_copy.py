"""COPY FROM of row tenants: through the view that `protect` makes, with the tenant's own rights."""

from __future__ import annotations

import datetime

import psycopg
import pytest
from support.engines import Postgres
from support.provisioning import lone_postgres, refused
from support.shared_rows import Shared, copy_in

__all__ = ["lone_postgres"]

SETUP = """
CREATE SCHEMA lib; GRANT USAGE ON SCHEMA lib TO PUBLIC;
CREATE TYPE lib.mood AS ENUM ('sad', 'ok');
CREATE DOMAIN lib.email AS text CHECK (VALUE LIKE '%@%');
CREATE SEQUENCE numbers;
CREATE TABLE people (
  id int GENERATED ALWAYS AS IDENTITY,
  tenant_id text NOT NULL,
  "Full Name" varchar(8) NOT NULL,
  email lib.email,
  mood lib.mood DEFAULT 'ok',
  number int DEFAULT nextval('numbers'),
  since date DEFAULT '2020-01-01',
  twice int GENERATED ALWAYS AS (number * 2) STORED,
  note text);
"""


@pytest.fixture
def people(lone_postgres: Postgres) -> Shared:
    shared = Shared(lone_postgres, SETUP)
    assert shared.protect().plan.complete
    return shared


def view(shared: Shared, table: str = "people") -> str:
    return f"tenantry.copy_{shared.sql(f'SELECT {table!r}::regclass::oid')[0][0]}"


def test_postgres_itself_refuses_which_is_why(people: Shared) -> None:
    with people.enter("acme") as conn, pytest.raises(psycopg.Error, match="row-level security"):
        copy_in(conn, 'COPY people ("Full Name") FROM STDIN', b"Ann\n")


def test_defaults_are_filled_in_and_rows_are_stamped(people: Shared) -> None:
    with people.enter("acme") as conn:
        said = copy_in(
            conn, f'COPY {view(people)} ("Full Name", note) FROM STDIN', b"Ann\t\\N\nBo\tx\n"
        )
        assert said == "COPY 2"
        assert conn.execute("SELECT * FROM people ORDER BY id").fetchall() == [
            (1, "acme", "Ann", None, "ok", 1, datetime.date(2020, 1, 1), 2, None),
            (2, "acme", "Bo", None, "ok", 2, datetime.date(2020, 1, 1), 4, "x"),
        ]
    with people.enter("beta") as conn:
        assert conn.execute("SELECT * FROM people").fetchall() == []


def test_csv_with_all_columns_and_a_header(people: Shared) -> None:
    rows = (
        b"id,tenant_id,Full Name,email,mood,number,since,note\n7,acme,Cy,c@d,sad,9,2021-02-03,n\n"
    )
    with people.enter("acme") as conn:
        text = f"COPY {view(people)} FROM STDIN (FORMAT csv, HEADER match)"
        assert copy_in(conn, text, rows) == "COPY 1"
        assert conn.execute("SELECT id, mood::text, twice FROM people").fetchall() == [
            (7, "sad", 18)
        ]


def test_the_binary_format(people: Shared) -> None:
    with people.enter("acme") as conn:
        text = f'COPY {view(people)} ("Full Name", number, mood) FROM STDIN (FORMAT binary)'
        with conn.cursor() as cursor, cursor.copy(text) as copy:
            copy.set_types(["text", "int4", "text"])
            copy.write_row(("Di", 5, "sad"))
        found = conn.execute('SELECT "Full Name", number, mood::text FROM people').fetchall()
        assert found == [("Di", 5, "sad")]


@pytest.mark.parametrize(
    ("columns", "data", "complaint"),
    [
        ('tenant_id, "Full Name"', b"beta\tx\n", "violates row-level security policy"),
        ('"Full Name"', b"too long a name\n", "value too long"),
        ('"Full Name", email', b"x\tnone\n", "violates check constraint"),
        ('"Full Name", mood', b"x\tangry\n", "invalid input value for enum"),
        ("note", b"x\n", "violates not-null constraint"),
        ('"Full Name", twice', b"x\t1\n", "does not exist"),
    ],
)
def test_what_the_table_refuses(people: Shared, columns: str, data: bytes, complaint: str) -> None:
    with people.enter("acme") as conn, pytest.raises(psycopg.Error, match=complaint):
        copy_in(conn, f"COPY {view(people)} ({columns}) FROM STDIN", data)
    assert people.sql("SELECT count(*) FROM people") == [(0,)]


def test_the_view_gives_nothing_away(people: Shared) -> None:
    people.sql("INSERT INTO people (tenant_id, \"Full Name\") VALUES ('beta', 'Eve')")
    staged = view(people)
    with people.enter("acme") as conn:
        for statement in (
            f"SELECT * FROM {staged}",
            f"COPY {staged} TO STDOUT",
            f"INSERT INTO {staged} (\"Full Name\") VALUES ('x') RETURNING *",
            f"UPDATE {staged} SET note = 'x'",
            f"DELETE FROM {staged}",
            f"INSERT INTO {staged} (tenant_id, \"Full Name\") VALUES ('beta', 'x')",
        ):
            # 55000: the view is not one that can be updated.
            assert refused(conn, statement) in ("42501", "55000"), statement
    assert people.sql("SELECT count(*) FROM people") == [(1,)]


def test_a_tenant_that_may_not_insert_may_not_copy(lone_postgres: Postgres) -> None:
    shared = Shared(lone_postgres, "CREATE TABLE t (tenant_id text, x int)")
    shared.protect()
    role = shared.made["acme"].role
    insert = shared.look().facts.groups["INSERT"]
    shared.sql(f'REVOKE "{insert}" FROM "{role}"')
    with shared.enter("acme") as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
        copy_in(conn, f"COPY {view(shared, 't')} (x) FROM STDIN", b"1\n")


def test_migrations_are_not_in_the_way_and_the_view_follows(people: Shared) -> None:
    staged = view(people)
    people.sql("ALTER TABLE people DROP COLUMN mood; DROP TYPE lib.mood")
    people.sql("ALTER TABLE people ALTER COLUMN note TYPE int USING 0, ADD COLUMN extra text")
    people.sql("ALTER TABLE people ALTER COLUMN number DROP DEFAULT; DROP SEQUENCE numbers")
    looked = people.look()
    assert [step.missing for step in looked.plan.steps] == [["view for COPY FROM"]]
    assert people.protect().plan.complete
    with people.enter("acme") as conn:
        assert copy_in(conn, f'COPY {staged} ("Full Name", note, extra) FROM STDIN', b"Flo\t3\te\n")
        assert conn.execute("SELECT note, extra, number FROM people").fetchall() == [(3, "e", None)]
    people.sql("DROP TABLE people; DROP DOMAIN lib.email")
    people.protect()
    left = "SELECT proname FROM pg_proc WHERE proname LIKE 'copy%'"
    assert people.sql(left) == []
    assert people.sql("SELECT relname FROM pg_class WHERE relname LIKE 'copy%'") == []
