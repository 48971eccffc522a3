"""`tenantry audit isolation`: tells what the audit found, for people and for programs."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from typing import Any, Final

import orjson
import psycopg
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from admin.cli.failure import Failure
from admin.find_node import find
from admin.isolation.audit import Report, audit
from admin.isolation.finding import SEVERITIES
from events.secrets import SecretError
from events.stream import LogError

CLEAN: Final = 0
FOUND: Final = 1
NOT_EXAMINED: Final = 2

_NAMES_SHOWN: Final = 4


def run(given: argparse.Namespace) -> int:
    """0: no way out; 1: a hole or a risk; 2: not all could be examined (and nothing was found)."""
    try:
        report = asyncio.run(_audit(given))
    except (Failure, LogError, SecretError, psycopg.Error) as error:
        raise Failure(f"Not examined: {error}", NOT_EXAMINED) from None
    if given.json:
        print(orjson.dumps(as_dict(report), option=orjson.OPT_INDENT_2).decode())
    else:
        show(report, Console(highlight=False))
    return exit_code(report)


def exit_code(report: Report) -> int:
    if not report.clean:
        return FOUND
    return NOT_EXAMINED if report.failed else CLEAN


async def _audit(given: argparse.Namespace) -> Report:
    found = await find(given.data_dir, given.config)
    return await audit(found, _say, given.tenant)


def _say(text: str) -> None:
    """Beside the answer, which programs read."""
    print(text, file=sys.stderr, flush=True)


def as_dict(report: Report) -> dict[str, Any]:
    counts = Counter(each.severity for each in report.findings)
    return {
        "clean": report.clean,
        "examined": report.examined,
        "failed": report.failed,
        "counts": {severity: counts[severity] for severity in SEVERITIES},
        "findings": [each.as_dict() for each in report.findings],
    }


def show(report: Report, console: Console) -> None:
    """A table of what was found, then how to correct it."""
    if report.findings:
        table = Table(box=None, pad_edge=False)
        for name in ("#", "SEVERITY", "TENANTS", "WHERE", "WHAT IT LETS HAPPEN"):
            table.add_column(name, overflow="fold")
        for number, each in enumerate(report.findings, 1):
            where = f"{each.database}: {each.object}" if each.database else each.object
            table.add_row(
                str(number),
                each.severity,
                escape(_names(each.tenants)),
                escape(where),
                escape(f"{each.what} [{each.check}]"),
            )
        console.print(table)
        console.print("\nTo correct them:")
        for number, each in enumerate(report.findings, 1):
            if each.fix:
                console.print(f"  {number}  {escape(each.fix)}", soft_wrap=True)
        console.print()
    for database, why in report.failed.items():
        console.print(f"Not examined: {escape(database)}: {escape(why)}", soft_wrap=True)
    counts = Counter(each.severity for each in report.findings)
    told = ", ".join(_count(counts[each], each) for each in SEVERITIES)
    looked = f"{_count(len(report.examined), 'database')} examined"
    console.print(f"{looked}: {told if report.findings else 'no way out was found'}.")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _names(tenants: tuple[str, ...]) -> str:
    shown = ", ".join(tenants[:_NAMES_SHOWN])
    more = len(tenants) - _NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown or "-"
