"""What a purge says is left in PostgreSQL: exact, and never SQL that would take what is others'."""

from __future__ import annotations

from typing import Any

from admin.cli.leftovers import leftovers

ROLES = '"tenantry_acme", "tenantry-owner_acme"'


def sql(isolation: dict[str, Any], others: list[str] | None = None, **defaults: Any) -> list[str]:
    told = leftovers("acme", {"isolation": isolation}, {"isolation": defaults}, others or [])
    return [line.strip() for line in told if line.startswith("  ")]


def test_a_database_goes_whole_unless_others_are_in_it() -> None:
    alone = {"strategy": "database", "database_name": 'a"b'}
    assert sql(alone) == [
        'DROP DATABASE IF EXISTS "a""b" WITH (FORCE);',
        f"DROP ROLE IF EXISTS {ROLES};",
    ]
    told = leftovers("acme", {"isolation": alone}, {}, ["beta"])
    assert not [line for line in told if "DROP" in line]
    assert "In that database are others too: beta." in told


def test_a_schema_goes_alone() -> None:
    found = sql({"schema_name": "mine"}, ["beta"], strategy="schema", database_name="shared_db")
    assert found[:2] == ['\\c "shared_db"', 'DROP SCHEMA IF EXISTS "mine" CASCADE;']
    assert not [line for line in found if "DROP DATABASE" in line]


def test_rows_go_by_their_value() -> None:
    place = {"strategy": "row", "database_name": "shop", "tenant_value": "o'c"}
    found = sql(place, ["beta"], tenant_column="owner")
    assert found[1].startswith("DELETE FROM \"public\".… WHERE \"owner\" = 'o''c';")
    assert not [line for line in found if "DATABASE" in line or "SCHEMA" in line]
