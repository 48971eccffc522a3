"""What was stored once can be read for ever; what cannot be read is marked, never raised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.codec import Codec, decode, encode
from events.facts import FACTS, Commit, Fact, TenantCreated, TenantDisabled, Undecodable

GOLDEN = Path(__file__).parent / "golden"


def commit(*facts: Fact) -> Commit:
    return Commit("c1", "ann", "2025-01-01T00:00:00.000000+00:00", facts)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_a_golden_file_decodes(path: Path) -> None:
    golden = orjson.loads(path.read_bytes())
    decoded = decode(orjson.dumps(golden["stored"]))
    facts = [{"type": fact.TYPE, **fact.model_dump(mode="json")} for fact in decoded.events]
    assert facts == golden["facts"]
    assert (decoded.id, decoded.actor) == (golden["stored"]["id"], golden["stored"]["actor"])


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.TYPE)
def test_every_version_of_every_fact_has_a_golden_file(fact: type[Fact]) -> None:
    for version in range(1, fact.VERSION + 1):
        assert (GOLDEN / f"{fact.TYPE}.v{version}.json").exists()


def test_what_is_written_is_read_back() -> None:
    written = commit(TenantCreated(settings={"name": "Acme ☃"}), TenantDisabled())
    assert decode(encode(written)) == written


def test_unknown_fields_of_newer_writers_are_ignored() -> None:
    raw = orjson.loads(encode(commit(TenantDisabled())))
    raw["trace"] = "00-abc"
    raw["events"][0]["data"]["because"] = "unpaid"
    raw["events"][0]["hash"] = "…"
    assert decode(orjson.dumps(raw)).events == (TenantDisabled(),)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"type": "TenantBlessed"}, "TenantBlessed is not known here; a newer version wrote it"),
        ({"v": 2}, "TenantCreated version 2 is not known here (up to 1)"),
        ({"data": {}}, "TenantCreated version 1 is malformed: settings missing"),
    ],
)
def test_a_fact_that_cannot_be_read_says_why(change: dict[str, Any], reason: str) -> None:
    raw = orjson.loads(encode(commit(TenantCreated(settings={}), TenantDisabled())))
    raw["events"][0].update(change)
    decoded = decode(orjson.dumps(raw))
    assert decoded.events == (Undecodable(reason=reason), TenantDisabled())
    assert decoded.id == "c1"


@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.integers(-5, 5) | st.text(max_size=4),
        lambda below: (
            st.lists(below, max_size=3)
            | st.dictionaries(
                st.sampled_from(["v", "id", "actor", "time", "events", "type", "data"]), below
            )
        ),
        max_leaves=15,
    )
)
def test_any_bytes_are_a_commit_or_marked_as_none(data: Any) -> None:
    raw = data if isinstance(data, bytes) else orjson.dumps(data)
    decoded = decode(raw)
    assert isinstance(decoded.id, str)
    assert all(isinstance(fact, Fact) for fact in decoded.events)


class Renamed(Fact):
    TYPE = "Renamed"
    VERSION = 3
    name: str
    size: int


def test_old_versions_are_brought_up_to_date_step_by_step() -> None:
    codec = Codec(
        [Renamed],
        {
            ("Renamed", 1): lambda old: {"name": old["title"]},
            ("Renamed", 2): lambda old: {**old, "size": len(old["name"])},
        },
    )
    raw = orjson.loads(codec.encode(commit(Renamed(name="x", size=1))))
    raw["events"] = [
        {"type": "Renamed", "v": 1, "data": {"title": "acme"}},
        {"type": "Renamed", "v": 2, "data": {"name": "acme"}},
        {"type": "Renamed", "v": 3, "data": {"name": "acme", "size": 9}},
        {"type": "Renamed", "v": 1, "data": {"no": "title"}},
    ]
    assert codec.decode(orjson.dumps(raw)).events == (
        Renamed(name="acme", size=4),
        Renamed(name="acme", size=4),
        Renamed(name="acme", size=9),
        Undecodable(reason="Renamed version 1 is malformed: KeyError"),
    )


def test_a_version_without_its_upcaster_is_noticed_at_start() -> None:
    with pytest.raises(AssertionError, match="Renamed v1 is lost"):
        Codec([Renamed], {})
