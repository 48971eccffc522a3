"""Operators and tokens over HTTP: roles, SQL passwords and tenants of operators, pages."""

from __future__ import annotations

import asyncio
import json

from support.api import Office, in_office
from support.engines import Nats

from events.facts import KIND_OPERATOR
from wire.postgres.scram import make_verifier, verify_password


def scram_of(office: Office, name: str) -> str:
    found = office.control.projection.named(KIND_OPERATOR, name)
    assert found is not None
    return str(found.settings.get("scram", ""))


def test_an_operator_gets_a_password_for_sql_and_tenants(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        body = {"role": "operator", "tenants": ["acme", "globex"], "password": "hunter2-secret"}
        made = await office.ask("PUT", "/operators/ann@example.org", body)
        assert made.status_code == 204, made.text
        assert verify_password("hunter2-secret", scram_of(office, "ann@example.org"))
        found = await office.ask("GET", "/operators/ann@example.org")
        assert found.json() == {
            "name": "ann@example.org",
            "role": "operator",
            "disabled": False,
            "sql": True,
            "tenants": ["acme", "globex"],
            "version": 1,
        }
        assert found.headers["etag"] == made.headers["etag"] == '"1"'
        # The same again is no change: the verifier that fits is kept.
        assert (await office.ask("PUT", "/operators/ann@example.org", body)).status_code == 204
        assert await office.control.log.last_sequence() == 1

        # What is not named stays; what GET answers can be sent back.
        down = {**found.json(), "role": "viewer"}
        done = await office.ask("PUT", "/operators/ann@example.org", down)
        assert (done.status_code, done.headers["etag"]) == (204, '"2"')
        assert verify_password("hunter2-secret", scram_of(office, "ann@example.org"))
        late = {"If-Match": '"1"'}
        fast = await office.ask("PUT", "/operators/ann@example.org", body, headers=late)
        assert (fast.status_code, fast.json()["code"]) == (412, "changed")

        verifier = make_verifier("other")
        body = {"role": "viewer", "scram": verifier, "tenants": ["*"]}
        assert (await office.ask("PUT", "/operators/ann@example.org", body)).status_code == 204
        assert scram_of(office, "ann@example.org") == verifier
        body = {"role": "viewer", "scram": "", "tenants": []}
        assert (await office.ask("PUT", "/operators/ann@example.org", body)).status_code == 204
        found = await office.ask("GET", "/operators/ann@example.org")
        assert (found.json()["sql"], found.json()["tenants"]) == (False, [])
        assert (await office.ask("DELETE", "/operators/ann@example.org")).status_code == 204
        assert (await office.ask("GET", "/operators/ann@example.org")).status_code == 404

    in_office(nats_server, test)


def test_what_is_wrong_with_an_operator_is_told(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        verifier = make_verifier("secret")
        for body, path in (
            ({}, "role"),
            ({"role": "tenant-admin"}, "role"),
            ({"role": "viewer", "scram": "secret"}, "scram"),
            ({"role": "viewer", "password": ""}, "password"),
            ({"role": "viewer", "password": "a", "scram": verifier}, "password"),
            ({"role": "viewer", "tenants": ["ACME"]}, "tenants.0"),
            ({"role": "viewer", "tenants": "acme"}, "tenants"),
            ({"role": "viewer", "command_id": "x"}, "command_id"),
            ({"role": "viewer", "name": "bob"}, "name"),
        ):
            answer = await office.ask("PUT", "/operators/ann", body)
            assert answer.status_code == 422, (body, answer.text)
            assert path in {each["path"] for each in answer.json()["errors"]}, answer.text
            assert "SCRAM-SHA-256$" not in answer.text
        assert (await office.ask("PUT", "/operators/a b", {"role": "viewer"})).status_code == 422
        assert await office.control.log.last_sequence() == 0

    in_office(nats_server, test)


def test_no_verifier_of_an_operator_leaves(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        body = {"role": "operator", "password": "hunter2-secret"}
        await office.ask("PUT", "/operators/ann", body)
        dry = await office.ask("PUT", "/operators/bob?dry_run=true", body)
        assert dry.json()["events"][0]["data"]["role"] == "operator"
        answers = [dry]
        for path in ("/operators", "/operators/ann", "/events", "/events/1"):
            answers.append(await office.ask("GET", path))
        for answer in answers:
            assert answer.status_code == 200, (answer.url, answer.text)
            assert "SCRAM-SHA-256$" not in answer.text, answer.url
            assert "hunter2" not in answer.text
        assert "hunter2" not in json.dumps(office.notes.taken)

    in_office(nats_server, test)


def test_a_token_of_elsewhere_is_noted_and_revoked(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        token, noted = office.control.service.signer.make("eve", "tenant-admin", tenant="acme")
        fields = noted.model_dump(include={"name", "role", "tenant", "issued_at", "expires_at"})
        path = f"/tokens/{noted.jti}"
        assert (await office.ask("PUT", path, fields)).status_code == 204
        again = await office.ask("PUT", path, fields)
        assert again.status_code == 422
        assert again.json()["errors"][0]["message"] == "was issued or revoked before"
        rows = (await office.ask("GET", "/tokens")).json()["tokens"]
        assert rows == [{"jti": noted.jti, **fields, "revoked": False}]
        async with office.as_token(token) as eve:
            assert (await eve.get("/tenants")).status_code == 200
            assert (await office.ask("DELETE", path)).status_code == 204
            assert (await eve.get("/tenants")).status_code == 401
        wrong = await office.ask("PUT", "/tokens/another-one", {"name": "eve", "jti": "x"})
        assert {each["path"] for each in wrong.json()["errors"]} == {"jti"}

        # One that was never noted is revoked until it expires.
        token, other = office.control.service.signer.make("eve", "viewer")
        unknown = await office.ask("DELETE", f"/tokens/{other.jti}")
        assert unknown.status_code == 404
        until = {"expires_at": str(other.expires_at)}
        done = await office.ask("DELETE", f"/tokens/{other.jti}", params=until)
        assert done.status_code == 204
        async with office.as_token(token) as eve:
            assert (await eve.get("/tenants")).status_code == 401

    in_office(nats_server, test)


def test_operators_tokens_and_tiers_have_pages(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        names = [f"n{number}" for number in range(5)]
        for name in reversed(names):
            await office.ask("PUT", f"/operators/{name}", {"role": "viewer"})
            await office.ask("PUT", f"/tiers/{name}", {"qps_limit": 5})
            await office.ask("POST", "/tokens", {"name": name, "role": "viewer"})
        for kind, key in (("operators", "name"), ("tiers", "name"), ("tokens", "jti")):
            found: list[str] = []
            sizes: list[int] = []
            path = f"/{kind}?limit=2"
            while path:
                answer = await office.ask("GET", path)
                rows = answer.json()[kind]
                assert answer.json()["total"] == 5
                found += [each[key] for each in rows]
                sizes.append(len(rows))
                link = answer.headers.get("link", "")
                path = link[1 : link.index(">")] if link else ""
            assert (sizes, len(set(found)), found) == ([2, 2, 1], 5, sorted(found))

    in_office(nats_server, test)


def test_no_other_tenants_admin_hears_what_there_is(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        await office.ask("POST", "/tenants", {"id": "acme"})
        await office.ask("PUT", "/tiers/gold", {"qps_limit": 5})
        async with office.as_role("tenant-admin", "acme") as admin:
            for method, path, body in (
                ("PATCH", "/tiers/gold", {"qps_limit": 6}),
                ("PATCH", "/tiers/none", {"qps_limit": 6}),
                ("PATCH", "/tiers/gold", {"nothing": 6}),
                ("POST", "/tenants", {"id": "acme"}),
                ("POST", "/tenants", {"id": "other", "nothing": 1}),
                ("DELETE", "/tokens/no-such-token", None),
            ):
                answer = await admin.request(method, path, json=body)
                assert answer.status_code == 403, (path, answer.text)

    in_office(nats_server, test)


def test_one_of_two_makes_what_is_to_be_made_once(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        new = {"If-None-Match": "*"}
        for path, body in (
            ("/tenants/acme", {"name": "A"}),
            ("/tiers/gold", {"qps_limit": 5}),
            ("/operators/bob", {"role": "viewer"}),
        ):
            both = await asyncio.gather(
                *(office.ask("PUT", path, body, headers=new) for _ in range(2))
            )
            assert sorted(each.status_code for each in both)[1] == 412, path
            assert min(each.status_code for each in both) < 300
        for odd in ({"If-None-Match": '"1"'}, {**new, "If-Match": '"1"'}):
            answer = await office.ask("PUT", "/tiers/gold", {"qps_limit": 6}, headers=odd)
            assert answer.status_code == 422

    in_office(nats_server, test)
