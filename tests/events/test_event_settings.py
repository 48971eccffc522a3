"""fold(diff(a, b)) applied to a gives b, whatever a and b."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from events.model import Model, RateLimits, Tenant
from events.settings import canonical, diff, merge, prune, read_leniently

LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.integers())
TREES = st.recursive(
    LEAVES, lambda below: st.dictionaries(st.text(max_size=3), below, max_size=4), max_leaves=12
)
SETTINGS = st.dictionaries(st.sampled_from("abcd"), TREES, max_size=4).map(prune)


@given(SETTINGS, SETTINGS)
def test_the_difference_of_two_settings_leads_from_one_to_the_other(
    old: dict[str, Any], new: dict[str, Any]
) -> None:
    before = copy.deepcopy(old)
    assert prune(merge(old, diff(old, new))) == new
    assert old == before
    assert diff(new, new) == {}


def test_none_in_a_patch_puts_a_key_back() -> None:
    assert merge({"a": {"x": 1, "y": 2}, "b": 3}, {"a": {"x": None}}) == {"a": {"y": 2}, "b": 3}


def test_two_spellings_of_one_value_are_one_value() -> None:
    words = {"id": "a", "rate_limits": {"max_statement_size": "1MB", "max_query_duration": "1m"}}
    numbers = {"id": "a", "rate_limits": {"max_statement_size": 2**20, "max_query_duration": 60}}
    assert canonical(Tenant.model_validate(words)) == canonical(Tenant.model_validate(numbers))


def test_unlimited_survives_as_a_word_because_none_would_mean_the_default() -> None:
    tenant = Tenant.model_validate({"id": "a", "rate_limits": {"qps_limit": "unlimited"}})
    assert tenant.rate_limits.qps_limit is None
    assert canonical(tenant) == {"id": "a", "rate_limits": {"qps_limit": "unlimited"}}
    assert Tenant.model_validate(canonical(tenant)) == tenant


def test_what_only_a_newer_writer_knows_is_left_out() -> None:
    settings = {
        "id": "a",
        "novelty": 1,
        "pool": {"min_idle": 3, "colour": "red"},
        "users": [{"name": "u", "scram": "SCRAM-SHA-256$1:s$k:v", "badge": True}],
    }
    tenant = read_leniently(Tenant, settings)
    assert (tenant.pool.min_idle, tenant.users[0].name) == (3, "u")


def test_what_is_wrong_otherwise_is_still_wrong() -> None:
    class Small(Model):
        size: int = 0

    with pytest.raises(ValidationError):
        read_leniently(Small, {"size": "large", "novelty": 1})


def test_a_limit_of_zero_is_refused_because_it_could_mean_all_or_nothing() -> None:
    with pytest.raises(ValidationError, match="unlimited"):
        RateLimits(qps_limit=0)
    assert RateLimits(qps_limit="unlimited").qps_limit is None
