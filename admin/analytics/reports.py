"""Reports on usage: history, cost, noisy neighbours, limits that were hit, metering.

Pure functions; `now` is in seconds since 1970; as in analytics_views.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from actors.analytics_fold import AT, MEASURES, Account, View
from admin.analytics.views import iso, number
from events.installation import Prices

MB: Final = 1_000_000

# Who uses more than this many times a fair share of what all used in the last five minutes, while
# at least two were active and all together kept QUIET_SECONDS of server time busy.
NOISY_FACTOR: Final = 2.0
WINDOW_SECONDS: Final = 300.0
QUIET_SECONDS: Final = 1.0


def history(account: Account, step: str, newest: float) -> list[dict[str, Any]]:
    """By `minute`, `hour` or `day`, oldest first: {"time", measures that are not 0}. A slot with
    nothing in it is left out."""
    rows = account.series(step).rows(newest)
    return [{"time": iso(start), **_sums(sums)} for start, sums in rows]


def _sums(sums: Sequence[int]) -> dict[str, int]:
    found = {name: value for name, value in zip(MEASURES, sums, strict=True) if value}
    found.pop("latency_us", None)
    if "busy_us" in found:
        found["compute_time_ms"] = found.pop("busy_us") // 1000
    for measure, name in _SHOWN.items():
        if measure in found:
            found[name] = found.pop(measure)
    return found


_SHOWN: Final = {"rows_out": "rows_read", "bytes_out": "bytes_read", "bytes_in": "bytes_written"}


def cost(sums: Sequence[float], prices: Prices) -> dict[str, float]:
    """What `sums` (by MEASURES) cost, in parts and in `total`; in units of the price table."""
    rows = sums[AT["rows_out"]] + sums[AT["rows_written"]]
    parts = {
        "queries": sums[AT["queries"]] * prices.per_query,
        "rows": rows / 1000 * prices.per_1000_rows,
        "bytes_read": sums[AT["bytes_out"]] / MB * prices.per_mb_read,
        "bytes_written": sums[AT["bytes_in"]] / MB * prices.per_mb_written,
        "connections": sums[AT["connection_ms"]] / 1000 * prices.per_connection_second,
        "compute": sums[AT["busy_us"]] / 1e6 * prices.per_compute_second,
    }
    parts["total"] = sum(parts.values())
    return {name: round(value, 9) for name, value in parts.items()}


def costs(view: View, prices: Prices, *, top: int | None = None) -> dict[str, Any]:
    """What each tenant has cost, the dearest first, and all together."""
    rows = [{"tenant": id, **cost(account.totals, prices)} for id, account in view.accounts.items()]
    rows.sort(key=lambda row: (-float(row["total"]), str(row["tenant"])))  # type: ignore[arg-type]
    return {
        "currency": prices.currency,
        "tenants": rows[:top],
        "total": cost(view.all.totals, prices),
    }


def noisy_neighbours(view: View, now: float) -> dict[str, Any]:
    """Who takes more than a fair share of server time or queries in the last five minutes.

    A fair share is the same for everybody who was active. `share` is of all that was used, `times`
    how many fair shares that is.
    """
    recent = {
        id: account.brief["minute"].recent(WINDOW_SECONDS, now)
        for id, account in view.accounts.items()
        if account.last_seen > now - WINDOW_SECONDS
    }
    busy = sum(sums[AT["busy_us"]] for sums in recent.values()) / 1e6
    queries = sum(sums[AT["queries"]] for sums in recent.values())
    active = sum(1 for sums in recent.values() if sums[AT["queries"]] or sums[AT["busy_us"]])
    fair = 1 / active if active else 0.0
    rows = []
    for id, sums in recent.items():
        shares = {
            "compute": sums[AT["busy_us"]] / 1e6 / busy if busy else 0.0,
            "queries": sums[AT["queries"]] / queries if queries else 0.0,
        }
        worst = max(shares, key=lambda name: shares[name])
        if active > 1 and busy >= QUIET_SECONDS and shares[worst] > NOISY_FACTOR * fair:
            rows.append(
                {
                    "tenant": id,
                    "compute_share": round(shares["compute"], 4),
                    "queries_share": round(shares["queries"], 4),
                    "times": number(shares[worst] / fair),
                    "limit_hits": number(sums[AT["limit_hits"]]),
                }
            )
    rows.sort(key=lambda row: -float(row["times"]))  # type: ignore[arg-type]
    return {
        "window_seconds": int(WINDOW_SECONDS),
        "active_tenants": active,
        "fair_share": round(fair, 4),
        "compute_seconds": number(busy),
        "noisy": rows,
    }


def limit_hits(view: View, now: float) -> dict[str, Any]:
    """Which limits were hit, how often, by whom; the most first."""
    rows = []
    for id, account in view.accounts.items():
        if account.limits:
            recent = account.brief["minute"].recent(WINDOW_SECONDS, now)[AT["limit_hits"]]
            rows.append(
                {
                    "tenant": id,
                    "total": account.total("limit_hits"),
                    "last_5_minutes": number(recent),
                    "by_limit": dict(sorted(account.limits.items())),
                }
            )
    rows.sort(key=lambda row: (-int(row["total"]), str(row["tenant"])))  # type: ignore[call-overload]
    return {"by_limit": dict(sorted(view.all.limits.items())), "tenants": rows}


def metering(view: View, hour: float) -> list[dict[str, Any]]:
    """The documented usage events of the hour that begins at `hour`: one for each tenant that used
    something. Only the last three hours are known of every tenant, of the detailed ones more."""
    slot = int(hour // 3600)
    found = []
    for id, account in sorted(view.accounts.items()):
        sums = account.series("hour").slots.get(slot)
        if sums is not None:
            found.append(metering_event(id, slot * 3600 + 3600, sums))
    return found


def metering_event(tenant: str, end: float, sums: Sequence[int]) -> dict[str, Any]:
    return {
        "tenant_id": tenant,
        "timestamp": iso(end),
        "period": "hourly",
        "metrics": {
            "requests": sums[AT["queries"]],
            "bandwidth_ingress_bytes": sums[AT["bytes_in"]],
            "bandwidth_egress_bytes": sums[AT["bytes_out"]],
            "compute_time_ms": sums[AT["busy_us"]] // 1000,
        },
    }
