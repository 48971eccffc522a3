"""Log lines for programs say which tenant and which trace they are about."""

from __future__ import annotations

import logging

import orjson
import pytest

from admin.telemetry.logs import JsonLines, set_up
from events.spans import About, Spans, meanwhile

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def line(text: str, **extra: str) -> dict[str, str]:
    record = logging.getLogger("tenantry.x").makeRecord(
        "tenantry.x", logging.INFO, "f", 1, text, (), None, extra=extra
    )
    said: dict[str, str] = orjson.loads(JsonLines("worker 0").format(record))
    return said


def test_a_line_tells_what_the_work_is_about() -> None:
    with meanwhile(About("acme", "t" * 32, "s" * 16)):
        said = line("hello")
    assert (said["tenant"], said["trace_id"], said["span_id"]) == ("acme", "t" * 32, "s" * 16)
    assert not {"tenant", "trace_id", "span_id"} & line("hello").keys()


def test_a_line_may_name_another_tenant_itself() -> None:
    with meanwhile(About("acme")):
        assert line("hello", tenant="globex")["tenant"] == "globex"


def test_an_event_is_applied_as_part_of_its_trace_without_telemetry_too() -> None:
    with Spans().apply("tenant", "acme", 7, PARENT):
        said = line("applied")
    assert (said["tenant"], said["trace_id"]) == ("acme", PARENT.split("-")[1])
    with Spans().apply("tenant", "acme", 7, "forged\n"):
        assert "trace_id" not in line("applied")


@pytest.mark.parametrize("level", ["DEBUG", "INFO"])
def test_no_level_lets_the_second_parser_tell_of_statements(level: str) -> None:
    root = logging.getLogger()
    handlers, before = root.handlers[:], root.level
    try:
        logging.getLogger("sqlglot").setLevel(logging.NOTSET)
        set_up(level)
        assert not logging.getLogger("sqlglot").isEnabledFor(logging.ERROR)
    finally:
        root.handlers[:] = handlers
        root.setLevel(before)
