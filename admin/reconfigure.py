"""Which changes of the installation reach running processes, and which need them started again."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
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
    "analytics",
    "telemetry",
)
_WORKER_EVENT_KEYS: Final = {"usage_interval_secs", "max_staleness_secs"}


@dataclass(frozen=True)
class Needs:
    """`workers`: keys that take new worker processes; `restart`: those that take a new start of
    everything, because they say where the log is or which engines run."""

    workers: list[str] = field(default_factory=list)
    restart: list[str] = field(default_factory=list)


def needs(old: Installation, new: Installation, *, one_process: bool = False) -> Needs:
    """What has to be started again for `new` to be true; with `one_process`, there is no worker
    that could be replaced."""
    workers = [key for key in _WORKER_KEYS if getattr(old, key) != getattr(new, key)]
    restart: list[str] = []
    for key in type(new.events).model_fields:
        if getattr(old.events, key) != getattr(new.events, key):
            (workers if key in _WORKER_EVENT_KEYS else restart).append(f"events.{key}")
    if embeds(old) != embeds(new):
        restart.append("nodes.embedded")
    return Needs([], workers + restart) if one_process else Needs(workers, restart)


def embeds(installation: Installation) -> bool:
    """Whether it uses the embedded PostgreSQL."""
    return any(node.embedded and node.enabled for node in installation.nodes)


def tls_files(installation: Installation) -> tuple[object, ...]:
    """What tells one set of certificate files from the next, without reading them."""
    tls = installation.tls
    if not tls.enabled:
        return ()
    stamps: list[object] = []
    for name in (tls.cert_path, tls.key_path, tls.ca_path):
        try:
            info = Path(name).stat() if name else None
        except OSError:
            info = None
        stamps.append(info and (info.st_ino, info.st_size, info.st_mtime_ns))
    return tuple(stamps)
