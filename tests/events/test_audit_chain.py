"""Every way to tamper with the audit shows; what merely happens does not look like it."""

from __future__ import annotations

import time
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events.audit import AuditEvent, Chain, Head, decode, digest, iso, seal
from events.audit_verify import Verifier

KEY = b"k" * 32
Row = tuple[str, bytes]


def chain(batches: int = 4, size: int = 3, id: str = "worker-0.a") -> tuple[list[Row], Head]:
    """What a writer stores: batches of events of two tenants and none."""
    writer = Chain(id, "worker-0", KEY)
    rows: list[Row] = []
    for batch in range(batches):
        events = [
            AuditEvent("refusal", ("acme", "widgetco", "")[n % 3], reason=f"{batch}.{n}", time=NOW)
            for n in range(size)
        ]
        rows += [
            (f"tenantry.audit.{event.tenant or '_installation'}", data)
            for event, (_, data) in zip(events, writer.link(events), strict=True)
        ]
    return rows, writer.head()


NOW = iso(time.time() - 3600)


def verify(
    rows: list[Row], *heads: Head, key: bytes | None = KEY, expired: bool = False
) -> list[str]:
    verifier = Verifier(key, expired=expired)
    for sequence, (subject, data) in enumerate(rows, 1):
        verifier.take(sequence, subject, data)
    return [f"{each.n}: {each.what}" for each in verifier.finish(heads)]


def changed(row: Row, **values: object) -> Row:
    raw = orjson.loads(row[1]) | values
    return row[0], orjson.dumps(raw)


def rehashed(row: Row, **values: object) -> Row:
    """As somebody would who knows how hashes are made."""
    raw = orjson.loads(row[1]) | values
    raw["hash"] = digest(raw)
    return row[0], orjson.dumps(raw)


def test_a_chain_as_written_is_whole() -> None:
    rows, head = chain()
    assert verify(rows, head) == []
    assert verify(rows, head, key=None) == []


def test_events_say_what_they_were_made_of() -> None:
    writer = Chain("c.1", "worker-0", KEY)
    event = AuditEvent("login", "acme", "app", "10.0.0.1", time=NOW, trace_id="t" * 32)
    ((id, data),) = writer.link([event])
    assert id == "c.1.1"
    assert decode(data) == event
    raw = orjson.loads(data)
    assert "reason" not in raw, "what is empty takes no room"
    assert raw["mac"] == seal(KEY, raw["hash"])


@pytest.mark.parametrize("at", [0, 5, 11])
def test_a_changed_event_shows(at: int) -> None:
    rows, head = chain()
    rows[at] = changed(rows[at], actor="somebody else")
    assert f"{at + 1}: was changed: its hash is another" in verify(rows, head, key=None)


@pytest.mark.parametrize("at", [0, 5, 10])
def test_a_changed_event_with_a_new_hash_does_not_fit_the_next(at: int) -> None:
    rows, head = chain()
    rows[at] = rehashed(rows[at], actor="somebody else")
    assert f"{at + 2}: does not follow the one before it" in verify(rows, head, key=None)


def test_a_chain_made_anew_lacks_the_key() -> None:
    rows, _ = chain()
    other = Chain("worker-0.a", "worker-0", b"x" * 32)
    events = [decode(data) for _, data in rows]
    made = other.link([event for event in events if event is not None])
    forged = [(subject, data) for (subject, _), (_, data) in zip(rows, made, strict=True)]
    assert verify(forged, key=None) == [], "by its links alone it looks right"
    assert verify(forged) == [
        "12: has a seal that was not made with this key",
        "13: is cut off: the seal of its end is missing",
    ]


@pytest.mark.parametrize("at", [1, 5, 10])
def test_a_removed_event_shows(at: int) -> None:
    rows, head = chain()
    del rows[at]
    assert verify(rows, head, key=None) == [f"{at + 1}: events {at + 1} to {at + 1} are missing"]


def test_a_removed_beginning_shows_unless_it_has_expired() -> None:
    rows, head = chain()
    assert verify(rows[2:], head) == ["1: begins with event 3"]
    assert verify(rows[2:], head, expired=True) == []


def test_a_cut_tail_shows_by_the_head_or_by_its_missing_seal() -> None:
    rows, head = chain()
    assert verify(rows[:-1]) == ["12: is cut off: the seal of its end is missing"]
    assert verify(rows[:-3]) == [], "cut at a seal, without anybody who remembers"
    assert verify(rows[:-3], head) == ["10: is cut off: it had 12 events"]


def test_the_next_chain_remembers_where_this_one_ended() -> None:
    rows, head = chain()
    detail = orjson.dumps([[head.chain, head.n, head.hash]]).decode()
    opening = AuditEvent("chain_open", detail=detail, time=NOW)
    after = Chain("worker-0.b", "worker-0", KEY)
    opened = ("tenantry.audit._installation", after.link([opening])[0][1])
    assert verify([*rows, opened]) == []
    assert verify([*rows[:-3], opened]) == ["10: is cut off: it had 12 events"]
    assert verify([opened]) == ["1: had 12 events, and is gone"]
    assert verify([opened], expired=True) == []


def test_a_chain_made_anew_with_the_key_is_not_the_one_that_was_written() -> None:
    rows, head = chain()
    events = [event for _, data in rows if (event := decode(data)) is not None]
    events[4].actor = "somebody else"
    made = Chain("worker-0.a", "worker-0", KEY).link(events)
    forged = [(subject, data) for (subject, _), (_, data) in zip(rows, made, strict=True)]
    assert verify(forged) == [], "whoever has the key can do that"
    assert verify(forged, head) == ["12: was another event when written"], "unless it is known"


# As version 1 wrote it; it must be read and found whole for ever.
GOLDEN = Path(__file__).parent.parent / "fixtures" / "audit" / "v1.json"


def test_events_of_version_1_are_read_for_ever() -> None:
    rows = [(row["subject"], row["event"].encode()) for row in orjson.loads(GOLDEN.read_bytes())]
    assert verify(rows) == []
    event = decode(rows[1][1])
    assert event is not None
    found = (event.tenant, event.count, event.reason, event.until[17:19])
    assert found == ("acme", 7, "DDL is not allowed", "09")


def test_an_event_moved_to_another_tenant_shows() -> None:
    rows, head = chain()
    rows[3] = ("tenantry.audit.other", rows[3][1])
    assert verify(rows, head) == ["4: is stored under tenantry.audit.other"]


def test_an_inserted_event_shows() -> None:
    rows, head = chain()
    extra = rehashed(rows[4], actor="never there", n=5)
    assert verify([*rows, extra], head) == ["5: is there twice, with different contents"]
    assert verify([*rows, ("tenantry.audit.acme", b"{}")], head) == ["0: is not an audit event"]


def test_fields_of_newer_versions_are_covered_by_the_hash() -> None:
    rows, _ = chain(1, 1)
    newer = rehashed(rows[0], future="x")
    assert verify([newer], key=None) == []
    assert verify([changed(newer, future="y")], key=None) != []


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_order_and_repeats_do_not_matter(data: st.DataObject) -> None:
    first, head = chain(3, 2)
    second, other = chain(2, 3, id="worker-1.b")
    rows = first + second
    repeats = data.draw(st.lists(st.sampled_from(rows), max_size=8))
    assert verify(data.draw(st.permutations(rows + repeats)), head, other) == []
