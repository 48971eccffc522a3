"""A Django shop as a tenant of each kind sees what it sees directly on PostgreSQL.

The shop is an ordinary project (support/apps/django_shop) that knows nothing of tenants. Four row
tenants share its tables, two of them in the shared pool; the operator runs the migrations.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors
from support.apps.running import at_once, corrections, let_operator_in, operator_dsn, shop
from support.engines import Postgres
from support.estate import Estate, estate, protect, tenant
from support.provisioning import lone_postgres

__all__ = ["lone_postgres"]

SHARED = "shared_shop"
POOLED = ("acme", "globex")
DEDICATED = ("initech", "umbrella")
# The same for everybody: what Django fills after migrating, and the shop's countries.
SHARE = ("auth_permission", "django_content_type", "django_migrations", "shop_country")
OWNED = (
    *("auth_user", "auth_group", "auth_group_permissions", "auth_user_groups", "django_admin_log"),
    *("django_session", "shop_category", "shop_customer", "shop_line", "shop_order"),
    *("shop_product", "shop_product_tags", "shop_tag"),
)
ROWS = {"SHOP_ROW_TENANTS": "yes"}
FIRST = ("migrate:shop:0001", "migrate:admin", "migrate:sessions", "migrate:auth")
DAY = ("stock", "query", "visit", "clear")
OWN = {"permissions": {"allow_ddl": True}}


@pytest.fixture(scope="module")
def shops(lone_postgres: Postgres) -> Iterator[Estate]:
    """All of them before their first day, with the tables that row tenants share."""
    tenants = [tenant("delta", "schema", **OWN), tenant("epsilon", "database", **OWN)]
    tenants += [tenant(name, database_name=SHARED) for name in POOLED]
    dedicated = {"dedicated_pool": True}
    tenants += [tenant(name, database_name=SHARED, pool=dedicated) for name in DEDICATED]
    with estate(lone_postgres, tenants, prepare=let_operator_in, budget=2) as made:
        yield made


@pytest.fixture(scope="module")
def direct(lone_postgres: Postgres) -> dict[str, Any]:
    """What the shop sees without a proxy."""
    name = lone_postgres.create_database("direct")
    return shop(lone_postgres.dsn(name), *FIRST, "start", "migrate", *DAY, "load", "look")


@pytest.mark.parametrize("name", ["delta", "epsilon"])
def test_a_tenant_with_a_place_of_its_own(shops: Estate, direct: dict[str, Any], name: str) -> None:
    assert shop(shops.dsn(name), *FIRST, "start", "migrate", *DAY, "load", "look") == direct


@pytest.fixture(scope="module")
def row_days(shops: Estate) -> dict[str, dict[str, Any]]:
    """What each row tenant has seen; the operator has changed the tables meanwhile."""
    operator = operator_dsn(shops, SHARED)
    shop(operator, *FIRST, "migrate:row_tenants", **ROWS)
    with psycopg.connect(operator) as client:
        for statement in corrections(shops, SHARED, SHARE):
            client.execute(statement)
    protect(shops, SHARED, share=SHARE)
    names = (*POOLED, *DEDICATED)
    seen = at_once(names, lambda name: shop(shops.dsn(name), "start"))
    shop(operator, "migrate", **ROWS)
    protect(shops, SHARED, share=SHARE)
    days = at_once(names, lambda name: shop(shops.dsn(name), *DAY, "load_rows", "look"))
    return {name: seen[name] | day for name, day in days.items()}


@pytest.mark.parametrize("name", [*POOLED, *DEDICATED])
@pytest.mark.parametrize("step", ["start", *DAY])
def test_a_row_tenant_beside_others(
    direct: dict[str, Any], row_days: dict[str, dict[str, Any]], name: str, step: str
) -> None:
    assert row_days[name][step] == direct[step]


@pytest.mark.parametrize("name", [*POOLED, *DEDICATED])
def test_a_row_tenant_loads_what_it_has_dumped(
    direct: dict[str, Any], row_days: dict[str, dict[str, Any]], name: str
) -> None:
    assert row_days[name]["load_rows"] == direct["load"]


def test_introspection_tells_a_row_tenant_what_it_tells_directly(
    shops: Estate, row_days: dict[str, dict[str, Any]]
) -> None:
    """Keys and foreign keys begin with the tenant column there: that is what Django shows."""
    known = shop(shops.server.dsn(SHARED), "look", **ROWS)["look"]
    assert "    tenant_id = models.TextField()" not in known  # it is part of each key
    assert all(day["look"] == known for day in row_days.values())


def test_each_has_rows_of_its_own_in_every_table(
    shops: Estate, row_days: dict[str, dict[str, Any]]
) -> None:
    with shops.admin("acme") as admin:
        for table in OWNED:
            counted = f'SELECT tenant_id, count(*) FROM "{table}" GROUP BY 1 ORDER BY 1'
            found = dict(admin.execute(counted).fetchall())
            assert set(found) in (set(row_days), set()), table
            for name in found:
                with shops.connect(name) as client:
                    row = client.execute(f'SELECT count(*) FROM "{table}"').fetchone()
                    assert row == (found[name],)


def test_keys_hold_within_a_tenant(shops: Estate, row_days: dict[str, dict[str, Any]]) -> None:
    with shops.connect("acme") as acme, shops.connect("globex") as globex:
        acme.execute("INSERT INTO shop_tag (name) VALUES ('mine')")
        globex.execute("INSERT INTO shop_tag (name) VALUES ('mine')")
        with pytest.raises(errors.UniqueViolation):
            acme.execute("INSERT INTO shop_tag (name) VALUES ('mine')")
        row = globex.execute("SELECT id FROM shop_category LIMIT 1").fetchone()
        # Deferred, as Django makes them.
        with pytest.raises(errors.ForeignKeyViolation):
            acme.execute("UPDATE shop_category SET parent_id = %s", row)
        # Generated keys stay keys of the whole table: that was accepted.
        with pytest.raises(errors.UniqueViolation):
            acme.execute("INSERT INTO shop_category (id, name, slug) VALUES (%s, 'x', 'x')", row)


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("SELECT setval('shop_tag_id_seq', 1)", "permission denied for function setval"),
        ("INSERT INTO shop_country VALUES ('xx', 'x')", "permission denied for table shop_country"),
        ("TRUNCATE shop_tag", "permission denied for TRUNCATE"),
        ("ALTER TABLE shop_tag ADD x int", "permission denied for ALTER"),
    ],
)
def test_what_docs_say_does_not_work(
    shops: Estate, row_days: dict[str, dict[str, Any]], statement: str, why: str
) -> None:
    with shops.connect("acme") as client, pytest.raises(psycopg.Error, match=why):
        client.execute(statement)


def test_a_model_may_have_the_column(shops: Estate, row_days: dict[str, dict[str, Any]]) -> None:
    """As Django writes a field with db_default."""
    written = "INSERT INTO shop_tag (tenant_id, name) VALUES ({}, 'with') RETURNING tenant_id"
    with shops.connect("acme") as client:
        assert client.execute(written.format("DEFAULT")).fetchone() == ("acme",)
        for value in ("NULL", "'globex'"):
            with pytest.raises(psycopg.Error):
                client.execute(written.format(value))
