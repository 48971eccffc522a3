"""Examines the log: is it all there, in order, readable, and does it come to what it should."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from events import codec
from events.facts import Undecodable
from events.history import KINDS
from events.log import ConfigLog
from events.projection import Projection
from events.reader import Stored
from events.secrets import Vault
from events.snapshot import Manifest, read_manifest
from events.stream import LogError, LogMisconfigured, check_stream

# Troubles told one by one; of a log that is broken throughout the rest is counted.
TROUBLES_MAX: Final = 100
# Clocks of two servers may differ by so much, and a new leader's be behind the old one's. Seconds.
SKEW_SECONDS: Final = 10.0
# Between two calls of the progress.
TELL_MESSAGES: Final = 5_000

Progress = Callable[[int, int], None]


@dataclass
class Report:
    """What was found. `troubles` is empty when all is well; `notes` are worth knowing."""

    messages: int = 0
    digest: str = ""
    tenants: int = 0
    snapshot: int = 0
    troubles: list[str] = field(default_factory=list)
    more_troubles: int = 0
    notes: list[str] = field(default_factory=list)

    def trouble(self, text: str) -> None:
        if len(self.troubles) < TROUBLES_MAX:
            self.troubles.append(text)
        else:
            self.more_troubles += 1


async def verify(
    log: ConfigLog,
    vault: Vault,
    *,
    digest: str | None = None,
    replicas: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Examine all that is stored now. `digest` is what folding it should come to, `replicas` how
    many copies there should be. Raises LogUnavailable."""
    report = Report()
    info = await log.info()
    last = int(info["state"]["last_seq"])
    _check_stream(report, info, replicas)
    claimed = await read_manifest(log, vault)
    check = _Check(report, claimed, last, progress)
    try:
        await log.scan(check.take, last=last)
    except LogError as error:
        report.trouble(f"the log cannot be read behind sequence {check.state.position}: {error}")
    check.finish(digest)
    return report


def _check_stream(report: Report, info: dict[str, Any], replicas: int | None) -> None:
    config, state = info["config"], info["state"]
    try:
        check_stream(config, config.get("num_replicas", 1))
    except LogMisconfigured as error:
        report.trouble(str(error))
    first, last, messages = (int(state[name]) for name in ("first_seq", "last_seq", "messages"))
    if messages and first != 1:
        report.trouble(f"the log begins at sequence {first}: what was before is gone")
    gone = last - first + 1 - messages if messages else last
    if gone > 0:
        report.trouble(f"{gone} of its messages are gone")
    copies = config.get("num_replicas", 1)
    if replicas is not None and copies < replicas:
        report.trouble(f"it has {copies} copies instead of {replicas}")
    elif copies == 1:
        report.notes.append("it has one copy; export it now and then, or use a cluster of three")
    for peer in (info.get("cluster") or {}).get("replicas") or ():
        if peer.get("offline") or not peer.get("current", True):
            report.trouble(f"the copy on {peer.get('name')} is offline or behind")


class _Check:
    """Looks at one message after another, and folds them."""

    def __init__(
        self, report: Report, claimed: Manifest | None, last: int, progress: Progress | None
    ) -> None:
        self.state = Projection(remember_commands=False)
        self._report = report
        self._claimed = claimed
        self._last = last
        self._progress = progress
        self._seen: dict[str, int] = {}
        self._newest = 0

    def take(self, stored: Stored) -> None:
        sequence, report = stored.sequence, self._report
        report.messages += 1
        commit = codec.decode(stored.data)
        where = f"event {sequence} ({stored.kind} {stored.id})"
        if not stored.id:
            report.trouble(f"event {sequence} is on the subject {stored.subject}")
        elif stored.kind not in KINDS:
            report.notes.append(f"{where} is of a kind that a newer version wrote")
        for fact in commit.events:
            if isinstance(fact, Undecodable):
                report.trouble(f"{where} cannot be read: {fact.reason}")
        if commit.id:
            first = self._seen.setdefault(commit.id, sequence)
            if first != sequence:
                report.trouble(f"{where} has the command id of event {first}: carried out twice")
            header = stored.headers.get("Nats-Msg-Id", commit.id)
            if header != commit.id:
                report.trouble(f"{where} was sent as command {header} and says {commit.id}")
        if stored.stored_at < self._newest - SKEW_SECONDS * 1e9:
            behind = (self._newest - stored.stored_at) / 1e9
            report.trouble(f"{where} was stored {behind:.0f} s before the one in front of it")
        self._newest = max(self._newest, stored.stored_at)
        self.state.apply(sequence, stored.kind, stored.id, commit)
        self._compare_snapshot()
        if self._progress is not None and sequence % TELL_MESSAGES == 0:
            self._progress(sequence, self._last)

    def _compare_snapshot(self) -> None:
        claimed = self._claimed
        if claimed is None or claimed.sequence != self.state.position:
            return
        self._report.snapshot = claimed.sequence
        if self.state.digest() != claimed.digest:
            self._report.trouble(
                f"the snapshot at sequence {claimed.sequence} is not what the log comes to"
            )

    def finish(self, digest: str | None) -> None:
        report = self._report
        report.digest = self.state.digest()
        report.tenants = self.state.tenant_count()
        for (kind, id), waiting in self.state.parked().items():
            report.trouble(
                f"{kind} {id} is parked since event {waiting.sequence}: {waiting.reason}"
            )
        if digest is not None and digest != report.digest:
            report.trouble(f"it comes to {report.digest}, and not to {digest}")
