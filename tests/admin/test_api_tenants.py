"""Tenants over HTTP: versions, repeats, patches, pages, roles, and what is never shown."""

from __future__ import annotations

import asyncio
import json

import httpx
from support.api import Office, in_office
from support.engines import Nats

from events.audit_sink import REFUSAL
from events.commands import PutTenant


def errors(answer: httpx.Response) -> dict[str, str]:
    """The mistakes that were told, by path."""
    assert answer.headers["content-type"] == "application/problem+json"
    return {each["path"]: each["message"] for each in answer.json()["errors"]}


def test_all_mistakes_are_told_at_once(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        wrong = {
            "id": "Acme",
            "rate_limits": {"qps_limit": -1, "qps_limt": 3},
            "permissions": {"allowed_operations": ["SELEC"]},
            "colour": "red",
        }
        answer = await office.ask("POST", "/tenants", wrong)
        assert answer.status_code == 422
        assert set(errors(answer)) == {
            "id",
            "rate_limits.qps_limit",
            "rate_limits.qps_limt",
            "permissions.allowed_operations.0",
            "colour",
        }
        body = answer.json()
        assert body["status"] == 422
        assert body["type"] == "urn:tenantry:problem:refused"
        assert body["instance"] == "/tenants"
        answer = await office.ask("POST", "/tenants", {"name": "nobody"})
        assert errors(answer) == {"id": "is required"}
        both = {"id": "a", "max_connections": 3, "pool": {"max_connections": 4}}
        answer = await office.ask("POST", "/tenants", both)
        assert errors(answer) == {"max_connections": "contradicts pool.max_connections"}
        answer = await office.ask("GET", "/tenants", params={"limt": "3"})
        assert errors(answer) == {"limt": "is no parameter"}
        answer = await office.ask("GET", "/tenants", params={"limit": "many"})
        assert set(errors(answer)) == {"limit"}

    in_office(nats_server, test)


def test_the_same_key_twice_is_one_event(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        key = {"Idempotency-Key": "made-once"}
        answers = await asyncio.gather(
            *(office.ask("POST", "/tenants", {"id": "acme"}, headers=key) for _ in range(20))
        )
        assert {each.status_code for each in answers} == {201}
        assert {each.headers["tenantry-sequence"] for each in answers} == {"1"}
        replayed = [each for each in answers if "idempotency-replayed" in each.headers]
        assert len(replayed) == 19
        assert await office.control.log.last_sequence() == 1
        other = await office.ask("POST", "/tenants", {"id": "other"}, headers=key)
        assert (other.status_code, other.json()["code"]) == (409, "reused")
        again = await office.ask("POST", "/tenants", {"id": "acme"})
        assert (again.status_code, again.json()["code"]) == (409, "exists")

    in_office(nats_server, test)


def test_nobody_overwrites_what_they_have_not_seen(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        made = await office.ask("POST", "/tenants", {"id": "acme"})
        seen = {"If-Match": made.headers["etag"]}
        first = await office.ask("PATCH", "/tenants/acme", {"name": "one"}, headers=seen)
        assert first.status_code == 200
        second = await office.ask("PATCH", "/tenants/acme", {"name": "two"}, headers=seen)
        assert (second.status_code, second.json()["code"]) == (412, "changed")
        for odd in ('W/"1"', '"x"', "1", '"1", "2"'):
            answer = await office.ask("DELETE", "/tenants/acme", headers={"If-Match": odd})
            assert answer.status_code == 412, odd
        found = await office.ask("GET", "/tenants/acme")
        assert found.json()["name"] == "one"
        assert found.headers["etag"] == first.headers["etag"] == f'"{found.json()["version"]}"'

    in_office(nats_server, test)


def test_null_in_a_patch_is_back_to_the_default(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        body = {"id": "acme", "rate_limits": {"requests_per_second": 10, "burst": 40}, "name": "A"}
        made = (await office.ask("POST", "/tenants", body)).json()
        assert made["rate_limits"]["burst_multiplier"] == 4
        patch = {"rate_limits": {"requests_per_second": None}, "metadata": {"a": "1", "b": "2"}}
        changed = (await office.ask("PATCH", "/tenants/acme", patch)).json()
        assert changed["rate_limits"]["qps_limit"] == 100
        assert changed["name"] == "A"
        patch = {"metadata": {"a": None}, "rate_limits": {"qps_limit": "unlimited"}}
        changed = (await office.ask("PATCH", "/tenants/acme", patch)).json()
        assert changed["metadata"] == {"b": "2"}
        assert changed["rate_limits"]["qps_limit"] == "unlimited"
        assert (await office.ask("GET", "/tenants")).json()["tenants"][0]["qps_limit"] is None
        answer = await office.ask("PATCH", "/tenants/acme", {"id": "other"})
        assert errors(answer) == {"id": "is not acme: an id is for ever"}

    in_office(nats_server, test)


def test_what_is_read_can_be_put_back(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        body = {"id": "acme", "users": [{"name": "app", "password": "secret"}], "qps_limit": 7}
        await office.ask("POST", "/tenants", body)
        before = office.control.projection.tenant("acme")
        found = (await office.ask("GET", "/tenants/acme")).json()
        assert found["users"] == found["settings"]["users"] == [{"name": "app"}]
        answer = await office.ask("PUT", "/tenants/acme", found)
        assert answer.status_code == 200, answer.text
        after = office.control.projection.tenant("acme")
        assert before is not None
        assert after is not None
        same = {"version"}
        assert before.model_dump(exclude=same) | {"isolation": 0} == after.model_dump(
            exclude=same
        ) | {"isolation": 0}
        assert (before.database, before.schema_name) == (after.database, after.schema_name)
        replaced = (await office.ask("PUT", "/tenants/acme", {"name": "A"})).json()
        assert replaced["rate_limits"]["qps_limit"] == 100
        assert replaced["users"] == [{"name": "app"}]  # users are not lost by saying nothing

    in_office(nats_server, test)


def test_a_dry_run_changes_nothing(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        await office.ask("POST", "/tenants", {"id": "acme"})
        at = await office.control.log.last_sequence()
        dry = {"dry_run": "true"}
        for method, path, body in (
            ("POST", "/tenants", {"id": "other"}),
            ("PATCH", "/tenants/acme", {"name": "x"}),
            ("PUT", "/tenants/acme", {"name": "x"}),
            ("PUT", "/tenants/acme/limits", {"qps_limit": 3}),
            ("PUT", "/tenants/acme/users/app", {"password": "x"}),
            ("POST", "/tenants/acme/users", {"name": "app", "password": "x"}),
            ("POST", "/tenants/acme/disable", None),
            ("DELETE", "/tenants/acme", None),
            ("PUT", "/tiers/gold", {"qps_limit": 3}),
            ("PATCH", "/defaults", {"qps_limit": 3}),
            ("PUT", "/operators/eve", {"role": "viewer"}),
            ("POST", "/tokens", {"name": "eve", "role": "viewer"}),
        ):
            answer = await office.ask(method, path, body, params=dry)
            assert answer.status_code == 200, (path, answer.text)
            assert answer.json()["dry_run"] is True
            assert answer.json()["events"], path
            assert "token" not in answer.json()
        assert await office.control.log.last_sequence() == at
        wrong = await office.ask("POST", "/tenants", {"id": "acme"}, params=dry)
        assert wrong.status_code == 409

    in_office(nats_server, test)


def test_no_verifier_leaves_by_any_way(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        users = [{"name": "app", "password": "hunter2-secret"}]
        answers = [await office.ask("POST", "/tenants", {"id": "acme", "users": users})]
        answers.append(
            await office.ask("PUT", "/tenants/acme/users/two", {"password": "hunter2-secret"})
        )
        for path in (
            "/tenants",
            "/tenants/acme",
            "/tenants/acme/users",
            "/tenants/acme?at=now",
            "/tenants/acme/diff?from=2020-01-01",
            "/events",
            "/events/1",
            "/config",
            "/tokens",
        ):
            answers.append(await office.ask("GET", path))
        dry = {"name": "x", "password": "hunter2-secret"}
        answers.append(await office.ask("POST", "/tenants/acme/users?dry_run=true", dry))
        for answer in answers:
            assert answer.status_code < 300, (answer.url, answer.text)
            assert "SCRAM-SHA-256$" not in answer.text, answer.url
            assert "hunter2" not in answer.text
        assert (await office.ask("GET", "/tenants/acme/users")).json() == {
            "users": [{"name": "app"}, {"name": "two"}]
        }
        wrong = {"name": "x", "password": ["hunter2-secret"]}
        assert "hunter2" not in (await office.ask("POST", "/tenants/acme/users", wrong)).text
        bad = await office.client.post("/tenants", content=b'{"password": "hunter2-secret" oops')
        assert "hunter2" not in bad.text
        assert "hunter2" not in json.dumps(office.notes.taken)

    in_office(nats_server, test)


def test_the_same_password_again_changes_nothing(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        await office.ask("POST", "/tenants", {"id": "acme"})
        for expected in (2, 2):
            done = await office.ask("PUT", "/tenants/acme/users/app", {"password": "secret"})
            assert done.status_code == 204
            assert await office.control.log.last_sequence() == expected
        await office.ask("DELETE", "/tenants/acme/users/app")
        gone = await office.ask("DELETE", "/tenants/acme/users/app")
        assert gone.status_code == 404

    in_office(nats_server, test)


def test_pages_are_complete_and_in_order(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        ids = [f"t{number:02}" for number in range(25)]
        for id in reversed(ids):
            await office.control.commander.execute(PutTenant(id=id), "test")
        found: list[str] = []
        path = "/tenants?limit=10"
        pages = 0
        while path:
            answer = await office.ask("GET", path)
            found += [each["id"] for each in answer.json()["tenants"]]
            link = answer.headers.get("link", "")
            path = link[1 : link.index(">")] if link else ""
            pages += 1
        assert (found, pages) == (ids, 3)
        stats = (await office.ask("GET", "/tenants/stats?limit=5&cursor=t04")).json()
        assert [each["tenant"] for each in stats["tenants"]] == ids[5:10]
        assert stats["total"]["tenants"] == 25

    in_office(nats_server, test)


def test_a_tenant_named_stats_is_reached(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        made = await office.ask("POST", "/tenants", {"id": "stats", "name": "S"})
        assert made.headers["location"] == "/tenants/~stats"
        assert (await office.ask("GET", "/tenants/~stats")).json()["id"] == "stats"
        assert "total" in (await office.ask("GET", "/tenants/stats")).json()
        assert (await office.ask("GET", "/tenants/stats/stats")).json()["tenant"] == "stats"
        patched = await office.ask("PATCH", "/tenants/stats", {"name": "T"})
        assert patched.json()["name"] == "T"
        assert (await office.ask("DELETE", "/tenants/stats")).status_code == 204

    in_office(nats_server, test)


def test_a_tenant_comes_and_goes(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        await office.ask("POST", "/tenants", {"id": "acme"})
        assert (await office.ask("GET", "/tenants/acme")).json()["status"] == "pending"
        off = await office.ask("POST", "/tenants/acme/disable")
        assert (off.json()["enabled"], off.json()["status"]) == (False, "disabled")
        assert (await office.ask("POST", "/tenants/acme/enable")).json()["enabled"] is True
        assert (await office.ask("DELETE", "/tenants/acme")).status_code == 204
        gone = await office.ask("GET", "/tenants/acme")
        assert gone.status_code == 404
        assert "POST /tenants/acme/restore" in gone.json()["errors"][0]["hint"]
        back = await office.ask("POST", "/tenants/acme/restore")
        assert back.json()["enabled"] is True
        early = await office.ask("POST", "/tenants/acme/purge")
        assert early.status_code == 422
        await office.ask("DELETE", "/tenants/acme")
        purged = await office.ask("POST", "/tenants/acme/purge", params={"force": "true"})
        assert purged.status_code == 204
        assert (await office.ask("POST", "/tenants/acme/restore")).status_code == 422
        assert (await office.ask("POST", "/tenants", {"id": "acme"})).status_code == 409

    in_office(nats_server, test)


# --- roles ---------------------------------------------------------------------------------------


def test_what_each_role_may(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        for id in ("acme", "zeta"):
            await office.ask("POST", "/tenants", {"id": id})
        limits = ("PATCH", "/tenants/acme", {"qps_limit": 9})
        notes = ("PATCH", "/tenants/acme", {"metadata": {"a": "b"}})
        async with office.as_role("viewer") as viewer:
            assert (await viewer.get("/tenants/acme")).status_code == 200
            assert (await viewer.get("/config")).status_code == 200
            for method, path, body in (limits, notes, ("POST", "/tenants", {"id": "x"})):
                answer = await viewer.request(method, path, json=body)
                assert answer.status_code == 403
            mint = await viewer.post("/tokens", json={"name": "me", "role": "operator"})
            assert mint.status_code == 403
            assert "token" not in mint.json()
        async with office.as_role("tenant-admin", "acme") as admin:
            assert (await admin.get("/tenants/acme")).status_code == 200
            assert (await admin.get("/tenants/acme/stats")).status_code == 200
            assert (await admin.get("/tenants")).json()["total"] == 1
            assert (await admin.request(notes[0], notes[1], json=notes[2])).status_code == 200
            body = {"password": "secret"}
            assert (await admin.put("/tenants/acme/users/u", json=body)).status_code == 204
            for method, path, sent in (
                limits,
                ("GET", "/tenants/zeta", None),
                ("GET", "/tenants/nothing", None),  # whether it is there is not told
                ("GET", "/tenants/zeta/stats", None),
                ("PUT", "/tenants/zeta/users/u", {"password": "secret"}),
                ("GET", "/tenants/stats", None),
                ("GET", "/metrics", None),
                ("GET", "/analytics/cross-tenant", None),
                ("GET", "/analytics/history?tenant=zeta", None),
                ("GET", "/events?tenant=zeta", None),
                ("GET", "/events?kind=token", None),
                ("GET", "/audit?tenant=zeta", None),
                ("GET", "/audit/verify", None),
                ("GET", "/tiers", None),
                ("GET", "/operators", None),
                ("GET", "/tokens", None),
                ("GET", "/config", None),
                ("POST", "/tenants/acme/disable", None),
                ("DELETE", "/tenants/acme", None),
            ):
                answer = await admin.request(method, path, json=sent)
                assert answer.status_code == 403, (method, path, answer.text)
        kinds = {note["kind"] for note in office.notes.taken if note["outcome"] == "refused"}
        assert kinds == {"command", REFUSAL}

    in_office(nats_server, test)


def test_a_revoked_token_and_a_shut_out_operator_are_refused(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        body = {"name": "eve", "role": "operator", "ttl": "1h"}
        made = (await office.ask("POST", "/tokens", body)).json()
        async with office.as_token(made["token"]) as eve:
            assert (await eve.get("/tenants")).status_code == 200
            down = await office.ask("PUT", "/operators/eve", {"role": "viewer"})
            assert down.status_code == 204
            assert (await eve.post("/tenants", json={"id": "a"})).status_code == 403
            await office.ask("PUT", "/operators/eve", {"role": "operator", "disabled": True})
            out = await eve.get("/tenants")
            assert (out.status_code, out.headers["www-authenticate"]) == (
                401,
                'Bearer realm="tenantry"',
            )
            await office.ask("PUT", "/operators/eve", {"role": "operator"})
            assert (await eve.get("/tenants")).status_code == 200
            assert (await office.ask("DELETE", f"/tokens/{made['jti']}")).status_code == 204
            assert (await eve.get("/tenants")).status_code == 401
        listed = (await office.ask("GET", "/tokens")).json()["tokens"]
        assert [each["jti"] for each in listed if each["revoked"]] == [made["jti"]]

    in_office(nats_server, test)


def test_statistics_over_all_tenants_are_a_switch(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        await office.ask("POST", "/tenants", {"id": "acme"})
        for path in ("cross-tenant", "top", "costs", "noisy-neighbours", "limits", "history"):
            assert (await office.ask("GET", f"/analytics/{path}")).status_code == 403, path
        one = {"tenant": "acme"}
        for path in ("costs", "limits", "history"):
            answer = await office.ask("GET", f"/analytics/{path}", params=one)
            assert answer.status_code == 200, path
        await office.configure(cross_tenant_analytics=True, events={"embedded": True})
        assert (await office.ask("GET", "/analytics/cross-tenant")).json()["summary"] == {
            "total_tenants": 1,
            "active_tenants": 0,
            "total_qps": 0,
        }

    in_office(nats_server, test)


def test_tiers_and_defaults(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        free = {"rate_limits": {"requests_per_second": 100, "burst": 200}, "features": {"x": False}}
        made = await office.ask("PUT", "/tiers/free", free)
        assert made.json()["settings"]["rate_limits"] == {"burst_multiplier": 2, "qps_limit": 100}
        await office.ask("POST", "/tenants", {"id": "acme", "tier": "free"})
        changed = await office.ask("PATCH", "/tiers/free", {"qps_limit": 50})
        assert changed.json()["tenants"] == 1
        found = (await office.ask("GET", "/tenants/acme")).json()
        assert found["rate_limits"]["qps_limit"] == 50
        assert (await office.ask("DELETE", "/tiers/free")).status_code == 422
        assert (await office.ask("PATCH", "/tiers/none", {"qps_limit": 5})).status_code == 404
        stale = {"If-Match": made.headers["etag"]}
        late = await office.ask("PATCH", "/tiers/free", {"qps_limit": 51}, headers=stale)
        assert late.status_code == 412
        await office.configure(events={"embedded": True})
        await office.ask("PATCH", "/defaults", {"max_connections": 33})
        found = (await office.ask("GET", "/tenants/acme")).json()
        assert found["rate_limits"]["max_connections"] == 33

    in_office(nats_server, test)


def test_tiers_and_defaults_say_what_has_no_effect(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        await office.configure(events={"embedded": True})
        free = {"rate_limits": {"requests_per_second": 100}, "quotas": {"bandwidth": "1GB/month"}}
        for path in ("/tiers/free", "/defaults"):
            for method, params in (("PUT", {"dry_run": "true"}), ("PUT", {}), ("PATCH", {})):
                answer = await office.ask(method, path, free, params=params)
                assert answer.status_code == 200, answer.text
                assert [each["path"] for each in answer.json()["ignored"]] == ["quotas"]
            # A burst counts from the rate that is there already.
            more = await office.ask("PATCH", path, {"rate_limits": {"burst": 300}})
            assert more.status_code == 200, more.text
        assert (await office.ask("GET", "/defaults")).json() == {
            "rate_limits": {"burst_multiplier": 3, "qps_limit": 100}
        }

    in_office(nats_server, test)


def test_settings_in_the_wrong_place_do_not_become_nothing(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        limits = {"rate_limits": {"qps_limit": 7}}
        await office.ask("POST", "/tenants", {"id": "acme", **limits})
        for method, path in (
            ("PUT", "/tenants/acme"),
            ("PATCH", "/tenants/acme"),
            ("POST", "/tenants"),
            ("PUT", "/defaults"),
        ):
            body = {"settings": limits} | ({"id": "b"} if method == "POST" else {})
            answer = await office.ask(method, path, body)
            assert answer.status_code == 422, (path, answer.text)
            assert errors(answer) == {"settings": "is not known here"}
        # Of a tier they are what GET answers, and mean what they say.
        made = await office.ask("PUT", "/tiers/gold", {"name": "gold", "settings": limits})
        assert made.json()["settings"] == limits
        found = (await office.ask("GET", "/tiers/gold")).json()
        back = await office.ask("PUT", "/tiers/gold", found)
        assert (back.status_code, back.json()) == (200, found)
        both = await office.ask("PUT", "/tiers/gold", {**found, "qps_limit": 8})
        assert both.status_code == 422
        other = await office.ask("PUT", "/tiers/gold", {"name": "free", **limits})
        assert errors(other) == {"name": "is not gold, which the address names"}

    in_office(nats_server, test)


def test_a_tenant_as_it_was_can_be_put_back(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        await office.ask("POST", "/tenants", {"id": "acme", "qps_limit": 7, "upstream": "x"})
        then = (await office.ask("GET", "/tenants/acme", params={"at": "now"})).json()
        changed = await office.ask("PATCH", "/tenants/acme", {"qps_limit": 9, "upstream": "y"})
        assert changed.json()["ignored"]
        back = await office.ask("PUT", "/tenants/acme", then)
        assert back.status_code == 200, back.text
        assert back.json()["rate_limits"]["qps_limit"] == 7
        assert (await office.ask("PUT", "/tenants/acme", changed.json())).status_code == 200

    in_office(nats_server, test)


def test_nats_away_is_said(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        await office.ask("POST", "/tenants", {"id": "acme"})
        office.server._backend._control = lambda: None  # as while it is replaced
        assert (await office.ask("GET", "/healthz")).status_code == 200
        ready = await office.ask("GET", "/readyz")
        assert (ready.status_code, ready.json()["ready"]) == (503, False)
        answer = await office.ask("GET", "/tenants")
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert answer.headers["retry-after"] == "1"

    in_office(nats_server, test)
