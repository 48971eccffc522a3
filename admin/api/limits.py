"""Every limit of the admin API, and the buckets that keep the rates."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

# --- connections ---------------------------------------------------------------------------------

# Dashboards, scrapers and scripts; each connection costs some 20 kB.
CONNECTIONS_MAX: Final = 512
# One address cannot keep the others out. Behind a proxy all have one address: still enough.
CONNECTIONS_PER_ADDRESS_MAX: Final = 256
# From the first byte of a request to the end of its header; who is slower is disconnected.
HEADER_SECONDS: Final = 10.0
KEEP_ALIVE_SECONDS: Final = 30
HEADER_BYTES_MAX: Final = 32 * 1024
HEADERS_MAX: Final = 64
# What an answer may wait for a client to take some of it.
SEND_SECONDS: Final = 30.0

# --- requests ------------------------------------------------------------------------------------

# As on NATS: a commit may have as much.
BODY_BYTES_MAX: Final = 512 * 1024
BODY_SECONDS: Final = 30.0
# Of a body that is too large, so much is read and thrown away: a connection that is closed before
# is reset, and the client never sees why.
DISCARDED_MAX: Final = 4 * BODY_BYTES_MAX
# The deepest settings have five levels. Recursion over what clients send ends here.
DEPTH_MAX: Final = 24
PATH_BYTES_MAX: Final = 2048
QUERY_BYTES_MAX: Final = 4096

# --- answers -------------------------------------------------------------------------------------

PAGE: Final = 100
PAGE_MAX: Final = 1000
# Events that one request may look at to find those it wants; the rest is behind its `cursor`.
SCANNED_MAX: Final = 50_000
# Requests that read the past, at once: each may read the whole log.
READERS_MAX: Final = 4
# What a read waits for the folded state to reach the sequence that it names.
WAIT_SECONDS: Final = 5.0

STREAMS_MAX: Final = 64
STREAMS_PER_CALLER_MAX: Final = 8
# Events taken from the log at a time; the log itself is the queue of a slow reader.
STREAM_BATCH: Final = 200
HEARTBEAT_SECONDS: Final = 15.0

# --- rates ---------------------------------------------------------------------------------------

# Addresses and tokens remembered; the least recently seen are forgotten, full again.
BUCKETS_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class Rate:
    """`per_second` on average, `burst` at once."""

    per_second: float
    burst: float


@dataclass(frozen=True, slots=True)
class Rates:
    """`address` counts every request, `token` those that were let in, `failures` (by address) those
    whose token was not good."""

    address: Rate = Rate(200, 400)
    token: Rate = Rate(100, 200)
    failures: Rate = Rate(1, 20)


class Buckets:
    """Token buckets by name."""

    def __init__(self, rate: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str) -> float:
        """Take one; 0.0, or the seconds until there is one."""
        level = self._level(name)
        if level < 1:
            return (1 - level) / self._rate.per_second
        self._levels[name] = (level - 1, self._clock())
        self._levels.move_to_end(name)
        if len(self._levels) > BUCKETS_MAX:
            self._levels.popitem(last=False)
        return 0.0

    def _level(self, name: str) -> float:
        level, since = self._levels.get(name, (self._rate.burst, self._clock()))
        return min(self._rate.burst, level + (self._clock() - since) * self._rate.per_second)
