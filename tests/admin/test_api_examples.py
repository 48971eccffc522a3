"""The description of the API is true: its examples fit its schemas, and fit what is answered."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from support.api import Office, in_office
from support.engines import Nats

from admin.api.app import build
from admin.api.backend import Backend

DOCS = Path(__file__).resolve().parents[2] / "docs" / "admin-api.md"
JSON = "application/json"


@cache
def document() -> dict[str, Any]:
    app: Any = build(Backend(lambda: None))._app
    found: dict[str, Any] = app.openapi()
    return found


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document()["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


def examples(media: dict[str, Any]) -> list[Any]:
    named = [each["value"] for each in media.get("examples", {}).values()]
    return [*named, *([media["example"]] if "example" in media else [])]


def fits(schema: dict[str, Any]) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(
        {"allOf": [schema], "components": document()["components"]}
    )


ALL = list(operations())
NAMES = [f"{method} {path}" for method, path, _ in ALL]


@pytest.mark.parametrize(("method", "path", "operation"), ALL, ids=NAMES)
def test_everything_has_an_example_that_fits(
    method: str, path: str, operation: dict[str, Any]
) -> None:
    body = operation.get("requestBody", {})
    for status, part in [*operation["responses"].items(), ("request", body)]:
        for kind, media in part.get("content", {}).items():
            assert examples(media), (status, kind)
            for example in examples(media):
                fits(media["schema"]).validate(example)


def test_a_wrong_example_would_be_seen() -> None:
    schema = document()["paths"]["/tenants"]["get"]["responses"]["200"]["content"][JSON]["schema"]
    assert not fits(schema).is_valid({"tenants": [{"id": "acme"}]})
    problem = {"$ref": "#/components/schemas/Problem"}
    assert not fits(problem).is_valid({"status": 404})


# --- what is answered -----------------------------------------------------------------------------

# Objects whose names are data, and lists whose rows have what there is to say.
FREE = {"settings", "metadata", "features", "data", "headers", "limit_hits", "by_limit"}
ROWS = {"history", "installation"}


def unlike(told: Any, answered: Any, path: str = "") -> set[str]:
    """Where an example and an answer have other names."""
    name = path.rpartition(".")[2]
    if isinstance(told, dict) and isinstance(answered, dict):
        # The `data` of statistics is not that of a fact.
        if (name in FREE and "bytes_read" not in told) or name in ROWS:
            return set()
        found = {f"{path}.{key}" for key in set(told) ^ set(answered)}
        for key in set(told) & set(answered):
            found |= unlike(told[key], answered[key], f"{path}.{key}")
        return found
    if isinstance(told, list) and isinstance(answered, list):
        if name in ROWS or not told or not answered:
            return set()
        return unlike(told[0], answered[0], path)
    return set()


# What a path needs besides; {…} are put in their places.
QUERIES = {
    "/tenants/{id}/diff": "from=2020-01-01",
    "/analytics/top": "by=bytes_read",
    "/analytics/history": "tenant=acme",
    "/analytics/costs": "tenant=acme",
    "/analytics/metering": "hours_ago=0",
}
PLACES = {"{id}": "acme", "{sequence}": "2", "{jti}": "a-known-token"}


def place(path: str) -> str:
    for mark, name in PLACES.items():
        path = path.replace(mark, name)
    kinds = {"/tiers": "gold", "/operators": "bob", "/tenants": "appuser"}
    first = "/" + path.split("/")[1]
    query = QUERIES.get(path.replace("/acme", "/{id}"), "")
    return path.replace("{name}", kinds.get(first, "")) + (f"?{query}" if query else "")


async def lived_in(office: Office) -> None:
    """An installation with one of everything."""
    limits = {"qps_limit": 50, "max_connections": 5}
    defaults = {"rate_limits": limits, "pool": {"max_connections": 5}}
    await office.configure(
        cross_tenant_analytics=True, events={"embedded": True}, defaults=defaults
    )
    user = {"name": "appuser", "password": "secret"}
    for method, path, body in (
        ("POST", "/tenants", {"id": "acme", "users": [user]}),
        ("PATCH", "/tenants/acme", {"name": "A"}),
        ("PUT", "/tiers/gold", {"qps_limit": 5}),
        ("PUT", "/operators/bob", {"role": "viewer"}),
        ("POST", "/tokens", {"name": "eve", "role": "viewer"}),
    ):
        answer = await office.ask(method, path, body)
        assert answer.status_code < 300, answer.text
    used: dict[str, Any] = {"queries": 5000, "bytes_out": 10**6, "busy_seconds": 3.0}
    await office.use("acme", **used, limits={"qps": 1}, latency={12: 5000}, clients=1)
    await office.use("zeta", queries=1, busy_seconds=0.1)


def test_answers_have_the_names_of_the_examples(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        await lived_in(office)
        for method, path, operation in operations():
            if method != "GET":
                continue
            answer = await office.ask("GET", place(path))
            assert answer.status_code == 200, (path, answer.text)
            media = operation["responses"]["200"]["content"][JSON]
            fits(media["schema"]).validate(answer.json())
            for example in examples(media):
                assert unlike(example, answer.json()) == set(), path

    in_office(nats_server, test)


def test_requests_of_the_examples_are_accepted(nats_server: Nats) -> None:
    """As dry runs, on an installation that has what they speak of."""

    async def test(office: Office) -> None:
        await lived_in(office)
        await office.ask("PUT", "/tiers/starter", {"qps_limit": 5})
        for _ in range(18):
            body = {"metadata": {"n": str(_)}}
            await office.ask("PATCH", "/tenants/acme", body)
        at = await office.control.log.last_sequence()
        for method, path, operation in operations():
            for kind, media in operation.get("requestBody", {}).get("content", {}).items():
                for example in examples(media):
                    if path == "/tenants/{id}/undo":
                        example = {**example, "sequence": at}
                    where = f"{place(path)}?dry_run=true"
                    answer = await office.client.request(
                        method, where, content=json.dumps(example), headers={"Content-Type": kind}
                    )
                    assert answer.status_code == 200, (method, path, example, answer.text)
                    fits(operation["responses"]["200"]["content"][JSON]["schema"]).validate(
                        answer.json()
                    )
        assert await office.control.log.last_sequence() == at

    in_office(nats_server, test)


# --- the pages for people -------------------------------------------------------------------------


def test_the_page_tells_all_of_it(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        answer = await office.ask("GET", "/docs")
        assert answer.headers["content-type"].startswith("text/html")
        shown = html.unescape(answer.text)
        served = (await office.ask("GET", "/openapi.json")).json()
        assert served == json.loads(json.dumps(document()))
        for method, path, operation in operations():
            start = f"<summary><span class=method>{method}</span> <code>{path}</code>"
            assert shown.count(start) == 1, path
            part = shown.partition(start)[2].partition("</details>")[0]
            assert operation["summary"] in part
            assert operation.get("description", "") in part
            for each in operation.get("parameters", ()):
                assert f"<code>{each['name']}</code>" in part, (path, each["name"])
            contents = [operation.get("requestBody", {}).get("content", {})]
            contents += [
                each.get("content", {})
                for status, each in operation["responses"].items()
                if status.startswith("2")
            ]
            for media in (media for content in contents for media in content.values()):
                for example in examples(media):
                    text = example if isinstance(example, str) else json.dumps(example, indent=2)
                    assert text in part, path
            for status in operation["responses"]:
                assert status in part

    in_office(nats_server, test)


def test_the_document_names_every_endpoint() -> None:
    text = DOCS.read_text()
    rows = re.findall(r"^\| `([A-Z, ]+)` \| `(/[^`]*)` \|", text, re.MULTILINE)
    named = {(method, path) for methods, path in rows for method in methods.split(", ")}
    there = {(method, path) for method, path, _ in operations()}
    pages = {("GET", "/docs"), ("GET", "/openapi.json")}
    assert named == there | pages


def test_parameters_are_described() -> None:
    """The page is all that a newcomer has."""
    for method, path, operation in operations():
        assert operation["summary"], path
        for each in operation.get("parameters", ()):
            known = each["in"] == "path" or each.get("description")
            assert known, (method, path, each["name"])
