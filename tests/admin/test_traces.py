"""Traces, as a collector gets them: commands to their application, connections, statements."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import orjson
import psycopg
import pytest
from support.collector import Collector, Seen, collecting
from support.serving import CONFIG, Proxy, prepared_home, serving, until

from admin.telemetry.setup import Endpoints, endpoints
from admin.telemetry.tracing import comment_parent
from events.installation import Telemetry
from events.spans import parse

CLIENT, SERVER, PRODUCER, CONSUMER = 3, 2, 4, 5


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as made:
        yield made


@pytest.fixture(scope="module")
def proxy(collector: Collector) -> Iterator[Proxy]:
    telemetry = f'telemetry = {{ endpoint = "{collector.url}" }}\n'
    with prepared_home(telemetry + CONFIG) as home, serving(home, "--workers", "2") as proxy:
        yield proxy


def traceparent(sampled: bool = True) -> tuple[str, str]:
    """Trace id, and the whole of it."""
    trace, span = secrets.token_hex(16), secrets.token_hex(8)
    return trace, f"00-{trace}-{span}-{'01' if sampled else '00'}"


def test_a_command_is_followed_into_every_worker(proxy: Proxy, collector: Collector) -> None:
    done = proxy.home.run("tenants", "change", "acme", "name=Acme Corp")
    assert done.returncode == 0, done.stderr

    def command() -> list[Seen]:
        return collector.named("command ChangeTenant", tenantry__tenant__id="acme")

    def applied() -> list[Seen]:
        spans = collector.named("apply tenant", tenantry__tenant__id="acme")
        return [span for span in spans if command() and span.trace_id == command()[0].trace_id]

    until(lambda: len(applied()) >= 3, "to apply it everywhere", lambda: collector.spans)
    asked = command()[0]
    sent = [span for span in collector.spans if span.name == "send tenantry.config.tenant.acme"]
    append = next(span for span in sent if span.trace_id == asked.trace_id)
    assert (asked.process, append.process) == ("control", "control")
    assert append.parent_id == asked.span_id
    mine = applied()
    assert {span.process for span in mine} == {"control", "worker-0", "worker-1"}
    assert {span.parent_id for span in mine} == {append.span_id}
    assert [asked.kind, append.kind, mine[0].kind] == [SERVER, PRODUCER, CONSUMER]

    # The audit tells of the same trace.
    until(lambda: audited(proxy, asked.trace_id) == {"command", "config_change"}, "to note it")


def audited(proxy: Proxy, trace_id: str) -> set[str]:
    found = proxy.home.run("audit", "search", "--json", "--trace", trace_id)
    return {orjson.loads(line)["kind"] for line in found.stdout.splitlines()}


def test_a_statement_continues_the_trace_of_its_comment(proxy: Proxy, collector: Collector) -> None:
    at_the_end, last = traceparent()
    at_the_start, first = traceparent()
    prepared, inside = traceparent()
    off, unsampled = traceparent(sampled=False)
    with proxy.connect("widgetco") as client:
        client.execute(f"SELECT 4929123 /*action='x',traceparent='{last}'*/")
        client.execute(f"/*traceparent='{first}'*/ SELECT 4929123, 2")
        client.execute(f"SELECT %s::int + 1 /*traceparent='{inside}'*/", (4929123,), prepare=True)
        client.execute(f"SELECT 3 /*traceparent='{unsampled}'*/")
        client.execute("SELECT 'not sampled'")

    def spans(trace_id: str) -> list[Any]:
        return [span for span in collector.spans if span.trace_id == trace_id]

    for trace_id, whole in ((at_the_end, last), (at_the_start, first), (prepared, inside)):
        until(lambda id=trace_id: spans(id), "to send the span", lambda: collector.spans)  # type: ignore[misc]
        span = spans(trace_id)[0]
        assert span.parent_id == parse(whole)[1]
        assert (span.name, span.kind) == ("SELECT widgetco_db", CLIENT)
        assert span.attributes["db.system.name"] == "postgresql"
        assert span.attributes["db.operation.name"] == "SELECT"
        assert span.attributes["db.namespace"] == "widgetco_db"
        assert span.attributes["tenantry.tenant.id"] == "widgetco"
        assert len(span.attributes["tenantry.statement.fingerprint"]) == 16
        assert "db.query.text" not in span.attributes
        assert 0 < span.end - span.start < 10**10
    # The client's end is seen by the collector after its statements.
    until(
        lambda: collector.named("connection widgetco"), "to send the span", lambda: collector.spans
    )
    connection = collector.named("connection widgetco")[0]
    assert connection.attributes["client.address"] == "127.0.0.1"
    assert spans(off) == []
    assert len(collector.named("SELECT widgetco_db")) == 3
    assert not any(b"4929123" in raw for raw in collector.raw)


def test_a_refusal_is_noted_with_the_trace_of_the_statement(proxy: Proxy) -> None:
    trace_id, whole = traceparent()
    with proxy.connect("acme") as client, pytest.raises(psycopg.Error):
        client.execute(f"COPY (SELECT 1) TO PROGRAM 'x' /*traceparent='{whole}'*/")
    until(lambda: audited(proxy, trace_id) == {"refusal"}, "to note it")


def test_where_a_comment_may_tell_the_trace() -> None:
    _, told = traceparent()
    comment = f"/*db='a',traceparent='{told}'*/".encode()
    assert comment_parent(b"SELECT 1 " + comment) == told
    assert comment_parent(b"SELECT 1 " + comment + b" ;\n") == told
    assert comment_parent(comment + b" SELECT 1") == told
    assert comment_parent(b"SELECT '" + comment + b"'") == ""
    assert comment_parent(b"SELECT 1, " + comment + b" 2") == ""
    assert comment_parent(b"SELECT 1 /*traceparent='00-1-2-01'*/") == ""


def test_what_is_no_traceparent() -> None:
    _, told = traceparent()
    assert parse(told)[2]
    assert parse(told + "-01")[0] == ""
    assert parse("cc" + told[2:] + "-what-comes-later")[0] != ""
    for wrong in ("", "00", "ff" + told[2:], told.upper(), "00-" + "0" * 32 + told[35:]):
        assert parse(wrong) == ("", "", False)


def test_the_standard_variables_count_where_nothing_is_configured() -> None:
    base = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"}
    both = Endpoints("http://c:4318/v1/traces", "http://c:4318/v1/metrics")
    assert endpoints(Telemetry(), {}) == Endpoints()
    assert endpoints(Telemetry(), base) == both
    assert endpoints(Telemetry(), base | {"OTEL_SDK_DISABLED": "true"}) == Endpoints()
    assert endpoints(Telemetry(), base | {"OTEL_METRICS_EXPORTER": "none"}).metrics == ""
    own = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t/x"}
    assert endpoints(Telemetry(), own) == Endpoints("http://t/x", "")
    assert endpoints(Telemetry(endpoint="http://c:4318"), own) == both
