"""A NATS server that the test may kill; the shared one is `nats_server`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.nats import NatsServer


@pytest.fixture
def own_nats(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path)
    server.start()
    yield server
    server.stop()
