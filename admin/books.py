"""Opens the audit of a process, and tells it of commands that did not come over a bus."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from nats.aio.client import Client

from events import audit
from events.audit_publisher import AUDIT_FOLDER, AuditPublisher
from events.audit_sink import COMMAND, OK, REFUSED, AuditSink
from events.commander import Accepted
from events.commands import Command
from events.facts import KIND_TENANT
from events.installation import Installation
from events.secrets import Vault
from events.spans import parse


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


def note_commands(
    sink: AuditSink,
    commands: Sequence[Command],
    accepted: Sequence[Accepted],
    actor: str,
    surface: str,
    traceparent: str = "",
) -> None:
    """Commands that were carried out together; those that changed nothing are not told."""
    trace, span, _ = parse(traceparent)
    for command, done in zip(commands, accepted, strict=True):
        if done.events and not done.dry_run:
            sink.note(
                COMMAND,
                command.subject_id if command.kind == KIND_TENANT else "",
                actor=actor,
                outcome=OK,
                trace_id=trace,
                span_id=span,
                detail=f"{command.TYPE} {command.command_id} {done.sequence} {surface}",
            )


def note_refused(sink: AuditSink, reason: str, actor: str, surface: str) -> None:
    """Commands that were refused together, before any was carried out."""
    sink.note(COMMAND, "", actor=actor, outcome=REFUSED, reason=reason, detail=surface)
