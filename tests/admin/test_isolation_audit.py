"""`tenantry audit isolation`: each way out is planted on a real server, found, corrected with the
SQL that the finding gives, and gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from rich.console import Console
from support.engines import Postgres
from support.provisioning import lone_postgres, make, tenant
from support.shared_rows import Shared

from admin.cli.failure import Failure
from admin.cli.isolation import as_dict, exit_code, show
from admin.find_node import Found
from admin.isolation.audit import CHECKS, Report, audit
from admin.isolation.finding import Finding
from events.model import Tenant

__all__ = ["lone_postgres"]

SETUP = """
CREATE TABLE orders (id serial, tenant_id text NOT NULL, item text, PRIMARY KEY (tenant_id, id));
CREATE TABLE lines (tenant_id text NOT NULL, id int, "order" int, PRIMARY KEY (tenant_id, id));
CREATE TABLE countries (code text);
CREATE SCHEMA lib; GRANT USAGE ON SCHEMA lib TO PUBLIC
"""


@dataclass
class Town:
    """Row tenants acme and beta and the schema tenants widget and gear share a database; solo has
    its own. Names of roles carry the database's, so that plants are written with placeholders."""

    server: Postgres
    shared: Shared
    others: list[Tenant]
    names: dict[str, str] = field(default_factory=dict)

    @property
    def found(self) -> Found:
        rows = self.shared.found
        return Found(rows.node, [*rows.tenants, *self.others])

    def audit(self, tenant: str | None = None) -> Report:
        return asyncio.run(audit(self.found, lambda _: None, tenant))

    def ids(self, *short: str) -> tuple[str, ...]:
        return tuple(sorted(self.names[each] for each in short))

    def sql(self, statement: str, database: str = "") -> None:
        self.server.execute(statement % self.names, database or self.shared.database)


@pytest.fixture(scope="module")
def town(lone_postgres: Postgres) -> Town:
    shared = Shared(lone_postgres, SETUP, shared_tables=["countries"])
    assert shared.protect().plan.complete
    mark = shared.database[5:]
    others = [
        tenant(f"widget-{mark}", database_name=shared.database, allow_ddl=True),
        tenant(f"gear-{mark}", database_name=shared.database),
        tenant(f"solo-{mark}", "database"),
    ]
    names = {"db": shared.database}
    for each in others:
        short = each.id.partition("-")[0]
        names[short] = each.id
        names[f"{short}_role"] = make(lone_postgres, each).role
        names[f"{short}_db"] = each.database
    for short, each in shared.tenants.items():
        names[short] = each.id
        names[f"{short}_role"] = shared.made[short].role
    names["row_role"] = f"tenantry-row_{shared.database}"
    names["select"] = f"tenantry-select_{shared.database}"
    made = Town(lone_postgres, shared, others, names)
    made.sql('CREATE TABLE "%(gear)s".things (x int)')
    assert made.audit().findings == []
    lone_postgres.execute("CREATE DATABASE by_hand")
    lone_postgres.execute("REVOKE ALL ON DATABASE by_hand FROM PUBLIC")
    return made


@pytest.fixture
def clean(town: Town) -> Iterator[Town]:
    """Nothing is left of what a test planted."""
    yield town
    after = town.audit()
    assert after.findings == []
    assert after.failed == {}
    assert exit_code(after) == 0


@dataclass(frozen=True)
class Plant:
    """SQL that opens a way out; which check finds it, how bad, and for whom. `undo` is used where
    the finding's own SQL cannot be all of it; `where` is the database to plant it in."""

    check: str
    severity: str
    whom: str
    sql: str
    undo: str = ""
    where: str = ""


ROWS = "acme beta"
HERE = "acme beta gear widget"
ALL = "acme beta gear solo widget"

PLANTS = [
    # --- shared tables
    Plant("row-security", "hole", ROWS, "ALTER TABLE orders DISABLE ROW LEVEL SECURITY"),
    Plant("row-security", "risk", ROWS, "ALTER TABLE orders NO FORCE ROW LEVEL SECURITY"),
    Plant("row-security", "hole", ROWS, "DROP POLICY tenantry ON orders"),
    Plant("row-security", "hole", ROWS, "ALTER POLICY tenantry ON orders USING (true)"),
    Plant("row-security", "hole", ROWS, "ALTER POLICY tenantry ON orders WITH CHECK (true)"),
    Plant("row-security", "hole", ROWS, 'ALTER POLICY tenantry ON orders TO "%(acme_role)s"'),
    Plant(
        *("row-security", "hole", ROWS),
        'CREATE TABLE late (tenant_id text); GRANT SELECT ON late TO "%(select)s"',
        "DROP TABLE late",
    ),
    Plant("grants", "hole", ROWS, 'GRANT TRUNCATE ON orders TO "%(row_role)s"'),
    Plant("grants", "risk", ROWS, "GRANT SELECT ON orders TO PUBLIC"),
    Plant("grants", "risk", ROWS, 'GRANT UPDATE (item) ON orders TO "%(acme_role)s"'),
    Plant("shared-table", "hole", ROWS, "GRANT INSERT ON countries TO PUBLIC"),
    Plant("sequence", "hole", ROWS, "GRANT UPDATE ON SEQUENCE orders_id_seq TO PUBLIC"),
    Plant("sequence", "risk", ROWS, 'GRANT SELECT ON SEQUENCE orders_id_seq TO "%(acme_role)s"'),
    Plant(
        *("open", "hole", ROWS),
        "CREATE TABLE open (x int); GRANT SELECT ON open TO PUBLIC",
    ),
    Plant(
        *("view", "hole", ROWS),
        'CREATE VIEW all_orders AS SELECT * FROM orders;GRANT SELECT ON all_orders TO "%(select)s"',
    ),
    Plant(
        *("grants", "risk", ROWS),
        "CREATE VIEW my_orders WITH (security_invoker) AS SELECT * FROM orders;"
        'GRANT SELECT ON my_orders TO "%(select)s"; GRANT SELECT ON my_orders TO PUBLIC',
    ),
    Plant(
        *("view", "hole", ROWS),
        "CREATE MATERIALIZED VIEW kept AS SELECT * FROM orders;"
        'GRANT SELECT ON kept TO "%(select)s"',
        "DROP MATERIALIZED VIEW kept",
    ),
    Plant("unique-key", "risk", ROWS, "ALTER TABLE orders ADD CONSTRAINT told UNIQUE (item)"),
    Plant(
        *("foreign-key", "risk", ROWS),
        "CREATE UNIQUE INDEX two ON orders (id); ALTER TABLE lines ADD CONSTRAINT far "
        'FOREIGN KEY ("order") REFERENCES orders (id)',
        "ALTER TABLE lines DROP CONSTRAINT far; DROP INDEX two",
    ),
    Plant(
        *("trigger", "risk", ROWS),
        "CREATE FUNCTION peek() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS "
        "'BEGIN RETURN NEW; END'; CREATE TRIGGER peek BEFORE INSERT ON orders "
        "FOR EACH ROW EXECUTE FUNCTION peek()",
        "DROP FUNCTION peek() CASCADE",
    ),
    Plant("rule", "risk", ROWS, "CREATE RULE echo AS ON DELETE TO orders DO ALSO NOTIFY x"),
    Plant("owner", "hole", ROWS, 'ALTER TABLE orders OWNER TO "%(acme_role)s"'),
    Plant(
        *("publication", "note", ROWS),
        "CREATE PUBLICATION out FOR TABLE orders",
        "DROP PUBLICATION out",
    ),
    Plant("policy", "note", ROWS, "CREATE POLICY wide ON orders", "DROP POLICY wide ON orders"),
    Plant("event-trigger", "note", ROWS, "DROP EVENT TRIGGER tenantry_ddl", "PROTECT"),
    # --- the seal
    Plant(
        *("seal", "hole", ROWS),
        "CREATE OR REPLACE FUNCTION tenantry.current_tenant() RETURNS text LANGUAGE sql STABLE "
        "PARALLEL SAFE RETURN 'acme'::text",
        "SEAL",
    ),
    Plant("seal", "hole", ROWS, "ALTER FUNCTION tenantry.enter(text) RESET search_path", "SEAL"),
    Plant(
        *("seal", "hole", ROWS),
        'ALTER FUNCTION tenantry.backend() OWNER TO "%(acme_role)s"',
        "SEAL",
    ),
    Plant("seal", "hole", ROWS, "GRANT EXECUTE ON FUNCTION tenantry.enter(text) TO PUBLIC"),
    Plant(
        *("seal", "hole", ROWS),
        "CREATE FUNCTION tenantry.extra() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    ),
    Plant("seal-data", "hole", ROWS, 'GRANT SELECT ON tenantry.key TO "%(row_role)s"'),
    Plant("seal-data", "hole", HERE, "GRANT SELECT (inner_pad) ON tenantry.key TO PUBLIC"),
    Plant("seal-settable", "hole", ALL, "GRANT SET ON PARAMETER backtrace_functions TO PUBLIC"),
    Plant(
        *("seal-settable", "hole", "acme"),
        'GRANT ALTER SYSTEM ON PARAMETER work_mem TO "%(acme_role)s"',
    ),
    Plant(
        *("seal-value", "hole", "acme"),
        """ALTER ROLE "%(acme_role)s" IN DATABASE "%(db)s"
        SET backtrace_functions = 'tenantry_62657461'""",
        """ALTER ROLE "%(acme_role)s" IN DATABASE "%(db)s"
        SET backtrace_functions = 'tenantry_61636d65'""",
    ),
    Plant(
        *("seal-value", "hole", ROWS),
        """ALTER ROLE "%(row_role)s" SET backtrace_functions = 'tenantry_61636d65'""",
    ),
    Plant(
        *("server-setting", "hole", ALL),
        "ALTER SYSTEM SET backtrace_functions = 'tenantry_61636d65'",
        where="postgres",
    ),
    Plant(
        *("server-setting", "hole", ALL),
        "ALTER SYSTEM SET lo_compat_privileges = on",
        where="postgres",
    ),
    # --- roles
    *(
        Plant("attributes", "hole", "acme", f'ALTER ROLE "%(acme_role)s" {attribute}')
        for attribute in ("SUPERUSER", "BYPASSRLS", "CREATEROLE", "CREATEDB", "REPLICATION")
    ),
    Plant("attributes", "risk", ROWS, 'ALTER ROLE "%(select)s" LOGIN'),
    Plant("membership", "hole", "acme", 'GRANT "%(beta_role)s" TO "%(acme_role)s"'),
    Plant("membership", "hole", "solo", 'GRANT pg_read_all_data TO "%(solo_role)s"'),
    Plant("membership", "hole", ROWS, 'GRANT "tenantry-seal" TO "%(row_role)s"'),
    Plant("role-setting", "hole", "gear", "ALTER ROLE \"%(gear_role)s\" SET role = 'postgres'"),
    Plant("left-over", "note", "", "CREATE ROLE tenantry_gone LOGIN", "DROP ROLE tenantry_gone"),
    # --- databases
    Plant("connect", "hole", ALL, 'GRANT CONNECT ON DATABASE "%(solo_db)s" TO PUBLIC'),
    Plant("connect", "hole", "acme", 'GRANT CONNECT ON DATABASE "%(solo_db)s" TO "%(acme_role)s"'),
    Plant("connect", "risk", ALL, "GRANT CONNECT ON DATABASE by_hand TO PUBLIC"),
    Plant(
        *("ownership", "hole", "solo"),
        'ALTER DATABASE by_hand OWNER TO "%(solo_role)s"',
        "ALTER DATABASE by_hand OWNER TO postgres; REVOKE ALL ON DATABASE by_hand FROM PUBLIC",
    ),
    Plant("create", "hole", HERE, "GRANT CREATE ON SCHEMA public TO PUBLIC"),
    Plant("create", "hole", "acme", 'GRANT CREATE ON SCHEMA lib TO "%(acme_role)s"'),
    Plant("create-in-database", "risk", HERE, 'GRANT TEMPORARY ON DATABASE "%(db)s" TO PUBLIC'),
    Plant(
        "create-in-database", "risk", "gear", 'GRANT CREATE ON DATABASE "%(db)s" TO "%(gear_role)s"'
    ),
    # --- tenants of one database
    Plant("schema-of-others", "hole", HERE, 'GRANT USAGE ON SCHEMA "%(gear)s" TO PUBLIC'),
    Plant(
        "schema-of-others",
        "hole",
        "widget",
        'GRANT USAGE ON SCHEMA "%(gear)s" TO "%(widget_role)s"',
    ),
    Plant("grants-to-others", "risk", HERE, 'GRANT SELECT ON "%(gear)s".things TO PUBLIC'),
    Plant(
        "grants-to-others",
        "risk",
        "acme",
        'GRANT SELECT (x) ON "%(gear)s".things TO "%(acme_role)s"',
    ),
    Plant(
        *("default-grants", "risk", HERE),
        "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO PUBLIC",
    ),
    Plant(
        *("default-grants", "risk", "acme"),
        'ALTER DEFAULT PRIVILEGES GRANT USAGE ON SEQUENCES TO "%(acme_role)s"',
    ),
    Plant(
        *("ownership", "hole", "gear"),
        "CREATE FUNCTION lib.planted() RETURNS int LANGUAGE sql AS 'SELECT 1';"
        'ALTER FUNCTION lib.planted() OWNER TO "%(gear_role)s"',
    ),
    Plant(
        *("definer-function", "hole", HERE),
        "CREATE FUNCTION lib.all_of_it() RETURNS SETOF orders LANGUAGE sql SECURITY DEFINER "
        "AS 'SELECT * FROM orders'",
    ),
    Plant(
        *("definer-function", "risk", HERE),
        "CREATE ROLE clerk; CREATE FUNCTION lib.some() RETURNS int LANGUAGE sql SECURITY DEFINER "
        "AS 'SELECT 1'; ALTER FUNCTION lib.some() OWNER TO clerk",
        "DROP FUNCTION lib.some(); DROP ROLE clerk",
    ),
    Plant(
        *("owner-view", "hole", HERE),
        'CREATE VIEW lib.things AS SELECT * FROM "%(gear)s".things;'
        "GRANT SELECT ON lib.things TO PUBLIC",
    ),
    Plant(
        *("leakproof", "risk", HERE),
        "CREATE FUNCTION lib.leak(text) RETURNS bool LANGUAGE sql LEAKPROOF AS 'SELECT true'",
    ),
    # --- the server
    Plant("sessions", "hole", ROWS, "GRANT EXECUTE ON FUNCTION pg_stat_get_activity TO PUBLIC"),
    Plant("lock-keys", "risk", HERE, "GRANT EXECUTE ON FUNCTION pg_lock_status TO PUBLIC"),
    Plant(
        "signals", "hole", ROWS, 'GRANT EXECUTE ON FUNCTION pg_terminate_backend TO "%(row_role)s"'
    ),
    Plant("server-files", "hole", HERE, "GRANT EXECUTE ON FUNCTION pg_read_file(text) TO PUBLIC"),
    Plant("server-functions", "risk", HERE, "GRANT EXECUTE ON FUNCTION pg_reload_conf TO PUBLIC"),
    Plant("large-objects", "hole", ROWS, 'GRANT EXECUTE ON FUNCTION lo_get(oid) TO "%(row_role)s"'),
    Plant(
        *("large-objects", "hole", ROWS),
        'SELECT lo_create(4711); ALTER LARGE OBJECT 4711 OWNER TO "%(row_role)s"',
    ),
    Plant(
        *("large-object-grants", "hole", HERE),
        "SELECT lo_create(4712); GRANT SELECT ON LARGE OBJECT 4712 TO PUBLIC",
    ),
    Plant(
        "secret-catalog",
        "hole",
        "solo",
        'GRANT SELECT ON pg_authid TO "%(solo_role)s"',
        where="solo_db",
    ),
    Plant("secret-catalog", "hole", HERE, "GRANT SELECT (rolpassword) ON pg_authid TO PUBLIC"),
    Plant(
        *("foreign-server", "risk", "acme"),
        "CREATE FOREIGN DATA WRAPPER away; CREATE SERVER far FOREIGN DATA WRAPPER away;"
        'GRANT USAGE ON FOREIGN SERVER far TO "%(acme_role)s"',
    ),
    Plant(
        *("foreign-server", "risk", HERE),
        "CREATE FOREIGN DATA WRAPPER off; CREATE SERVER near FOREIGN DATA WRAPPER off;"
        "CREATE USER MAPPING FOR PUBLIC SERVER near",
    ),
    Plant(
        *("foreign-table", "hole", ROWS),
        "CREATE FOREIGN DATA WRAPPER out; CREATE SERVER out FOREIGN DATA WRAPPER out;"
        "CREATE FOREIGN TABLE lib.out (x int) SERVER out;"
        'GRANT SELECT ON lib.out TO "%(row_role)s"',
    ),
    Plant(
        *("untrusted-language", "risk", HERE),
        "CREATE LANGUAGE risky HANDLER plpgsql_call_handler;"
        "CREATE FUNCTION lib.risky() RETURNS int LANGUAGE risky AS 'BEGIN RETURN 1; END'",
    ),
]


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: f"{plant.check}: {plant.sql[:40]}")
def test_a_way_out_is_found_and_corrected(clean: Town, plant: Plant) -> None:
    town = clean
    where = town.names.get(plant.where, plant.where)
    town.sql(plant.sql, where)
    if plant.check == "server-setting":
        reload(town)
    try:
        report = town.audit()
        same = [each for each in report.findings if each.check == plant.check]
        assert same, report.findings
        whom = town.ids(*plant.whom.split()) if plant.whom else ("tenantry_gone",)
        assert (plant.severity, whom) in {(each.severity, each.tenants) for each in same}, same
        assert exit_code(report) == (0 if plant.severity == "note" else 1)
    finally:
        correct(town, plant, same, where)


def correct(town: Town, plant: Plant, findings: list[Finding], where: str) -> None:
    """With the SQL that the findings give, unless the plant says otherwise."""
    if plant.undo == "PROTECT":
        town.shared.protect()
    elif plant.undo == "SEAL":
        town.sql("COMMENT ON SCHEMA tenantry IS NULL")
        make(town.server, town.shared.tenants["acme"], town.shared.made["acme"])
    elif plant.undo:
        town.sql(plant.undo, where)
    else:
        for each in findings:
            assert each.fix, each
            for statement in each.fix.partition(" -- or accept it")[0].split(";"):
                if statement.strip():
                    town.server.execute(statement, each.database or "postgres")
    if plant.check == "server-setting":
        reload(town)


def reload(town: Town) -> None:
    """Reads the server's settings again, and waits until new sessions have them."""
    town.server.execute("SELECT pg_reload_conf()")
    town.server.execute("SELECT pg_sleep(0.2)")


def test_every_check_has_a_plant() -> None:
    tried = {plant.check for plant in PLANTS}
    # No program here has these extensions; the query is the one of `sessions` otherwise.
    without = {"extension", "statements-of-others"}
    assert {check.name for check in CHECKS} - tried == without


def test_functions_of_extensions_are_found_by_name(clean: Town) -> None:
    """The catalog is told that a harmless extension is one of those."""
    mine = "objid = 'lib.connect'::regproc AND deptype = 'e'"
    clean.sql("CREATE FUNCTION lib.connect() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    clean.sql(
        "INSERT INTO pg_extension SELECT 4713, 'harmless', extowner, extnamespace, false, '1' "
        "FROM pg_extension WHERE extname = 'plpgsql'; INSERT INTO pg_depend VALUES "
        "('pg_proc'::regclass, 'lib.connect'::regproc, 0, 'pg_extension'::regclass, 4713, 0, 'e')"
    )
    found = {}
    for name in ("dblink", "pg_stat_statements"):
        clean.sql(f"UPDATE pg_extension SET extname = '{name}' WHERE oid = 4713")
        found |= {each.check: each for each in clean.audit().findings}
    clean.sql(f"DELETE FROM pg_depend WHERE {mine}; DELETE FROM pg_extension WHERE oid = 4713")
    clean.sql("DROP FUNCTION lib.connect()")
    assert {check: (each.severity, each.object) for check, each in found.items()} == {
        "extension": ("hole", "dblink: lib.connect()"),
        "statements-of-others": ("hole", "pg_stat_statements: lib.connect()"),
    }


def test_accepted_keys_are_no_findings(clean: Town) -> None:
    clean.sql("ALTER TABLE orders ADD CONSTRAINT sole UNIQUE (item)")
    assert [each.check for each in clean.audit().findings] == ["unique-key"]
    clean.shared.protect(accept=("orders.sole",))
    assert clean.audit().findings == []
    clean.sql("ALTER TABLE orders DROP CONSTRAINT sole; DELETE FROM tenantry.accepted")


def test_one_tenant_is_told_what_it_could_use(clean: Town) -> None:
    clean.sql('GRANT pg_read_all_data TO "%(solo_role)s"')
    for short, count in (("solo", 1), ("acme", 0)):
        assert len(clean.audit(clean.names[short]).findings) == count
    with pytest.raises(Failure, match='no tenant "nobody"'):
        clean.audit("nobody")
    clean.sql('REVOKE pg_read_all_data FROM "%(solo_role)s"')


def test_a_database_that_cannot_be_entered_is_no_clean_one(clean: Town) -> None:
    name = clean.names["solo_db"]
    clean.sql(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false', "postgres")
    report = clean.audit()
    assert list(report.failed) == [name]
    assert exit_code(report) == 2
    clean.sql(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true', "postgres")


def test_two_tenants_with_one_value(clean: Town) -> None:
    twin = clean.shared.tenants["acme"].model_copy(update={"id": "twin"})
    given = Found(clean.found.node, [*clean.found.tenants, twin])
    found = asyncio.run(audit(given, lambda _: None)).findings
    assert [(each.severity, each.check) for each in found] == [("hole", "same-value")]
    assert found[0].tenants == tuple(sorted((clean.names["acme"], "twin")))


def test_what_people_and_programs_read(clean: Town, capsys: pytest.CaptureFixture[str]) -> None:
    show(clean.audit(), Console(highlight=False, width=120))
    assert "2 databases examined: no way out was found." in capsys.readouterr().out
    clean.sql("GRANT TRUNCATE ON orders TO PUBLIC")
    report = clean.audit()
    show(report, Console(highlight=False, width=160))
    text = capsys.readouterr().out
    for piece in ("hole", "no policy looks at TRUNCATE", "[grants]", "1 hole, 0 risks, 0 notes"):
        assert piece in text, text
    assert 'REVOKE TRUNCATE ON TABLE "public"."orders" FROM PUBLIC' in text
    told: dict[str, Any] = json.loads(json.dumps(as_dict(report)))
    assert told["counts"] == {"hole": 1, "risk": 0, "note": 0}
    assert set(told["findings"][0]) == {
        *("severity", "check", "database", "object", "what", "fix", "tenants"),
    }
    clean.sql("REVOKE TRUNCATE ON orders FROM PUBLIC")


def test_rewrite_only_databases_say_so(lone_postgres: Postgres) -> None:
    shared = Shared(lone_postgres, "CREATE TABLE t (tenant_id text)", enforcement="rewrite")
    report = asyncio.run(audit(shared.found, lambda _: None))
    mine = [each for each in report.findings if each.database == shared.database]
    assert [(each.severity, each.check) for each in mine] == [("note", "rewrite-only")]
