"""A change is judged by what it touches: always with the verdict that the whole would get."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from events import tenant_entry
from events.facts import TenantChanged, TenantCreated
from events.model import Tenant
from events.settings import merge
from events.tenant_entry import NOTHING, Entry, fold

START: dict[str, Any] = {
    "name": "Acme",
    "pool": {"max_connections": 20, "mode": "transaction"},
    "rate_limits": {"qps_limit": 5.0},
    "users": "erasable:1:c2VhbGVk",
    "metadata": {"a": "b"},
    "from_a_newer_version": {"x": 1},
    "permissions": {"blocked_tables": ["a.b"], "newer": True},
}

# Good and bad values for each part, some of a newer version's.
PARTS: dict[str, list[Any]] = {
    "name": ["x", None, 5, "erasable:1:AAAA", ["x"]],
    "pool": [{"min_idle": 3}, {"min_idle": -1}, {"newer": 1}, {"mode": "both"}, "x", None,
             {"mode": None}],
    "rate_limits": [{"qps_limit": "unlimited"}, {"qps_limit": 0}, {"burst_multiplier": 0.5},
                    {"qps_limit": 1e400}, {"max_result_size": "3MB"}, {}, []],
    "permissions": [{"blocked_tables": ["ok"]}, {"blocked_tables": ["not ok;"]}, {"newer": None},
                    {"allowed_operations": ["select"]}, {"allowed_operations": ["dance"]}],
    "isolation": [{"strategy": "row"}, {"strategy": "none"}, {"tenant_value": ""}],
    "users": [[], [{"name": "a"}], None, "erasable:1:BBBB", "erasable"],
    "metadata": [{"c": "d"}, {"a": None}, {"c": 5}, "erasable:1:CCCC"],
    "tier": ["gold", "NOT GOLD", None, "erasable:1:DDDD"],
    "features": [{"beta": True}, {"not ok": 1}, {"beta": None}],
    "ai": [{"retrieval_limit": 3}, {"retrieval_limit": -3}],
    "enabled": [True, "perhaps"],
    "provisioned": [{"role": "r", "secret": "s"}, {"role": "r"}],
    "version": [3, "x"],
    "id": ["other", "NOT AN ID", 5],
    "from_a_newer_version": [1, None, {"y": 2}],
    "unheard_of": ["x"],
}  # fmt: skip

patches = st.lists(
    st.sampled_from([(name, value) for name, values in PARTS.items() for value in values]),
    max_size=4,
).map(dict)


def whole(entry: Entry, fact: TenantChanged) -> bytes | None:
    """The settings after `fact`, judged as a whole; None when they are refused."""
    try:
        return tenant_entry.checked("acme", merge(orjson.loads(entry.settings), fact.changes))
    except ValidationError:
        return None


def folded(entry: Entry, fact: TenantChanged) -> bytes | None:
    try:
        return fold("acme", entry, fact).settings
    except ValidationError:
        return None


@given(st.lists(patches, min_size=1, max_size=4))
def test_parts_get_the_verdict_of_the_whole(changes: list[dict[str, Any]]) -> None:
    entry = fold("acme", NOTHING, TenantCreated(settings=START))
    for patch in changes:
        fact = TenantChanged(changes=patch)
        expected = whole(entry, fact)
        assert folded(entry, fact) == expected
        if expected is not None:
            entry = fold("acme", entry, fact)


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in PARTS.items() for value in values]
)
def test_each_value_alone_gets_the_verdict_of_the_whole(name: str, value: Any) -> None:
    entry = fold("acme", NOTHING, TenantCreated(settings=START))
    fact = TenantChanged(changes={name: value})
    assert folded(entry, fact) == whole(entry, fact)


def test_every_part_of_a_tenant_is_tried_here_and_judged_by_itself() -> None:
    assert set(Tenant.model_fields) <= set(PARTS)
    assert set(tenant_entry._CHECKS) == set(Tenant.model_fields) - {"id"}
