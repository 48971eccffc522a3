"""Every documented request of documented_requests.toml, verbatim, gets the documented answer.

Its clock stands at the documented moment, and what was used then is what the documents say, so
that the figures can be compared too.
"""

from __future__ import annotations

import asyncio
import json
import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.api import Office, in_office
from support.engines import Nats

from events.commands import PutTenant

ALL: dict[str, Any] = tomllib.loads(
    Path(__file__).with_name("documented_requests.toml").read_text()
)
REQUESTS: list[dict[str, Any]] = ALL["request"]
NOW = 1_705_314_600.0  # 2024-01-15T10:30:00Z

TENANT_A = {
    "id": "tenant_a", "name": "Acme Corp", "isolation": "database", "database": "tenant_a_db",
    "max_connections": 50, "qps_limit": 1000,
}  # fmt: skip


# --- what there is before -------------------------------------------------------------------------


async def one_tenant(office: Office) -> None:
    assert (await office.ask("POST", "/tenants", TENANT_A)).status_code == 201
    await office.use("tenant_a", at=NOW - 20, queries=145_440)
    await office.use(
        "tenant_a",
        at=NOW,
        queries=4560,
        slow_queries=12,
        rows_out=5_000_000,
        rows_written=50_000,
        bytes_out=1_200_000_000,
        bytes_in=50_000_000,
        clients=25,
        servers=12,
        servers_idle=10,
    )


async def acme(office: Office) -> None:
    assert (await office.ask("POST", "/tenants", {"id": "acme"})).status_code == 201
    await office.use("acme", at=NOW - 20, queries=1_495_000)
    used: dict[str, Any] = {"queries": 5000, "bytes_in": 5 * 10**9, "bytes_out": 40 * 10**9}
    await office.use("acme", at=NOW, clients=250, **used, latency={12: 5000})


async def new_tenant(office: Office) -> None:
    body = {"id": "new-tenant", "name": "New Tenant", "rate_limits": {"requests_per_second": 500}}
    assert (await office.ask("POST", "/tenants", body)).status_code == 201


async def metered(office: Office) -> None:
    await office.configure(cross_tenant_analytics=True, events={"embedded": True})
    assert (await office.ask("POST", "/tenants", {"id": "acme"})).status_code == 201
    used: dict[str, Any] = {"queries": 50_000, "bytes_in": 10**8, "bytes_out": 5 * 10**8}
    await office.use("acme", at=NOW, busy_seconds=25.0, **used)


async def many(office: Office) -> None:
    """87 of 150 are active; together they use 0.65 of their connections and 0.78 of their rates."""
    await office.configure(cross_tenant_analytics=True, events={"embedded": True})
    for number in range(150):
        id = "tenant_a" if not number else f"t{number}"
        clients, qps = (510, 42_792) if not number else (10, 100)
        limits = {"max_connections": clients, "qps_limit": qps}
        await office.control.commander.execute(
            PutTenant(id=id, settings={"rate_limits": limits}), "test"
        )
    await office.use("tenant_a", at=NOW, queries=50_000, clients=45)
    for number in range(1, 87):
        last = number == 86
        clients, queries = (65, 4665) if last else (14, 4651)
        await office.use(f"t{number}", at=NOW, queries=queries, clients=clients)


WORLDS = {
    "tenant_a": one_tenant,
    "150 tenants": many,
    "acme": acme,
    "new-tenant": new_tenant,
    "metered": metered,
}


# --- how answers are compared ---------------------------------------------------------------------


def differences(theirs: Any, ours: Any, path: str = "") -> set[str]:
    """Where `ours` lacks what is documented, is of another type, or has another value."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        found: set[str] = set()
        for name, value in theirs.items():
            below = f"{path}.{name}" if path else name
            found |= differences(value, ours[name], below) if name in ours else {f"no {below}"}
        return found
    if isinstance(theirs, list) and isinstance(ours, list) and len(ours) >= len(theirs):
        pairs = enumerate(zip(theirs, ours, strict=False))
        return {each for at, (a, b) in pairs for each in differences(a, b, f"{path}.{at}")}
    return (
        set() if theirs == ours and isinstance(theirs, bool) == isinstance(ours, bool) else {path}
    )


def at(answer: Any, path: str) -> Any:
    for name in path.split(".") if path else ():
        answer = answer[int(name)] if isinstance(answer, list) else answer[name]
    return answer


def test_differences_are_found() -> None:
    theirs = {"a": 1, "b": [{"c": "x"}], "d": {"e": None}}
    assert differences(theirs, {**theirs, "more": 1}) == set()
    assert differences(theirs, {"a": 1.0, "b": [{"c": "x"}, {}], "d": {"e": None}}) == set()
    assert differences(theirs, {"a": "1", "b": [], "d": {}}) == {"a", "b", "no d.e"}
    assert differences({"a": 1}, {"a": True}) == {"a"}
    assert differences({"a": 0}, []) == {""}


# --- the requests ---------------------------------------------------------------------------------


async def by_curl(office: Office, lines: str, folder: Path) -> tuple[int, str]:
    """What a shell makes of the lines, for an operator who has these in ~/.curlrc."""
    host = office.server.url.removeprefix("http://")
    (folder / ".curlrc").write_text(
        f'silent\nheader = "Authorization: Bearer {office.token}"\n'
        'write-out = "\\n%{http_code}"\n'
        f'connect-to = "localhost:9091:{host}"\nconnect-to = "localhost:9090:{host}"\n'
    )
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", lines),
        env={"CURL_HOME": str(folder), "PATH": "/usr/bin:/bin"},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    body, _, status = out.decode().rpartition("\n")
    return int(status), body


async def sent(office: Office, given: dict[str, Any], folder: Path) -> tuple[int, str]:
    if "curl" in given:
        return await by_curl(office, given["curl"], folder)
    method, _, path = given.get("send", given["shown"]).partition(" ")
    answer: httpx.Response = await office.client.request(method, path, content=given.get("body"))
    return answer.status_code, answer.text


@pytest.mark.parametrize("given", REQUESTS, ids=lambda each: f"{each['spec']} {each['shown']}")
def test_a_documented_request_gets_the_documented_answer(
    given: dict[str, Any], nats_server: Nats, tmp_path: Path
) -> None:
    async def test(office: Office) -> None:
        office.backend.now = lambda: NOW  # type: ignore[method-assign]
        await WORLDS[given["world"]](office)
        status, text = await sent(office, given, tmp_path)
        assert status == given["status"], text
        if "answer" in given:
            theirs, ours = json.loads(given["answer"]), at(json.loads(text), given.get("at", ""))
            assert differences(theirs, ours) == set(given.get("differs", ())), text
        if "holds" in given:
            assert differences(json.loads(given["holds"]), json.loads(text)) == set(), text
        for each in given.get("then", ()):
            later = await office.client.request(*each["request"].split(" "))
            assert later.status_code == each["status"], later.text
            assert differences(json.loads(each.get("holds", "{}")), later.json()) == set()

    in_office(nats_server, test)


def test_the_documented_measures_are_on_the_page(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        await office.configure(telemetry={"metric_prefix": "loom"}, events={"embedded": True})
        await acme(office)
        await office.use("acme", queries=5000, clients=2, latency={12: 5000})
        page = (await office.ask("GET", "/metrics", headers={"Accept": "text/plain"})).text
        there = {line.rpartition(" ")[0] for line in page.splitlines()}
        documented = set(ALL["metrics"]["shown"].split())
        assert documented - there == set(ALL["metrics"]["differs"])
        assert 'loom_tenant_requests_total{tenant="acme"} 1505000' in page

    in_office(nats_server, test)


def test_all_of_the_specification_is_here() -> None:
    """Groups Q and R, as far as they are requests; Q 234 is 236's request, 237 a port."""
    asked = {each["spec"] for each in REQUESTS} | set(ALL["metrics"]["spec"])
    assert asked >= {*range(222, 234), 235, 236, *range(244, 250), 256}
