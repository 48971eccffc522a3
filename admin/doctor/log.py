"""Looks at NATS, at the log in it, and at the processes that follow it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import orjson
from nats.errors import NoRespondersError

from admin.console.calls import SUPERVISOR, Call, Caller, Row
from admin.control import Control
from admin.data_dir import DataDir
from admin.doctor.finding import Finding, ok
from admin.doctor.nats import examine
from admin.engines.nats import started_with
from admin.find_log import PATIENCE
from events.connection import Connection
from events.installation import Installation
from events.nats_login import addresses
from events.snapshot import read_manifest
from events.stream import LogError
from events.tokens import TokenSigner
from events.verify import verify
from wire.errors import ServerUnavailable

# A log of so many messages is verified in a second or two.
VERIFY_MAX: Final = 20_000
# A snapshot that is behind by more makes a start noticeably longer.
SNAPSHOT_BEHIND: Final = 50_000
# Workers hear of a change within milliseconds.
STALE_SECONDS: Final = 30.0
SKEW_NOTED: Final = 2.0
SKEW_SECONDS: Final = 10.0
WHO: Final = "doctor"


async def log(
    control: Control, installation: Installation, data: DataDir
) -> AsyncIterator[Finding]:
    """NATS and what is stored there. Raises LogError."""
    source = control.log
    embedded = installation.events.embedded
    folder = Path(installation.events.data_dir or data.path)
    found = await examine(
        source,
        replicas=installation.events.replicas,
        embedded=embedded,
        sync_interval=started_with(folder) if embedded else None,
    )
    for each in found:
        level = {True: "ok", False: "error", None: "note"}[each.holds]
        if each.holds is None and each.name == "sync_interval":
            level = "warning"
        yield Finding(level, f"nats: {each.name}", each.message, "", each.hint)  # type: ignore[arg-type]
    before = time.time()
    info = await source.info()
    async for finding in _clock(info, before, time.time()):
        yield finding
    messages = int(info["state"]["messages"])
    if messages <= VERIFY_MAX:
        report = await verify(source, control.vault, replicas=installation.events.replicas)
        for trouble in report.troubles:
            fix = "See `tenantry events verify`, and docs/operations.md on restoring the log."
            yield Finding("error", "event log", trouble, "the configuration may be wrong", fix)
        if not report.troubles:
            yield ok("event log", f"{messages} events, in order, and they fold to what is served")
    else:
        text = f"{messages} events; so many are not verified here"
        yield Finding("note", "event log", text, "", "Run `tenantry events verify` now and then.")
    manifest = await read_manifest(source, control.vault)
    last = int(info["state"]["last_seq"])
    if manifest is None:
        if last > SNAPSHOT_BEHIND:
            why = "each start reads all events"
            fix = "It is made by itself while Tenantry runs: see its log."
            yield Finding("warning", "snapshot", "there is none", why, fix)
    else:
        made = datetime.fromtimestamp(manifest.made_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
        behind = last - manifest.sequence
        text = f"of {made}, {behind} events ago"
        if behind > SNAPSHOT_BEHIND:
            yield Finding("warning", "snapshot", text, "starts take longer", "See the log.")
        else:
            yield ok("snapshot", text)


async def before_the_start(installation: Installation) -> AsyncIterator[Finding]:
    """Whether the NATS of a file can be reached; nothing is made there. Raises LogError."""
    connection = Connection.to(addresses(installation.events), "tenantry-doctor")
    await connection.open(PATIENCE)
    try:
        answer = orjson.loads((await connection.client.request("$JS.API.INFO", b"")).data)
    except NoRespondersError:
        answer = {"error": {}}
    finally:
        await connection.close()
    if "error" in answer:
        why = "the log is kept there"
        fix = "Enable it: jetstream { store_dir: ... } in the configuration of each server."
        yield Finding("error", "nats: JetStream", "is off for this account", why, fix)
    else:
        yield ok("nats: JetStream", "is on, and the login is accepted")


async def _clock(info: dict[str, object], before: float, after: float) -> AsyncIterator[Finding]:
    text = info.get("ts")
    if not isinstance(text, str):
        return
    try:
        there = datetime.fromisoformat(text[:26].rstrip("Z") + "+00:00").timestamp()
    except ValueError:
        return
    yield skew("NATS", there - (before + after) / 2, (after - before) / 2)


def skew(what: str, seconds: float, doubt: float) -> Finding:
    """A clock against this machine's; `doubt` is how far off the measuring may be."""
    off = max(0.0, abs(seconds) - doubt)
    text = f"the clock of {what} is {seconds:+.2f} s from this machine's"
    why = "tokens that let a server work for a tenant live 30 seconds, and times of events lie"
    fix = "Let NTP (chrony, systemd-timesyncd) run on both machines."
    if off > SKEW_SECONDS:
        return Finding("error", "clocks", text, why, fix)
    if off > SKEW_NOTED:
        return Finding("warning", "clocks", text, why, fix)
    return ok("clocks", text)


async def processes(control: Control, data: DataDir) -> AsyncIterator[Finding]:
    """Workers of all proxies, tenants that have no place, subjects that are parked."""
    for (kind, id), parked in control.projection.parked().items():
        yield Finding(
            "error",
            "parked",
            f"{kind} {id} since event {parked.sequence}: {parked.reason}",
            "what was changed since then is not in effect",
            "Upgrade Tenantry, or correct it with another change (`tenantry events show`).",
        )
    holder = data.holder()
    caller = Caller(control.log.connection, TokenSigner(control.vault))
    try:
        found = await caller.ask(Call("state"), WHO, "viewer")
    except (ServerUnavailable, LogError) as error:
        yield Finding("error", "workers", str(error), "", "See the log of `tenantry serve`.")
        return
    if not found.rows:
        level = "error" if holder is not None else "warning"
        text = "no worker answers" if holder is not None else "Tenantry does not run"
        yield Finding(level, "workers", text, "no client is served", "Start `tenantry serve`.")  # type: ignore[arg-type]
    for text in found.missing:
        yield Finding(
            "error", "workers", f"{text} does not answer", "", "See the log of that process."
        )
    last = int((await control.log.info())["state"]["last_seq"])
    for row in found.rows:
        name = f"worker {row['worker']} of node {row['node']}"
        stale = row["staleness"]
        behind = last - row["position"]
        if row["paused_all"] or row["paused"]:
            what = "all tenants" if row["paused_all"] else ", ".join(row["paused"][:5])
            fix = "RESUME in the console (psql -d tenantry)."
            yield Finding("warning", "paused", f"{name}: {what}", "their clients wait", fix)
        if stale is None or stale > STALE_SECONDS:
            why = "it serves the configuration of then"
            text = f"{name} has not heard of NATS for {stale} s"
            yield Finding("error", "workers", text, why, "See that NATS is reachable from there.")
        else:
            yield ok("workers", f"{name}: {row['clients']} clients, {behind} events behind")
    if found.rows:
        await control.commander.catch_up()
        state = control.projection
        digests = await caller.ask(Call("digest"), WHO, "viewer")
        for finding in compared(digests.rows, state.position, state.digest()):
            yield finding
    async for finding in _provisioning(control, caller, bool(found.rows)):
        yield finding


def compared(rows: Sequence[Row], position: int, digest: str) -> Iterator[Finding]:
    """Whether workers hold what the log folds to; who is elsewhere in it just now is left out."""
    rows = [row for row in rows if row["position"] == position]
    wrong = [row for row in rows if row["digest"] != digest]
    for row in wrong:
        name = f"worker {row['worker']} of node {row['node']}"
        text = f"{name} holds another configuration than the log, at event {position}"
        fix = "Start that Tenantry again, and report it with its log: this must not happen."
        yield Finding("error", "projection", text, "its clients are served by it", fix)
    if rows and not wrong:
        yield ok("projection", f"{len(rows)} workers hold what the log says, at event {position}")


async def _provisioning(control: Control, caller: Caller, running: bool) -> AsyncIterator[Finding]:
    state = control.projection
    without = []
    for id in state.ids():
        tenant = state.tenant(id)
        if tenant is not None and tenant.enabled and tenant.provisioned is None:
            without.append(id)
    reasons: dict[str, str] = {}
    if running:
        found = await caller.ask(Call("health", to=SUPERVISOR), WHO, "viewer")
        for row in found.rows:
            reasons.update(row.get("reasons", {}))
    fix = "Mend what it names; it is tried again by itself."
    if not running:
        fix = "Start `tenantry serve`: it sets it up, or says why it cannot."
    for id in sorted({*without, *reasons})[:20]:
        yield Finding(
            "error",
            "provisioning",
            f"tenant {id}: {reasons.get(id, 'has no place in PostgreSQL yet')}",
            "its clients are refused",
            fix,
        )
    count = state.tenant_count()
    if not without and not reasons:
        yield ok("provisioning", f"{count} tenants, all set up")
    elif len(without) > 20:
        yield Finding("error", "provisioning", f"and {len(without) - 20} tenants more")
