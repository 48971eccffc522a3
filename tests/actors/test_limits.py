"""The token bucket: what is saved, what is refused, what a change of limits does."""

from __future__ import annotations

from actors.lease import share
from actors.limits import TokenBucket


def test_a_burst_is_the_rate_times_its_multiplier() -> None:
    bucket = TokenBucket(5.0, 2.0)
    assert [bucket.take() for _ in range(11)] == [True] * 10 + [False]
    assert 0.0 < bucket.wait() <= 0.2


def test_no_rate_means_no_limit() -> None:
    bucket = TokenBucket(0.0, 1.0)
    assert all(bucket.take() for _ in range(1000))


def test_a_first_limit_starts_full() -> None:
    bucket = TokenBucket(0.0, 1.0)
    bucket.change(10.0, 1.0)
    assert [bucket.take() for _ in range(11)] == [True] * 10 + [False]


def test_a_change_is_no_free_burst() -> None:
    bucket = TokenBucket(10.0, 1.0)
    assert all(bucket.take() for _ in range(10))
    bucket.change(10.0, 5.0)
    assert not bucket.take()


def test_a_rate_below_one_still_lets_one_through() -> None:
    bucket = TokenBucket(0.5, 1.0)
    assert bucket.take()
    assert not bucket.take()


def test_a_text_of_many_statements_is_paid_back_before_the_next() -> None:
    bucket = TokenBucket(5.0, 2.0)
    assert bucket.take()
    bucket.owe(99.0)
    assert not bucket.take()
    assert bucket.wait() > 15.0


def test_workers_share_a_count_but_each_has_one() -> None:
    assert [share(10, 3), share(2, 4), share(None, 4)] == [3, 1, 0]
