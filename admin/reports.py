"""What a process says of itself now and then: worker ─NATS─▶ control, which shows it to people.

Subject `tenantry.report.<node>.<process>`, JSON {name: number}; in no stream: what is lost is said
again. A control hears the processes of its own node (node_calls.node_id): other proxies of the
installation have workers of the same names.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

log = logging.getLogger("tenantry.reports")

PREFIX: Final = "tenantry.report."
REPORT_SECONDS: Final = 2.0
# A process that has said nothing for so long is gone.
FORGET_SECONDS: Final = 15.0
# Processes that are remembered; more than an installation has workers.
PROCESSES_MAX: Final = 256

# What a process reports: name, kind, help. Anything else in a report is left out.
REPORTED: Final = (
    ("position", "gauge", "Sequence up to which the configuration is folded."),
    ("configuration_staleness_seconds", "gauge", "Since the configuration was known to be new."),
    ("event_lag", "gauge", "Events that are stored and not folded."),
    ("clients", "gauge", "Clients connected."),
    ("tenants_active", "gauge", "Tenants with an actor."),
    ("actors", "gauge", "Actors that run."),
    ("actor_messages_waiting", "gauge", "Messages in the mailboxes of actors."),
    ("pool_servers_limit", "gauge", "Servers that tenants may have together."),
    ("pool_servers_used", "gauge", "Servers of that budget that are open."),
    ("pool_servers_idle", "gauge", "Servers that wait for work."),
    ("pool_clients_waiting", "gauge", "Clients that wait for a server."),
    ("cache_statements", "gauge", "Statements whose facts are remembered."),
    ("audit_waiting", "gauge", "Notes of the audit in memory."),
    ("audit_spool_bytes", "gauge", "Bytes of the audit that wait on disk, of all processes."),
    ("audit_lost_total", "counter", "Notes of the audit that found no room."),
    ("usage_waiting", "gauge", "Tenants with usage that is not stored."),
    ("usage_lost_total", "counter", "Usage that found no room."),
    ("loop_delay_seconds", "gauge", "How late the event loop was, at the last look."),
    ("resident_memory_bytes", "gauge", "Memory of the process."),
    ("cpu_seconds_total", "counter", "Time of the processor."),
)

_NAMES: Final = frozenset(name for name, _, _ in REPORTED)
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


async def report(
    nats: Client, node: str, process: str, look: Callable[[], Mapping[str, float]]
) -> None:
    """Say what `look` sees, until cancelled."""
    while True:
        due = time.monotonic() + REPORT_SECONDS
        await asyncio.sleep(REPORT_SECONDS)
        late = max(0.0, time.monotonic() - due)
        if nats.is_connected:
            said = {**look(), **of_process(), "loop_delay_seconds": late}
            with contextlib.suppress(NatsError, OSError):
                await nats.publish(f"{PREFIX}{node}.{process}", orjson.dumps(said))


def of_process() -> dict[str, float]:
    """Memory and processor time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    said = {"cpu_seconds_total": used.ru_utime + used.ru_stime}
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        said["resident_memory_bytes"] = float(pages * _PAGE)
    return said


class Reports:
    """What all processes of a node said last."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[float, dict[str, float]]] = {}

    async def listen(self, nats: Client, node: str) -> None:
        """Hear them from now on. Raises NatsError."""
        await nats.subscribe(f"{PREFIX}{node}.*", cb=self._heard)

    async def _heard(self, message: Msg) -> None:
        self.take(message.subject.rpartition(".")[2], message.data)

    def take(self, process: str, data: bytes) -> None:
        """Remember a report; what is none is left out."""
        try:
            raw: Any = orjson.loads(data)
            said = {
                name: float(value)
                for name, value in raw.items()
                if name in _NAMES and isinstance(value, int | float) and math.isfinite(value)
            }
        except (ValueError, TypeError, AttributeError):
            return
        if process in self._said or len(self._said) < PROCESSES_MAX:
            self._said[process] = (time.monotonic(), said)

    def current(self) -> dict[str, dict[str, float]]:
        """Process → what it said, those that are there."""
        now = time.monotonic()
        for process, (at, _) in list(self._said.items()):
            if now - at > FORGET_SECONDS:
                del self._said[process]
        return {process: said for process, (_, said) in self._said.items()}
