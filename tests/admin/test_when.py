"""Times as people write them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from admin.cli.failure import Failure
from admin.cli.when import parse_when, show_when

NOW = datetime(2026, 11, 2, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2026-11-01T10:00Z", "2026-11-01T10:00:00Z"),
        ("2026-11-01t10:00z", "2026-11-01T10:00:00Z"),
        ("2026-11-01T10:00:30.5+02:00", "2026-11-01T08:00:30Z"),
        ("2026-11-01 10:00", "2026-11-01T10:00:00Z"),
        ("2026-11-01", "2026-11-01T00:00:00Z"),
        ("now", "2026-11-02T12:00:00Z"),
        ("yesterday", "2026-11-01T12:00:00Z"),
        ("10 minutes ago", "2026-11-02T11:50:00Z"),
        ("1 minute ago", "2026-11-02T11:59:00Z"),
        (" 90s ", "2026-11-02T11:58:30Z"),
        ("1.5h", "2026-11-02T10:30:00Z"),
        ("2 Weeks ago", "2026-10-19T12:00:00Z"),
        ("3d ago", "2026-10-30T12:00:00Z"),
    ],
)
def test_times_are_understood(text: str, meant: str) -> None:
    assert show_when(parse_when(text, NOW)) == meant


@pytest.mark.parametrize("text", ["", "soon", "10 parsecs ago", "2026-13-01", "minutes ago"])
def test_what_is_none_is_told_with_examples(text: str) -> None:
    with pytest.raises(Failure, match=r'is not a time: write e\.g\. "2026-11-01T10:00Z"') as told:
        parse_when(text, NOW)
    assert told.value.exit_code == 2


def test_before_all_time() -> None:
    with pytest.raises(Failure, match="before all time"):
        parse_when("99999999999 weeks ago", NOW)
