"""`tenantry stats`: what tenants use, read from the usage stream."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from actors.analytics_fold import View
    from admin.cli.parts import Commands
    from events.installation import Prices
    from events.model import Tenant

# One tenant's messages have holes where those of others are: as many as it has messages.
RANGES_MAX: Final = 1_000_000


def add_stats_command(commands: Commands) -> None:
    """Add `stats` to the top of the command line."""
    from admin.cli.parts import as_json, command, config_file, data_dir, number

    made = command(
        commands,
        "stats",
        "show what tenants use, all together or one",
        run_stats,
        "tenantry stats --by compute_time --top 20",
        "tenantry stats --tenant acme",
        "tenantry stats --tenant acme --history hour",
        "tenantry stats --cost",
    )
    made.add_argument("--tenant", metavar="ID", help="of one tenant")
    made.add_argument(
        "--by",
        metavar="MEASURE",
        default="qps",
        help="rank by qps, connections, requests, rows_read, bytes_read, compute_time, errors, "
        "refused, slow, limits … (default qps)",
    )
    made.add_argument("--top", type=number(1, 100_000), default=10, metavar="N", help="so many")
    shown = made.add_mutually_exclusive_group()
    shown.add_argument("--history", choices=("minute", "hour", "day"), help="over time")
    shown.add_argument("--cost", action="store_true", help="by the prices in [analytics.prices]")
    shown.add_argument("--noisy", action="store_true", help="who takes more than a fair share")
    shown.add_argument("--limits", action="store_true", help="which limits were hit, by whom")
    config_file(made, "find the installation by the [events] of this file")
    data_dir(made)
    as_json(made)


def run_stats(given: argparse.Namespace) -> int:
    import asyncio

    from actors.analytics_fold import MEASURES
    from admin.analytics.views import SPELLINGS
    from admin.cli.failure import MISTAKE, Failure

    if given.by not in (*MEASURES, *SPELLINGS, "qps", "connections"):
        known = ", ".join(sorted({"qps", "connections", *SPELLINGS, *MEASURES}))
        raise Failure(f'"{given.by}" is not a measure: use any of {known}.', MISTAKE)
    return asyncio.run(_stats(given))


async def _stats(given: argparse.Namespace) -> int:
    import orjson

    from admin.cli.failure import MISSING, Failure
    from admin.find_log import open_log
    from events.installation import Installation

    async with open_log(given.data_dir, given.config) as control:
        projection = control.projection
        tenants = [found for id in projection.ids() if (found := projection.tenant(id)) is not None]
        view = await read_view(control.log.nats, given.tenant)
        prices = (projection.installation() or Installation()).analytics.prices
    if given.tenant is not None and given.tenant not in view.accounts:
        if all(tenant.id != given.tenant for tenant in tenants):
            raise Failure(
                f'There is no tenant "{given.tenant}", and none has used anything.', MISSING
            )
        tenants = [tenant for tenant in tenants if tenant.id == given.tenant]
    answer = report(given, view, tenants, prices, time.time())
    if given.json:
        print(orjson.dumps(answer, option=orjson.OPT_INDENT_2).decode())
    else:
        _print(given, answer)
    return 0


async def read_view(nats: Any, tenant: str | None = None) -> View:
    """All usage that is stored now, folded; with `tenant`, that of one."""
    from actors.analytics_fold import RANGES_MAX as RANGES_OF_ALL
    from actors.analytics_fold import View
    from events import tail
    from events.usage import STREAM, SUBJECT_PREFIX
    from events.usage_delta import decode

    subject = SUBJECT_PREFIX + tenant if tenant else ""
    view = View(ranges_max=RANGES_MAX if tenant else RANGES_OF_ALL)
    async for batch in tail.read(nats, STREAM, subject=subject):
        for stored in batch:
            view.apply(decode(stored.data), stored.stored_at / 1e9)
    return view


def report(
    given: argparse.Namespace, view: View, tenants: Sequence[Tenant], prices: Prices, now: float
) -> Any:
    """What the arguments ask for, as JSON."""
    from admin.analytics import reports, views

    account = view.account(given.tenant) if given.tenant else view.all
    if given.history:
        return reports.history(account, given.history, view.newest)
    if given.cost:
        if given.tenant:
            return {"currency": prices.currency, **reports.cost(account.totals, prices)}
        return reports.costs(view, prices, top=given.top)
    if given.noisy:
        return reports.noisy_neighbours(view, now)
    if given.limits:
        return reports.limit_hits(view, now)
    if not given.tenant:
        return views.cross_tenant(view, tenants, now, by=given.by, top=given.top)
    for tenant in tenants:
        if tenant.id == given.tenant:
            stats = views.tenant_stats(view, tenant, now)
            return {**stats, "metrics": views.metrics(account, now)}
    # Deleted: what it has used is still known.
    return {"tenant_id": given.tenant, "metrics": views.metrics(account, now)}


# --- for people ----------------------------------------------------------------------------------


def _print(given: argparse.Namespace, answer: Any) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if given.history:
        _print_rows(console, answer, "Nothing was used.")
        return
    rows: list[dict[str, Any]] | None = None
    nothing = ""
    if not given.tenant and not (given.cost or given.noisy or given.limits):
        rows, nothing = answer.pop("top_tenants_by_usage"), "No tenant uses anything now."
    elif given.noisy:
        rows, nothing = answer.pop("noisy"), "Nobody takes more than a fair share."
    elif (given.cost and not given.tenant) or given.limits:
        rows, nothing = answer.pop("tenants"), "Nobody yet."
    _print_values(console, answer, "")
    if rows is not None:
        console.print()
        _print_rows(console, rows, nothing)


def _print_values(console: Any, values: Mapping[str, Any], prefix: str) -> None:
    rows = list(_flat(values, prefix))
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        console.print(f"{name:<{width}}  {_cell(value)}", markup=False)


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _print_rows(console: Any, rows: Sequence[Mapping[str, Any]], nothing: str) -> None:
    from rich.table import Table

    if not rows:
        console.print(nothing)
        return
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(box=None, pad_edge=False)
    for name in names:
        right = name not in ("tenant", "time", "by_limit")
        table.add_column(name.upper(), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(name, "")) for name in names))
    console.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        return " ".join(f"{name}={_cell(each)}" for name, each in value.items())
    if isinstance(value, list):
        return " ".join(_cell(each) for each in value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
