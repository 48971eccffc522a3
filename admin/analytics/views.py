"""The documented answers about usage: pure functions from the folded view to JSON.

`tenants` are the configured tenants, `now` is in seconds since 1970. Field names and shapes are
those of the two products whose documents Tenantry follows, side by side in one object; what is not
documented there stands beside them. Unlimited is null.

connections: active = clients connected, idle = server connections that wait for work, max = limit.
bytes_read went to the clients, bytes_written came from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from actors.analytics_fold import CURRENT_SECONDS, MEASURES, Account, View
from events.latency import quantile
from events.model import Tenant

# A tenant is active that used something within this, or has clients now.
ACTIVE_SECONDS: Final = 300.0
QUANTILES: Final = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))

# Names under which people ask for measures, beside those of MEASURES themselves.
SPELLINGS: Final = {
    "requests": "queries",
    "rows_read": "rows_out",
    "bytes_read": "bytes_out",
    "bytes_written": "bytes_in",
    "compute_time": "busy_us",
    "cpu": "busy_us",
    "limits": "limit_hits",
    "slow": "slow_queries",
}


def number(value: float) -> float | int:
    """Whole when it is whole, else two decimals."""
    rounded = round(value, 2)
    return int(rounded) if rounded == int(rounded) else rounded


def size(count: float) -> str:
    """1200000000 is "1.2GB": decimal, as in the documented answers."""
    for unit, power in (("PB", 15), ("TB", 12), ("GB", 9), ("MB", 6), ("kB", 3)):
        if count >= 10**power:
            return f"{number(round(count / 10**power, 1))}{unit}"
    return f"{int(count)}B"


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# --- one tenant ----------------------------------------------------------------------------------


def list_entry(view: View, tenant: Tenant, now: float) -> dict[str, Any]:
    """An element of GET /tenants: {id, name, isolation, active_connections, qps_current,
    qps_limit}."""
    account = view.account(tenant.id)
    return {
        "id": tenant.id,
        "name": tenant.name,
        "isolation": tenant.isolation.strategy,
        "active_connections": account.connected(now)[0],
        "qps_current": number(account.qps(now)),
        "qps_limit": limit(tenant.rate_limits.qps_limit),
    }


def tenant_stats(
    view: View, tenant: Tenant, now: float, *, bandwidth_limit: int | None = None
) -> dict[str, Any]:
    """GET /tenants/{id}/stats, both documented shapes in one. `bandwidth_limit` is bytes a calendar
    month (UTC)."""
    account = view.account(tenant.id)
    clients, _, idle = account.connected(now)
    qps = number(account.qps(now))
    used, reset = bandwidth(account, now)
    return {
        "tenant_id": tenant.id,
        "tenant": tenant.id,
        "connections": {
            "active": clients,
            "idle": idle,
            "max": tenant.rate_limits.max_connections,
        },
        "queries": {
            "total": account.total("queries"),
            "qps_current": qps,
            "qps_limit": limit(tenant.rate_limits.qps_limit),
            "slow_queries": account.total("slow_queries"),
        },
        "data": {
            "rows_read": account.total("rows_out"),
            "rows_written": account.total("rows_written"),
            "bytes_read": size(account.total("bytes_out")),
            "bytes_written": size(account.total("bytes_in")),
        },
        "stats": {
            "requests_total": account.total("queries"),
            "requests_per_second": qps,
            "bandwidth_used": size(used),
            "bandwidth_limit": None if bandwidth_limit is None else size(bandwidth_limit),
            "active_connections": clients,
            "rate_limit_exceeded": account.limits.get("qps", 0),
        },
        "quotas": {"bandwidth": {"used": used, "limit": bandwidth_limit, "reset_at": iso(reset)}},
    }


def bandwidth(account: Account, now: float) -> tuple[int, float]:
    """Bytes both ways in this calendar month (UTC), and when the next one begins."""
    today = datetime.fromtimestamp(now, UTC)
    used = account.months.get(today.year * 100 + today.month, 0)
    year, month = divmod(today.year * 12 + today.month, 12)
    return used, datetime(year, month + 1, 1, tzinfo=UTC).timestamp()


def tenant_metrics(view: View, tenant: Tenant, now: float) -> dict[str, Any]:
    """GET /tenants/{id}/metrics: every measure, rates, latency, limits that were hit."""
    account = view.account(tenant.id)
    return {"tenant_id": tenant.id, "name": tenant.name, **metrics(account, now)}


def metrics(account: Account, now: float) -> dict[str, Any]:
    """What is measured, of one account."""
    clients, servers, idle = account.connected(now)
    return {
        "qps_current": number(account.qps(now)),
        "connections": {"clients": clients, "servers": servers, "servers_idle": idle},
        "totals": totals(account),
        "rates": {
            name: {key: number(value) for key, value in named(account.rates(seconds, now)).items()}
            for name, seconds in (("1m", 60.0), ("5m", 300.0))
        },
        "latency": latency(account, now),
        "limit_hits": dict(sorted(account.limits.items())),
        "last_used": iso(account.last_seen) if account.last_seen else None,
    }


def totals(account: Account) -> dict[str, int]:
    found = dict(zip(MEASURES, account.totals, strict=True))
    found["compute_time_ms"] = found.pop("busy_us") // 1000
    found["rows_read"] = found.pop("rows_out")
    found["bytes_read"] = found.pop("bytes_out")
    found["bytes_written"] = found.pop("bytes_in")
    del found["latency_us"]
    found["connection_seconds"] = found.pop("connection_ms") // 1000
    return found


def named(rates: dict[str, float]) -> dict[str, float]:
    """Rates that people look at. Compute is PostgreSQL connections at work, on average."""
    return {
        "queries": rates["queries"],
        "errors": rates["errors"],
        "refused": rates["refused"],
        "rows_read": rates["rows_out"],
        "rows_written": rates["rows_written"],
        "bytes_read": rates["bytes_out"],
        "bytes_written": rates["bytes_in"],
        "compute": rates["busy_us"] / 1e6,
        "limit_hits": rates["limit_hits"],
    }


def latency(account: Account, now: float) -> dict[str, float | None]:
    """Milliseconds; of the last five minutes where that is kept, else of all time."""
    counts = account.recent_latency(now)
    found: dict[str, float | None] = {}
    for name, share in QUANTILES:
        seconds = quantile(counts, share)
        found[f"{name}_ms"] = None if seconds is None else round(seconds * 1000, 3)
    statements = sum(account.latency.values())
    average = account.total("latency_us") / statements / 1000 if statements else None
    found["average_ms"] = None if average is None else round(average, 3)
    return found


# --- all tenants ---------------------------------------------------------------------------------


def overview(view: View, tenants: Sequence[Tenant], now: float) -> dict[str, Any]:
    """GET /tenants/stats: the stats of each tenant, and their sum."""
    return {
        "tenants": [tenant_stats(view, tenant, now) for tenant in tenants],
        "total": {
            "tenants": len(tenants),
            "active_tenants": sum(active(view, tenant.id, now) for tenant in tenants),
            "requests_total": view.all.total("queries"),
            "requests_per_second": number(total_qps(view, now)),
            "active_connections": sum(a.connected(now)[0] for a in view.accounts.values()),
            "rate_limit_exceeded": view.all.limits.get("qps", 0),
        },
    }


def global_metrics(view: View, tenants: Sequence[Tenant], now: float) -> dict[str, Any]:
    """GET /metrics as JSON: the same measures, all tenants together."""
    found = metrics(view.all, now)
    connected = [account.connected(now) for account in view.accounts.values()]
    names = ("clients", "servers", "servers_idle")
    sums = [sum(each[at] for each in connected) for at in range(len(names))]
    found["connections"] = dict(zip(names, sums, strict=True))
    found["qps_current"] = number(total_qps(view, now))
    return {
        "tenants": len(tenants),
        "active_tenants": sum(active(view, tenant.id, now) for tenant in tenants),
        **found,
        "usage_messages": {
            "folded": view.messages,
            "repeats": view.repeats,
            "unreadable": view.unread,
            "missing": view.missing(),
            "lag_seconds": number(max(0.0, now - view.newest)) if view.newest else None,
        },
    }


def cross_tenant(
    view: View, tenants: Sequence[Tenant], now: float, *, by: str = "qps", top: int = 10
) -> dict[str, Any]:
    """GET /analytics/cross-tenant. `by` is a measure (see `top_tenants`)."""
    qps = total_qps(view, now)
    return {
        "summary": {
            "total_tenants": len(tenants),
            "active_tenants": sum(active(view, tenant.id, now) for tenant in tenants),
            "total_qps": number(qps),
        },
        "top_tenants_by_usage": top_tenants(view, now, by=by, top=top),
        "resource_distribution": distribution(view, tenants, now),
        "as_of": iso(view.newest) if view.newest else None,
    }


def top_tenants(
    view: View, now: float, *, by: str = "qps", top: int = 10, seconds: float | None = None
) -> list[dict[str, Any]]:
    """The tenants with most of `by`: `qps` or `connections` (now), or any of MEASURES and
    SPELLINGS, over all time or, with `seconds`, over the last while (an hour at most). Raises
    KeyError for what is no measure."""
    measure = SPELLINGS.get(by, by)
    if measure not in (*MEASURES, "qps", "connections"):
        raise KeyError(by)
    ranked = []
    for id, account in view.accounts.items():
        value = _value(account, measure, now, seconds)
        if value > 0:
            ranked.append((value, id))
    ranked.sort(key=lambda each: (-each[0], each[1]))
    found = []
    for value, id in ranked[:top]:
        account = view.accounts[id]
        row = {
            "tenant": id,
            "qps": number(account.qps(now)),
            "connections": account.connected(now)[0],
        }
        if by not in row:
            row[by] = number(value)
        found.append(row)
    return found


def _value(account: Account, measure: str, now: float, seconds: float | None) -> float:
    if measure == "qps":
        return account.qps(now)
    if measure == "connections" and seconds is None:
        return account.connected(now)[0]
    if seconds is None:
        return account.total(measure)
    series = account.brief["minute" if seconds <= ACTIVE_SECONDS else "hour"]
    return series.recent(seconds, now)[MEASURES.index(measure)]


def distribution(view: View, tenants: Sequence[Tenant], now: float) -> dict[str, Any]:
    """How much of what is allowed is used: all tenants together (of those that have a limit), and
    how many tenants use how many tenths of theirs."""
    used = {"connections": 0.0, "qps": 0.0}
    allowed = {"connections": 0.0, "qps": 0.0}
    tenths = {"connections": [0] * 11, "qps": [0] * 11}
    unlimited = {"connections": 0, "qps": 0}
    for tenant in tenants:
        account = view.account(tenant.id)
        limits = tenant.rate_limits
        for name, value, most in (
            ("connections", float(account.connected(now)[0]), limits.max_connections),
            ("qps", account.qps(now), limits.qps_limit),
        ):
            if most is None:
                unlimited[name] += 1
                continue
            used[name] += value
            allowed[name] += most
            tenths[name][min(10, int(10 * value / most))] += 1
    return {
        "connections_used_pct": _share(used["connections"], allowed["connections"]),
        "qps_used_pct": _share(used["qps"], allowed["qps"]),
        "tenants_by_tenth": tenths,
        "unlimited_tenants": unlimited,
    }


def _share(part: float, whole: float) -> float:
    return round(part / whole, 4) if whole else 0.0


def active(view: View, tenant: str, now: float) -> bool:
    account = view.accounts.get(tenant)
    if account is None:
        return False
    return account.last_seen > now - ACTIVE_SECONDS or account.connected(now)[0] > 0


def total_qps(view: View, now: float) -> float:
    return sum(
        account.qps(now)
        for account in view.accounts.values()
        if account.last_seen > now - CURRENT_SECONDS
    )


def limit(value: float | None) -> float | int | None:
    return None if value is None else number(value)
