"""Times fall into buckets that follow each other without holes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.latency import BUCKETS, bucket_of, quantile, upper_bound


@given(st.integers(0, 2**40))
def test_a_time_lies_below_its_buckets_bound_and_not_below_the_one_before(us: int) -> None:
    bucket = bucket_of(us)
    assert 0 <= bucket < BUCKETS
    assert us < upper_bound(bucket)
    if bucket:
        assert us >= upper_bound(bucket - 1)


def test_bounds_grow_by_a_quarter_at_most() -> None:
    bounds = [upper_bound(bucket) for bucket in range(BUCKETS)]
    assert bounds[0] == 64
    assert bounds[-2] == 2**27
    ratios = [after / before for before, after in pairwise(bounds[:-1])]
    assert 1.14 < min(ratios) <= max(ratios) <= 1.25


def test_quantiles_are_never_too_low_and_little_too_high() -> None:
    times = [n * n for n in range(1, 2001)]  # up to 4 s
    counts: dict[int, int] = {}
    for us in times:
        counts[bucket_of(us)] = counts.get(bucket_of(us), 0) + 1
    for share in (0.5, 0.9, 0.99, 1.0):
        exact = times[int(share * len(times)) - 1] / 1e6
        found = quantile(counts, share)
        assert found is not None
        assert exact <= found <= 1.25 * exact


def test_edges() -> None:
    assert quantile({}, 0.99) is None
    assert quantile({0: 3}, 0.99) == pytest.approx(64e-6)
    assert quantile({BUCKETS - 1: 1}, 0.5) == pytest.approx(2**27 / 1e6), "as much as is known"
