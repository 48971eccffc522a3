"""Operators who log in over SQL: what is stored, and what stays as it is."""

from __future__ import annotations

import pytest
from support.world import World

from events.commands import CommandRefused, PutOperator, Undo
from events.facts import KIND_OPERATOR, OperatorSet
from wire.postgres.scram import make_verifier

VERIFIER = make_verifier("console-secret")


def settings(world: World) -> dict[str, object]:
    known = world.projection.named(KIND_OPERATOR, "ann")
    assert known is not None
    return known.settings


def test_left_out_stays_and_empty_goes() -> None:
    world = World()
    world.does(PutOperator(name="ann", role="operator", scram=VERIFIER, tenants=("acme", "*")))
    assert settings(world)["tenants"] == ["acme", "*"]
    assert world.does(PutOperator(name="ann", role="operator")) == []
    world.does(PutOperator(name="ann", role="viewer"))
    assert settings(world)["scram"] == VERIFIER
    world.does(PutOperator(name="ann", role="viewer", scram="", tenants=()))
    assert settings(world) == {"role": "viewer", "disabled": False}


def test_undo_takes_the_login_back() -> None:
    world = World()
    world.does(PutOperator(name="ann", role="operator"))
    world.does(PutOperator(name="ann", role="operator", scram=VERIFIER, tenants=("acme",)))
    world.does(Undo(of_kind="operator", id="ann", sequence=2))
    assert settings(world) == {"role": "operator", "disabled": False}


def test_one_that_never_had_any_is_stored_as_before() -> None:
    world = World()
    assert world.does(PutOperator(name="ann", role="viewer")) == [OperatorSet(role="viewer")]
    assert settings(world) == {"role": "viewer", "disabled": False}


@pytest.mark.parametrize(
    "wrong", [{"scram": "secret"}, {"tenants": ["Acme!"]}, {"tenants": ["a"] * 1001}]
)
def test_what_is_no_verifier_and_no_tenant_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises((ValueError, CommandRefused)):
        PutOperator.model_validate({"name": "ann", "role": "operator", **wrong})
    assert "SCRAM" not in repr(PutOperator(name="ann", role="operator", scram=VERIFIER))
