"""Whatever goes wrong is told in one shape: problem details (RFC 9457), as OpenAPI says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
from support.api import FAST, Office, in_office
from support.engines import Nats
from support.nats import NatsServer

from admin.api import described, limits
from admin.api.limits import Rate, Rates
from admin.api.problems import TITLES

SHAPE = jsonschema_rs.Draft202012Validator(described.PROBLEM)


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The body, when all of it is as it must be."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    SHAPE.validate(body)
    assert body["status"] == status
    assert body["code"] == code
    assert body["type"] == f"urn:tenantry:problem:{code}"
    assert body["title"] == TITLES[code]
    assert body["instance"] == answer.request.url.path
    assert body["detail"]
    if status in (429, 503):
        assert int(answer.headers["retry-after"]) >= 1
    return body


LARGE = b'{"name":"' + b"a" * limits.BODY_BYTES_MAX + b'"}'
# Method, path, what goes with it, status, code.
WRONG: list[tuple[str, str, dict[str, Any], int, str]] = [
    ("GET", "/nothing", {}, 404, "missing"),
    ("GET", "/tenants/none", {}, 404, "missing"),
    ("GET", "/tenants/NONE", {}, 404, "missing"),
    ("GET", "/events/99", {}, 404, "missing"),
    ("PATCH", "/tiers/none", {"json": {}}, 404, "missing"),
    ("DELETE", "/operators/none", {}, 404, "missing"),
    ("POST", "/tenants/acme", {}, 405, "method"),
    ("DELETE", "/tenants", {}, 405, "method"),
    ("OPTIONS", "/tenants", {}, 405, "method"),
    ("TRACE", "/healthz", {}, 405, "method"),
    ("PATCH", "/tenants/acme", {"content": b"{"}, 400, "malformed"),
    ("PATCH", "/tenants/acme", {"content": b"[]"}, 400, "malformed"),
    ("GET", "/tenants?token=x", {}, 400, "malformed"),
    ("GET", "/tenants", {"headers": {"Authorization": "Bearer x"}}, 401, "unauthenticated"),
    ("GET", "/tenants", {"headers": {"Authorization": "Basic eDp5"}}, 401, "unauthenticated"),
    ("GET", "/tenants", {"headers": {"Origin": "https://evil.example"}}, 403, "forbidden"),
    ("GET", "/analytics/cross-tenant", {}, 403, "forbidden"),
    ("POST", "/tenants", {"json": {"id": "acme"}}, 409, "exists"),
    ("DELETE", "/tenants/acme", {"headers": {"If-Match": '"99"'}}, 412, "changed"),
    ("PATCH", "/tenants/acme", {"content": LARGE}, 413, "too_large"),
    ("GET", "/tenants/" + "a" * limits.PATH_BYTES_MAX, {}, 414, "too_large"),
    (
        *("PATCH", "/tenants/acme", {"content": b"a: b", "headers": {"Content-Type": "text/yaml"}}),
        *(415, "media_type"),
    ),
    ("GET", "/tenants", {"headers": {"Host": "evil.example"}}, 421, "misdirected"),
    ("PATCH", "/tenants/acme", {"json": {"qps_limit": "many"}}, 422, "refused"),
    ("GET", "/tenants?limit=0", {}, 422, "refused"),
    ("GET", "/tenants?limt=1", {}, 422, "refused"),
    ("GET", "/tenants/acme?at=someday", {}, 422, "refused"),
    ("GET", "/events", {"headers": {"Tenantry-After": "99"}}, 422, "refused"),
    (
        *("PATCH", "/tenants/acme", {"json": {}, "headers": {"Idempotency-Key": "a b"}}),
        *(422, "refused"),
    ),
    (
        *("GET", "/tenants", {"headers": {f"X-{n}": "y" for n in range(limits.HEADERS_MAX)}}),
        *(431, "too_large"),
    ),
]


def test_every_mistake_has_one_shape(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        await office.ask("POST", "/tenants", {"id": "acme"})
        for method, path, more, status, code in WRONG:
            body = problem(await office.client.request(method, path, **more), status, code)
            # All that is wrong, each with its place, where there is a place.
            assert bool(body["errors"]) == (status == 422) or status in (400, 404, 409, 412)
        allowed = await office.client.request("POST", "/tenants/acme")
        assert allowed.headers["allow"] == "DELETE, GET, PATCH, PUT"
        told = await office.client.patch(
            "/tenants/acme", content=b"a", headers={"Content-Type": "a/b"}
        )
        assert "application/json" in told.headers["accept"]

    in_office(nats_server, test)


def test_each_status_of_the_description_is_tried() -> None:
    tried = {status for *_, status, _ in WRONG}
    # Those three below.
    assert tried | {408, 429, 503} == {*described.PROBLEMS, 405}


def test_too_many_requests(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        assert (await office.ask("GET", "/version")).status_code == 200
        problem(await office.ask("GET", "/version"), 429, "busy")

    in_office(nats_server, test, rates=Rates(FAST, Rate(0.01, 1), FAST))


def test_a_body_that_does_not_come(nats_server: Nats, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("admin.api.bodies.BODY_SECONDS", 0.1)

    async def test(office: Office) -> None:
        reader, writer = await asyncio.open_connection(office.server.host, office.server.port)
        writer.write(
            b"PATCH /tenants/acme HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n"
            b"Authorization: Bearer %b\r\n\r\n{" % office.token.encode()
        )
        async with asyncio.timeout(20):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        assert head.startswith(b"HTTP/1.1 408 ")
        SHAPE.validate(json.loads(body))
        assert json.loads(body)["code"] == "timeout"

    in_office(nats_server, test)


def test_what_fails_here_tells_nothing_of_us(
    nats_server: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(office: Office) -> None:
        def fail(*_: object) -> Any:
            raise RuntimeError("the innermost secret")

        monkeypatch.setattr(office.backend, "page", fail)
        answer = await office.ask("GET", "/tenants")
        problem(answer, 500, "failed")
        assert "innermost" not in answer.text
        monkeypatch.undo()
        assert (await office.ask("GET", "/tenants")).status_code == 200

    in_office(nats_server, test)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def test_the_log_cannot_be_reached(own_server: NatsServer) -> None:
    async def test(office: Office) -> None:
        made = await office.ask("POST", "/tenants", {"id": "acme"})
        assert made.status_code == 201
        own_server.kill()
        key = {"Idempotency-Key": "while-it-is-away"}
        change = office.ask("PATCH", "/tenants/acme", {"name": "A"}, headers=key)
        past = (
            *("/events", "/events/1", "/tenants/acme?at=1%20minute%20ago", "/audit"),
            *("/audit/verify", "/tenants/acme/diff?from=2020-01-01"),
        )
        told, *read = await asyncio.gather(change, *(office.ask("GET", path) for path in past))
        body = problem(told, 503, told.json()["code"])
        assert body["code"] in ("unavailable", "unknown")
        assert body["command_id"] == "while-it-is-away"
        for answer in read:
            problem(answer, 503, answer.json()["code"])
        # What is known goes on being told.
        assert (await office.ask("GET", "/tenants/acme")).json()["name"] == ""
        assert (await office.ask("GET", "/healthz")).status_code == 200
        own_server.start()
        async with asyncio.timeout(40):
            while True:
                again = await office.ask("PATCH", "/tenants/acme", {"name": "A"}, headers=key)
                if again.status_code == 200:
                    break
                problem(again, 503, again.json()["code"])
        assert again.json()["name"] == "A"
        listed = (await office.ask("GET", "/events?tenant=acme")).json()["events"]
        assert [each["sequence"] for each in listed] == [2, 1]

    in_office(own_server, test)
