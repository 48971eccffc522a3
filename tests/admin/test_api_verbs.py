"""What NATS takes, HTTP takes: each verb has a request that would store the same events."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from support.api import Office, in_office
from support.desk import VAULT
from support.engines import Nats

from admin.api.app import ROUTERS
from admin.api.commands import order
from events.commands import RecordProvisioned
from events.verbs import INSTALLATION, INSTALLATION_VERBS, TENANT_VERBS
from wire.postgres.scram import make_verifier

SCRAM = make_verifier("secret")
NOTED = {"name": "eve", "role": "viewer", "issued_at": 1764576000, "expires_at": 4102444800}
USER = {"name": "app", "scram": SCRAM}
ACME, BOTH = "acme", INSTALLATION

# Tenant, verb, body over NATS; method, path, body over HTTP.
SAME: list[tuple[str, str, dict[str, Any], str, str, dict[str, Any] | None]] = [
    ("b", "create", {"settings": {"name": "B"}}, "POST", "/tenants", {"id": "b", "name": "B"}),
    # Over HTTP, users that are not named stay.
    (
        *(ACME, "put", {"settings": {"name": "C", "users": [USER]}}),
        *("PUT", "/tenants/acme", {"name": "C"}),
    ),
    (
        *("placed", "put", {"settings": {"isolation": {"strategy": "database"}}, "force": True}),
        *("PUT", "/tenants/placed?force=true", {"isolation": "database"}),
    ),
    (
        *(ACME, "change", {"patch": {"rate_limits": {"qps_limit": 5}}}),
        *("PATCH", "/tenants/acme", {"rate_limits": {"requests_per_second": 5}}),
    ),
    (
        *(ACME, "change", {"patch": {"rate_limits": {"qps_limit": 6}}}),
        *("PUT", "/tenants/acme/limits", {"qps_limit": 6}),
    ),
    (
        *("placed", "change", {"patch": {"isolation": {"schema_name": "x"}}, "force": True}),
        *("PATCH", "/tenants/placed?force=true", {"schema": "x"}),
    ),
    (
        *(ACME, "user-put", {"name": "two", "scram": SCRAM}),
        *("PUT", "/tenants/acme/users/two", {"scram": SCRAM}),
    ),
    (ACME, "user-remove", {"name": "app"}, "DELETE", "/tenants/acme/users/app", None),
    (ACME, "disable", {}, "POST", "/tenants/acme/disable", None),
    ("off", "enable", {}, "POST", "/tenants/off/enable", None),
    (ACME, "delete", {}, "DELETE", "/tenants/acme", None),
    ("gone", "purge", {"force": True}, "POST", "/tenants/gone/purge?force=true", None),
    ("gone", "undo", {"sequence": 6}, "POST", "/tenants/gone/restore", None),
    (ACME, "undo", {"sequence": 2}, "POST", "/tenants/acme/undo", {"sequence": 2}),
    (
        *(BOTH, "undo", {"sequence": 7, "of_kind": "tier", "id": "gold"}),
        *("POST", "/events/7/undo", None),
    ),
    (
        *(BOTH, "tier-put", {"name": "gold", "settings": {"rate_limits": {"qps_limit": 9}}}),
        *("PUT", "/tiers/gold", {"qps_limit": 9}),
    ),
    (BOTH, "tier-delete", {"name": "gold"}, "DELETE", "/tiers/gold", None),
    (
        *(BOTH, "defaults-put", {"defaults": {"rate_limits": {"qps_limit": 8}}}),
        *("PUT", "/defaults", {"qps_limit": 8}),
    ),
    (
        *(BOTH, "defaults-put", {"defaults": {"isolation": {"strategy": "row"}}, "force": True}),
        *("PUT", "/defaults?force=true", {"isolation": "row"}),
    ),
    (
        *(BOTH, "operator-put"),
        {"name": "bob", "role": "operator", "scram": SCRAM, "tenants": ["acme"]},
        *("PUT", "/operators/bob", {"role": "operator", "scram": SCRAM, "tenants": ["acme"]}),
    ),
    (
        *(BOTH, "operator-put", {"name": "ned", "role": "viewer", "scram": "", "tenants": []}),
        *("PUT", "/operators/ned", {"role": "viewer", "scram": "", "tenants": []}),
    ),
    (BOTH, "operator-delete", {"name": "ned"}, "DELETE", "/operators/ned", None),
    (
        *(BOTH, "token-issue", {"jti": "noted-token", **NOTED}),
        *("PUT", "/tokens/noted-token", NOTED),
    ),
    (BOTH, "token-revoke", {"jti": "known-token"}, "DELETE", "/tokens/known-token", None),
    (
        *(BOTH, "token-revoke", {"jti": "other-token", "expires_at": 4102444800}),
        *("DELETE", "/tokens/other-token?expires_at=4102444800", None),
    ),
]


async def prepared(office: Office) -> None:
    """Events 1 to 12."""
    for method, path, body in (
        ("POST", "/tenants", {"id": "acme", "users": [USER]}),
        ("PATCH", "/tenants/acme", {"name": "A"}),
        ("POST", "/tenants", {"id": "off", "enabled": False}),
        ("POST", "/tenants", {"id": "placed", "isolation": "schema"}),
        ("POST", "/tenants", {"id": "gone"}),
        ("DELETE", "/tenants/gone", None),
        ("PUT", "/tiers/gold", {"qps_limit": 7}),
        ("PUT", "/operators/ned", {"role": "operator", "scram": SCRAM, "tenants": ["*"]}),
        ("PUT", "/tokens/known-token", NOTED),
    ):
        answer = await office.ask(method, path, body)
        assert answer.status_code < 300, answer.text
    await office.configure(events={"embedded": True})
    for id in ("acme", "placed"):
        # Their data is there: what would leave it behind must be forced.
        made = RecordProvisioned(id=id, role=f"role_{id}", secret=VAULT.seal("x", id))
        await office.control.commander.execute(made, "test")


async def over_nats(office: Office, tenant: str, verb: str, body: dict[str, Any]) -> Any:
    message = await office.control.log.nats.request(
        f"tenantry.request.{tenant}.{verb}",
        orjson.dumps({**body, "dry_run": True}),
        timeout=20,
        headers={"Tenantry-Token": office.token},
    )
    return orjson.loads(message.data)


def test_what_nats_takes_http_takes(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        await prepared(office)
        at = await office.control.log.last_sequence()
        for tenant, verb, body, method, path, sent in SAME:
            here = await over_nats(office, tenant, verb, body)
            assert here["accepted"], (verb, here)
            dry = f"{path}{'&' if '?' in path else '?'}dry_run=true"
            answer = await office.ask(method, dry, sent)
            assert answer.status_code == 200, (path, answer.text)
            there = answer.json()
            assert there["events"] == here["events"] != [], (verb, path)
            assert there["dry_run"] is here["dry_run"] is True
        assert await office.control.log.last_sequence() == at

    in_office(nats_server, test)


def test_every_verb_is_here() -> None:
    tried = {(tenant == INSTALLATION, verb) for tenant, verb, *_ in SAME}
    verbs = {(False, verb) for verb in TENANT_VERBS} | {(True, verb) for verb in INSTALLATION_VERBS}
    assert tried == verbs


def test_whom_it_is_not_for_is_refused(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        await prepared(office)
        at = await office.control.log.last_sequence()
        for role, tenant in (("viewer", ""), ("tenant-admin", "placed")):
            async with office.as_role(role, tenant) as other:
                for of, verb, _, method, path, sent in SAME:
                    if tenant and of == tenant:
                        continue
                    answer = await other.request(method, path, json=sent)
                    assert answer.status_code == 403, (role, verb, answer.text)
                    assert answer.json()["code"] == "forbidden"
        async with office.as_role("viewer") as viewer:
            # Nobody reads what a viewer sends.
            assert (await viewer.post("/tenants", content=b"{")).status_code == 403
        async with office.as_token("") as nobody:
            for _, verb, _, method, path, sent in SAME:
                answer = await nobody.request(method, path, json=sent)
                assert answer.status_code == 401, (verb, answer.text)
        assert await office.control.log.last_sequence() == at

    in_office(nats_server, test)


def test_every_route_that_changes_something_is_of_a_command() -> None:
    """Then roles are judged, dry runs run dry, and repeats happen once."""
    for router in ROUTERS:
        for route in router.routes:
            assert isinstance(route, APIRoute)
            if route.methods != {"GET"}:
                assert order in asked(route.dependant), route.path


def asked(dependant: Dependant) -> set[Any]:
    """What a route asks before it runs."""
    below = [asked(each) for each in dependant.dependencies]
    return {dependant.call}.union(*below)
