"""Requests made up from the API's own description: none may fail here, all answers are as told."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
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

NOTED = {"name": "eve", "role": "viewer", "issued_at": 1764576000, "expires_at": 4102444800}


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
            await opened.use("acme", queries=5000, bytes_out=1000, limits={"qps": 3}, clients=2)
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


class Hammer:
    """Sends what schemathesis makes up, to things that are there; keeps what was wrong."""

    def __init__(self, opened: Office, mode: GenerationMode, examples: int) -> None:
        self.wrong: list[str] = []
        self.statuses: Counter[int] = Counter()
        self._url = opened.server.url
        self._headers = {"Authorization": f"Bearer {opened.token}"}
        self._mode = mode
        self._examples = examples
        self._made = itertools.count()

    def run(self) -> None:
        document = httpx.get(f"{self._url}/openapi.json").json()
        schema = schemathesis.openapi.from_dict(document)
        for result in schema.get_all_operations():
            self._hammer(result.ok())

    def _there(self, path: str) -> dict[str, Any]:
        """New things, and how a path names them: what was before may be deleted by now."""
        if "{" not in path:
            return {}
        name = f"t{next(self._made)}"
        with httpx.Client(base_url=self._url, headers=self._headers) as client:
            for where, body in (
                (f"/tenants/{name}", {"metadata": {"a": "b"}}),
                (f"/tenants/{name}/users/{name}", {"password": "secret"}),
                (f"/tiers/{name}", {"qps_limit": 10}),
                (f"/operators/{name}", {"role": "viewer"}),
                (f"/tokens/{name}-noted", NOTED),
            ):
                if path.split("/")[1] == where.split("/")[1]:
                    assert client.put(where, json=body).status_code in (201, 200, 204)
        places = {"id": name, "name": name, "jti": f"{name}-noted", "sequence": 1}
        return {key: value for key, value in places.items() if f"{{{key}}}" in path}

    def _hammer(self, operation: Any) -> None:
        there = self._there(operation.path)
        # A path that leads nowhere would hide the rest.
        often = st.sampled_from([True, True, False]) if there else st.just(False)

        @settings(
            max_examples=self._examples,
            deadline=None,
            database=None,
            derandomize=self._examples < 50,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=self._mode), known=often)
        def check(case: Any, known: bool) -> None:
            if known:
                case.path_parameters = {**case.path_parameters, **there}
            # A stream does not end, and has tests of its own.
            headers = {**(case.headers or {}), **self._headers}
            headers.pop("Last-Event-ID", None)
            answer = case.call(base_url=self._url, headers=headers, timeout=20)
            self.statuses[answer.status_code] += 1
            case.validate_response(answer, checks=CHECKED)

        try:
            check()
        except Unsatisfiable:
            pass  # nothing about it can be wrong
        except BaseExceptionGroup as group:
            self.wrong += [f"{operation.label}: {each}" for each in group.exceptions]
        except Exception as error:
            self.wrong.append(f"{operation.label}: {error}")


def hammered(url: str, mode: GenerationMode, examples: int) -> None:
    with in_thread(url) as opened:
        hammer = Hammer(opened, mode, examples)
        hammer.run()
    assert hammer.wrong == [], "\n\n".join(hammer.wrong)
    print(mode, dict(hammer.statuses))
    done = sum(count for status, count in hammer.statuses.items() if status < 300)
    if mode is GenerationMode.POSITIVE:
        # Else it tried nothing but doors that are shut.
        assert done > sum(hammer.statuses.values()) / 4, hammer.statuses


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_request_breaks_it(nats_server: Nats, mode: GenerationMode) -> None:
    hammered(nats_server.url, mode, 2)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_request_of_many_breaks_it(nats_server: Nats, mode: GenerationMode) -> None:
    hammered(nats_server.url, mode, 150)
