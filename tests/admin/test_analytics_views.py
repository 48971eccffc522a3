"""The documented answers about usage have the documented names, shapes and figures."""

from __future__ import annotations

import pytest

from actors.analytics_fold import View
from admin.analytics import reports, views
from events.installation import Prices
from events.latency import bucket_of
from events.model import RateLimits, Tenant
from events.usage_delta import COUNTERS, Usage

NOW = 1_705_314_600.0  # 2024-01-15T10:30:00Z


def usage(
    tenant: str,
    n: int = 1,
    *,
    boot: str = "b",
    until: float = NOW,
    seconds: float = 10.0,
    limits: dict[str, int] | None = None,
    latency: dict[int, int] | None = None,
    now: tuple[int, int, int] | None = None,
    **values: int,
) -> Usage:
    counters = [values.get(name, 0) for name in COUNTERS]
    return Usage(
        *(tenant, "worker-0", boot, n, until - seconds, until, counters),
        *(limits or {}, latency or {}, now),
    )


def folded(*messages: Usage) -> View:
    view = View()
    for message in messages:
        assert view.apply(message)
    return view


def tenant(id: str, **limits: object) -> Tenant:
    return Tenant(id=id, name=id.title(), rate_limits=RateLimits(**limits))  # type: ignore[arg-type]


ACME = tenant("acme", max_connections=50, qps_limit=1000.0)


def test_stats_of_a_tenant_have_both_documented_shapes() -> None:
    view = folded(
        usage(
            *("acme", 1),
            until=NOW - 86400,
            queries=145_440,
            rows_out=5_000_000,
            rows_written=50_000,
            bytes_out=1_200_000_000,
            bytes_in=50_000_000,
            slow_queries=12,
            limits={"qps": 7, "pool": 1},
        ),
        usage("acme", 2, queries=4560, now=(25, 12, 10)),
    )
    assert views.tenant_stats(view, ACME, NOW, bandwidth_limit=100_000_000_000) == {
        "tenant_id": "acme",
        "tenant": "acme",
        "connections": {"active": 25, "idle": 10, "max": 50},
        "queries": {"total": 150_000, "qps_current": 456, "qps_limit": 1000, "slow_queries": 12},
        "data": {
            "rows_read": 5_000_000,
            "rows_written": 50_000,
            "bytes_read": "1.2GB",
            "bytes_written": "50MB",
        },
        "stats": {
            "requests_total": 150_000,
            "requests_per_second": 456,
            "bandwidth_used": "1.2GB",
            "bandwidth_limit": "100GB",
            "active_connections": 25,
            "rate_limit_exceeded": 7,
        },
        "quotas": {
            "bandwidth": {
                "used": 1_250_000_000,
                "limit": 100_000_000_000,
                "reset_at": "2024-02-01T00:00:00Z",
            }
        },
    }


def test_a_tenant_that_never_used_anything_and_has_no_limits() -> None:
    free = tenant("free", max_connections=None, qps_limit=None)
    stats = views.tenant_stats(View(), free, NOW)
    assert stats["connections"] == {"active": 0, "idle": 0, "max": None}
    assert stats["queries"]["qps_limit"] is None
    assert stats["stats"]["bandwidth_used"] == "0B"
    assert stats["quotas"]["bandwidth"]["limit"] is None
    assert views.tenant_metrics(View(), free, NOW)["latency"]["p99_ms"] is None


def test_the_list_of_tenants() -> None:
    view = folded(usage("acme", queries=4560, now=(25, 0, 0)))
    assert views.list_entry(view, ACME, NOW) == {
        "id": "acme",
        "name": "Acme",
        "isolation": "schema",
        "active_connections": 25,
        "qps_current": 456,
        "qps_limit": 1000,
    }


def test_across_tenants() -> None:
    view = folded(
        usage("acme", 1, queries=5000, now=(40, 0, 0)),
        usage("beta", 2, queries=1000, now=(10, 0, 0)),
        usage("gone", 3, until=NOW - 3600, queries=9999),
    )
    tenants = [ACME, tenant("beta", max_connections=50, qps_limit=200.0)]
    tenants += [tenant("idle", max_connections=None, qps_limit=None)]
    answer = views.cross_tenant(view, tenants, NOW)
    assert answer["summary"] == {"total_tenants": 3, "active_tenants": 2, "total_qps": 600}
    assert answer["top_tenants_by_usage"] == [
        {"tenant": "acme", "qps": 500, "connections": 40},
        {"tenant": "beta", "qps": 100, "connections": 10},
    ]
    found = answer["resource_distribution"]
    assert (found["connections_used_pct"], found["qps_used_pct"]) == (0.5, 0.5)
    assert found["tenants_by_tenth"]["connections"] == [0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0]
    assert found["unlimited_tenants"] == {"connections": 1, "qps": 1}
    assert [each["tenant"] for each in views.top_tenants(view, NOW, by="requests")] == [
        *("gone", "acme", "beta"),
    ]
    assert [each["tenant"] for each in views.top_tenants(view, NOW, by="requests", top=1)] == [
        "gone"
    ]
    recent = views.top_tenants(view, NOW, by="requests", seconds=300)
    assert recent[0] == {"tenant": "acme", "qps": 500, "connections": 40, "requests": 5000}
    with pytest.raises(KeyError):
        views.top_tenants(view, NOW, by="beauty")


def test_the_overview_and_global_metrics_sum_what_tenants_have() -> None:
    view = folded(
        usage("acme", 1, queries=100, now=(3, 2, 1), latency={bucket_of(900): 100}),
        usage("beta", 2, queries=100, now=(1, 1, 1), latency={bucket_of(90_000): 100}),
    )
    tenants = [ACME, tenant("beta")]
    overview = views.overview(view, tenants, NOW)
    assert [each["tenant"] for each in overview["tenants"]] == ["acme", "beta"]
    assert (overview["total"]["requests_total"], overview["total"]["active_connections"]) == (
        200,
        4,
    )
    found = views.global_metrics(view, tenants, NOW)
    assert found["totals"]["queries"] == 200
    assert found["connections"] == {"clients": 4, "servers": 3, "servers_idle": 2}
    assert 0.9 <= found["latency"]["p50_ms"] <= 1.2
    assert 90 <= found["latency"]["p99_ms"] <= 113
    assert found["usage_messages"] == {
        "folded": 2,
        "repeats": 0,
        "unreadable": 0,
        "missing": 0,
        "lag_seconds": 0,
    }


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0B"), (999, "999B"), (45_000_000_000, "45GB"), (1_250, "1.2kB"), (10**15, "1PB")],
)
def test_sizes(count: int, text: str) -> None:
    assert views.size(count) == text


def test_history_leaves_out_what_is_not() -> None:
    view = folded(
        usage("acme", 1, until=NOW - 7200, queries=1, bytes_out=2, busy_us=5_000),
        usage("acme", 2, queries=3),
    )
    assert reports.history(view.account("acme"), "hour", view.newest) == [
        {"time": "2024-01-15T08:00:00Z", "queries": 1, "compute_time_ms": 5, "bytes_read": 2},
        {"time": "2024-01-15T10:00:00Z", "queries": 3},
    ]
    assert len(reports.history(view.all, "day", view.newest)) == 1


def test_cost_by_the_price_table() -> None:
    view = folded(
        usage(
            *("acme", 1),
            queries=2_000_000,
            rows_out=900_000,
            rows_written=100_000,
            bytes_out=500_000_000,
            bytes_in=10_000_000,
            connection_ms=60_000,
            busy_us=7_000_000,
        ),
        usage("beta", 2, queries=1),
    )
    found = reports.costs(view, Prices(currency="EUR"))
    assert found["currency"] == "EUR"
    assert found["tenants"][0] == {
        "tenant": "acme",
        "queries": 2.0,
        "rows": 0.01,
        "bytes_read": 0.005,
        "bytes_written": 0.001,
        "connections": 0.0,
        "compute": 0.0,
        "total": 2.016,
    }
    assert found["total"]["total"] == pytest.approx(2.016001)
    assert len(reports.costs(view, Prices(), top=1)["tenants"]) == 1
    dear = Prices(per_connection_second=0.5, per_compute_second=1.0)
    sums = view.account("acme").totals
    assert reports.cost(sums, dear)["connections"] == 30.0
    assert reports.cost(sums, dear)["compute"] == 7.0


def test_who_takes_more_than_a_fair_share_is_told() -> None:
    view = folded(
        usage("loud", 1, queries=10, busy_us=90_000_000, limits={"qps": 3}),
        *(usage(f"t{n}", n, queries=10, busy_us=2_000_000) for n in range(2, 7)),
    )
    found = reports.noisy_neighbours(view, NOW)
    assert (found["active_tenants"], found["fair_share"], found["compute_seconds"]) == (
        *(6, 0.1667, 100),
    )
    assert found["noisy"] == [
        {
            "tenant": "loud",
            "compute_share": 0.9,
            "queries_share": 0.1667,
            "times": 5.4,
            "limit_hits": 3,
        }
    ]
    assert reports.noisy_neighbours(view, NOW + 900)["noisy"] == [], "it is over"
    alone = folded(usage("only", queries=10, busy_us=90_000_000))
    assert reports.noisy_neighbours(alone, NOW)["noisy"] == [], "nobody is disturbed"


def test_limits_that_were_hit() -> None:
    view = folded(
        usage("acme", 1, limits={"qps": 3, "pool": 1}),
        usage("beta", 2, limits={"qps": 10}, until=NOW - 3600),
        usage("calm", 3, queries=1),
    )
    assert reports.limit_hits(view, NOW) == {
        "by_limit": {"pool": 1, "qps": 13},
        "tenants": [
            {"tenant": "beta", "total": 10, "last_5_minutes": 0, "by_limit": {"qps": 10}},
            {
                "tenant": "acme",
                "total": 4,
                "last_5_minutes": 4,
                "by_limit": {"pool": 1, "qps": 3},
            },
        ],
    }


def test_the_documented_usage_event() -> None:
    hour = NOW - 1800 - 3600
    view = folded(
        usage(
            *("acme", 1),
            until=hour + 60,
            queries=20_000,
            bytes_in=100_000_000,
            busy_us=25_000_999,
        ),
        usage("acme", 2, until=hour + 3599, queries=30_000, bytes_out=500_000_000),
        usage("acme", 3, queries=1),
        usage("beta", 4, queries=1),
    )
    assert reports.metering(view, hour) == [
        {
            "tenant_id": "acme",
            "timestamp": "2024-01-15T10:00:00Z",
            "period": "hourly",
            "metrics": {
                "requests": 50_000,
                "bandwidth_ingress_bytes": 100_000_000,
                "bandwidth_egress_bytes": 500_000_000,
                "compute_time_ms": 25_000,
            },
        }
    ]
