"""What `tenantry protect` does not put right by itself: it stays closed until it is corrected as
shown, or accepted by name; and an acceptance holds for what was accepted only."""

from __future__ import annotations

import json

import pytest
from support.engines import Postgres
from support.provisioning import lone_postgres, refused
from support.shared_rows import Shared

from admin.cli.failure import Failure
from admin.cli.protect import as_dict, show

__all__ = ["lone_postgres"]

KEYS = """
CREATE TABLE customers (id serial PRIMARY KEY, tenant_id text, email text UNIQUE);
CREATE TABLE orders (id int, tenant_id text, customer int REFERENCES customers ON DELETE CASCADE,
  PRIMARY KEY (tenant_id, id));
CREATE UNIQUE INDEX orders_expression ON orders (lower(tenant_id || id::text));
"""


def blocking(shared: Shared) -> dict[str, str]:
    return {each.key: each.kind for each in shared.look().plan.concerns if each.blocks}


def test_keys_without_the_tenant_keep_a_table_closed(lone_postgres: Postgres) -> None:
    shared = Shared(lone_postgres, KEYS)
    assert not shared.protect().plan.complete
    assert blocking(shared) == {
        "customers.customers_email_key": "unique",
        "customers.customers_pkey": "primary",
        "orders.orders_customer_fkey": "foreign",
        "orders.orders_expression": "unique",
    }
    with shared.enter("acme") as conn:
        assert refused(conn, "SELECT * FROM customers") == "42501"
        looked = shared.protect(accept_primary_keys=True, accept=("customers.customers_email_key",))
        assert refused(conn, "SELECT * FROM customers") == ""
        assert refused(conn, "SELECT * FROM orders") == "42501"
    assert not looked.plan.complete
    assert set(blocking(shared)) == {"orders.orders_customer_fkey", "orders.orders_expression"}
    shared.sql("DROP INDEX orders_expression")
    with pytest.raises(Failure, match="nothing to accept by the name of orders"):
        shared.protect(accept=("orders.orders_expression",))
    # Accepted by its whole name too, and known to later runs.
    assert shared.protect(accept=("public.orders.orders_customer_fkey",)).plan.complete
    assert shared.look().plan.complete


def test_the_sql_that_corrects_keys_does(lone_postgres: Postgres) -> None:
    shared = Shared(lone_postgres, KEYS + "DROP INDEX orders_expression;")
    fixes = {each.kind: each.fix for each in shared.look().plan.concerns if each.blocks}
    for kind in ("unique", "foreign"):
        shared.sql(fixes[kind])
    assert set(blocking(shared)) == {"customers.customers_pkey"}
    assert shared.protect(accept_primary_keys=True).plan.complete
    shared.sql("INSERT INTO customers VALUES (1, 'acme', 'a'), (2, 'beta', 'a')")
    with shared.enter("acme") as conn:
        assert refused(conn, "INSERT INTO orders (id, customer) VALUES (1, 2)") == "23503"
        assert refused(conn, "INSERT INTO orders (id, customer) VALUES (1, 1)") == ""


@pytest.mark.parametrize(
    ("table", "wanted"),
    [
        ("x int UNIQUE DEFERRABLE", "UNIQUE (tenant_id, x) DEFERRABLE"),
        (
            "x int, UNIQUE NULLS NOT DISTINCT (x) INCLUDE (y)",
            "NULLS NOT DISTINCT (tenant_id, x) INC",
        ),
        ("x int); CREATE UNIQUE INDEX u ON t (x) WHERE (y > 1", "(tenant_id, x) WHERE (y > 1)"),
        ("x text); CREATE UNIQUE INDEX u ON t (lower(x) DESC", "(tenant_id, lower(x) DESC)"),
        ("x int PRIMARY KEY", "PRIMARY KEY (tenant_id, x)"),
        (
            "x int REFERENCES t (y) ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED",
            "ON DELETE SET NULL (x) DEFERRABLE INITIALLY DEFERRED",
        ),
    ],
)
def test_a_corrected_key_is_else_the_same(lone_postgres: Postgres, table: str, wanted: str) -> None:
    unique = ", UNIQUE (tenant_id, y)" if "REFERENCES" in table else ""
    table = table.replace("REFERENCES t (y)", "REFERENCES other (y)")
    shared = Shared(
        lone_postgres,
        "CREATE TABLE other (tenant_id text, y int UNIQUE);"
        f"CREATE TABLE t (tenant_id text, y int{unique}, {table});",
    )
    fixes = [each.fix for each in shared.look().plan.concerns if each.table == "t" and each.blocks]
    assert len(fixes) == 1
    for statement in filter(str.strip, fixes[0].split(";")):
        shared.sql(statement)
    found = shared.sql(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 't'::regclass "
        "UNION SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 't'::regclass"
    )
    assert any(wanted in row[0] for row in found), found


def test_an_acceptance_is_of_one_definition(lone_postgres: Postgres) -> None:
    shared = Shared(lone_postgres, "CREATE TABLE t (tenant_id text, a int, b int, UNIQUE (a))")
    assert shared.protect(accept=("t.t_a_key",)).plan.complete
    shared.sql("ALTER TABLE t DROP CONSTRAINT t_a_key, ADD CONSTRAINT t_a_key UNIQUE (b)")
    assert blocking(shared) == {"t.t_a_key": "unique"}


def test_tables_that_cannot_be_protected_say_why(lone_postgres: Postgres) -> None:
    shared = Shared(
        lone_postgres,
        # This build has no ICU, and no other provider makes such collations.
        'CREATE COLLATION same FROM "C";'
        "UPDATE pg_collation SET collisdeterministic = false WHERE collname = 'same';"
        "CREATE TABLE a (tenant_id date); CREATE TABLE b (tenant_id text COLLATE same);"
        "CREATE TABLE c (tenant_id text); CREATE TABLE d (tenant_id char(3))",
    )
    shared.sql(f'ALTER TABLE c OWNER TO "{shared.made["acme"].role}"')
    looked = shared.protect()
    told = {each.table: each.what for each in looked.plan.concerns}
    assert "type date" in told["a"]
    assert "different texts for equal" in told["b"]
    assert "can switch protection off" in told["c"]
    assert "type bpchar" in told["d"]
    assert looked.plan.protected == []


def test_views_triggers_rules_and_open_tables(lone_postgres: Postgres) -> None:
    shared = Shared(
        lone_postgres,
        """CREATE TABLE t (tenant_id text, x int); CREATE TABLE open (x int);
        CREATE VIEW v AS SELECT * FROM t; CREATE VIEW w AS SELECT * FROM v;
        CREATE VIEW good WITH (security_invoker) AS SELECT * FROM t;
        CREATE MATERIALIZED VIEW m AS SELECT * FROM t;
        CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
          AS 'BEGIN RETURN NEW; END';
        CREATE TRIGGER peek BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f();
        CREATE RULE r AS ON DELETE TO t DO ALSO DELETE FROM open;
        GRANT SELECT ON w, m, open TO PUBLIC""",
    )
    assert blocking(shared) == {
        "w": "view",
        "m": "view",
        "open": "open",
        "t.peek": "trigger",
        "t.r": "rule",
    }
    notes = {each.key for each in shared.look().plan.concerns if not each.serious}
    assert "v" in notes
    shared.sql("REVOKE SELECT ON w, m, open FROM PUBLIC")
    assert shared.protect(accept=("t.peek", "t.r")).plan.complete
    shared.sql("INSERT INTO t VALUES ('acme', 1), ('beta', 2)")
    with shared.enter("acme") as conn:
        assert conn.execute("SELECT x FROM good").fetchall() == [(1,)]
        for name in ("v", "w", "m"):
            assert refused(conn, f"SELECT * FROM {name}") == "42501"


def test_policies_of_others_cannot_widen(lone_postgres: Postgres) -> None:
    shared = Shared(
        lone_postgres,
        "CREATE TABLE t (tenant_id text); INSERT INTO t VALUES ('acme'), ('beta');"
        "CREATE POLICY all_of_it ON t USING (true); CREATE POLICY tenantry ON t USING (true)",
    )
    looked = shared.protect()
    assert looked.plan.complete
    assert "t.all_of_it" in {each.key for each in looked.plan.concerns}
    with shared.enter("acme") as conn:
        assert conn.execute("SELECT * FROM t").fetchall() == [("acme",)]
        assert refused(conn, "INSERT INTO t VALUES ('beta')") == "42501"


def test_names_that_need_quotes(lone_postgres: Postgres) -> None:
    shared = Shared(
        lone_postgres,
        'CREATE TABLE "Odd %s"."a.""b" ("Te nant" text, "x%" serial);'
        'CREATE TABLE "Odd %s"."read me" (x int)',
        schema_name="Odd %s",
        tenant_column="Te nant",
        shared_tables=['"read me"'],
    )
    assert shared.protect().plan.complete
    with shared.enter("acme") as conn:
        conn.execute('INSERT INTO "Odd %s"."a.""b" DEFAULT VALUES')
        assert conn.execute('SELECT * FROM "Odd %s"."a.""b"').fetchall() == [("acme", 1)]
        assert refused(conn, 'SELECT * FROM "Odd %s"."read me"') == ""


def test_what_people_and_programs_read(
    lone_postgres: Postgres, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    shared = Shared(lone_postgres, KEYS + "CREATE TABLE closed (x int)")
    looked = shared.look()
    show(looked, Console(highlight=False, width=100), applied=False)
    text = capsys.readouterr().out
    for line in (
        'orders      policy "tenantry_rows"; policy "tenantry"; row-level security;',
        'ALTER TABLE ONLY "public"."orders" FORCE ROW LEVEL SECURITY;',
        "In the way until it is corrected or accepted:",
        "--accept customers.customers_email_key --apply",
        "--accept-primary-keys accepts all",
        "Tenants reach nothing of: closed",
        "Nothing was changed: --apply does it.",
    ):
        assert line in text, line
    told = json.loads(json.dumps(as_dict(looked, 0)))
    assert told["complete"] is False
    assert {"table", "missing", "sql"} == set(told["steps"][0])
    assert any(each["acceptable"] and each["blocks"] for each in told["concerns"])
