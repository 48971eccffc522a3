"""Every actor test runs on both event loops: asyncio's own and uvloop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop

from actors.reference import running

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """`run(scenario())` runs it to its end, in which no actor may be left alive."""
    before = running()
    yield request.param
    assert [ref for ref in running() if ref not in before] == [], "the test has left actors running"
