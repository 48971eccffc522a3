"""Commands against folded state: which facts follow, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.world import SEALED, VERIFIER, World

from events.commands import (
    ChangeTenant,
    DeleteTenant,
    DisableTenant,
    EnableTenant,
    PutInstallation,
    PutTenant,
    RecordProvisioned,
)
from events.facts import (
    InstallationChanged,
    TenantChanged,
    TenantCreated,
    TenantDeleted,
    TenantDisabled,
    TenantEnabled,
    TenantProvisioned,
    Undecodable,
)


def test_put_makes_then_changes_then_does_nothing() -> None:
    world = World()
    settings = {"name": "Acme", "rate_limits": {"qps_limit": 100, "max_query_duration": "1m"}}
    assert world.does(PutTenant(id="acme", settings=settings)) == [
        TenantCreated(
            settings={
                "name": "Acme",
                "rate_limits": {"qps_limit": 100.0, "max_query_duration": 60.0},
            }
        )
    ]
    assert world.does(PutTenant(id="acme", settings=settings)) == []

    settings = {"rate_limits": {"qps_limit": 50, "max_query_duration": 60}, "metadata": {}}
    assert world.does(PutTenant(id="acme", settings=settings)) == [
        TenantChanged(changes={"name": None, "rate_limits": {"qps_limit": 50.0}})
    ]
    tenant = world.projection.tenant("acme")
    assert tenant is not None
    assert (tenant.name, tenant.rate_limits.qps_limit) == ("", 50.0)


def test_a_patch_changes_what_it_names() -> None:
    world = World(PutTenant(id="acme", settings={"name": "Acme", "pool": {"min_idle": 3}}))
    assert world.does(ChangeTenant(id="acme", patch={"pool": {"min_idle": None}})) == [
        TenantChanged(changes={"pool": None})
    ]
    assert world.does(ChangeTenant(id="acme", patch={"pool": {"min_idle": None}})) == []
    assert world.does(
        ChangeTenant(id="acme", patch={"rate_limits": {"qps_limit": "unlimited"}})
    ) == [TenantChanged(changes={"rate_limits": {"qps_limit": "unlimited"}})]
    tenant = world.projection.tenant("acme")
    assert tenant is not None
    assert (tenant.name, tenant.pool.min_idle, tenant.rate_limits.qps_limit) == ("Acme", 1, None)


def test_switching_off_and_on() -> None:
    world = World(PutTenant(id="acme"))
    assert world.does(DisableTenant(id="acme")) == [TenantDisabled()]
    assert world.does(DisableTenant(id="acme")) == []
    # A file that does not mention "enabled" leaves a disabled tenant disabled.
    assert world.does(PutTenant(id="acme", settings={"name": "A"})) == [
        TenantChanged(changes={"name": "A"})
    ]
    assert world.does(PutTenant(id="acme", settings={"name": "A", "enabled": True})) == [
        TenantEnabled()
    ]
    assert world.does(ChangeTenant(id="acme", patch={"enabled": False})) == [TenantDisabled()]
    assert world.does(ChangeTenant(id="acme", patch={"enabled": None})) == [TenantEnabled()]
    assert world.does(EnableTenant(id="acme")) == []


def test_made_disabled() -> None:
    world = World()
    facts = world.does(PutTenant(id="acme", settings={"enabled": False}))
    assert facts == [TenantCreated(settings={}), TenantDisabled()]
    tenant = world.projection.tenant("acme")
    assert tenant is not None
    assert not tenant.enabled


def test_a_deleted_id_is_burnt() -> None:
    world = World(PutTenant(id="acme"))
    assert world.does(DeleteTenant(id="acme")) == [TenantDeleted()]
    assert world.does(DeleteTenant(id="acme")) == []
    assert world.projection.tenant("acme") is None
    burnt = {"id": "acme was deleted, and an id is never used again"}
    for command in (
        PutTenant(id="acme"),
        ChangeTenant(id="acme", patch={}),
        EnableTenant(id="acme"),
        RecordProvisioned(id="acme", role="r", secret=SEALED),
    ):
        assert world.refuses(command) == burnt


def test_all_mistakes_are_told_at_once_and_no_value_is_repeated() -> None:
    settings = {
        "rate_limits": {"qps_limit": "secret-value", "burst": 2},
        "users": [{"name": "u", "password": "hunter2"}],
        "provisioned": {"role": "r", "secret": "s"},
        "colour": "red",
    }
    refused = World().refuses(PutTenant(id="Acme!", settings=settings))
    assert set(refused) == {
        "id",
        "provisioned",
        "rate_limits.qps_limit",
        "rate_limits.burst",
        "users.0.scram",
        "users.0.password",
        "colour",
    }
    assert refused["colour"] == "is not known"
    assert "secret-value" not in str(refused)
    assert "hunter2" not in str(refused)


@pytest.mark.parametrize("value", [math.nan, math.inf, "a\ud800", 2**70])
def test_what_json_cannot_hold_is_refused(value: Any) -> None:
    pool = {"max_connections": value} if isinstance(value, int) else {}
    number = {"burst_multiplier": value} if isinstance(value, float) else {}
    settings = {"pool": pool, "rate_limits": number}
    if isinstance(value, str):
        settings["metadata"] = {"x": value}
    assert World().refuses(PutTenant(id="acme", settings=settings))


def test_not_a_number_is_not_taken_for_unlimited() -> None:
    assert World().refuses(PutTenant(id="acme", settings={"rate_limits": {"qps_limit": math.nan}}))


def test_infinity_is_unlimited_where_that_has_a_meaning() -> None:
    world = World(PutTenant(id="acme", settings={"rate_limits": {"qps_limit": math.inf}}))
    tenant = world.projection.tenant("acme")
    assert tenant is not None
    assert tenant.rate_limits.qps_limit is None


def test_there_must_be_a_tenant_to_change() -> None:
    assert World().refuses(DisableTenant(id="acme")) == {"id": "there is no tenant acme"}


def test_settings_for_another_id_are_refused() -> None:
    assert World().refuses(PutTenant(id="acme", settings={"id": "other"})) == {
        "id": "settings name another tenant"
    }


def test_provisioning_is_recorded_once() -> None:
    world = World(PutTenant(id="acme"))
    command = RecordProvisioned(id="acme", role="tenantry_acme", secret=SEALED, node="main")
    assert world.does(command) == [
        TenantProvisioned(role="tenantry_acme", secret=SEALED, node="main")
    ]
    assert world.does(command.model_copy(update={"command_id": "other"})) == []
    assert world.refuses(RecordProvisioned(id="acme", role="r", secret="plain")) == {
        "secret": "must be sealed before it becomes an event"
    }
    tenant = world.projection.tenant("acme")
    assert tenant is not None
    assert tenant.provisioned is not None
    assert tenant.provisioned.role == "tenantry_acme"


def test_the_installation_is_stored_whole_and_once() -> None:
    world = World()
    settings = {
        "pool": {"max_connections": 50, "idle_timeout_secs": "5m"},
        "nodes": [{"host": "db"}],
    }
    facts = world.does(PutInstallation(settings=settings))
    assert facts == [
        InstallationChanged(
            settings={
                "pool": {"max_connections": 50, "idle_timeout_secs": 300.0},
                "nodes": [{"host": "db"}],
            }
        )
    ]
    assert world.does(PutInstallation(settings=settings)) == []
    installation = world.projection.installation()
    assert installation is not None
    assert installation.nodes[0].host == "db"


def test_the_installation_is_checked_too() -> None:
    settings = {
        "nodes": [{"host": "db", "password": "plain"}],
        "defaults": {"users": [], "rate_limits": {"qps_limit": -1}},
    }
    assert World().refuses(PutInstallation(settings=settings)) == {
        "nodes.0.password": "must be sealed before it becomes an event",
        "defaults.users": "cannot have a default for all tenants",
        "defaults.rate_limits.qps_limit": "Input should be greater than or equal to 0",
    }


def test_defaults_lie_between_built_in_values_and_the_tenants_own() -> None:
    world = World(
        PutInstallation(
            settings={"defaults": {"rate_limits": {"qps_limit": 7, "max_connections": 3}}}
        ),
        PutTenant(id="acme", settings={"rate_limits": {"max_connections": 5}}),
    )
    before = world.projection.tenant("acme")
    assert before is not None
    limits = before.rate_limits
    assert (limits.qps_limit, limits.max_connections, limits.burst_multiplier) == (7, 5, 2)

    world.does(PutInstallation(settings={"defaults": {"rate_limits": {"qps_limit": 9}}}))
    after = world.projection.tenant("acme")
    assert after is not None
    assert after.rate_limits.qps_limit == 9
    assert after.version > before.version


def test_no_more_tenants_than_the_installation_allows() -> None:
    world = World(PutInstallation(settings={"max_tenants": 1}), PutTenant(id="one"))
    assert world.refuses(PutTenant(id="two")) == {
        "id": "the installation's max_tenants (1) is reached"
    }
    world.does(DeleteTenant(id="one"))
    world.does(PutTenant(id="two"))


def test_a_parked_tenant_can_only_be_closed() -> None:
    world = World(PutTenant(id="acme"))
    world.stores(DisableTenant(id="acme"), Undecodable(reason="from the future"))
    assert "parked" in world.refuses(ChangeTenant(id="acme", patch={"name": "x"}))["id"]
    assert world.does(DisableTenant(id="acme")) == [TenantDisabled()]
    tenant = world.projection.tenant("acme")
    assert tenant is not None
    assert not tenant.enabled


LIMITS = st.fixed_dictionaries(
    {},
    optional={
        "qps_limit": st.just("unlimited") | st.floats(0.001, 1e6),
        "max_result_size": st.sampled_from(["1MB", "1024kB", 2**20, "unlimited", 1]),
        "max_query_duration": st.sampled_from(["1m", 60, "500ms", "unlimited"]),
    },
)
TENANTS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=5),
        "rate_limits": LIMITS,
        "users": st.lists(st.just({"name": "u", "scram": VERIFIER}), max_size=1),
        "metadata": st.dictionaries(st.text("ab", max_size=2), st.text("xy"), max_size=3),
        "enabled": st.booleans(),
    },
)


@given(TENANTS, TENANTS)
def test_putting_one_after_the_other_is_as_putting_the_other(
    old: dict[str, Any], new: dict[str, Any]
) -> None:
    new = {"enabled": True, **new}
    changed = World(PutTenant(id="acme", settings=old), PutTenant(id="acme", settings=new))
    fresh = World(PutTenant(id="acme", settings=new))
    left, right = changed.projection.tenant("acme"), fresh.projection.tenant("acme")
    assert left is not None
    assert right is not None
    assert left.model_copy(update={"version": 0}) == right.model_copy(update={"version": 0})
    assert changed.does(PutTenant(id="acme", settings=new)) == []
