"""The log over HTTP: listed, as it comes, as of a time, taken back."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from support.api import Office, in_office
from support.engines import Nats

from admin.api import routes_log
from events.commands import ChangeTenant, PutTenant

SSE = {"Accept": "text/event-stream"}


async def changed(office: Office, times: int = 3) -> None:
    """Events 1 to 2 * times + 1: acme, beta and what happens to acme."""
    await office.ask("POST", "/tenants", {"id": "acme"})
    for number in range(times):
        await office.ask("PATCH", "/tenants/acme", {"qps_limit": number + 1})
        await office.ask("POST", "/tenants", {"id": f"other{number}"})


def sequences(answer: httpx.Response) -> list[int]:
    assert answer.status_code == 200, answer.text
    return [each["sequence"] for each in answer.json()["events"]]


def test_events_are_listed_and_filtered(nats_server: Nats, monkeypatch: pytest.MonkeyPatch) -> None:
    # As if each of these few were many.
    monkeypatch.setattr(routes_log, "WINDOW", 2)

    async def test(office: Office) -> None:
        await changed(office)

        async def ask(**params: Any) -> list[int]:
            return sequences(await office.ask("GET", "/events", params=params))

        assert await ask() == [7, 6, 5, 4, 3, 2, 1]
        assert await ask(order="asc") == [1, 2, 3, 4, 5, 6, 7]
        assert await ask(limit=2) == [7, 6]
        assert await ask(limit=2, cursor=5) == [5, 4]
        assert await ask(tenant="acme") == [6, 4, 2, 1]
        assert await ask(tenant="acme", limit=2, order="asc") == [1, 2]
        assert await ask(type="TenantCreated", order="asc") == [1, 3, 5, 7]
        assert await ask(actor="nobody") == []
        assert await ask(kind="tier") == []
        assert await ask(after=5, order="asc") == [6, 7]
        assert await ask(since="1h") == [7, 6, 5, 4, 3, 2, 1]
        assert await ask(until="2020-01-01") == []
        up = list(range(1, 8))
        for limit, order, whole in ((2, "asc", up), (1, "asc", up), (1, "desc", up[::-1])):
            found: list[int] = []
            path = f"/events?limit={limit}&order={order}"
            while path:
                answer = await office.ask("GET", path)
                found += sequences(answer)
                link = answer.headers.get("link", "")
                path = link[1 : link.index(">")] if link else ""
            assert found == whole
        one = (await office.ask("GET", "/events/2")).json()
        assert one["events"][0]["data"] == {"changes": {"rate_limits": {"qps_limit": 1.0}}}
        assert (await office.ask("GET", "/events/99")).status_code == 404
        wrong = await office.ask("GET", "/events", params={"since": "someday"})
        assert wrong.json()["errors"][0]["path"] == "since"

    in_office(nats_server, test)


class Listener:
    """A reader of server-sent events."""

    def __init__(self, lines: Any) -> None:
        self._lines = lines

    async def next(self) -> tuple[int, dict[str, Any]]:
        """The next event with data."""
        id = 0
        async with asyncio.timeout(10):
            async for line in self._lines:
                if line.startswith("id: "):
                    id = int(line[4:])
                elif line.startswith("data: "):
                    return id, json.loads(line[6:])
        raise AssertionError("the stream ended")


def test_events_are_heard_as_they_come(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        await changed(office)
        async with office.client.stream("GET", "/events", headers=SSE) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            heard = Listener(stream.aiter_lines())
            await asyncio.sleep(0.1)  # until it listens
            await office.ask("PATCH", "/tenants/acme", {"qps_limit": 77})
            id, event = await heard.next()
            assert (id, event["sequence"], event["actor"]) == (8, 8, "ann")
        # Nothing is lost between two connections.
        again = {**SSE, "Last-Event-ID": "5"}
        async with office.client.stream("GET", "/events", headers=again) as stream:
            heard = Listener(stream.aiter_lines())
            assert [(await heard.next())[0] for _ in range(3)] == [6, 7, 8]
        only = {"tenant": "acme", "after": "1"}
        async with office.client.stream("GET", "/events", headers=SSE, params=only) as stream:
            heard = Listener(stream.aiter_lines())
            assert [(await heard.next())[0] for _ in range(4)] == [2, 4, 6, 8]
        async with (
            office.as_role("tenant-admin", "acme") as admin,
            admin.stream("GET", "/events?after=0", headers=SSE) as stream,
        ):
            heard = Listener(stream.aiter_lines())
            assert {(await heard.next())[1]["id"] for _ in range(5)} == {"acme"}
        async with asyncio.timeout(10):
            while office.backend.streams:
                await asyncio.sleep(0.01)

    in_office(nats_server, test)


def test_where_a_stream_begins(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        await changed(office)
        path = "/events"

        async def refused(headers: dict[str, str], **params: str) -> str:
            asked = {"headers": {**SSE, **headers}, "params": params}
            async with office.client.stream("GET", path, **asked) as answer:
                assert answer.status_code == 422
                body = json.loads(await answer.aread())
            return str(body["errors"][0]["path"])

        # Of a log that is not there (any more): nothing would be heard until it is as long.
        assert await refused({"Last-Event-ID": "1000"}) == "Last-Event-ID"
        assert await refused({}, after="1000") == "after"
        assert await refused({"Last-Event-ID": "x"}) == "Last-Event-ID"
        assert await refused({}, limit="3") == "limit"
        assert await refused({}, order="desc") == "order"
        assert await refused({}, until="now") == "until"
        assert await refused({}, since="someday") == "since"
        whole = {"since": "1h"}
        async with office.client.stream("GET", path, headers=SSE, params=whole) as stream:
            heard = Listener(stream.aiter_lines())
            assert [(await heard.next())[0] for _ in range(7)] == list(range(1, 8))
        # What was heard last counts for more than where it began.
        again = {**SSE, "Last-Event-ID": "5"}
        async with office.client.stream("GET", f"{path}?after=0", headers=again) as stream:
            assert (await Listener(stream.aiter_lines()).next())[0] == 6

    in_office(nats_server, test)


def test_a_stream_ends_with_its_token(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        body = {"name": "eve", "role": "viewer"}
        made = (await office.ask("POST", "/tokens", body)).json()
        async with (
            office.as_token(made["token"]) as eve,
            eve.stream("GET", "/events?after=0", headers=SSE) as stream,
        ):
            lines = stream.aiter_lines()
            assert (await Listener(lines).next())[0] == 1
            await office.ask("DELETE", f"/tokens/{made['jti']}")
            async with asyncio.timeout(10):
                rest = [line async for line in lines]
        assert not any("TokenRevoked" in line for line in rest)

    in_office(nats_server, test)


def test_streams_are_bounded(nats_server: Nats, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes_log, "STREAMS_PER_CALLER_MAX", 1)

    async def test(office: Office) -> None:
        async with office.client.stream("GET", "/events?after=0", headers=SSE) as stream:
            await anext(stream.aiter_lines())
            second = await office.client.get("/events", headers=SSE)
            assert second.status_code == 429
            assert "retry-after" in second.headers

    in_office(nats_server, test)


def test_a_reader_that_takes_nothing_costs_nothing(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        await changed(office, 1)
        reader, writer = await asyncio.open_connection(
            office.server.host, office.server.port, limit=1024
        )
        request = (
            "GET /events?after=0 HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n"
            f"Authorization: Bearer {office.token}\r\n\r\n"
        )
        writer.write(request.encode())
        await writer.drain()
        # Others are served while it lags behind.
        large = {"metadata": {"note": "x" * 100_000}}
        for number in range(20):
            large["metadata"]["n"] = str(number)
            assert (await office.ask("PATCH", "/tenants/acme", large)).status_code == 200
        assert (await office.ask("GET", "/healthz")).status_code == 200
        writer.transport.abort()
        del reader
        async with asyncio.timeout(10):
            while office.backend.streams:
                await asyncio.sleep(0.01)

    in_office(nats_server, test)


# --- the past ------------------------------------------------------------------------------------


def test_a_tenant_as_it_was(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        await changed(office)
        stored = await office.control.log.get(4)
        assert stored is not None
        moment = datetime.fromtimestamp(stored.stored_at / 1e9, UTC).isoformat()
        then = await office.ask("GET", "/tenants/acme", params={"at": moment})
        assert then.json()["rate_limits"]["qps_limit"] == 2
        assert then.json()["as_of_sequence"] == 4
        now = await office.ask("GET", "/tenants/acme")
        assert now.json()["rate_limits"]["qps_limit"] == 3
        diff = await office.ask("GET", "/tenants/acme/diff", params={"from": moment, "to": "now"})
        assert diff.json()["changes"] == [
            {"path": "rate_limits.qps_limit", "before": 2.0, "after": 3.0}
        ]
        before_all = await office.ask("GET", "/tenants/acme", params={"at": "2020-01-01"})
        assert before_all.status_code == 404
        future = await office.ask("GET", "/tenants/acme", params={"at": "2999-01-01"})
        assert future.status_code == 422

    in_office(nats_server, test)


def test_a_change_is_taken_back(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        await changed(office)
        clash = await office.ask("POST", "/tenants/acme/undo", {"sequence": 4})
        assert (clash.status_code, clash.json()["code"]) == (412, "changed")
        done = await office.ask("POST", "/tenants/acme/undo", {"sequence": 6})
        assert done.json()["events"][0]["data"] == {"changes": {"rate_limits": {"qps_limit": 2.0}}}
        again = await office.ask("POST", f"/events/{done.json()['sequence']}/undo")
        assert again.status_code == 200
        found = (await office.ask("GET", "/tenants/acme")).json()
        assert found["rate_limits"]["qps_limit"] == 3
        nothing = await office.ask("POST", "/tenants/acme/undo", {"sequence": 99})
        assert nothing.status_code == 404
        wrong = await office.ask("POST", "/tenants/acme/undo", {"sequence": "x", "of_kind": "tier"})
        assert wrong.status_code == 422

    in_office(nats_server, test)


def test_a_read_can_wait_for_what_was_written_elsewhere(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        made = await office.ask("POST", "/tenants", {"id": "acme"})
        after = {"Tenantry-After": made.headers["tenantry-sequence"]}
        assert (await office.ask("GET", "/tenants/acme", headers=after)).status_code == 200
        future = {"Tenantry-After": "1000"}
        assert (await office.ask("GET", "/tenants/acme", headers=future)).status_code == 422

    in_office(nats_server, test)


def test_the_trace_of_a_request_is_in_the_event(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        await office.ask("POST", "/tenants", {"id": "acme"}, headers={"traceparent": trace})
        odd = {"traceparent": "00-zz\\r\\nNats-Msg-Id: x"}
        assert (await office.ask("POST", "/tenants", {"id": "b"}, headers=odd)).status_code == 201
        stored = await office.control.log.get(1)
        assert stored is not None
        assert "0af7651916cd43dd8448eb211c80319c" in stored.headers["traceparent"]
        assert stored.headers["Tenantry-Surface"] == "http"
        assert office.notes.taken[0]["trace_id"] == "0af7651916cd43dd8448eb211c80319c"

    in_office(nats_server, test)


def test_others_changes_are_read(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        await office.control.commander.execute(PutTenant(id="acme"), "file")
        await office.control.commander.execute(ChangeTenant(id="acme", patch={"name": "A"}), "x")
        assert (await office.ask("GET", "/tenants/acme")).json()["name"] == "A"
        listed = (await office.ask("GET", "/events")).json()["events"]
        assert [each["actor"] for each in listed] == ["x", "file"]

    in_office(nats_server, test)
