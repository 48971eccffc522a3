"""`tenantry protect` where the proxy alone enforces: tables of a later migration become usable and
get an index, nothing else is altered, and what the seal would add is told."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from support.engines import Postgres
from support.provisioning import lone_postgres, refused
from support.shared_rows import Shared

from admin.cli.failure import Failure
from admin.cli.protect import as_dict, show
from admin.protect.facts import read
from admin.protect.unsealed import manageable, plan_unsealed
from admin.provision.names import group_role

__all__ = ["lone_postgres"]

DENIED = "42501"
LATER = """
CREATE TABLE notes (id serial PRIMARY KEY, tenant_id text, note text UNIQUE);
CREATE TABLE countries (code text PRIMARY KEY);
CREATE TABLE internal (x int);
INSERT INTO countries VALUES ('de');
"""


@pytest.fixture(scope="module")
def shop(lone_postgres: Postgres) -> Shared:
    """Row tenants, and tables that were made after they were provisioned."""
    return Shared(lone_postgres, LATER, enforcement="rewrite", shared_tables=["countries"])


def test_tables_of_a_later_migration_become_usable(shop: Shared) -> None:
    with shop.enter("acme") as conn:
        assert refused(conn, "SELECT * FROM notes") == DENIED
        before = shop.look()
        assert {"notes", "countries"} <= {step.table for step in before.plan.steps}
        after = shop.protect()
        assert after.plan.complete
        assert after.plan.protected == ["notes"]
        assert after.plan.unreachable == ["internal"]
        conn.execute("INSERT INTO notes (tenant_id, note) VALUES ('acme', 'mine')")
        assert conn.execute("SELECT id, note FROM notes").fetchall() == [(1, "mine")]
        assert conn.execute("SELECT code FROM countries").fetchall() == [("de",)]
        assert refused(conn, "INSERT INTO countries VALUES ('fr')") == DENIED
        assert refused(conn, "SELECT * FROM internal") == DENIED
        assert refused(conn, "TRUNCATE notes") == DENIED
    assert not shop.look().plan.steps


def test_the_column_gets_an_index_and_nothing_else_is_altered(shop: Shared) -> None:
    shop.protect()
    query = """SELECT c.relrowsecurity OR c.relforcerowsecurity, a.attnotnull, a.atthasdef,
      (SELECT count(*)::int FROM pg_policy), (SELECT count(*)::int FROM pg_event_trigger),
      to_regnamespace('tenantry')::text,
      EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indkey[0] = a.attnum)
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relname = 'notes' AND a.attname = 'tenant_id'"""
    assert shop.sql(query) == [(False, False, False, 0, 0, None, True)]


def test_what_the_seal_would_add_is_told(shop: Shared, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    looked = shop.look()
    show(looked, Console(highlight=False, width=100), applied=False)
    text = capsys.readouterr().out
    assert 'enforcement = "rewrite", so the proxy alone keeps them apart' in text
    assert "row-level security that is forced" in text
    assert "note: notes.notes_note_key: unique key notes_note_key without the tenant column" in text
    assert len(as_dict(looked, 0)["seal_would_add"]) == text.count("\n  ")
    with pytest.raises(Failure, match="Nothing has to be accepted"):
        shop.look(accept=("notes.notes_note_key",))


def test_privileges_past_the_groups_are_told_and_left(shop: Shared) -> None:
    shop.sql("GRANT TRUNCATE ON notes TO PUBLIC")
    try:
        (told,) = [each for each in shop.protect().plan.concerns if each.kind == "open"]
        assert (told.key, told.blocks) == ("notes.PUBLIC", False)
        shop.sql(told.fix)
        assert not [each for each in shop.look().plan.concerns if each.kind == "open"]
    finally:
        shop.sql("REVOKE ALL ON notes FROM PUBLIC")


def test_policies_of_a_seal_that_was_there_before_show_nothing(lone_postgres: Postgres) -> None:
    shared = Shared(lone_postgres, "CREATE TABLE t (tenant_id text)")
    assert shared.protect().plan.complete
    shared.tenants = {
        id: each.model_copy(
            update={"isolation": each.isolation.model_copy(update={"enforcement": "rewrite"})}
        )
        for id, each in shared.tenants.items()
    }
    (blocking,) = [each for each in shared.look().plan.concerns if each.blocks]
    assert "show no row" in blocking.what
    shared.sql(blocking.fix)
    assert shared.look().plan.complete


def test_what_belongs_to_others_is_left_to_its_owner(lone_postgres: Postgres) -> None:
    """The node's user has no power over the table: no step that would fail, but the SQL."""
    shared = Shared(
        lone_postgres, "CREATE TABLE theirs (tenant_id text, n int)", enforcement="rewrite"
    )
    shared.sql("CREATE ROLE caretaker LOGIN PASSWORD 'c'")
    shared.sql(f'GRANT CONNECT ON DATABASE "{shared.database}" TO caretaker')
    dsn = lone_postgres.dsn(shared.database, user="caretaker", password="c")

    async def look() -> list[tuple[str, bool, str]]:
        async with await psycopg.AsyncConnection.connect(
            dsn, autocommit=True, options="-c search_path=pg_catalog"
        ) as conn:
            facts = await read(conn, shared.database, "tenant_id", ["public"])
            made = plan_unsealed(facts, [], await manageable(conn, facts))
            assert [step.table for step in made.steps] == []
            assert not made.complete
            return [(each.kind, each.blocks, each.fix) for each in made.concerns]

    shared.sql("GRANT SELECT ON theirs TO caretaker")
    told = asyncio.run(look())
    assert [(kind, blocks) for kind, blocks, _ in told] == [("owner", True), ("index", False)]
    for _, _, fix in told:
        for each in fix.split("; "):
            shared.sql(each)
    role = group_role("insert", shared.database)
    assert shared.sql(f"SELECT has_table_privilege('{role}', 'theirs', 'INSERT')") == [(True,)]
    assert shared.look().plan.complete
