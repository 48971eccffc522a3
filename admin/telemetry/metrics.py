"""What is measured, as families of series: for Prometheus's page and for export by OTLP.

Pure functions from the folded view and from what processes report. The number of series is bounded
whatever tenants do: per tenant there are those of the `top` busiest, and one, "other", for all the
rest; `tenant` is the only label whose values tenants have a part in, and their ids are safe there.

Text format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from actors.analytics_fold import AT, Account, View
from admin.reports import REPORTED
from events.latency import quantile
from events.model import Tenant
from events.usage_delta import add_counts

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
OTHER: Final = "other"
# The busiest are chosen anew this often, and who comes in must have so many times the traffic of
# who goes: or series would come and go all the time.
CHOOSE_SECONDS: Final = 60.0
CHOOSE_FACTOR: Final = 2.0
RECENT_SECONDS: Final = 300.0
# What every account has of its last minutes.
HISTORY_SECONDS: Final = 360.0
# Names of limits that become a label.
LIMITS_MAX: Final = 32

# What is counted of each tenant: queries, rate limit hits, bytes out, bytes in.
_Counts = tuple[int, int, int, int]
_NOTHING: Final[_Counts] = (0, 0, 0, 0)


@dataclass(slots=True)
class Family:
    """One metric: `kind` is counter or gauge; samples are labels and a value."""

    name: str
    kind: str
    help: str
    samples: list[tuple[dict[str, str], float]] = field(default_factory=list)

    def add(self, value: float, **labels: str) -> None:
        self.samples.append((labels, float(value)))


class TopTenants:
    """Who has series of its own. Remembers what all others have used together, so that their
    counters never go down when somebody comes or goes."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.ids: list[str] = []
        self.other: _Counts = _NOTHING
        self._all: _Counts = _NOTHING
        self._seen: dict[str, _Counts] = {}
        self._chosen_at = float("-inf")
        self._looked_at = 0.0

    def update(self, view: View, now: float) -> None:
        """Look at the view as it is now."""
        unused = len(self.ids) < self.most or not all(
            view.account(id).total("queries") for id in self.ids
        )
        if unused or now - self._chosen_at >= CHOOSE_SECONDS:
            self._chosen_at = now
            self._choose(view, now)
        seen = {id: _counts(view.account(id)) for id in self.ids}
        whole = _counts(view.all)
        # What the tenants with series of their own used since the last look is not the others'.
        grown = list(_less(whole, self._all))
        first = self._all == _NOTHING
        for id, counts in seen.items():
            before = self._seen.get(id)
            if before is not None or first:
                since = _less(counts, before or _NOTHING)
            else:
                # It has come in just now. What it has used before stays with the others; what since
                # the last look, its history tells to about a minute.
                since = _lately(view.account(id), now - self._looked_at, now)
            for at, value in enumerate(since):
                grown[at] -= value
        self.other = tuple(  # type: ignore[assignment]
            a + max(0, b) for a, b in zip(self.other, grown, strict=True)
        )
        self._all, self._seen, self._looked_at = whole, seen, now

    def _choose(self, view: View, now: float) -> None:
        def traffic(id: str) -> tuple[float, int]:
            account = view.account(id)
            recent = account.brief["minute"].recent(RECENT_SECONDS, now)[AT["queries"]]
            return recent, account.total("queries")

        if self.most == 0:
            return
        known = set(self.ids)
        coming = heapq.nlargest(
            self.most,
            (
                id
                for id, account in view.accounts.items()
                if id not in known and any(account.totals)
            ),
            key=traffic,
        )
        for id in coming:
            if len(self.ids) < self.most:
                self.ids.append(id)
                continue
            least = min(self.ids, key=traffic)
            if traffic(id)[0] <= CHOOSE_FACTOR * traffic(least)[0]:
                break
            self.ids[self.ids.index(least)] = id


def _counts(account: Account) -> _Counts:
    return (
        account.total("queries"),
        account.limits.get("qps", 0),
        account.total("bytes_out"),
        account.total("bytes_in"),
    )


def _lately(account: Account, seconds: float, now: float) -> _Counts:
    sums = account.brief["minute"].recent(min(seconds, HISTORY_SECONDS), now)
    used = [round(sums[AT[name]]) for name in ("queries", "bytes_out", "bytes_in")]
    return used[0], 0, used[1], used[2]


def _less(one: _Counts, other: _Counts) -> _Counts:
    return (one[0] - other[0], one[1] - other[1], one[2] - other[2], one[3] - other[3])


# --- tenants -------------------------------------------------------------------------------------


def tenant_families(
    view: View, top: TopTenants, tenant: Callable[[str], Tenant | None], now: float, prefix: str
) -> list[Family]:
    """The six documented series of the top tenants and of all others together."""
    top.update(view, now)
    name = f"{prefix}_tenant_"
    requests = Family(name + "requests_total", "counter", "Statements of a tenant.")
    seconds = Family(
        name + "latency_seconds", "gauge", "Time of statements on their server, last five minutes."
    )
    exceeded = Family(
        name + "rate_limit_exceeded_total", "counter", "Statements over the rate limit."
    )
    bandwidth = Family(name + "bandwidth_bytes_total", "counter", "Bytes to and from clients.")
    connections = Family(name + "connections_active", "gauge", "Clients connected.")
    quota = Family(name + "quota_usage_ratio", "gauge", "Share of a limit that is used now.")

    def count(id: str, counts: _Counts) -> None:
        requests.add(counts[0], tenant=id)
        exceeded.add(counts[1], tenant=id)
        bandwidth.add(counts[2], tenant=id, direction="egress")
        bandwidth.add(counts[3], tenant=id, direction="ingress")

    rest = dict(view.all.recent_latency(now))
    for id in top.ids:
        account = view.account(id)
        count(id, _counts(account))
        buckets = account.recent_latency(now)
        add_counts(rest, {bucket: -n for bucket, n in buckets.items()})
        _latency(seconds, id, buckets)
        clients = account.connected(now)[0]
        connections.add(clients, tenant=id)
        _quotas(quota, tenant(id), clients, account.qps(now))
    count(OTHER, top.other)
    _latency(seconds, OTHER, {bucket: n for bucket, n in rest.items() if n > 0})
    own = set(top.ids)
    others = (a for id, a in view.accounts.items() if id not in own and a.presences)
    connections.add(sum(account.connected(now)[0] for account in others), tenant=OTHER)
    return [requests, seconds, exceeded, bandwidth, connections, quota]


def _latency(into: Family, id: str, buckets: Mapping[int, int]) -> None:
    found = quantile(buckets, 0.99)
    if found is not None:
        into.add(found, tenant=id, quantile="0.99")


def _quotas(into: Family, tenant: Tenant | None, clients: int, qps: float) -> None:
    if tenant is None:
        return
    limits = tenant.rate_limits
    if limits.max_connections:
        into.add(clients / limits.max_connections, tenant=tenant.id, quota="connections")
    if limits.qps_limit:
        into.add(qps / limits.qps_limit, tenant=tenant.id, quota="qps")


# --- the installation ----------------------------------------------------------------------------


def view_families(view: View, prefix: str) -> list[Family]:
    """What all tenants used together."""
    totals = [
        Family(f"{prefix}_{name}_total", "counter", help)
        for name, help in (
            ("queries", "Statements of all tenants."),
            ("errors", "Statements that PostgreSQL answered with an error."),
            ("refused", "Statements and logins that were refused."),
            ("slow_queries", "Statements that were slow."),
            ("transactions", "Transactions."),
            ("connections", "Logins."),
        )
    ]
    for family in totals:
        family.add(view.all.total(family.name.removeprefix(f"{prefix}_").removesuffix("_total")))
    hits = Family(f"{prefix}_limit_hits_total", "counter", "Limits that were hit, by their name.")
    for name, count in sorted(view.all.limits.items())[:LIMITS_MAX]:
        hits.add(count, limit=name)
    lost = Family(f"{prefix}_usage_messages_missing", "gauge", "Usage messages late or lost.")
    lost.add(view.missing())
    return [*totals, hits, lost]


def health_families(health: Mapping[str, Any], prefix: str) -> list[Family]:
    """What Control.health tells."""
    families = []

    def gauge(name: str, help: str, value: float | None) -> None:
        if value is not None:
            family = Family(f"{prefix}_{name}", "gauge", help)
            family.add(value)
            families.append(family)

    gauge("ready", "1 when all of the installation works.", int(health["ready"]))
    gauge("log_connected", "1 when the log can be reached.", int(health["log_connected"]))
    gauge("log_position", "Sequence up to which the control has folded.", health["position"])
    gauge("workers_alive", "Worker processes that live.", health["workers"]["alive"])
    gauge("workers_wanted", "Worker processes that should.", health["workers"]["wanted"])
    gauge("provisioning_pending", "Tenants being set up.", health["provisioning_pending"])
    gauge("provisioning_failing", "Tenants that cannot be.", health["provisioning_failing"])
    return families


def report_families(reports: Mapping[str, Mapping[str, float]], prefix: str) -> list[Family]:
    """`reports`: process → what it said last, by the names of REPORTED."""
    families = []
    for name, kind, help in REPORTED:
        family = Family(f"{prefix}_{name}", kind, help)
        for process, said in sorted(reports.items()):
            if name in said:
                family.add(said[name], process=process)
        families.append(family)
    return families


# --- as text -------------------------------------------------------------------------------------


def render(families: Iterable[Family]) -> bytes:
    """Prometheus's page."""
    lines = []
    for family in families:
        if not family.samples:
            continue
        lines.append(f"# HELP {family.name} {family.help}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        for labels, value in family.samples:
            told = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
            lines.append(
                f"{family.name}{{{told}}} {value:.15g}" if told else f"{family.name} {value:.15g}"
            )
    return ("\n".join(lines) + "\n").encode()


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
