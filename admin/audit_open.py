"""Opens the audit of a process as the installation says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nats.aio.client import Client

from events import audit
from events.audit_publisher import AUDIT_FOLDER, AuditPublisher
from events.installation import Installation
from events.secrets import Vault


def open_audit(
    nats: Client,
    data: Path,
    writer: str,
    vault: Vault,
    installation: Installation,
    known: Callable[[str], bool],
) -> AuditPublisher:
    """The audit of the process `writer`; its `run` flushes it, its `close` ends its chain."""
    config = audit.stream_config(
        installation.events.replicas,
        keep_days=installation.audit.keep_days,
        max_bytes=installation.audit.max_size or audit.STREAM_BYTES_MAX,
    )
    return AuditPublisher(
        nats,
        data / AUDIT_FOLDER,
        writer,
        vault.derive(audit.KEY_PURPOSE),
        known=known,
        config=config,
    )
