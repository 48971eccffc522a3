"""Branches: clones of a base, with nothing in them that is another tenant's, renewed by command."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import psycopg
import pytest
from support.debian import debian_postgres
from support.engines import Postgres, unique_name
from support.provisioning import login, lone_postgres, make, refused, snapshot, tenant
from support.serving import CONFIG, Home, Proxy, prepared_home, serving, until

from admin.engines.both import EmbeddedPostgres
from admin.provision import branch as module
from admin.provision.tenant import ProvisioningFailed, fingerprint
from events.model import Tenant

__all__ = ["lone_postgres"]

PERMISSION = "42501"


def branch(id: str, base: str, **settings: Any) -> Tenant:
    return tenant(id, "branch", branch_base=base, **settings)


def new_base(server: Postgres) -> str:
    name = unique_name("base")
    server.execute(f"CREATE DATABASE {name}")
    server.execute("CREATE TABLE orders (id serial PRIMARY KEY, note text)", name)
    server.execute("INSERT INTO orders (note) VALUES ('from the base')", name)
    return name


def test_a_branch_has_what_its_base_had_and_is_its_own(lone_postgres: Postgres) -> None:
    base = new_base(lone_postgres)
    wanted = branch("delta", base, allow_ddl=True)
    made = make(lone_postgres, wanted)
    with login(lone_postgres, wanted, made) as conn:
        assert conn.execute("SELECT current_database()").fetchone() == ("tenant_delta",)
        conn.execute("INSERT INTO orders (note) VALUES ('mine')")
        conn.execute("ALTER TABLE orders ADD more text")
        assert conn.execute("SELECT count(*) FROM orders").fetchone() == (2,)
    assert lone_postgres.execute("SELECT note FROM orders", base) == [("from the base",)]
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        login(lone_postgres, wanted, made, base)
    before = snapshot(lone_postgres, "tenant_delta")
    assert make(lone_postgres, wanted, made) == made
    assert snapshot(lone_postgres, "tenant_delta") == before


def test_without_ddl_the_branch_is_used_not_changed(lone_postgres: Postgres) -> None:
    wanted = branch("user", new_base(lone_postgres), branch_name=unique_name("branch"))
    with login(lone_postgres, wanted, make(lone_postgres, wanted)) as conn:
        conn.execute("UPDATE orders SET note = 'changed'")
        assert refused(conn, "ALTER TABLE orders ADD more text") == PERMISSION
        assert refused(conn, "CREATE TABLE t (id int)") == PERMISSION


@pytest.mark.parametrize("ddl", [True, False])
def test_a_branch_of_another_tenants_database_keeps_nothing_of_that_tenant(
    lone_postgres: Postgres, ddl: bool
) -> None:
    name = unique_name("origin").replace("_", "-")
    origin = tenant(name, "database", allow_ddl=True, allow_system_access=True)
    made = make(lone_postgres, origin)
    with login(lone_postgres, origin, made) as conn:
        conn.execute("CREATE SCHEMA inner_part CREATE TABLE t (id int)")
        conn.execute("CREATE TABLE orders AS SELECT 'theirs' AS note")
        conn.execute(
            "CREATE FUNCTION whoami() RETURNS text SECURITY DEFINER LANGUAGE sql "
            "AS 'SELECT current_user::text'"
        )
        conn.execute("CREATE VIEW looking AS SELECT current_user::text AS me, note FROM orders")
    wanted = branch(f"{name}-b", f"{name}_db", allow_ddl=ddl)
    given = make(lone_postgres, wanted)
    with login(lone_postgres, wanted, given) as conn:
        assert conn.execute("SELECT note FROM orders").fetchall() == [("theirs",)]
        assert conn.execute("SELECT id FROM inner_part.t").fetchall() == []
        assert conn.execute("SELECT whoami()").fetchone() == (given.role,)
        owners = "SELECT count(*) FROM pg_class WHERE relowner = to_regrole(quote_ident(%s))"
        assert conn.execute(owners, [made.role]).fetchone() == (0,)
        if ddl:
            conn.execute("DROP TABLE inner_part.t")
            conn.execute("DROP FUNCTION whoami()")
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        login(lone_postgres, origin, made, wanted.database)
    with login(lone_postgres, origin, made) as conn:
        assert conn.execute("SELECT whoami()").fetchone() == (made.role,)


def test_a_branch_of_a_row_database_does_not_tell_the_key(lone_postgres: Postgres) -> None:
    base = unique_name("rows")
    make(lone_postgres, tenant("rowly", "row", database_name=base))
    wanted = branch("keyless", base, branch_name=unique_name("branch"), allow_ddl=True)
    with login(lone_postgres, wanted, make(lone_postgres, wanted)) as conn:
        assert refused(conn, "SELECT * FROM tenantry.key") == PERMISSION
        assert refused(conn, "DROP SCHEMA tenantry CASCADE") == PERMISSION


def test_grants_and_settings_of_the_base_are_taken_over(lone_postgres: Postgres) -> None:
    base, name = new_base(lone_postgres), unique_name("branch")
    lone_postgres.execute(f"CREATE ROLE reader_{base} LOGIN PASSWORD 'r'")
    for statement in (
        f"GRANT CONNECT ON DATABASE {base} TO reader_{base}",
        f"ALTER DATABASE {base} SET search_path = 'a b', public",
        f"ALTER DATABASE {base} SET app.answer = 'it''s 42'",
        f"ALTER DATABASE {base} SET statement_timeout = '90s'",
    ):
        lone_postgres.execute(statement)
    make(lone_postgres, branch("heir", base, branch_name=name))
    with lone_postgres.connect(name, user=f"reader_{base}", password="r") as conn:
        for setting, value in (
            ("search_path", '"a b", public'),
            ("app.answer", "it's 42"),
            ("statement_timeout", "90s"),
        ):
            assert conn.execute("SELECT current_setting(%s)", [setting]).fetchone() == (value,)


def test_a_base_that_somebody_works_in_is_named(
    lone_postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TRIES_MAX", 2)
    monkeypatch.setattr(module, "PAUSE_SECS", 0.01)
    base, name = new_base(lone_postgres), unique_name("branch")
    wanted = branch("waiter", base, branch_name=name)
    with (
        lone_postgres.connect(base, application_name="night shift"),
        pytest.raises(ProvisioningFailed, match=r"connected to it: postgres \(night shift\)"),
    ):
        make(lone_postgres, wanted)
    assert not lone_postgres.execute(f"SELECT 1 FROM pg_database WHERE datname = '{name}'")
    login(lone_postgres, wanted, make(lone_postgres, wanted)).close()


def test_a_frozen_base_and_one_that_is_not_there(lone_postgres: Postgres) -> None:
    base = new_base(lone_postgres)
    lone_postgres.execute(f"ALTER DATABASE {base} ALLOW_CONNECTIONS false IS_TEMPLATE true")
    wanted = branch("frozen", base, branch_name=unique_name("branch"))
    login(lone_postgres, wanted, make(lone_postgres, wanted)).close()
    with pytest.raises(ProvisioningFailed, match='no database "nowhere" to clone'):
        make(lone_postgres, branch("lost", "nowhere"))


def test_what_a_branch_needs_is_asked_for() -> None:
    with pytest.raises(ProvisioningFailed, match="no database to clone"):
        fingerprint(tenant("baseless", "branch"))
    with pytest.raises(ProvisioningFailed, match="its own branch"):
        fingerprint(branch("circle", "x", branch_name="x"))
    with pytest.raises(ProvisioningFailed, match="belongs to the server"):
        fingerprint(branch("robber", "x", branch_name="postgres"))
    assert fingerprint(branch("f", "x")) != fingerprint(branch("f", "y"))


def test_on_a_server_that_cannot_clone_files() -> None:
    with debian_postgres() as server:
        wanted = branch("copied", new_base(server))
        with login(server, wanted, make(server, wanted)) as conn:
            assert conn.execute("SELECT count(*) FROM orders").fetchone() == (1,)


BRANCH_CONFIG = (
    CONFIG
    + """
[[multi_tenancy.tenants]]
id = "delta"
enabled = true
isolation = { strategy = "branch", branch_base = "mould" }
pool = { min_idle = 0 }
users = [{ name = "appuser", password = "delta-secret" }]
"""
)


def test_branches_are_listed_refreshed_and_dropped() -> None:
    with prepared_home(BRANCH_CONFIG) as home:
        engine = EmbeddedPostgres(home.data, fast=True)
        server = Postgres(engine.host, engine.port(), engine.user, engine.password())
        server.execute("CREATE DATABASE mould")
        server.execute("CREATE TABLE notes AS SELECT 'first' AS note", "mould")
        with serving(home) as proxy:
            _live(home, proxy, server)


def _live(home: Home, proxy: Proxy, server: Postgres) -> None:
    def notes() -> list[str]:
        with proxy.connect("delta", dbname="tenant_delta") as conn:
            return [row[0] for row in conn.execute("SELECT note FROM notes ORDER BY 1").fetchall()]

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        return home.run("branches", *words)

    assert notes() == ["first"]
    ((listed),) = json.loads(command("list", "--json").stdout)
    assert (listed["tenant"], listed["database"], listed["base"]) == (
        "delta", "tenant_delta", "mould",
    )  # fmt: skip
    assert listed["cloned"].startswith("20")
    assert listed["size"] > 1_000_000
    with proxy.connect("delta", dbname="tenant_delta") as conn:
        conn.execute("INSERT INTO notes VALUES ('mine')")
    server.execute("INSERT INTO notes VALUES ('second')", "mould")
    refused_one = command("refresh", "--tenant", "delta")
    assert refused_one.returncode == 1
    assert "will be lost. Say --yes" in refused_one.stderr
    assert notes() == ["first", "mine"]
    done = command("refresh", "--tenant", "delta", "--yes")
    assert done.stdout == "tenant_delta is a fresh clone of mould.\n", done.stderr
    assert notes() == ["first", "second"]
    assert "has no branch: its strategy is schema" in command(
        "refresh", "--tenant", "acme", "--yes"
    ).stderr  # fmt: skip
    assert "is enabled" in command("drop", "--tenant", "delta", "--yes").stderr
    home.change("enabled = true", "enabled = false")
    assert home.run("apply", str(home.config)).returncode == 0
    assert command("drop", "--tenant", "delta", "--yes").stdout == "tenant_delta is gone.\n"
    assert not server.execute("SELECT 1 FROM pg_database WHERE datname = 'tenant_delta'")
    assert json.loads(command("list", "--json").stdout)[0]["size"] is None
    home.change("enabled = false", "enabled = true")
    assert home.run("apply", str(home.config)).returncode == 0
    exists = "SELECT 1 FROM pg_database WHERE datname = 'tenant_delta' AND datconnlimit = -1"
    until(lambda: bool(server.execute(exists)), "the branch is cloned again")
