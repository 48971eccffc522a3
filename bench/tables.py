"""The figures as tables: for the terminal (rich), and for the generated README (Markdown)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

ABSENT = "–"
PIPED_WIDTH = 140


@dataclass
class Table:
    """A heading, one sentence of explanation, and rows of text."""

    title: str
    note: str
    columns: Sequence[str]
    rows: list[list[str]] = field(default_factory=list)

    def markdown(self) -> str:
        lines = [f"## {self.title}", "", self.note, ""]
        lines += [f"| {' | '.join(self.columns)} |", f"|{' --- |' + ' ---: |' * self.width}"]
        lines += [f"| {' | '.join(row)} |" for row in self.rows]
        return "\n".join([*lines, ""])

    def show(self) -> None:
        console = Console()
        if not console.is_terminal:
            console = Console(width=PIPED_WIDTH)
        table = RichTable(title=self.title, title_justify="left", caption=self.note)
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="right" if number else "left")
        for row in self.rows:
            table.add_row(*row)
        console.print(table)

    @property
    def width(self) -> int:
        """Columns of numbers: all but the first."""
        return len(self.columns) - 1


def amount(value: float | None, digits: int = 1, unit: str = "") -> str:
    return ABSENT if value is None else f"{value:,.{digits}f}{unit}"


def against(ratio: float | None, limit: float) -> str:
    """A ratio with its target, and a mark when it is missed."""
    if ratio is None:
        return ABSENT
    return f"{ratio:.2f} × (≤ {limit:g}){'' if ratio <= limit else ' ✗'}"


def cpu_target(cell: dict[str, Any]) -> float:
    """The ratio of CPU to PgBouncer's that we aim at."""
    if cell["work"] == "rows":
        return 0.6
    return 1.5 if cell["mode"] == "simple" else 1.3


def comparison(figures: dict[str, Any]) -> Table:
    table = Table(
        "CPU and throughput beside PgBouncer",
        "CPU is that of the proxy's processes for one transaction, user + system. Ratios are "
        "Tenantry's to PgBouncer's in the same round, with the aim in parentheses.",
        ("work", "CPU ratio", "tps ratio", "Tenantry CPU µs", "PgBouncer CPU µs",
         "Tenantry tps", "PgBouncer tps", "direct tps"),
    )  # fmt: skip
    for cell in figures["cells"]:
        ours, theirs, direct = (
            cell["targets"].get(name, {}) for name in ("tenantry", "pgbouncer", "direct")
        )
        table.rows.append(
            [
                f"{cell['work']}, {cell['mode']}, {cell['clients']} clients",
                against(cell["ratio"].get("cpu_us"), cpu_target(cell)),
                amount(cell["ratio"].get("tps"), 2, " ×"),
                split_cpu(ours),
                split_cpu(theirs),
                amount(ours.get("tps"), 0),
                amount(theirs.get("tps"), 0),
                amount(direct.get("tps"), 0),
            ]
        )
    return table


def split_cpu(target: dict[str, Any]) -> str:
    """`11.2 (4.1 + 7.1)`: all, user, system."""
    if not target:
        return ABSENT
    return f"{target['cpu_us']:.1f} ({target['user_us']:.1f} + {target['system_us']:.1f})"


def latency(figures: dict[str, Any]) -> Table:
    table = Table(
        "Latency at half of the slower one's peak",
        "Milliseconds from when a transaction was due (pgbench --rate) to its end, 16 clients.",
        ("mode", "p99 ratio", "Tenantry p99", "PgBouncer p99", "direct p99",
         "Tenantry p50", "PgBouncer p50", "direct p50", "rate a second"),
    )  # fmt: skip
    for found in figures["latency"]:
        each = [found["targets"].get(name, {}) for name in ("tenantry", "pgbouncer", "direct")]
        table.rows.append(
            [
                found["mode"],
                against(found["ratio"].get("p99"), 1.3),
                *(amount(target.get("p99"), 2) for target in each),
                *(amount(target.get("p50"), 2) for target in each),
                amount(found["rate"], 0),
            ]
        )
    return table


def memory(figures: list[dict[str, Any]]) -> Table:
    table = Table(
        "Memory of an idle client",
        "KiB by which the worker grew for each authenticated client; in parentheses the aim.",
        ("clients", "after log-in", "after a statement", "log-ins a second"),
    )
    for found in figures:
        limit = 40 if found["tls"] else 8
        table.rows.append(
            [
                f"{found['clients']:,} {'with TLS' if found['tls'] else 'in clear'}",
                f"{found['connected_rss_kib']:.1f} (≤ {limit})",
                f"{found['used_rss_kib']:.1f} (≤ {limit})",
                amount(found["logins_per_second"], 0),
            ]
        )
    return table


def spread(figures: list[dict[str, Any]]) -> Table:
    table = Table(
        "The same load over many tenants, and on one",
        "Ratios are many tenants' to one's; the last column is the same straight to PostgreSQL.",
        ("strategy", "CPU ratio", "tps ratio", "CPU µs one", "CPU µs many", "direct tps ratio"),
    )
    for found in figures:
        ratio, ways = found["ratio"], found["ways"]
        table.rows.append(
            [
                f"{found['strategy']}, {found['tenants']} tenants",
                amount(ratio["cpu_us"], 2, " ×"),
                amount(ratio["tps"], 2, " ×"),
                amount(ways["one"]["cpu_us"]),
                amount(ways["many"]["cpu_us"]),
                amount(ratio["direct_tps"], 2, " ×"),
            ]
        )
    return table


def known(figures: dict[str, Any]) -> Table:
    table = Table(
        "Many tenants known",
        "Resident memory of the worker, after a statement of each active tenant (aim: < 500 MiB).",
        ("tenants", "worker MiB", "worker MiB before", "supervisor MiB", "start seconds"),
    )
    if figures:
        table.rows.append(
            [
                f"{figures['tenants']:,} known, {figures['active']} active",
                amount(figures["worker_active_mib"], 0),
                amount(figures["worker_idle_mib"], 0),
                amount(figures["supervisor_mib"], 0),
                amount(figures["start_seconds"]),
            ]
        )
    return table


def tables_of(results: dict[str, Any]) -> list[Table]:
    """Tables of all that was measured."""
    found: list[Table] = []
    compared = results.get("compare")
    if compared:
        found += [comparison(compared)] if compared["cells"] else []
        found += [latency(compared)] if compared["latency"] else []
    if results.get("memory"):
        found.append(memory(results["memory"]))
    tenants = results.get("tenants", {})
    if tenants.get("spread"):
        found.append(spread(tenants["spread"]))
    if tenants.get("known"):
        found.append(known(tenants["known"]))
    return found


def show(results: dict[str, Any]) -> None:
    """Print all of it."""
    for table in tables_of(results):
        table.show()
