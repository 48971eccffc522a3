"""The short forms of both source documents, as requests have them."""

from __future__ import annotations

from typing import Any

import pytest

from admin.api.shapes import settings_of
from admin.config.shape_tenants import Taken, table_of

DOCUMENTED: list[dict[str, Any]] = [
    {"name": "Acme Corp", "isolation": "database", "database": "tenant_a_db",
     "max_connections": 50, "qps_limit": 1000},
    {"isolation": "row", "database": "shared_db", "tenant_column": "tenant_id", "qps_limit": 200},
    {"name": "Delta Labs", "isolation": "branch", "branch": "tenant_d", "max_connections": 30},
    {"isolation": {"strategy": "schema", "database_name": "shared_db", "schema_name": "newclient"},
     "pool": {"max_connections": 10, "min_idle": 1, "dedicated_pool": False},
     "rate_limits": {"qps_limit": 100, "max_connections": 10},
     "permissions": {"allowed_operations": ["SELECT"], "read_only": False, "allow_ddl": False}},
    {"name": "ACME", "rate_limits": {"requests_per_second": 1000, "burst": 2000},
     "upstream": "acme-backend", "features": {"graphql": True, "websockets": True}},
    {"rate_limits": {"requests_per_second": 100, "burst": 200, "endpoints": [{"path": "/a"}]}},
    {"quotas": {"bandwidth": {"limit": "100GB", "period": "monthly", "action": "throttle"}}},
    {"limits": {"max_request_size": "100MB", "max_response_size": "500MB"}},
    {"limits": {"max_connections": 10000, "max_requests_per_connection": 1000}},
    {"routing": {"upstream": "shared-backend", "headers": {"X-Tenant-ID": "acme"}}},
]  # fmt: skip


@pytest.mark.parametrize("given", DOCUMENTED, ids=str)
def test_a_request_means_what_a_file_means(given: dict[str, Any]) -> None:
    ignored: list[tuple[str, str]] = []
    as_file = table_of(given, "t", Taken(ignored, []))
    shaped = settings_of(given)
    assert shaped.settings == as_file
    assert shaped.mistakes == []
    # A file tells of each key beneath; here the table is enough.
    told = {path.removeprefix("t.") for path, _ in ignored}
    for each in shaped.ignored:
        assert any(path.startswith(each.path) for path in told)
        told = {path for path in told if not path.startswith(each.path)}
    assert told == set()


def test_what_contradicts_itself_is_told() -> None:
    def mistakes(**body: Any) -> list[str]:
        return [each.path for each in settings_of(body).mistakes]

    assert mistakes(qps_limit=3, rate_limits={"qps_limit": 4}) == ["qps_limit"]
    assert mistakes(qps_limit=3, rate_limits={"qps_limit": 3}) == []
    both = {"requests_per_second": 3, "qps_limit": 4}
    assert mistakes(rate_limits=both) == ["rate_limits.requests_per_second"]
    assert mistakes(rate_limits={"requests_per_second": 10, "burst": 5}) == ["rate_limits.burst"]
    assert mistakes(rate_limits={"burst": 5}) == ["rate_limits.burst"]
    assert mistakes(database="a", isolation={"database_name": "b"}) == ["database"]


def test_a_burst_is_a_multiple_of_the_rate_that_counts() -> None:
    shaped = settings_of({"rate_limits": {"burst": 300}}, qps=100)
    assert shaped.settings == {"rate_limits": {"burst_multiplier": 3}}


def test_what_is_sent_is_not_changed() -> None:
    body = {
        "rate_limits": {"requests_per_second": 5, "burst": 10},
        "limits": {"max_connections": 3},
    }
    before = repr(body)
    settings_of(body)
    assert repr(body) == before


def test_odd_types_reach_the_model_that_refuses_them() -> None:
    for odd in (3, "x", [], None):
        for key in ("isolation", "rate_limits", "limits", "pool", "permissions"):
            settings_of({key: odd, "max_connections": 3, "database": "d"})
