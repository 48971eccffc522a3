"""For how long a command is known to have been carried out."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events import bus_durable, seen
from events.seen import REMEMBERED_DAYS, SeenCommands

START = date(2026, 1, 1)


def remember(known: SeenCommands, sequence: int, day: int) -> None:
    time = f"{START + timedelta(days=day)}T12:00:00+00:00"
    known.remember(f"c{sequence}", sequence, "tenant", "acme", time)


def test_an_id_is_known_for_thirty_days_whatever_else_happens() -> None:
    known = SeenCommands()
    for day in range(100):
        remember(known, day + 1, day)
        for before in range(max(0, day - 30), day + 1):
            found = known.get(f"c{before + 1}")
            assert found is not None
            assert found.sequence == before + 1
        assert (known.get(f"c{day + 1 - 33}") is None) or day < 33
    assert len(known) == REMEMBERED_DAYS + 1
    assert known.horizon == 100 - REMEMBERED_DAYS - 1


def test_a_durable_command_waits_less_long_than_its_id_is_known() -> None:
    assert bus_durable.KEEP_DAYS < REMEMBERED_DAYS


def test_it_tells_what_the_command_was_for() -> None:
    known = SeenCommands()
    remember(known, 7, 0)
    found = known.get("c7")
    assert found is not None
    assert found.is_for("tenant", "acme")
    assert not found.is_for("tenant", "other")
    assert not found.is_for("tier", "acme")
    assert known.get("c8") is None


def test_more_than_there_is_room_for_is_forgotten_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen, "REMEMBERED_MAX", 10)
    known = SeenCommands()
    for sequence in range(1, 21):
        remember(known, sequence, 0)
    assert (len(known), known.horizon) == (10, 10)
    assert known.get("c10") is None
    assert known.get("c11") is not None


def test_times_that_cannot_be_read_and_clocks_that_go_back_lose_nothing() -> None:
    known = SeenCommands()
    for sequence, day in enumerate([5, 3, 40, 2, 40], 1):
        remember(known, sequence, day)
    known.remember("x", 6, "tenant", "acme", "yesterday")
    known.remember("", 7, "tenant", "acme", "")
    assert known.get("c3") is not None
    assert known.get("c4") is not None
    assert known.get("x") is not None
    assert known.get("") is None


@given(st.lists(st.integers(0, 80), max_size=60))
def test_what_is_younger_than_the_bound_is_never_forgotten(days: list[int]) -> None:
    known = SeenCommands()
    for sequence, day in enumerate(days, 1):
        remember(known, sequence, day)
    newest = max(days, default=0)
    for sequence, day in enumerate(days, 1):
        if day >= newest - 30:
            assert known.get(f"c{sequence}") is not None
        if sequence > known.horizon:
            assert known.get(f"c{sequence}") is not None
