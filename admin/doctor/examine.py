"""`tenantry doctor`: examines an installation and says what to mend, and why.

Exit code: 0 nothing is broken, 1 there are errors (with --strict: or warnings).
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any, Final

import orjson
import psycopg
from rich.console import Console
from rich.text import Text

from admin.cli.failure import FAILED, Failure
from admin.config.load import load
from admin.control import Control
from admin.data_dir import DataDir
from admin.doctor import files as doctor_files
from admin.doctor import log as doctor_log
from admin.doctor import postgres as doctor_postgres
from admin.doctor.finding import LEVELS, Finding, ok
from admin.find_log import open_log
from admin.find_node import Found, find, node_of
from events.installation import Installation
from events.secrets import SecretError
from events.stream import LogError
from wire.errors import ServerUnavailable, TenantryError

_STYLES: Final = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "bold red"}
# What an area's examination may fail with; more than that is a mistake of ours.
_TROUBLE: Final = (
    Failure,
    LogError,
    SecretError,
    TenantryError,
    psycopg.Error,
    OSError,
    ValueError,
)


def run(given: argparse.Namespace) -> int:
    """Examine, tell, and give the exit code."""
    findings = asyncio.run(_gather(given.data_dir, given.config))
    if given.json:
        print(orjson.dumps(as_dict(findings), option=orjson.OPT_INDENT_2).decode())
    else:
        show(findings, Console(highlight=False), everything=given.all)
    counts = Counter(each.level for each in findings)
    wrong = counts["error"] + (counts["warning"] if given.strict else 0)
    return FAILED if wrong else 0


async def _gather(data_dir: Path, config: Path | None) -> list[Finding]:
    return [finding async for finding in examine(data_dir, config)]


async def examine(data_dir: Path, config: Path | None) -> AsyncIterator[Finding]:
    """All findings, area by area. Nothing is changed."""
    data = DataDir(data_dir)
    installation: Installation | None = None
    if config is not None:
        loaded = load(config, os.environ)
        installation = loaded.installation
        for mistake in loaded.mistakes:
            yield Finding("error", "configuration", mistake.text(str(config)))
        for warning in loaded.warnings:
            yield Finding("warning", "configuration", warning.text(str(config)))
        if not loaded.mistakes:
            yield ok("configuration", f"{config} has no mistakes")
    if installation is not None and not data.path.exists():
        async for finding in _before_the_start(data, installation, data_dir, config):
            yield finding
        return
    if not data.path.exists():
        fix = "Name its --data-dir, or start one with `tenantry serve --config FILE`."
        yield Finding("error", "data directory", f"there is nothing in {data.path}", "", fix)
        return
    for finding in _safely("files", doctor_files.files(data)):
        yield finding
    try:
        async with open_log(data_dir, config) as control:
            async for finding in _with_log(data, control):
                yield finding
    except _TROUBLE as error:
        why = "the configuration cannot be read or changed; clients are served with what is known"
        fix = "Start `tenantry serve`, or see that NATS is reachable."
        if isinstance(error, SecretError):
            why, fix = "", "Without that key nothing can be read or changed here."
        yield Finding("error", "event log", str(error), why, fix)
        if installation is not None:
            for finding in _safely("tls", doctor_files.certificates(installation)):
                yield finding
            async for finding in _safely_async("postgres", _file_postgres(data_dir, config)):
                yield finding


async def _before_the_start(
    data: DataDir, installation: Installation, data_dir: Path, config: Path | None
) -> AsyncIterator[Finding]:
    """What the file names is looked at; nothing is made."""
    yield Finding("note", "data directory", f"{data.path} will be made at the first start")
    for finding in _safely("tls", doctor_files.certificates(installation)):
        yield finding
    if not installation.events.embedded:
        async for finding in _safely_async("event log", doctor_log.before_the_start(installation)):
            yield finding
    if any(node.embedded for node in installation.nodes):
        yield ok("postgres", "the built-in one will be made and started")
        return
    async for finding in _safely_async("postgres", _file_postgres(data_dir, config)):
        yield finding


async def _with_log(data: DataDir, control: Control) -> AsyncIterator[Finding]:
    installation = control.projection.installation()
    if installation is None:
        fix = "Start it with `tenantry serve --config FILE`."
        yield Finding("error", "configuration", "the log holds no installation", "", fix)
        return
    async for finding in _safely_async("nats", doctor_log.log(control, installation, data)):
        yield finding
    async for finding in _safely_async("workers", doctor_log.processes(control, data)):
        yield finding
    for finding in _safely("tls", doctor_files.certificates(installation)):
        yield finding
    tenants = [
        tenant
        for id in control.projection.ids()
        if (tenant := control.projection.tenant(id)) is not None
    ]
    try:
        found = Found(node_of(data.path, control), tenants)
    except _TROUBLE as error:
        yield Finding("error", "postgres", str(error), "no client is served")
        return
    own = doctor_postgres.dedicated(found)
    for finding in _safely("open files", doctor_files.open_files(data.holder(), installation, own)):
        yield finding
    async for finding in _postgres(found, installation):
        yield finding


async def _postgres(found: Found, installation: Installation) -> AsyncIterator[Finding]:
    reachable = True
    async for finding in _safely_async("postgres", doctor_postgres.postgres(found, installation)):
        reachable = reachable and not (finding.area == "postgres" and finding.level == "error")
        yield finding
    if reachable:
        async for finding in _safely_async("isolation", doctor_postgres.isolation(found)):
            yield finding


async def _file_postgres(data_dir: Path, config: Path | None) -> AsyncIterator[Finding]:
    found = await find(data_dir, config)
    loaded = load(config, os.environ) if config is not None else None
    installation = loaded.installation if loaded is not None else None
    async for finding in _postgres(found, installation or Installation()):
        yield finding


def _safely(area: str, findings: Iterable[Finding]) -> Iterable[Finding]:
    try:
        yield from findings
    except _TROUBLE as error:
        yield Finding("error", area, f"could not be examined: {error}", "", _remedy(error))


async def _safely_async(area: str, findings: AsyncIterator[Finding]) -> AsyncIterator[Finding]:
    try:
        async for finding in findings:
            yield finding
    except _TROUBLE as error:
        what = f"could not be examined: {str(error).strip()}"
        yield Finding("error", area, what, "", _remedy(error))


def _remedy(error: Exception) -> str:
    if isinstance(error, ServerUnavailable | psycopg.OperationalError):
        return "See that PostgreSQL runs, and that [[nodes]] has its host, port, user and password."
    if isinstance(error, LogError):
        return "See that NATS runs, and that [events] servers has its addresses, user and password."
    return ""


# --- telling -------------------------------------------------------------------------------------


def as_dict(findings: list[Finding]) -> dict[str, Any]:
    counts = Counter(each.level for each in findings)
    return {
        "healthy": not counts["error"] and not counts["warning"],
        "counts": {level: counts[level] for level in LEVELS},
        "findings": [each.as_dict() for each in findings],
    }


def show(findings: list[Finding], console: Console, *, everything: bool) -> None:
    """The worst last, where people look; what is in order only when asked for."""
    order = sorted(findings, key=lambda each: LEVELS.index(each.level))
    for each in order:
        if each.level == "ok" and not everything:
            continue
        line = Text(f"{each.level:<8}", style=_STYLES[each.level])
        line.append(f"{each.area}: {each.what}", style="default")
        console.print(line, soft_wrap=True)
        if each.why:
            console.print(Text(f"        why: {each.why}", style="dim"), soft_wrap=True)
        if each.fix:
            console.print(Text(f"        do:  {each.fix}"), soft_wrap=True)
    counts = Counter(each.level for each in findings)
    told = ", ".join(f"{counts[level]} {level}" for level in LEVELS)
    console.print(f"{len(findings)} things examined: {told}.")
