"""Equal notes become one event with a count; nobody floods the audit, and all is counted."""

from __future__ import annotations

import pytest

from events import audit_fold
from events.audit import AuditEvent
from events.audit_fold import SEVERAL, Fold

T0 = 1_700_000_000.0


def refusal(tenant: str = "acme", reason: str = "not allowed", **values: str) -> AuditEvent:
    return AuditEvent("refusal", tenant, reason=reason, **values)  # type: ignore[arg-type]


def told(events: list[AuditEvent]) -> list[tuple[str, int]]:
    return [(event.reason, event.count) for event in events]


def test_the_first_is_told_at_once_and_the_rest_together() -> None:
    fold = Fold()
    for n in range(100):
        fold.add(refusal(), T0 + n / 100)
    (event,) = fold.due(T0 + 1)
    assert (event.count, event.time, event.until) == (
        100,
        "2023-11-14T22:13:20.000000Z",
        "2023-11-14T22:13:20.990000Z",
    )
    fold.add(refusal(), T0 + 2)
    fold.add(refusal(), T0 + 3)
    assert fold.due(T0 + 5) == []
    (event,) = fold.due(T0 + 11)
    assert (event.count, event.time[17:19], event.until[17:19]) == (2, "22", "23")
    assert fold.due(T0 + 60) == []
    assert fold.size() == 0, "what is quiet is forgotten"


def test_who_goes_on_is_told_less_and_less_often() -> None:
    fold = Fold()
    events = []
    for second in range(24 * 3600):
        fold.add(refusal(), T0 + second)
        events += fold.due(T0 + second)
    events += fold.due(T0 + 24 * 3600, everything=True)
    assert len(events) < 150
    assert sum(event.count for event in events) == 24 * 3600


@pytest.mark.parametrize(
    "other",
    [
        {"reason": "something else"},
        {"actor": "app"},
        {"fingerprint": "f"},
        {"sqlstate": "42501"},
        {"outcome": "failed"},
        {"tenant": "widgetco"},
    ],
)
def test_different_notes_are_told_apart(other: dict[str, str]) -> None:
    fold = Fold()
    fold.add(refusal(), T0)
    fold.add(refusal(**other), T0)
    assert [event.count for event in fold.due(T0)] == [1, 1]


def test_refusals_from_several_addresses_are_one_and_logins_are_not() -> None:
    fold = Fold()
    for address in ("10.0.0.1", "10.0.0.2"):
        fold.add(refusal(address=address), T0)
        fold.add(AuditEvent("login", "acme", "app", address), T0)
    found = [(event.kind, event.address, event.count) for event in fold.due(T0)]
    assert found == [
        ("refusal", "several", 2),
        ("login", "10.0.0.1", 1),
        ("login", "10.0.0.2", 1),
    ]


def test_commands_that_are_carried_out_are_never_folded() -> None:
    fold = Fold()
    for n in range(3):
        fold.add(AuditEvent("command", "acme", "root", outcome="ok", detail=f"id {n}"), T0)
    assert [event.detail for event in fold.due(T0)] == ["id 0", "id 1", "id 2"]


def test_a_tenant_that_varies_its_refusals_uses_up_its_budget_only() -> None:
    fold = Fold()
    events = []
    for second in range(3600):
        for n in range(20):
            fold.add(refusal(reason=f"{second}.{n}"), T0 + second)
        events += fold.due(T0 + second)
        assert fold.size() < 1100
    fold.add(refusal("widgetco", "its only one"), T0 + 3600)
    events += fold.due(T0 + 3600, everything=True)
    ours = [event for event in events if event.tenant == "acme"]
    assert len(ours) < 1000 + 360 + 50
    assert sum(event.count for event in ours) == 3600 * 20, "every one is counted"
    assert SEVERAL in {event.reason for event in ours}
    assert ("its only one", 1) in told(events)


def test_what_finds_no_room_is_counted_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_fold, "SINGLE_MAX", 5)
    monkeypatch.setattr(audit_fold, "KEYS_MAX", 3)
    fold = Fold()
    for n in range(8):
        fold.add(AuditEvent("command", detail=str(n)), T0)
        fold.add(refusal(f"t{n}"), T0)
    events = fold.due(T0)
    assert fold.lost == 0
    assert events[-1].kind == "lost"
    assert sum(event.count for event in events) == 16
    assert events[-1].count == 3 + 2


def test_long_texts_are_shortened() -> None:
    fold = Fold()
    fold.add(AuditEvent("login_failed", actor="x" * 100_000), T0)
    (event,) = fold.due(T0)
    assert event.actor == "x" * 200 + "…"
