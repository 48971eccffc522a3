"""Tiers, users, deletion and its end, operators, tokens, and taking back what was done."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.world import SEALED, VERIFIER, World

from events.commands import (
    ChangeTenant,
    Command,
    DeleteOperator,
    DeleteTenant,
    DeleteTier,
    DisableTenant,
    EnableTenant,
    IssueToken,
    PurgeTenant,
    PutDefaults,
    PutInstallation,
    PutOperator,
    PutTenant,
    PutTier,
    PutUser,
    RecordProvisioned,
    RemoveUser,
    RevokeToken,
    Undo,
)
from events.facts import (
    OperatorDeleted,
    OperatorSet,
    TenantChanged,
    TenantDeleted,
    TenantPurged,
    TenantRestored,
    TierDeleted,
    TierSet,
    TokenRevoked,
    Undecodable,
)
from events.model import Tenant
from events.named import EXPIRED_TOKENS_KEPT_SECONDS

DAY = timedelta(days=1)


def tenant(world: World, id: str = "acme") -> Tenant:
    found = world.projection.tenant(id)
    assert found is not None
    return found


# --- tiers ---------------------------------------------------------------------------------------


def test_the_tenant_counts_before_its_tier_and_that_before_the_defaults() -> None:
    world = World(
        PutInstallation(
            settings={
                "defaults": {
                    "rate_limits": {"qps_limit": 1, "max_connections": 1, "burst_multiplier": 3},
                    "features": {"a": 1, "b": 1, "c": 1},
                }
            }
        ),
        PutTier(
            name="gold",
            settings={
                "rate_limits": {"qps_limit": 2, "max_connections": 2},
                "features": {"a": 2, "b": True},
                "ai": {"retrieval_limit": 20},
            },
        ),
        PutTenant(
            id="acme",
            settings={"tier": "gold", "rate_limits": {"qps_limit": 3}, "features": {"a": "x"}},
        ),
    )
    found = tenant(world)
    limits = found.rate_limits
    assert (limits.qps_limit, limits.max_connections, limits.burst_multiplier) == (3, 2, 3)
    assert found.features == {"a": "x", "b": True, "c": 1}
    assert found.ai.retrieval_limit == 20
    assert limits.max_query_duration == 60  # built in


def test_a_tier_that_changes_changes_its_tenants() -> None:
    world = World(
        PutTier(name="gold", settings={"rate_limits": {"qps_limit": 2}}),
        PutTenant(id="acme", settings={"tier": "gold"}),
    )
    heard: list[tuple[str, str]] = []
    world.projection.subscribe(lambda kind, id: heard.append((kind, id)))
    before = tenant(world)
    world.does(PutTier(name="gold", settings={"rate_limits": {"qps_limit": 9}}))
    after = tenant(world)
    assert after.rate_limits.qps_limit == 9
    assert after.version > before.version
    assert heard == [("tier", "gold")]


def test_a_tier_is_put_whole_and_once() -> None:
    world = World()
    put = PutTier(name="gold", settings={"rate_limits": {"max_query_duration": "1m"}})
    stored = TierSet(settings={"rate_limits": {"max_query_duration": 60.0}})
    assert world.does(put) == [stored]
    assert world.does(put.model_copy(update={"command_id": "b"})) == []
    assert world.does(DeleteTier(name="gold")) == [TierDeleted()]
    assert world.does(DeleteTier(name="gold", command_id="c")) == []
    assert world.refusal(DeleteTier(name="silver")).code == "missing"
    assert world.does(put.model_copy(update={"command_id": "d"})) == [stored]


def test_a_tier_says_how_much_and_never_where_or_who() -> None:
    settings = {
        "isolation": {"strategy": "database"},
        "users": [],
        "name": "x",
        "tier": "gold",
        "metadata": {},
        "rate_limits": {"qps_limit": -1, "colour": 1},
    }
    assert set(World().refuses(PutTier(name="gold", settings=settings))) == {
        "settings.isolation",
        "settings.users",
        "settings.name",
        "settings.tier",
        "settings.metadata",
        "settings.rate_limits.qps_limit",
        "settings.rate_limits.colour",
    }


def test_a_tier_in_use_stays_and_one_that_is_not_there_cannot_be_had() -> None:
    world = World(PutTier(name="gold", settings={}), PutTenant(id="acme"))
    assert world.refuses(ChangeTenant(id="acme", patch={"tier": "silver"})) == {
        "tier": "there is no tier silver"
    }
    world.does(ChangeTenant(id="acme", patch={"tier": "gold"}))
    assert world.refuses(DeleteTier(name="gold")) == {
        "name": "the tier gold is in use: 1 tenant has it"
    }
    world.does(ChangeTenant(id="acme", patch={"tier": None}))
    world.does(PutTenant(id="other", settings={"tier": "gold"}))
    world.does(DeleteTenant(id="other"))
    assert world.does(DeleteTier(name="gold")) == [TierDeleted()]


def test_a_bad_tier_keeps_the_last_good_one_until_a_good_one_comes() -> None:
    world = World(
        PutTier(name="gold", settings={"rate_limits": {"qps_limit": 2}}),
        PutTenant(id="acme", settings={"tier": "gold"}),
    )
    world.stores(PutTier(name="gold", settings={}), Undecodable(reason="from the future"))
    assert tenant(world).rate_limits.qps_limit == 2
    assert ("tier", "gold") in world.projection.parked()
    world.does(PutTier(name="gold", settings={"rate_limits": {"qps_limit": 5}}))
    assert tenant(world).rate_limits.qps_limit == 5
    assert world.projection.parked() == {}


# --- users ---------------------------------------------------------------------------------------


def test_users_come_and_go_one_by_one() -> None:
    world = World(PutTenant(id="acme"))
    for name in ("a", "b"):
        world.does(PutUser(id="acme", name=name, scram=VERIFIER))
    assert world.does(PutUser(id="acme", name="a", scram=VERIFIER)) == []
    other = VERIFIER.replace("4096", "9999")
    assert world.does(PutUser(id="acme", name="a", scram=other)) == [
        TenantChanged(
            changes={"users": [{"name": "a", "scram": other}, {"name": "b", "scram": VERIFIER}]}
        )
    ]
    world.does(RemoveUser(id="acme", name="b"))
    assert [user.name for user in tenant(world).users] == ["a"]
    assert world.refuses(RemoveUser(id="acme", name="b")) == {"name": "acme has no user b"}
    assert world.refuses(RemoveUser(id="nobody", name="b")) == {"id": "there is no tenant nobody"}
    settings = {"users": [{"name": "a", "scram": VERIFIER}] * 2}
    assert world.refuses(ChangeTenant(id="acme", patch=settings)) == {
        "users": "names somebody twice"
    }


# --- the end of a tenant -------------------------------------------------------------------------


def test_a_deleted_tenant_can_be_restored_until_it_is_purged() -> None:
    world = World(PutTenant(id="acme", settings={"name": "A"}))
    world.does(DeleteTenant(id="acme"))
    assert world.projection.deleted() == {"acme": "2026-01-01T00:00:00+00:00"}
    refused = world.refusal(PutTenant(id="acme"))
    assert (refused.code, refused.mistakes[0].hint) == (
        "exists",
        "Undo the deletion to have it back.",
    )
    assert world.does(Undo(id="acme", sequence=2)) == [TenantRestored()]
    assert tenant(world).name == "A"
    assert world.projection.deleted() == {}

    world.now += DAY
    world.does(DeleteTenant(id="acme"))
    world.now += 29 * DAY
    assert world.refuses(PurgeTenant(id="acme")) == {
        "id": "acme can be restored until 2026-02-01T00:00:00+00:00"
    }
    world.now += DAY
    assert world.does(PurgeTenant(id="acme")) == [TenantPurged()]
    assert world.does(PurgeTenant(id="acme", command_id="again")) == []
    assert world.refuses(Undo(id="acme", sequence=4)) == {"id": "the data of acme was erased"}
    record = world.projection.record("acme")
    assert record is not None
    assert (record.purged, record.settings, record.deleted) == (True, {}, True)
    assert world.projection.deleted() == {}


@pytest.mark.parametrize(
    ("retention", "allowed"), [("1h", True), ("2d", False), ("unlimited", False)]
)
def test_the_installation_says_for_how_long(retention: str, allowed: bool) -> None:
    world = World(
        PutInstallation(settings={"deletion_retention": retention}),
        PutTenant(id="acme"),
        DeleteTenant(id="acme"),
    )
    world.now += DAY
    if allowed:
        assert world.does(PurgeTenant(id="acme"))
    else:
        assert world.refuses(PurgeTenant(id="acme"))
    assert World(PutTenant(id="a")).refuses(PurgeTenant(id="a", force=True)) == {
        "id": "a is not deleted"
    }


# --- operators and tokens ------------------------------------------------------------------------


def test_operators() -> None:
    world = World()
    put = PutOperator(name="ann@example.org", role="viewer")
    assert world.does(put) == [OperatorSet(role="viewer")]
    assert world.does(put.model_copy(update={"command_id": "b"})) == []
    assert world.does(PutOperator(name="ann@example.org", role="viewer", disabled=True))
    assert world.does(DeleteOperator(name="ann@example.org")) == [OperatorDeleted()]
    assert world.refusal(DeleteOperator(name="bob")).code == "missing"
    assert world.projection.named_all("operator") == {}


@pytest.mark.parametrize("name", ["", "a b", "a*", "a>", ".a", "a.", "a..b", "a" * 64, "ann\n"])
def test_names_that_no_subject_can_carry(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        PutOperator(name=name, role="viewer")


def token(**more: Any) -> IssueToken:
    fields = {"jti": "j" * 32, "name": "ann", "role": "operator"}
    return IssueToken.model_validate(
        {**fields, "issued_at": 10, "expires_at": 2_000_000_000, **more}
    )


def test_tokens_are_noted_and_revoked() -> None:
    world = World(token())
    assert world.refuses(token(command_id="again")) == {"jti": "was issued or revoked before"}
    assert world.does(RevokeToken(jti="j" * 32)) == [TokenRevoked(expires_at=2_000_000_000)]
    assert world.does(RevokeToken(jti="j" * 32, command_id="again")) == []
    (known,) = world.projection.named_all("token").values()
    assert (known.settings["revoked"], known.settings["name"]) == (True, "ann")
    assert world.refusal(RevokeToken(jti="k" * 32)).code == "missing"
    assert world.does(RevokeToken(jti="k" * 32, expires_at=5))
    assert world.refuses(token(jti="l" * 32, role="tenant-admin")) == {
        "tenant": "is for the role tenant-admin, which needs it"
    }


def test_tokens_that_have_long_expired_are_forgotten() -> None:
    world = World()
    end = int(world.now.timestamp()) + 60
    world.does(token(expires_at=end))
    world.does(RevokeToken(jti="j" * 32))
    world.now += timedelta(seconds=EXPIRED_TOKENS_KEPT_SECONDS)
    world.does(token(jti="k" * 32))
    assert "j" * 32 in world.projection.named_all("token")
    world.now += timedelta(seconds=120)
    world.does(token(jti="l" * 32))
    assert set(world.projection.named_all("token")) == {"k" * 32, "l" * 32}


# --- taking back ---------------------------------------------------------------------------------


def test_undo_puts_back_what_one_commit_changed_and_only_that() -> None:
    world = World(
        PutTenant(id="acme", settings={"rate_limits": {"qps_limit": 1}, "metadata": {"a": "1"}}),
        ChangeTenant(
            id="acme", patch={"rate_limits": {"qps_limit": 2}, "metadata": {"a": None, "b": "2"}}
        ),
        ChangeTenant(id="acme", patch={"pool": {"min_idle": 3}}),
    )
    assert world.does(Undo(id="acme", sequence=2)) == [
        TenantChanged(
            changes={"rate_limits": {"qps_limit": 1.0}, "metadata": {"b": None, "a": "1"}}
        )
    ]
    found = tenant(world)
    assert (found.metadata, found.pool.min_idle) == ({"a": "1"}, 3)
    assert world.decides(Undo(id="acme", sequence=2)) == []
    # And the undoing can be undone.
    world.does(Undo(id="acme", sequence=4))
    assert tenant(world).rate_limits.qps_limit == 2


def test_undo_takes_nothing_from_whoever_changed_it_since() -> None:
    world = World(
        PutTenant(id="acme"),
        ChangeTenant(id="acme", patch={"rate_limits": {"qps_limit": 2, "max_connections": 2}}),
        ChangeTenant(id="acme", patch={"rate_limits": {"qps_limit": 3}}),
    )
    refused = world.refusal(Undo(id="acme", sequence=2))
    assert refused.code == "changed"
    assert [each.path for each in refused.mistakes] == ["rate_limits.qps_limit"]
    world.does(Undo(id="acme", sequence=2, force=True))
    assert tenant(world).rate_limits == Tenant(id="a").rate_limits


def test_undo_of_switches_tiers_operators_and_the_installation() -> None:
    world = World(
        PutTenant(id="acme"),
        DisableTenant(id="acme"),
        PutTier(name="gold", settings={"rate_limits": {"qps_limit": 2}}),
        PutTier(name="gold", settings={"rate_limits": {"qps_limit": 3}, "pool": {"min_idle": 2}}),
        DeleteTier(name="gold"),
        PutOperator(name="ann", role="operator"),
        PutOperator(name="ann", role="viewer"),
        PutInstallation(settings={"max_tenants": 5}),
        PutDefaults(defaults={"pool": {"min_idle": 4}}),
    )
    world.does(Undo(id="acme", sequence=2))
    assert tenant(world).enabled
    undo = Undo(of_kind="tier", id="gold", sequence=5)
    assert world.does(undo)[0] == TierSet(
        settings={"rate_limits": {"qps_limit": 3.0}, "pool": {"min_idle": 2}}
    )
    assert world.does(Undo(of_kind="tier", id="gold", sequence=4)) == [
        TierSet(settings={"rate_limits": {"qps_limit": 2.0}})
    ]
    assert world.does(Undo(of_kind="tier", id="gold", sequence=3, force=True)) == [TierDeleted()]
    assert world.does(Undo(of_kind="operator", id="ann", sequence=7)) == [
        OperatorSet(role="operator")
    ]
    world.does(Undo(of_kind="installation", id="main", sequence=9))
    assert world.projection.installation_settings() == {"max_tenants": 5}


def test_what_cannot_be_undone_is_told_with_what_can_be_done() -> None:
    world = World(PutTenant(id="acme"), RecordProvisioned(id="acme", role="r", secret=SEALED))
    made = world.refusal(Undo(id="acme", sequence=1)).mistakes[0]
    assert (made.message, made.hint) == (
        "TenantCreated cannot be undone",
        "Delete the tenant instead.",
    )
    assert "TenantProvisioned" in str(world.refusal(Undo(id="acme", sequence=2)))
    assert world.refusal(Undo(id="acme", sequence=9)).code == "missing"
    assert world.refusal(Undo(id="other", sequence=1)).code == "missing"
    world.does(DeleteTenant(id="acme"))
    world.does(Undo(id="acme", sequence=3))
    assert world.does(Undo(id="acme", sequence=4)) == [TenantDeleted()]


PATCHES = st.fixed_dictionaries(
    {},
    optional={
        "name": st.none() | st.sampled_from("xy"),
        "enabled": st.none() | st.booleans(),
        "metadata": st.none()
        | st.dictionaries(st.sampled_from("ab"), st.none() | st.sampled_from("xy")),
        "rate_limits": st.none()
        | st.fixed_dictionaries(
            {}, optional={"qps_limit": st.none() | st.sampled_from([1, 2, "unlimited"])}
        ),
    },
)


@given(st.lists(PATCHES, min_size=1, max_size=4), PATCHES)
def test_a_change_and_its_undoing_leave_everything_as_it_was(
    before: list[dict[str, Any]], patch: dict[str, Any]
) -> None:
    world = World(PutTenant(id="acme"))
    for each in before:
        world.does(ChangeTenant(id="acme", patch=each))
    was = tenant(world).model_copy(update={"version": 0})
    if world.does(ChangeTenant(id="acme", patch=patch)):
        world.does(Undo(id="acme", sequence=world.projection.position))
    assert tenant(world).model_copy(update={"version": 0}) == was


@pytest.mark.parametrize(
    "command",
    [
        PutTenant(id="acme", settings={"name": "x"}),
        DisableTenant(id="acme"),
        PutTier(name="gold", settings={}),
        PutDefaults(defaults={"pool": {"min_idle": 2}}),
        PutOperator(name="ann", role="viewer"),
    ],
)
def test_a_command_for_another_version_than_the_present_one_is_refused(command: Command) -> None:
    world = World(PutTenant(id="acme"), EnableTenant(id="acme"))
    present = world.projection.version_of(command.kind, command.subject_id)
    wrong = command.model_copy(update={"expected_version": present + 1})
    assert world.refusal(wrong).code == "changed"
    assert world.does(command.model_copy(update={"expected_version": present}))
