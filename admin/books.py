"""Tells the audit of commands that did not come over a bus."""

from __future__ import annotations

from collections.abc import Sequence

from events.audit_sink import COMMAND, OK, REFUSED, AuditSink
from events.commander import Accepted
from events.commands import Command
from events.facts import KIND_TENANT
from events.spans import parse


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
