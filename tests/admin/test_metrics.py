"""The page for Prometheus and the export by OTLP: what they tell, and how many series there are."""

from __future__ import annotations

import asyncio
import urllib.request
from collections import defaultdict
from collections.abc import Iterator

import nats
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.collector import Collector, collecting
from support.engines import Nats
from support.ports import free_port
from support.serving import CONFIG, Proxy, prepared_home, serving, until

from actors.analytics_fold import View
from admin.reports import PREFIX, PROCESSES_MAX, Reports
from admin.telemetry.metrics import OTHER, TopTenants, render, tenant_families
from events.model import Tenant
from events.usage_delta import COUNTERS, Usage

TENANTS = 50
TOP = 5
NOW = 1_800_000_000.0
Page = dict[str, dict[tuple[tuple[str, str], ...], float]]


def parsed(page: bytes) -> Page:
    """Name → labels → value, as Prometheus's own parser reads it."""
    found: Page = defaultdict(dict)
    for family in text_string_to_metric_families(page.decode()):
        assert family.documentation
        assert family.type in ("counter", "gauge")
        for sample in family.samples:
            key = tuple(sorted(sample.labels.items()))
            assert key not in found[sample.name], "one series twice"
            found[sample.name][key] = sample.value
    return found


class Many:
    """Tenants t00 … of which each has twice the traffic of the one before it, for five minutes."""

    def __init__(self) -> None:
        self.view = View()
        self.top = TopTenants(TOP)
        self.n = 0

    def use(self, id: str, queries: int, now: float = NOW, hits: int = 0) -> None:
        self.n += 1
        counters = [0] * len(COUNTERS)
        counters[COUNTERS.index("queries")] = queries
        counters[COUNTERS.index("bytes_out")] = 10 * queries
        limits = {"qps": hits} if hits else {}
        usage = Usage(
            id, "w", "b", self.n, now - 10, now, counters, limits, {5: queries}, (2, 1, 0)
        )
        assert self.view.apply(usage)

    def page(self, now: float = NOW) -> Page:
        return parsed(render(tenant_families(self.view, self.top, tenant, now, "tenantry")))


def tenant(id: str) -> Tenant | None:
    return Tenant.model_validate({"id": id, "rate_limits": {"max_connections": 8, "qps_limit": 10}})


def requests(page: Page) -> dict[str, float]:
    return {
        dict(key)["tenant"]: value for key, value in page["tenantry_tenant_requests_total"].items()
    }


def test_the_six_series_of_the_busiest_and_of_all_others() -> None:
    many = Many()
    for number in range(TENANTS):
        many.use(f"t{number:02}", 100 + number, hits=number % 2)
    page = many.page()
    top = {f"t{number:02}" for number in range(TENANTS - TOP, TENANTS)}
    assert set(requests(page)) == top | {OTHER}
    whole = sum(100 + number for number in range(TENANTS))
    assert sum(requests(page).values()) == whole
    assert sum(page["tenantry_tenant_rate_limit_exceeded_total"].values()) == TENANTS / 2
    assert sum(page["tenantry_tenant_bandwidth_bytes_total"].values()) == 10 * whole
    assert sum(page["tenantry_tenant_connections_active"].values()) == 2 * TENANTS
    one = (("quantile", "0.99"), ("tenant", "t49"))
    assert page["tenantry_tenant_latency_seconds"][one] > 0
    quota = page["tenantry_tenant_quota_usage_ratio"]
    assert quota[(("quota", "connections"), ("tenant", "t49"))] == 0.25
    assert quota[(("quota", "qps"), ("tenant", "t49"))] == pytest.approx(1.49)
    assert sum(map(len, page.values())) <= (TOP + 1) * 8


def test_counters_never_go_down_and_nothing_is_told_twice() -> None:
    many = Many()
    for number in range(10):
        many.use(f"t{number:02}", 100)
    before = requests(many.page())
    # Somebody becomes busy, and takes the place of somebody else.
    later = NOW + 400
    many.use("t09", 10_000, later)
    after = requests(many.page(later))
    assert "t09" in after
    assert len(after) == TOP + 1
    assert all(after[id] >= before[id] for id in after.keys() & before.keys())
    # And it is not taken for work of the others.
    assert after[OTHER] == before[OTHER]
    many.use("t08", 7, later + 1)
    assert requests(many.page(later + 1))[OTHER] == before[OTHER] + 7


def test_who_has_only_logged_in_makes_room_at_once() -> None:
    many = Many()
    for number in range(TOP):
        many.use(f"t{number:02}", 0)
        many.view.account(f"t{number:02}").totals[COUNTERS.index("bytes_in")] = 5
    many.page()
    many.use("t40", 20, NOW + 1)
    assert requests(many.page(NOW + 1))["t40"] == 20


def test_two_of_equal_traffic_do_not_take_turns() -> None:
    many = Many()
    for number in range(10):
        many.use(f"t{number:02}", 100 + number)
    chosen = set(requests(many.page()))
    for step in range(1, 5):
        later = NOW + step * 61
        for number in range(10):
            many.use(f"t{number:02}", 100 + (number * step) % 10, later)
        assert set(requests(many.page(later))) == chosen


def test_a_stranger_on_nats_cannot_make_series() -> None:
    reports = Reports()
    reports.take("worker-0", b'{"clients": 3, "made_up": 1, "actors": "many", "event_lag": true}')
    for data in (b"", b"[]", b"{", b'"x"'):
        reports.take("worker-0x", data)
    for number in range(2 * PROCESSES_MAX):
        reports.take(f"w{number}", b'{"clients": 1}')
    found = reports.current()
    assert found["worker-0"] == {"clients": 3.0, "event_lag": 1.0}
    assert len(found) == PROCESSES_MAX


def test_workers_of_another_proxy_are_not_ours(nats_server: Nats) -> None:
    async def run() -> None:
        bus = await nats.connect(nats_server.url)
        reports = Reports()
        await reports.listen(bus, "here")
        await bus.publish(f"{PREFIX}there.worker-0", b'{"clients": 7}')
        await bus.publish(f"{PREFIX}there.worker-1", b'{"clients": 7}')
        await bus.publish(f"{PREFIX}here.worker-0", b'{"clients": 3}')
        async with asyncio.timeout(10):
            while not reports.current():
                await asyncio.sleep(0.01)
        assert reports.current() == {"worker-0": {"clients": 3.0}}
        await bus.close()

    asyncio.run(run())


# --- a running installation ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as made:
        yield made


@pytest.fixture(scope="module")
def address() -> str:
    return f"127.0.0.1:{free_port()}"


@pytest.fixture(scope="module")
def proxy(collector: Collector, address: str) -> Iterator[Proxy]:
    telemetry = (
        f'telemetry = {{ endpoint = "{collector.url}", prometheus_address = "{address}", '
        'metrics_interval_secs = 0.5, top_tenants = 1, metric_prefix = "loom" }\n'
        "events = { usage_interval_secs = 0.5 }\n"
    )
    with prepared_home(telemetry + CONFIG) as home, serving(home, "--workers", "2") as proxy:
        yield proxy


def scraped(address: str) -> Page:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return parsed(answer.read())


def test_the_page_of_a_running_installation(proxy: Proxy, address: str) -> None:
    with proxy.connect("acme") as client, proxy.connect("widgetco"):
        for _ in range(20):
            client.execute("SELECT 1")
        acme = (("tenant", "acme"),)
        until(
            lambda: scraped(address)["loom_tenant_requests_total"].get(acme, 0) >= 20,
            "to count",
            lambda: scraped(address),
        )
        until(
            lambda: len(scraped(address)["loom_event_lag"]) == 3,
            "to hear of both workers",
            lambda: scraped(address),
        )
        page = scraped(address)
    assert set(
        requests({"tenantry_tenant_requests_total": page["loom_tenant_requests_total"]})
    ) == {
        "acme",
        OTHER,
    }
    workers = [(("process", f"worker-{number}"),) for number in range(2)]
    for name in ("pool_servers_limit", "cache_statements", "actors", "audit_lost_total"):
        assert set(page[f"loom_{name}"]) >= set(workers), name
    for name in ("configuration_staleness_seconds", "resident_memory_bytes"):
        assert all(0 <= page[f"loom_{name}"][worker] < 2**31 for worker in workers), name
    assert page["loom_workers_alive"][()] == 2
    assert page["loom_log_connected"][()] == 1
    assert page["loom_errors_total"][()] == 0


def test_the_same_numbers_go_to_the_collector(proxy: Proxy, collector: Collector) -> None:
    with proxy.connect("acme") as client:
        client.execute("SELECT 1")
    until(
        lambda: any(
            labels["tenant"] == "acme" and value >= 1
            for labels, value in collector.metrics.get("loom_tenant_requests_total", [])
        ),
        "to send metrics",
        lambda: collector.metrics,
    )
    assert "loom_event_lag" in collector.metrics


def test_nothing_else_is_served_there(proxy: Proxy, address: str) -> None:
    for path in ("/", "/metrics/x", "/../etc/passwd"):
        with pytest.raises(urllib.request.HTTPError, match="404"):
            urllib.request.urlopen(f"http://{address}{path}", timeout=10)
    with pytest.raises(urllib.request.HTTPError, match="405"):
        urllib.request.urlopen(f"http://{address}/metrics", data=b"x", timeout=10)
