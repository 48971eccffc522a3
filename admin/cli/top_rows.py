"""What `tenantry top` shows: one row a tenant, sorted and filtered, and the table for a width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from actors.analytics_fold import Account, View
from admin.analytics.views import iso, latency, number, size
from admin.cli.top_sorts import Sort
from events.model import Tenant

# Rates are over this while: workers report every ten seconds.
RATE_SECONDS: Final = 60.0
# From this part of a limit on it is shown as a warning, and as reached.
HIGH: Final = 0.8
FULL: Final = 1.0


@dataclass(frozen=True, slots=True)
class Row:
    """Rates are a second's, times milliseconds; `qps_share` and `clients_share` are parts of the
    limit, None without one."""

    tenant: str
    tier: str
    state: str
    qps: float
    p50: float | None
    p99: float | None
    clients: int
    servers: int
    refused: float
    errors: float
    limits: float
    bytes_in: float
    bytes_out: float
    qps_share: float | None
    clients_share: float | None

    def key(self, sort: Sort) -> tuple[float, str]:
        if sort == "tenant":
            return 0.0, self.tenant
        values = {
            "qps": self.qps,
            "p99": self.p99 or 0.0,
            "clients": self.clients,
            "refused": self.refused,
            "limits": self.limits,
            "bytes": self.bytes_in + self.bytes_out,
            "errors": self.errors,
        }
        return -values[sort], self.tenant


def rows(
    view: View, tenants: Sequence[Tenant], now: float, *, sort: Sort = "qps", wanted: str = ""
) -> list[Row]:
    """All tenants whose id, name or tier has `wanted` in it, the first by `sort` first."""
    low = wanted.lower()
    found = [
        _row(tenant, view.account(tenant.id), now)
        for tenant in tenants
        if low in f"{tenant.id} {tenant.name} {tenant.tier or ''}".lower()
    ]
    return sorted(found, key=lambda row: row.key(sort))


def _row(tenant: Tenant, account: Account, now: float) -> Row:
    clients, servers, _ = account.connected(now)
    rates = account.rates(RATE_SECONDS, now)
    qps = account.qps(now)
    times = latency(account, now)
    limits = tenant.rate_limits
    state = "" if tenant.enabled else "disabled"
    if tenant.enabled and tenant.provisioned is None:
        state = "setting up"
    return Row(
        tenant=tenant.id,
        tier=tenant.tier or "",
        state=state,
        qps=qps,
        p50=times["p50_ms"],
        p99=times["p99_ms"],
        clients=clients,
        servers=servers,
        refused=rates["refused"],
        errors=rates["errors"],
        limits=rates["limit_hits"],
        bytes_in=rates["bytes_in"],
        bytes_out=rates["bytes_out"],
        qps_share=_share(qps, limits.qps_limit),
        clients_share=_share(clients, limits.max_connections),
    )


def _share(value: float, most: float | None) -> float | None:
    return None if not most else value / most


def as_dict(view: View, shown: Sequence[Row], now: float) -> dict[str, Any]:
    """For programs."""
    listed = []
    for row in shown:
        values = asdict(row)
        listed.append({k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()})
    return {
        "as_of": iso(view.newest) if view.newest else None,
        "lag_seconds": number(max(0.0, now - view.newest)) if view.newest else None,
        "tenants": listed,
    }


# --- for people ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Shown:
    """A column: what it is worth when there is no room for all (the least goes first)."""

    head: str
    sort: Sort | None
    width: int
    worth: int


COLUMNS: Final = (
    _Shown("QPS", "qps", 9, 100),
    _Shown("LIMIT", None, 6, 80),
    _Shown("P50ms", None, 8, 30),
    _Shown("P99ms", "p99", 8, 90),
    _Shown("CLI", "clients", 6, 85),
    _Shown("LIMIT", None, 6, 40),
    _Shown("SRV", None, 5, 35),
    _Shown("REFUSED", "refused", 8, 75),
    _Shown("HITS", "limits", 7, 70),
    _Shown("ERR", "errors", 7, 60),
    _Shown("IN/s", "bytes", 8, 55),
    _Shown("OUT/s", "bytes", 8, 50),
    _Shown("TIER", None, 10, 20),
    _Shown("STATE", None, 11, 45),
)
# The least that a tenant's name gets.
NAME_WIDTH: Final = 12
NAME_WIDTH_MAX: Final = 32


def columns_for(width: int) -> list[int]:
    """Indices into COLUMNS of those that fit, in their order."""
    left = width - NAME_WIDTH
    chosen = []
    for at in sorted(range(len(COLUMNS)), key=lambda each: -COLUMNS[each].worth):
        if COLUMNS[at].width + 1 <= left:
            left -= COLUMNS[at].width + 1
            chosen.append(at)
    return sorted(chosen)


def table(shown: Sequence[Row], width: int, sort: Sort) -> Table:
    """As many columns as fit into `width` characters."""
    chosen = columns_for(width)
    taken = sum(COLUMNS[at].width + 1 for at in chosen)
    made = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="reverse")
    name = max(NAME_WIDTH, min(NAME_WIDTH_MAX, width - taken - 1))
    head = "TENANT" + ("▲" if sort == "tenant" else "")
    made.add_column(head, width=name, no_wrap=True, overflow="ellipsis")
    for at in chosen:
        column = COLUMNS[at]
        head = column.head + ("▼" if column.sort == sort else "")
        right = column.head not in ("TIER", "STATE")
        made.add_column(
            head,
            width=column.width,
            no_wrap=True,
            overflow="ellipsis",
            justify="right" if right else "left",
        )
    for row in shown:
        cells = _cells(row)
        style = "dim" if not row.qps and not row.clients else ""
        made.add_row(Text(row.tenant), *(cells[at] for at in chosen), style=style)
    return made


def _cells(row: Row) -> tuple[Text, ...]:
    return (
        Text(_rate(row.qps)),
        _percent(row.qps_share),
        Text(_ms(row.p50)),
        Text(_ms(row.p99)),
        Text(str(row.clients)),
        _percent(row.clients_share),
        Text(str(row.servers)),
        Text(_rate(row.refused), style="yellow" if row.refused else ""),
        Text(_rate(row.limits), style="yellow" if row.limits else ""),
        Text(_rate(row.errors)),
        Text(size(row.bytes_in)),
        Text(size(row.bytes_out)),
        Text(row.tier),
        Text(row.state, style="red" if row.state else ""),
    )


def _rate(value: float) -> str:
    if value <= 0:
        return "0"
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def _percent(share: float | None) -> Text:
    if share is None:
        return Text("-")
    style = "bold red" if share >= FULL else "yellow" if share >= HIGH else ""
    return Text(f"{share * 100:.0f}%", style=style)
