"""The documented requests, as they are documented, against `tenantry serve`."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from support.serving import CONFIG, Home, Proxy, prepared_home, serving, until

ROOT = Path(__file__).resolve().parents[2]

# As they stand in the documents; test_api_documented.py has the rest of them.
DOCUMENTED = {
    each["spec"]: each
    for each in tomllib.loads(Path(__file__).with_name("documented_requests.toml").read_text())[
        "request"
    ]
}
CREATE, UPDATE, DELETE = (DOCUMENTED[number]["curl"] for number in (231, 232, 233))
STATS, ALL_STATS = (DOCUMENTED[number]["curl"] for number in (236, 235))
TENANT_E, LIMITS = (json.loads(DOCUMENTED[number]["body"]) for number in (223, 225))

# What Prometheus sends.
SCRAPER = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)


class Api:
    """The admin API of a proxy, and a token."""

    def __init__(self, proxy: Proxy, url: str, token: str, folder: Path) -> None:
        self.proxy = proxy
        self.url = url
        self.token = token
        self._folder = folder
        host = url.removeprefix("http://")
        # What an operator would put into ~/.curlrc, so that the documented lines work as they are.
        (folder / ".curlrc").write_text(
            f'silent\nheader = "Authorization: Bearer {token}"\n'
            f'connect-to = "localhost:9091:{host}"\nconnect-to = "localhost:9090:{host}"\n'
        )
        self.http = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=20
        )

    def curl(self, lines: str) -> Any:
        done = subprocess.run(
            ["bash", "-c", lines],
            env={"CURL_HOME": str(self._folder), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout) if done.stdout.strip() else None


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    settings = (
        "[multi_tenancy]\ncross_tenant_analytics = true\n\n[events]\nusage_interval_secs = 0.2\n"
    )
    config = CONFIG.replace('admin_address = "off"', 'admin_address = "127.0.0.1:0"')
    config = config.replace("[pool]", settings + "\n[pool]", 1)
    with prepared_home(config) as home, serving(home) as proxy:
        proxy.says("admin API on http://")
        found = re.search(r"admin API on (http://\S+)", proxy.log())
        assert found is not None
        made = Api(proxy, found[1], token(home), tmp_path_factory.mktemp("curl"))
        with contextlib.closing(made.http):
            yield made


def token(home: Home) -> str:
    done = home.run("tokens", "create", "--name", "ann", "--role", "operator")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- the documented requests ----------------------------------------------------------------------


def test_the_curl_lines_of_the_documents_do_what_they_say(api: Api) -> None:
    made = api.curl(CREATE)
    assert (made["id"], made["name"]) == ("new-tenant", "New Tenant")
    assert made["rate_limits"]["qps_limit"] == 500
    assert made["ignored"] == [
        {
            "path": "upstream",
            "message": "accepted, not stored",
            "hint": "The HTTP plane is not part of this version.",
        }
    ]

    changed = api.curl(UPDATE)
    assert changed["rate_limits"]["qps_limit"] == 1000
    assert changed["name"] == "New Tenant"

    assert api.curl(DELETE) is None
    gone = api.curl("curl http://localhost:9091/tenants/new-tenant")
    assert (gone["status"], gone["code"]) == (404, "missing")


def test_the_stats_of_the_second_document(api: Api) -> None:
    found = api.curl(STATS)
    assert found["tenant"] == "acme"
    assert set(found["stats"]) == {
        "requests_total",
        "requests_per_second",
        "bandwidth_used",
        "bandwidth_limit",
        "active_connections",
        "rate_limit_exceeded",
    }
    assert set(found["quotas"]["bandwidth"]) == {"used", "limit", "reset_at"}
    everybody = api.curl(ALL_STATS)
    assert {"acme", "widgetco"} <= {each["tenant"] for each in everybody["tenants"]}


def test_the_admin_lines_of_the_example(api: Api) -> None:
    # List all configured tenants; one tenant's current metrics; global metrics.
    listed = api.curl("curl http://localhost:9090/tenants")
    assert {"acme", "widgetco"} <= {each["id"] for each in listed["tenants"]}
    assert api.curl("curl http://localhost:9090/tenants/acme/metrics")["tenant_id"] == "acme"
    assert api.curl("curl http://localhost:9090/metrics")["tenants"] >= 2


def test_the_requests_of_the_first_document(api: Api) -> None:
    made = api.http.post("/tenants", json=TENANT_E)
    assert made.status_code == 201
    listed = api.http.get("/tenants").json()["tenants"]
    row = next(each for each in listed if each["id"] == "tenant_e")
    assert {key: row[key] for key in ("id", "name", "isolation", "qps_limit")} == {
        "id": "tenant_e",
        "name": "Echo Inc",
        "isolation": "schema",
        "qps_limit": 300,
    }
    assert {"active_connections", "qps_current"} <= set(row)

    stats = api.http.get("/tenants/tenant_e/stats").json()
    assert stats["tenant_id"] == "tenant_e"
    assert stats["connections"] == {"active": 0, "idle": 0, "max": 20}
    assert stats["queries"] == {"total": 0, "qps_current": 0, "qps_limit": 300, "slow_queries": 0}
    assert set(stats["data"]) == {"rows_read", "rows_written", "bytes_read", "bytes_written"}

    changed = api.http.put("/tenants/tenant_e/limits", json=LIMITS).json()
    assert changed["rate_limits"]["qps_limit"] == 2000
    assert changed["rate_limits"]["max_connections"] == 100
    assert changed["pool"]["max_connections"] == 100

    until(
        lambda: api.http.get("/tenants/tenant_e").json()["status"] == "active", "to be provisioned"
    )
    assert api.http.delete("/tenants/tenant_e").status_code == 204
    assert api.http.get("/tenants/tenant_e").status_code == 404


def test_cross_tenant_analytics_of_the_first_document(api: Api) -> None:
    with api.proxy.connect() as client:
        for _ in range(20):
            client.execute("SELECT 1")

        def seen() -> bool:
            found = api.http.get("/analytics/cross-tenant").json()
            return any(each["tenant"] == "acme" for each in found["top_tenants_by_usage"])

        until(seen, "to be counted")
        found = api.http.get("/analytics/cross-tenant").json()
    assert found["summary"]["total_tenants"] >= 2
    assert found["summary"]["active_tenants"] >= 1
    assert {"total_qps"} <= set(found["summary"])
    top = found["top_tenants_by_usage"][0]
    assert set(top) == {"tenant", "qps", "connections"}
    assert {"connections_used_pct", "qps_used_pct"} <= set(found["resource_distribution"])
    assert api.http.get("/tenants/acme/stats").json()["queries"]["total"] >= 20


# --- seen by the other surfaces -------------------------------------------------------------------


def test_a_change_is_seen_by_a_connected_client(api: Api) -> None:
    with api.proxy.connect() as client:
        client.execute("CREATE TABLE IF NOT EXISTS notes (n int)")
        done = api.http.patch("/tenants/acme", json={"permissions": {"read_only": True}})
        assert done.status_code == 200

        def refused() -> bool:
            try:
                client.execute("INSERT INTO notes VALUES (1)")
            except psycopg.errors.InsufficientPrivilege:
                return True
            except psycopg.errors.ReadOnlySqlTransaction:
                return True
            return False

        until(refused, "to be refused")
        shown = api.proxy.home.run("tenants", "show", "acme", "--json").stdout
        assert json.loads(shown)["permissions"]["read_only"] is True
        back = {"permissions": {"read_only": None}}
        assert api.http.patch("/tenants/acme", json=back).status_code == 200
        until(lambda: not refused(), "to be allowed again")


def test_what_the_command_line_changes_is_read_at_once(api: Api) -> None:
    done = api.proxy.home.run("tenants", "change", "widgetco", "name=Widgets")
    assert done.returncode == 0, done.stderr
    assert api.http.get("/tenants/widgetco").json()["name"] == "Widgets"


def test_each_request_is_in_the_audit(api: Api) -> None:
    api.http.patch("/tenants/widgetco", json={"metadata": {"a": "b"}})
    httpx.get(f"{api.url}/tenants", headers={"Authorization": "Bearer wrong"})

    def told() -> bool:
        events = api.http.get("/audit").json()["events"]
        changed = any(
            each["kind"] == "command" and each["tenant"] == "widgetco" and each["actor"] == "ann"
            and each["detail"].endswith("http") and each["address"] == "127.0.0.1"
            for each in events
            if "tenant" in each
        )  # fmt: skip
        return changed and any(each["kind"] == "login_failed" for each in events)

    until(told, "to be in the audit", lambda: api.http.get("/audit").text)
    assert api.http.get("/audit/verify").json()["whole"] is True


def test_prometheus_reads_the_same_page(api: Api) -> None:
    for ask in ({"params": {"format": "prometheus"}}, {"headers": {"Accept": SCRAPER}}):
        answer = api.http.get("/metrics", **ask)
        assert answer.headers["content-type"].startswith("text/plain")
        assert "_tenant_requests_total" in answer.text
    for accepted in ("*/*", "application/json, text/plain", "text/html, */*;q=0.8"):
        answer = api.http.get("/metrics", headers={"Accept": accepted})
        assert answer.headers["content-type"] == "application/json"


def test_it_is_ready_and_says_so(api: Api) -> None:
    until(lambda: httpx.get(f"{api.url}/readyz").status_code == 200, "to be ready")
    found = httpx.get(f"{api.url}/readyz").json()
    assert found["reasons"] == []
    assert found["workers"] == {"alive": 1, "wanted": 1}


def test_an_address_that_strangers_reach_is_warned_of(api: Api) -> None:
    home = api.proxy.home
    before = home.config.read_text()
    own, strange = ('admin_address = "127.0.0.1:0"', 'admin_address = "0.0.0.0:0"')
    home.change(own, strange)
    try:
        done = home.run("config", "check", str(home.config))
        assert "admin_address: the admin API will not listen there" in done.stdout
    finally:
        home.config.write_text(before)
