"""Requests become commands, and commands requests."""

from __future__ import annotations

import contextlib

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.world import VERIFIER

from events.answer import STATUS, Answer, refusal, shown
from events.commands_model import (
    ChangeTenant,
    Command,
    CommandRefused,
    DeleteOperator,
    DeleteTenant,
    DeleteTier,
    IssueToken,
    PurgeTenant,
    PutDefaults,
    PutOperator,
    PutTenant,
    PutTier,
    PutUser,
    RecordProvisioned,
    RemoveUser,
    RevokeToken,
    Undo,
)
from events.facts import TenantCreated, TenantProvisioned
from events.verbs import INSTALLATION_VERBS, TENANT_VERBS, address, body, parse

COMMANDS: list[Command] = [
    PutTenant(id="acme", settings={"name": "A"}, force=True),
    PutTenant(id="acme", create_only=True),
    ChangeTenant(id="acme", patch={"name": None}, expected_version=7, dry_run=True),
    PutUser(id="acme", name="a", scram=VERIFIER),
    RemoveUser(id="acme", name="a"),
    DeleteTenant(id="acme"),
    PurgeTenant(id="acme", force=True),
    Undo(id="acme", sequence=3),
    Undo(of_kind="tier", id="gold", sequence=3),
    PutTier(name="gold", settings={}),
    DeleteTier(name="gold"),
    PutDefaults(defaults={"pool": {}}),
    PutOperator(name="ann", role="viewer", disabled=True),
    DeleteOperator(name="ann"),
    IssueToken(jti="j" * 32, name="ann", role="viewer", issued_at=1, expires_at=2),
    RevokeToken(jti="j" * 32),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda each: each.TYPE)
def test_a_command_sent_is_the_command_that_arrives(command: Command) -> None:
    tenant, verb = address(command)
    assert parse(tenant, verb, body(command), command.command_id) == command


def test_every_verb_is_tried() -> None:
    tried = {address(command)[1] for command in COMMANDS}
    left = (TENANT_VERBS.keys() | INSTALLATION_VERBS.keys()) - tried
    assert left == {"disable", "enable"}


def test_what_is_not_for_others_has_no_verb() -> None:
    with pytest.raises(KeyError):
        address(RecordProvisioned(id="acme", role="r", secret="s"))


@pytest.mark.parametrize(
    ("verb", "given", "paths"),
    [
        ("change", {}, {"patch"}),
        ("change", {"patch": 7, "tenant": "x"}, {"patch", "tenant"}),
        ("put", {"create_only": True}, {"create_only"}),
        ("undo", {"sequence": 1, "of_kind": "tier"}, {"of_kind"}),
        ("disable", {"command_id": "other"}, {"command_id"}),
        ("disable", {"dry_run": "perhaps"}, {"dry_run"}),
    ],
)
def test_what_does_not_fit_is_told(verb: str, given: dict[str, object], paths: set[str]) -> None:
    with pytest.raises(CommandRefused) as caught:
        parse("acme", verb, orjson.dumps(given), "c1")
    assert caught.value.code == "malformed"
    assert {each.path for each in caught.value.mistakes} == paths


@given(st.binary(max_size=40), st.sampled_from([*TENANT_VERBS, *INSTALLATION_VERBS, "x"]))
def test_any_body_is_a_command_or_refused(data: bytes, verb: str) -> None:
    for tenant in ("acme", "_installation", ""):
        with contextlib.suppress(CommandRefused):
            assert isinstance(parse(tenant, verb, data), Command)


def test_no_answer_tells_a_secret() -> None:
    facts = [
        TenantCreated(settings={"users": [{"name": "a", "scram": VERIFIER}]}),
        TenantProvisioned(role="r", secret="sealed:1:x"),
    ]
    text = str(shown(facts))
    assert VERIFIER not in text
    assert "sealed:1" not in text
    assert "'name': 'a'" in text


def test_every_code_has_a_status() -> None:
    assert Answer("c").status == 200
    for code in STATUS:
        assert 200 <= refusal("c", code, "m").status < 600
    assert not refusal("c", "unknown", "m").final
    assert refusal("c", "refused", "m").as_dict() == {
        "accepted": False,
        "command_id": "c",
        "code": "refused",
        "mistakes": [{"path": "", "message": "m", "hint": ""}],
    }
