"""What is folded is what a recount finds: in any order, with repeats, however it is bounded."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from actors.analytics_fold import (
    AT,
    BRIEF,
    HISTORY,
    MEASURES,
    WIDTH,
    Account,
    Ranges,
    View,
    month_of,
)
from events.usage_delta import COUNTERS, Usage

T0 = 1_763_700_000.0  # 2025-11-21, 04:40 UTC
DAY = 86400.0

counts = st.integers(0, 50)


def usage(
    tenant: str = "acme",
    boot: str = "b1",
    n: int = 1,
    until: float = T0,
    seconds: float = 10.0,
    limits: dict[str, int] | None = None,
    now: tuple[int, int, int] | None = None,
    **values: int,
) -> Usage:
    counters = [values.get(name, 0) for name in COUNTERS]
    return Usage(
        *(tenant, "worker-0", boot, n, until - seconds, until, counters, limits or {}), {}, now
    )


@st.composite
def messages(draw: st.DrawFn) -> list[Usage]:
    """What some workers sent, each numbering its own."""
    found = []
    for boot in draw(st.lists(st.sampled_from("abc"), unique=True, min_size=1)):
        recent, days = st.integers(-600, 0), st.integers(-500 * 86400, 0)
        ages = draw(st.lists(recent | days, min_size=1, max_size=12))
        for n, age in enumerate(sorted(ages), 1):
            until = T0 + age
            found.append(
                Usage(
                    draw(st.sampled_from(["acme", "widgetco", "third"])),
                    *("worker-0", boot, n, until - 10.0, until),
                    counters=draw(st.lists(counts, min_size=len(COUNTERS), max_size=len(COUNTERS))),
                    limits=draw(st.dictionaries(st.sampled_from(["qps", "pool"]), counts)),
                    latency=draw(st.dictionaries(st.integers(0, 80), counts)),
                    now=draw(st.none() | st.tuples(counts, counts, counts)),
                )
            )
    return found


def vector(message: Usage) -> list[int]:
    return [*message.counters, sum(message.limits.values())]


def summed(messages: list[Usage]) -> list[int]:
    return [sum(each) for each in zip(*map(vector, messages), strict=True)] or [0] * WIDTH


def slots(messages: list[Usage], step: int, keep: int, newest: float) -> dict[int, list[int]]:
    """Start of each slot that is kept → sums, counted anew."""
    found: dict[int, list[Usage]] = {}
    for message in messages:
        slot = int(message.until // step)
        if slot > int(newest // step) - keep:
            found.setdefault(slot * step, []).append(message)
    return {start: summed(those) for start, those in found.items()}


def check(account: Account, ours: list[Usage], newest: float) -> None:
    """That the account is what a recount of its messages comes to."""
    assert list(account.totals) == summed(ours)
    limits: Counter[str] = Counter()
    latency: Counter[int] = Counter()
    months: Counter[int] = Counter()
    for message in ours:
        limits.update(message.limits)
        latency.update(message.latency)
        months[month_of(message.until)] += sum(
            message.counters[AT[name]] for name in ("bytes_in", "bytes_out")
        )
    assert account.limits == dict(limits)
    assert account.latency == dict(latency)
    recent = dict(sorted((+months).items())[-14:])
    assert account.months == recent
    assert account.detail is not None
    for shapes, series in ((HISTORY, account.detail.series), (BRIEF, account.brief)):
        for name, (step, keep) in shapes.items():
            rows = {start: list(sums) for start, sums in series[name].rows(newest)}
            recount = slots(ours, step, keep, newest)
            # A message in which nothing was used makes a slot, or not, by the order.
            assert {k: v for k, v in rows.items() if any(v)} == {
                k: v for k, v in recount.items() if any(v)
            }


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_the_fold_is_the_recount_in_any_order_with_repeats(data: st.DataObject) -> None:
    unique = data.draw(messages())
    repeats = data.draw(st.lists(st.sampled_from(unique), max_size=10))
    view = View()
    for message in data.draw(st.permutations(unique + repeats)):
        view.apply(message)
    newest = max(message.until for message in unique)
    assert (view.messages, view.repeats) == (len(unique), len(repeats))
    assert (view.newest, view.missing()) == (newest, 0)
    check(view.all, unique, newest)
    assert view.accounts.keys() == {message.tenant for message in unique}
    for tenant, account in view.accounts.items():
        check(account, [message for message in unique if message.tenant == tenant], newest)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_what_is_connected_now_does_not_depend_on_the_order(data: st.DataObject) -> None:
    unique = data.draw(messages())
    views = [View(), View()]
    for view in views:
        for message in data.draw(st.permutations(unique)):
            view.apply(message)
    newest = views[0].newest
    one, other = (
        # Sums of fractions in another order differ in their last digit.
        {t: (a.connected(newest), round(a.qps(newest), 9)) for t, a in view.accounts.items()}
        for view in views
    )
    assert one == other


@settings(max_examples=100)
@given(st.lists(st.integers(1, 60)))
def test_ranges_are_a_set(numbers: list[int]) -> None:
    ranges, known = Ranges(), set[int]()
    for n in numbers:
        assert ranges.add(n) is (n not in known)
        known.add(n)
    assert ranges.missing() == max(known, default=0) - len(known)


def test_too_many_holes_are_given_up_rather_than_counted_twice() -> None:
    ranges = Ranges(ranges_max=3)
    for n in (2, 4, 6, 8):
        assert ranges.add(n)
    assert (ranges.starts, ranges.ends) == ([2, 6, 8], [4, 6, 8])
    assert not ranges.add(3)
    assert not ranges.add(4)


def test_more_tenants_than_accounts_are_folded_together() -> None:
    view = View(accounts_max=2)
    for n, tenant in enumerate(("a", "b", "c", "d", "a"), 1):
        view.apply(usage(tenant, n=n, queries=n))
    assert {tenant: account.total("queries") for tenant, account in view.accounts.items()} == {
        "a": 6,
        "b": 2,
    }
    assert view.other.total("queries") == 7
    assert view.all.total("queries") == 15
    assert view.account("c").total("queries") == 0


def test_the_busiest_tenants_have_a_history() -> None:
    view = View(details_max=2)
    n = 0
    for minute in range(6):
        for tenant, queries in (("quiet", 1), ("middle", 10), ("busy", 1000)):
            n += 1
            view.apply(usage(tenant, n=n, until=T0 + 60 * minute, queries=queries))
    detailed = {tenant for tenant, account in view.accounts.items() if account.detail}
    assert detailed == {"middle", "busy"}
    detail = view.accounts["busy"].detail
    assert detail is not None
    assert T0 <= detail.since < T0 + 180, "since it came in"
    assert view.accounts["quiet"].total("queries") == 6, "totals are kept of all"
    assert sum(s[AT["queries"]] for _, s in view.all.series("minute").rows(view.newest)) == 6066


def test_equal_tenants_do_not_take_turns() -> None:
    view = View(details_max=1)
    rng = random.Random(1)
    for n in range(1, 400):
        tenant = rng.choice(("first", "second")) if n > 1 else "first"
        view.apply(usage(tenant, n=n, until=T0 + 6 * n, queries=100))
    detail = view.accounts["first"].detail
    assert detail is not None
    assert detail.since == 0.0, "from its first message on"


def test_rates_and_presence_end_with_the_worker() -> None:
    view = View()
    view.apply(usage(boot="b1", until=T0, queries=100, now=(3, 2, 1)))
    view.apply(usage(boot="b2", until=T0 + 5, queries=50, now=(4, 1, 0)))
    account = view.account("acme")
    assert account.qps(T0 + 5) == 15.0
    assert account.connected(T0 + 5) == (7, 3, 1)
    view.apply(usage(boot="b2", n=2, until=T0 + 15, queries=10))
    assert account.qps(T0 + 15) == 11.0
    assert account.qps(T0 + 32) == 1.0, "the first worker has fallen silent"
    assert account.connected(T0 + 92) == (4, 1, 0)
    assert account.connected(T0 + 200) == (0, 0, 0)


def test_rates_over_the_last_minutes() -> None:
    view = View()
    start = T0 - T0 % 60
    for n in range(1, 61):
        view.apply(usage(n=n, until=start + 10 * n - 1, queries=20))
    account = view.account("acme")
    now = start + 600
    assert account.rates(60, now)["queries"] == 2.0
    assert account.rates(300, now)["queries"] == 2.0
    assert account.rates(60, now + 30)["queries"] == 1.0, "half of it is silence"
    assert account.rates(60, now + 120)["queries"] == 0.0


def test_a_clock_that_is_ahead_does_not_end_all_history() -> None:
    view = View()
    view.apply(usage(n=1, until=T0, queries=1), T0)
    view.apply(usage(n=2, until=T0 + 400 * DAY, queries=1), T0 + 1)
    assert view.newest == T0 + 1
    assert len(view.all.series("minute").rows(view.newest)) == 1


def test_what_cannot_be_read_is_counted() -> None:
    view = View()
    assert not view.apply(None)
    assert (view.unread, view.messages) == (1, 0)
    assert MEASURES[-1] == "limit_hits"
