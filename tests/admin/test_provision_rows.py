"""Row tenants: roles that share one database's tables, and nothing that is not theirs."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest
from psycopg import conninfo
from support.debian import debian_postgres
from support.engines import Postgres, unique_name
from support.provisioning import (
    VAULT,
    login,
    lone_postgres,
    make,
    node,
    refused,
    renamed,
    snapshot,
    tenant,
)

from admin.provision import seal as provision_seal
from admin.provision.names import group_role, row_role, row_role_purpose
from admin.provision.tenant import ProvisioningFailed, close_to_public, fingerprint, provision
from events.model import Tenant
from events.secrets import Vault

__all__ = ["lone_postgres"]

PERMISSION = "42501"


def row(id: str, database: str, **settings: Any) -> Tenant:
    return tenant(id, "row", database_name=database, **settings)


def shared_login(server: Postgres, database: str, dbname: str = "") -> psycopg.Connection[Any]:
    dsn = conninfo.make_conninfo(
        host=server.host,
        port=server.port,
        user=row_role(database),
        password=VAULT.derive(row_role_purpose(database)).hex(),
        dbname=dbname or database,
    )
    return psycopg.connect(dsn, autocommit=True)


def test_a_row_tenant_has_a_sealed_role_and_a_path(lone_postgres: Postgres) -> None:
    name = unique_name("rows")
    wanted = row("fresh", name, schema_name="app", tenant_value="Ünit 7", setting_names=["app.me"])
    made = make(lone_postgres, wanted)
    assert made.role == "tenantry_fresh"
    with login(lone_postgres, wanted, made) as conn:
        asked = "SELECT tenantry.current_tenant(), current_setting('app.me'), current_schemas(true)"
        assert conn.execute(asked).fetchone() == ("Ünit 7", "Ünit 7", ["pg_catalog", "app"])
    with shared_login(lone_postgres, name) as conn:
        assert conn.execute("SHOW search_path").fetchone() == ("app",)
        assert conn.execute("SELECT tenantry.current_tenant()").fetchone() == (None,)


def test_running_again_changes_nothing(lone_postgres: Postgres) -> None:
    name = unique_name("rows")
    wanted = row("still", name, setting_names=["app.tenant_id"])
    made = make(lone_postgres, wanted)
    before = snapshot(lone_postgres, name)
    assert make(lone_postgres, wanted, made) == made
    assert snapshot(lone_postgres, name) == before


def test_a_new_value_and_fewer_names_replace_the_old(lone_postgres: Postgres) -> None:
    name = unique_name("rows")
    before = row("renamer", name, setting_names=["app.tenant_id", "app.former"])
    made = make(lone_postgres, before)
    lone_postgres.execute("ALTER ROLE tenantry_renamer SET work_mem = '8MB'")
    after = row("renamer", name, tenant_value="newer", setting_names=["app.tenant_id"])
    with login(lone_postgres, after, make(lone_postgres, after, made)) as conn:
        asked = "SELECT tenantry.current_tenant(), current_setting('app.tenant_id'), "
        asked += "current_setting('app.former', true), current_setting('work_mem')"
        assert conn.execute(asked).fetchone() == ("newer", "newer", None, "8MB")


def test_who_leaves_rows_for_a_schema_loses_the_seal(lone_postgres: Postgres) -> None:
    name = unique_name("rows")
    made = make(lone_postgres, row("leaver", name))
    after = tenant("leaver", database_name=name)
    with login(lone_postgres, after, make(lone_postgres, after, made)) as conn:
        assert conn.execute("SHOW backtrace_functions").fetchone() == ("",)
        member = "SELECT count(*) FROM pg_auth_members WHERE member = current_user::regrole"
        assert conn.execute(member).fetchone() == (0,)


def test_who_comes_from_a_schema_brings_no_privileges(lone_postgres: Postgres) -> None:
    name = unique_name("rows")
    before = tenant("comer", database_name=name, allow_ddl=True)
    made = make(lone_postgres, before)
    with login(lone_postgres, before, made) as conn:
        conn.execute("CREATE TABLE mine (id int)")
    lone_postgres.execute("CREATE TABLE public.orders (tenant_id text)", name)
    lone_postgres.execute("GRANT ALL ON public.orders TO tenantry_comer", name)
    lone_postgres.execute("CREATE TABLE public.open (id int)", name)
    lone_postgres.execute("GRANT SELECT ON public.open TO PUBLIC", name)
    after = row("comer", name, allow_ddl=True)
    with login(lone_postgres, after, make(lone_postgres, after, made)) as conn:
        for table in ("orders", "public.open"):
            assert refused(conn, f"SELECT * FROM {table}") == PERMISSION
        assert refused(conn, "CREATE TABLE t (id int)") in (PERMISSION, "3F000")
        assert refused(conn, "CREATE TEMP TABLE t (id int)") == PERMISSION
        assert refused(conn, "CREATE TABLE public.t (id int)") == PERMISSION
        owned = "SELECT count(*) FROM pg_class WHERE relowner = current_user::regrole"
        assert conn.execute(owned).fetchone() == (0,)


def test_permissions_decide_the_groups(lone_postgres: Postgres) -> None:
    name = unique_name("rows")
    wanted = row("picky", name, allowed_operations=["SELECT", "INSERT"])
    made = make(lone_postgres, wanted)
    lone_postgres.execute("CREATE TABLE public.t (id int)", name)
    for operation in ("select", "insert", "update", "delete"):
        on = f'GRANT {operation} ON public.t TO "{group_role(operation, name)}"'
        lone_postgres.execute(on, name)
    with login(lone_postgres, wanted, made) as conn:
        conn.execute("INSERT INTO t VALUES (1)")
        assert refused(conn, "UPDATE t SET id = 2") == PERMISSION
        assert refused(conn, "DELETE FROM t") == PERMISSION
    wanted = row("picky", name, read_only=True)
    with login(lone_postgres, wanted, make(lone_postgres, wanted, made)) as conn:
        assert refused(conn, "INSERT INTO t VALUES (1)") == "25006"
        conn.execute("SET default_transaction_read_only = off")
        assert refused(conn, "INSERT INTO t VALUES (1)") == PERMISSION
        conn.execute("SELECT * FROM t")


def test_the_shared_role_enters_its_database_only(lone_postgres: Postgres) -> None:
    name, other = unique_name("rows"), unique_name("rows")
    make(lone_postgres, row("here", name))
    make(lone_postgres, row("there", other))
    make(lone_postgres, tenant("neighbour", "database"))
    shared_login(lone_postgres, name).close()
    for database in (other, "postgres", "neighbour_db"):
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            shared_login(lone_postgres, name, database)


def test_shared_tables_are_read_and_nothing_else(lone_postgres: Postgres) -> None:
    name = unique_name("rows")
    lone_postgres.execute(f"CREATE DATABASE {name}")
    lone_postgres.execute("CREATE SCHEMA ref CREATE TABLE rates (r int)", name)
    lone_postgres.execute("CREATE TABLE countries (c text)", name)
    wanted = row("sharer", name, shared_tables=["countries", "ref.rates"])
    with login(lone_postgres, wanted, make(lone_postgres, wanted)) as conn:
        for table in ("countries", "ref.rates"):
            conn.execute(f"SELECT * FROM {table}")
            assert refused(conn, f"INSERT INTO {table} DEFAULT VALUES") == PERMISSION
    lone_postgres.execute("CREATE TABLE orders (tenant_id text)", name)
    with pytest.raises(ProvisioningFailed, match="has the tenant column"):
        make(lone_postgres, row("sharer", name, shared_tables=["orders"]))


def test_without_the_seal_the_groups_get_the_tables(lone_postgres: Postgres) -> None:
    name = unique_name("rows")
    lone_postgres.execute(f"CREATE DATABASE {name}")
    lone_postgres.execute("CREATE TABLE orders (id serial, org text)", name)
    lone_postgres.execute("CREATE TABLE internal (id int)", name)
    wanted = row("rewritten", name, enforcement="rewrite", tenant_column="org")
    make(lone_postgres, wanted)
    with shared_login(lone_postgres, name) as conn:
        conn.execute("INSERT INTO orders (org) VALUES ('x')")
        conn.execute("UPDATE orders SET org = 'y'")
        assert conn.execute("DELETE FROM orders RETURNING org").fetchall() == [("y",)]
        assert refused(conn, "TRUNCATE orders") == PERMISSION
        assert refused(conn, "SELECT * FROM internal") == PERMISSION
    assert lone_postgres.execute("SELECT to_regnamespace('tenantry')", name) == [(None,)]


def test_the_seal_is_installed_once_and_renewed_when_it_changes(
    lone_postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = unique_name("rows")
    wanted = row("renewer", name)
    made = make(lone_postgres, wanted)
    lone_postgres.execute("CREATE TABLE t (tenant_id text)", name)
    lone_postgres.execute(
        "CREATE POLICY p ON t USING (tenant_id = tenantry.current_tenant())", name
    )
    stamp = "SELECT xmin::text FROM pg_proc WHERE proname = 'enter'"
    first = lone_postgres.execute(stamp, name)
    make(lone_postgres, wanted, made)
    assert lone_postgres.execute(stamp, name) == first
    lone_postgres.execute("COMMENT ON SCHEMA tenantry IS 'an older one'", name)
    lone_postgres.execute("UPDATE tenantry.key SET inner_pad = 'another'", name)
    make(lone_postgres, wanted, made)
    assert lone_postgres.execute(stamp, name) != first
    inner = provision_seal.pads(VAULT.derive(f"seal key {name}"))[0]
    assert lone_postgres.execute("SELECT inner_pad FROM tenantry.key", name) == [(inner,)]


def test_the_key_is_in_no_statement(lone_postgres: Postgres) -> None:
    """Whatever the server logs: the key is bound, and parameters of these are not logged."""
    name = unique_name("rows")
    seen: list[str] = []

    class Telling(psycopg.AsyncConnection[Any]):
        async def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            text = query if isinstance(query, str) else (
                query.decode() if isinstance(query, bytes) else query.as_string(self)
            )  # fmt: skip
            seen.append(text)
            return await super().execute(query, *args, **kwargs)

    async def opener(at: Any, password: str, database: str) -> Any:
        return await Telling.connect(
            host=at.host, port=at.port, user=at.user, password=password, dbname=database,
            autocommit=True, options="-c search_path=pg_catalog,pg_temp",
        )  # fmt: skip

    make(lone_postgres, row("quiet", name), opener=opener)
    everything = "\n".join(seen)
    for secret in (VAULT.derive(f"seal key {name}"), VAULT.derive(f"row role {name}")):
        assert secret.hex() not in everything
    inner, outer = provision_seal.pads(VAULT.derive(f"seal key {name}"))
    assert inner.hex() not in everything
    assert outer.hex() not in everything


def test_two_tenants_cannot_have_one_value(lone_postgres: Postgres) -> None:
    name = unique_name("rows")
    make(lone_postgres, row("one", name, tenant_value="same"))
    with pytest.raises(ProvisioningFailed, match='role is "tenantry_one"'):
        make(lone_postgres, row("two", name, tenant_value="same"))
    make(lone_postgres, row("two", unique_name("rows"), tenant_value="same"))


def test_a_tenants_own_schema_holds_no_shared_tables(lone_postgres: Postgres) -> None:
    name = unique_name("rows")
    make(lone_postgres, tenant("owner", database_name=name))
    with pytest.raises(ProvisioningFailed, match="belongs to a tenant"):
        make(lone_postgres, row("guest", name, schema_name="owner"))
    with pytest.raises(ProvisioningFailed, match="used by other tenants"):
        make(lone_postgres, tenant("whole", "database", database_name=name))


def test_schema_tenants_of_the_same_database_keep_their_large_objects(
    lone_postgres: Postgres,
) -> None:
    name = unique_name("rows")
    early = tenant("early", database_name=name)
    made = make(lone_postgres, early)
    make(lone_postgres, row("closer", name))
    late = tenant("late", database_name=name)
    for each, given in ((early, made), (late, make(lone_postgres, late))):
        with login(lone_postgres, each, given) as conn:
            ((blob,),) = conn.execute("SELECT lo_from_bytea(0, 'mine')").fetchall()
            assert conn.execute("SELECT lo_get(%s)", [blob]).fetchone() == (b"mine",)
            assert refused(conn, "SELECT * FROM tenantry.key") == PERMISSION
            assert refused(conn, "SELECT tenantry.enter('x')") == PERMISSION


def test_operators_keep_looking_at_sessions(lone_postgres: Postgres) -> None:
    name = unique_name("rows")
    make(lone_postgres, row("watched", name))
    lone_postgres.execute("CREATE ROLE watcher LOGIN PASSWORD 'w' IN ROLE pg_monitor")
    lone_postgres.execute(f"GRANT CONNECT ON DATABASE {name} TO watcher")
    dsn = lone_postgres.dsn(name, user="watcher", password="w")
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("SELECT * FROM pg_stat_activity")
        conn.execute("SELECT * FROM pg_locks")


def test_an_admin_that_cannot_seal_is_told_how(lone_postgres: Postgres) -> None:
    lone_postgres.execute("CREATE ROLE steward LOGIN CREATEROLE CREATEDB PASSWORD 'pw'")
    lone_postgres.execute("GRANT CONNECT ON DATABASE postgres TO steward")
    admin = Postgres(lone_postgres.host, lone_postgres.port, "steward", "pw")
    name = unique_name("stewards")
    with pytest.raises(ProvisioningFailed) as caught:
        make(admin, row("stuck", name))
    assert 'enforcement = "rewrite"' in caught.value.hint
    wanted = row("unstuck", name, enforcement="rewrite")
    login(lone_postgres, wanted, make(admin, wanted)).close()
    shared_login(lone_postgres, name).close()


def test_an_old_server_is_told_apart(
    lone_postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provision_seal, "SEAL_VERSION", 990_000)
    with pytest.raises(ProvisioningFailed, match="before version 15"):
        make(lone_postgres, row("ancient", unique_name("rows")))


def test_another_installations_key_takes_over(lone_postgres: Postgres) -> None:
    name = unique_name("rows")
    wanted = row("moved", name)
    make(lone_postgres, wanted)
    stranger = Vault(b"z" * 32)
    asyncio.run(
        provision(
            wanted,
            node(lone_postgres),
            stranger,
            node_password=lone_postgres.password,
            previous=None,
        )
    )
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        shared_login(lone_postgres, name)


def test_the_fingerprint_follows_what_matters_for_rows() -> None:
    same = fingerprint(row("f", "d"))
    assert fingerprint(row("f", "d", allow_explain=True)) == same
    for other in (
        row("f", "e"),
        row("f", "d", tenant_value="x"),
        row("f", "d", tenant_column="x"),
        row("f", "d", enforcement="seal"),
        row("f", "d", shared_tables=["x"]),
        row("f", "d", setting_names=["app.x"]),
        row("f", "d", schema_name="x"),
        row("f", "d", read_only=True),
        tenant("f", database_name="d"),
    ):
        assert fingerprint(other) != same


def test_names_of_databases_stay_apart() -> None:
    long = ["d" * 60 + end for end in ("a", "b")] + ["ü" * 31 + "a", "ü" * 31 + "b", "a~b", "a"]
    names = [row_role(each) for each in long] + [group_role("select", each) for each in long]
    assert len({*names}) == len(names)
    assert all(len(name.encode()) <= 63 for name in names)
    assert row_role(row_role("d" * 60)[13:]) != row_role("d" * 60)


class Dying(psycopg.AsyncConnection[Any]):
    """A connection of a process that is killed at its `fuse`-th statement, having run it."""

    fuse = 0

    async def execute(self, *args: Any, **kwargs: Any) -> Any:
        Dying.fuse -= 1
        if Dying.fuse >= 0:
            result = await super().execute(*args, **kwargs)
        if Dying.fuse > 0:
            return result
        await self.close()
        raise psycopg.OperationalError("killed")


async def _open_dying(at: Any, password: str, database: str) -> Any:
    return await Dying.connect(
        host=at.host, port=at.port, user=at.user, password=password, dbname=database,
        autocommit=True, options="-c search_path=pg_catalog,pg_temp",
    )  # fmt: skip


@pytest.mark.parametrize("strategy", ["row", "branch"])
def test_killed_at_any_statement_the_next_run_ends_the_same(
    lone_postgres: Postgres, strategy: str
) -> None:
    calm, rough, base = unique_name("calm"), unique_name("rogh"), unique_name("base")
    lone_postgres.execute(f"CREATE DATABASE {base}")
    lone_postgres.execute("CREATE TABLE t (id int)", base)
    lone_postgres.execute(f"ALTER DATABASE {base} SET work_mem = '9MB'")
    asyncio.run(close_to_public(node(lone_postgres), lone_postgres.password))

    def wanted(name: str) -> Tenant:
        place = {"database_name": f"{name}_db", "tenant_value": "same", "setting_names": ["app.t"]}
        if strategy == "branch":
            place = {"branch_name": f"{name}_db", "branch_base": base, "allow_ddl": True}
        return tenant(name, strategy, **place)

    make(lone_postgres, wanted(calm))
    made, deaths = None, 0
    for fuse in range(1, 200):
        Dying.fuse = fuse
        try:
            made = make(lone_postgres, wanted(rough), opener=_open_dying)
            break
        except ProvisioningFailed as error:
            if "killed" not in error.message:
                raise
            deaths += 1
    assert made is not None
    assert deaths > 20
    state = snapshot(lone_postgres, f"{calm}_db", f"{rough}_db")
    assert renamed(state, rough, calm) == renamed(state, calm, calm)
    login(lone_postgres, wanted(rough), made).close()


def test_on_the_oldest_server_too() -> None:
    with debian_postgres() as server:
        wanted = row("elder", "old_rows")
        made = make(server, wanted)
        before = snapshot(server, "old_rows")
        assert make(server, wanted, made) == made
        assert snapshot(server, "old_rows") == before
        with login(server, wanted, made) as conn:
            assert conn.execute("SELECT tenantry.current_tenant()").fetchone() == ("elder",)
