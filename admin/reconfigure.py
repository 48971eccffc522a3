"""Which changes of the installation reach running processes, and which need them started again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from events.installation import Installation

# Read once when a worker starts. Defaults of tenants are not among them: they are followed live.
_WORKER_KEYS: Final = (
    "listen_address",
    "nodes",
    "pool",
    "pool_mode",
    "tls",
    "auth",
    "limits",
    "identification",
    "write_timeout_secs",
)
_LIVE_EVENT_KEYS: Final = {"usage_interval_secs", "max_staleness_secs"}


@dataclass(frozen=True)
class Needs:
    """`workers`: keys that take new worker processes; `restart`: those that take a new start of
    everything, because they say where the log is or which engines run."""

    workers: list[str] = field(default_factory=list)
    restart: list[str] = field(default_factory=list)


def needs(old: Installation, new: Installation) -> Needs:
    """What has to be started again for `new` to be true."""
    workers = [key for key in _WORKER_KEYS if getattr(old, key) != getattr(new, key)]
    restart: list[str] = []
    for key in type(new.events).model_fields:
        if getattr(old.events, key) != getattr(new.events, key):
            (workers if key in _LIVE_EVENT_KEYS else restart).append(f"events.{key}")
    if embeds(old) != embeds(new):
        restart.append("nodes.embedded")
    return Needs(workers, restart)


def embeds(installation: Installation) -> bool:
    """Whether it uses the embedded PostgreSQL."""
    return any(node.embedded and node.enabled for node in installation.nodes)
