"""Requests made up from the API's own description: none may fail here, all answers are as told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from support.api import Office, office
from support.engines import Nats

load_all_checks()
# A body that fits the schema may still be refused: the schema does not say which names there are.
BEYOND_A_SCHEMA = {"positive_data_acceptance", "negative_data_rejection"}
# Each needs a second request, and has a test of its own.
OWN_TESTS = {"ignored_auth", "use_after_free", "ensure_resource_availability"}
CHECKED = [
    each
    for name in CHECKS.get_all_names()
    if name not in BEYOND_A_SCHEMA | OWN_TESTS
    for each in CHECKS.get_by_names([name])
]


@contextmanager
def in_thread(url: str) -> Iterator[Office]:
    """An office on a loop of its own: what asks here does not wait for it."""
    loop = asyncio.new_event_loop()
    leave = asyncio.Event()
    ready = threading.Event()
    made: list[Office] = []

    async def run() -> None:
        async with office(url) as opened:
            await opened.configure(cross_tenant_analytics=True, events={"embedded": True})
            for id in ("acme", "stats", "zeta"):
                await opened.ask("POST", "/tenants", {"id": id, "metadata": {"a": "b"}})
            await opened.ask("PUT", "/tiers/enterprise", {"qps_limit": 10})
            await opened.ask("PUT", "/tenants/acme/users/appuser", {"password": "secret"})
            made.append(opened)
            ready.set()
            await leave.wait()

    def live() -> None:
        try:
            loop.run_until_complete(run())
        finally:
            ready.set()

    thread = threading.Thread(target=live)
    thread.start()
    ready.wait(30)
    try:
        assert made, "the office did not open"
        yield made[0]
    finally:
        loop.call_soon_threadsafe(leave.set)
        thread.join(30)
        loop.close()


def hammer(opened: Office, mode: GenerationMode, examples: int) -> list[str]:
    """What was wrong, over all operations."""
    headers = {"Authorization": f"Bearer {opened.token}"}
    document = httpx.get(f"{opened.server.url}/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    wrong: list[str] = []
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=examples < 50,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: Any) -> None:
            # A stream does not end, and has tests of its own.
            given_headers = {**(case.headers or {}), **headers}
            given_headers.pop("Last-Event-ID", None)
            case.call_and_validate(
                base_url=opened.server.url, headers=given_headers, checks=CHECKED, timeout=20
            )

        try:
            check()
        except Unsatisfiable:
            pass  # nothing about it can be wrong
        except BaseExceptionGroup as group:
            wrong += [f"{operation.label}: {each}" for each in group.exceptions]
        except Exception as error:
            wrong.append(f"{operation.label}: {error}")
    return wrong


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_request_breaks_it(nats_server: Nats, mode: GenerationMode) -> None:
    with in_thread(nats_server.url) as opened:
        wrong = hammer(opened, mode, 2)
    assert wrong == [], "\n\n".join(wrong)


@pytest.mark.soak
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_request_of_many_breaks_it(nats_server: Nats, mode: GenerationMode) -> None:
    with in_thread(nats_server.url) as opened:
        wrong = hammer(opened, mode, 150)
    assert wrong == [], "\n\n".join(wrong)
