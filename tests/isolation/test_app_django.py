"""A Django shop as a tenant of each kind sees what it sees directly on PostgreSQL.

The shop is an ordinary project (support/apps/django_shop) that knows nothing of tenants. Four row
tenants share its tables, two of them in the shared pool; the operator runs the migrations.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
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
def test_what_a_row_tenant_loads_and_looks_at(
    direct: dict[str, Any], row_days: dict[str, dict[str, Any]], name: str
) -> None:
    assert row_days[name]["load_rows"] == direct["load"]
    assert row_days[name]["look"] == direct["look"]
