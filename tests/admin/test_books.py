"""What happens on a running installation stands in its audit and in its statistics."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import orjson
import psycopg
import pytest
from psycopg import errors as pg
from support.serving import CONFIG, Home, Proxy, prepared_home, serving, until

# Beside the tenants of CONFIG, one with limits that a test can hit.
LIMITED = """
[[multi_tenancy.tenants]]
id = "small"
isolation = { strategy = "database" }
rate_limits = { qps_limit = "unlimited", max_connections = 2, max_rows_per_query = 5, \
max_query_duration = 0.3, max_statement_size = 4000 }
permissions = { allowed_operations = ["SELECT"] }
pool = { max_connections = 4, min_idle = 0 }
users = [{ name = "appuser", password = "small-secret" }]
"""
SECRET = "4929-1234-5678"


def configuration() -> str:
    often = "events = { usage_interval_secs = 0.5 }\nanalytics = { slow_query_ms = 900 }\n"
    widgetco = 'id = "widgetco"\npermissions = { allow_ddl = true }'
    return often + CONFIG.replace('id = "widgetco"', widgetco) + LIMITED


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with (
        prepared_home(configuration()) as home,
        serving(home, "--workers", "2") as proxy,
    ):
        yield proxy


def audit(home: Home, *arguments: str) -> list[dict[str, Any]]:
    """`tenantry audit search --json`, each line an event."""
    found = home.run("audit", "search", "--json", *arguments)
    assert found.returncode == 0, found.stderr
    assert SECRET not in found.stdout
    return [orjson.loads(line) for line in found.stdout.splitlines()]


def noted(home: Home, *arguments: str, **wanted: object) -> dict[str, Any]:
    """The first event that has all that is `wanted`; waits for it."""
    found: list[dict[str, Any]] = []

    def there() -> bool:
        events = audit(home, *arguments)
        found[:] = [each for each in events if wanted.items() <= each.items()]
        return bool(found)

    until(there, f"to note {wanted}", lambda: audit(home))
    return found[0]


def test_logins_are_noted_with_their_address(proxy: Proxy) -> None:
    with proxy.connect("acme"):
        pass
    event = noted(proxy.home, "--kind", "login", tenant="acme", outcome="ok")
    assert (event["actor"], event["address"]) == ("appuser", "127.0.0.1")


def test_failed_logins_are_one_event_with_a_count_and_no_line_each(proxy: Proxy) -> None:
    for _ in range(5):
        with pytest.raises(psycopg.OperationalError):
            proxy.connect("acme", password="wrong" + SECRET)
    event = noted(proxy.home, "--kind", "login_failed", tenant="acme")
    assert (event["actor"], event["sqlstate"]) == ("appuser", "28P01")
    assert event["address"] == "127.0.0.1"
    assert "login refused" not in proxy.log()


def test_a_name_of_no_tenant_is_noted_without_one(proxy: Proxy) -> None:
    with pytest.raises(psycopg.OperationalError):
        proxy.connect("ghost", password="x")
    event = noted(proxy.home, "--tenant", "_installation", kind="login_failed")
    assert "tenant" not in event


def test_a_refused_statement_is_known_by_its_fingerprint_not_by_its_literals(proxy: Proxy) -> None:
    with proxy.connect("small") as client:
        for value in (SECRET, "another " + SECRET):
            with pytest.raises(pg.InsufficientPrivilege):
                client.execute(f"DELETE FROM cards WHERE number = '{value}'")
    event = noted(proxy.home, "--kind", "refusal", tenant="small", statement_kind="DELETE")
    assert event["actor"], event["address"] == ("appuser", "127.0.0.1")
    assert len(event["fingerprint"]) == 16
    assert event["sqlstate"] == "42501"
    assert "DELETE" in event["reason"]
    # The second is the same statement to the audit.
    assert len({e["fingerprint"] for e in audit(proxy.home, "--kind", "refusal")}) == 1


def test_an_attack_by_way_of_an_error_text_tells_no_literal(proxy: Proxy) -> None:
    with proxy.connect("acme") as client:
        with pytest.raises(psycopg.Error):
            client.execute(f"SELECT set_config('{SECRET}', 'x', false), pg_read_file('/{SECRET}')")
        with pytest.raises(psycopg.Error):
            client.execute(f"SELEC '{SECRET}'")
    event = noted(proxy.home, "--kind", "refusal", tenant="acme", sqlstate="42601")
    assert event["reason"] == "SyntaxRefused"


def test_limits_are_noted_and_counted_by_kind(proxy: Proxy) -> None:
    with proxy.connect("small") as client, contextlib.ExitStack() as others:
        # One for each worker.
        with pytest.raises(psycopg.OperationalError, match="connections"):
            for _ in range(3):
                others.enter_context(proxy.connect("small"))
        with pytest.raises(pg.ProgramLimitExceeded):
            client.execute("SELECT * FROM generate_series(1, 50)")
        with pytest.raises(pg.QueryCanceled):
            client.execute("SELECT pg_sleep(5)")
        with pytest.raises(pg.ProgramLimitExceeded):
            client.execute(f"SELECT '{SECRET}{'x' * 5000}'")
    home = proxy.home
    rows = noted(home, "--kind", "limit", reason="result has more than 5 rows")
    assert rows["statement_kind"] == "SELECT"
    assert rows["fingerprint"]
    noted(home, "--kind", "limit", sqlstate="57014", statement_kind="SELECT")
    noted(home, "--kind", "limit", sqlstate="53300", tenant="small", address="127.0.0.1")
    hits = {"connections": 1, "result_rows": 1, "duration": 1, "statement_size": 1}
    until(lambda: limits(home, "small") == hits, f"to count {hits}", lambda: limits(home, "small"))


def stats(home: Home, tenant: str) -> dict[str, Any]:
    found = home.run("stats", "--tenant", tenant, "--json")
    assert found.returncode == 0, found.stderr + found.stdout
    answer: dict[str, Any] = orjson.loads(found.stdout)
    return answer


def limits(home: Home, tenant: str) -> dict[str, int]:
    hits: dict[str, int] = stats(home, tenant)["metrics"]["limit_hits"]
    return hits


def test_statistics_show_what_ran(proxy: Proxy) -> None:
    with proxy.connect("widgetco") as client:
        client.execute("CREATE TABLE written (n int)")
        client.execute("INSERT INTO written SELECT generate_series(1, 70)")
        client.execute("UPDATE written SET n = n + 1 WHERE n <= 10")
        with client.cursor().copy("COPY written FROM STDIN") as copy:
            copy.write("1\n2\n3\n")
        with client.cursor().copy("COPY written TO STDOUT") as copy:
            for _ in copy:
                pass
        client.execute("DROP TABLE written")
        client.execute("SELECT pg_sleep(1.1)")

        def counted() -> bool:
            totals = stats(proxy.home, "widgetco")["metrics"]["totals"]
            return (totals["rows_written"], totals["slow_queries"]) == (83, 1)

        until(counted, "to count", lambda: stats(proxy.home, "widgetco"))
        found = stats(proxy.home, "widgetco")["metrics"]
        assert found["connections"]["clients"] == 1
        assert found["connections"]["servers"] == 1
        assert found["totals"]["connection_seconds"] >= 1
        assert found["latency"]["p99_ms"] >= 1100
    until(
        lambda: stats(proxy.home, "widgetco")["connections"]["active"] == 0,
        "to see the client leave",
    )


def test_a_change_is_noted_as_command_and_in_every_worker(proxy: Proxy) -> None:
    done = proxy.home.run("tenants", "change", "acme", "name=Acme Corp")
    assert done.returncode == 0, done.stderr + done.stdout
    command = noted(proxy.home, "--kind", "command", "--tenant", "acme", outcome="ok")
    assert command["detail"]
    until(
        lambda: (
            {
                event["worker"]
                for event in audit(proxy.home, "--kind", "config_change", "--tenant", "acme")
            }
            == {"worker-0", "worker-1"}
        ),
        "to note the change twice",
        lambda: audit(proxy.home, "--kind", "config_change"),
    )


def test_the_file_at_the_start_is_a_command_too(proxy: Proxy) -> None:
    noted(proxy.home, "--kind", "command", actor="configuration file", tenant="small")
    noted(proxy.home, "--kind", "command", actor="provisioner", tenant="small")


def test_the_chains_verify(proxy: Proxy) -> None:
    with contextlib.suppress(psycopg.Error), proxy.connect("acme") as client:
        client.execute("SELECT 1")
    done = proxy.home.run("audit", "verify")
    assert done.returncode == 0, done.stdout + done.stderr
