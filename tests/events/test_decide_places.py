"""No two tenants in one place; no tenant moved away from its data by a change of settings."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.world import SEALED, World

from events.commands import (
    ChangeTenant,
    DeleteTenant,
    PurgeTenant,
    PutDefaults,
    PutInstallation,
    PutTenant,
    RecordProvisioned,
)
from events.facts import InstallationChanged, TenantChanged
from events.places import Place, Places, place_of


def put(id: str, strategy: str, **isolation: Any) -> PutTenant:
    return PutTenant(id=id, settings={"isolation": {"strategy": strategy, **isolation}})


def provisioned(id: str) -> RecordProvisioned:
    return RecordProvisioned(id=id, role="r", secret=SEALED)


TAKEN = [
    # who is there, who comes, what is taken
    (put("a", "database", database_name="x"), put("b", "database", database_name="x"), "x"),
    (put("a", "database", database_name="x"), put("b", "branch", branch_name="x"), "x"),
    (put("a", "database", database_name="x"), put("b", "schema", database_name="x"), "x"),
    (put("a", "schema", database_name="x"), put("b", "database", database_name="x"), "x"),
    (put("a", "schema", schema_name="s"), put("b", "schema", schema_name="s"), "s"),
    (put("a", "row", tenant_value="1"), put("b", "row", tenant_value="1"), "1"),
    (put("a", "row", tenant_value="b"), put("b", "row"), "b"),
    # The seal holds for the database, whatever schema the tables are in.
    (put("a", "row", tenant_value="1"), put("b", "row", tenant_value="1", schema_name="s"), "1"),
    (put("a", "row", schema_name="s"), put("b", "schema", schema_name="s"), "s"),
    (put("a", "schema", schema_name="s"), put("b", "row", schema_name="s"), "s"),
    (put("a", "row", database_name="x"), put("b", "database", database_name="x"), "x"),
    # The default name of one is the chosen name of the other.
    (put("b", "database"), put("c", "database", database_name="b_db"), "b_db"),
    (put("a", "schema"), put("b", "schema", schema_name="a"), "a"),
]


@pytest.mark.parametrize(("there", "comes", "what"), TAKEN)
def test_a_place_is_for_one(there: PutTenant, comes: PutTenant, what: str) -> None:
    world = World(there)
    refused = world.refuses(comes)
    assert f"is taken by tenant {there.id}" in refused["isolation"]
    assert f'"{what}"' in refused["isolation"]
    # Nor can it be forced: force is for data that is in place, not for sharing it.
    assert world.refuses(comes.model_copy(update={"force": True}))


def test_neighbours_are_no_rivals() -> None:
    World(
        put("a", "schema"),
        put("b", "schema"),
        put("c", "row"),
        put("d", "row", tenant_value="7"),
        put("e", "database"),
        put("f", "branch"),
        put("g", "row", schema_name="other"),
    )


def test_a_place_is_free_again_when_its_tenant_moved_but_not_when_it_was_purged() -> None:
    world = World(put("a", "schema", schema_name="s"))
    world.does(ChangeTenant(id="a", patch={"isolation": {"schema_name": "t"}}))
    world.does(put("b", "schema", schema_name="s"))
    world.does(DeleteTenant(id="b"))
    # Its data is still there, and it may be restored.
    assert world.refuses(put("c", "schema", schema_name="s"))
    world.does(PurgeTenant(id="b", force=True))
    # What PostgreSQL holds there nobody has erased.
    assert world.refuses(put("c", "schema", schema_name="s"))


@pytest.mark.parametrize(
    "isolation",
    [
        {"strategy": "database"},
        {"strategy": "row"},
        {"schema_name": "elsewhere"},
        {"database_name": "elsewhere"},
        {"strategy": "branch", "branch_name": "x"},
    ],
)
def test_data_does_not_follow_its_settings(isolation: dict[str, Any]) -> None:
    world = World(put("acme", "schema"), provisioned("acme"))
    change = ChangeTenant(id="acme", patch={"isolation": isolation})
    refused = world.refuses(change)
    assert 'its data is in the schema "acme" of database "shared_db"' in refused["isolation"]
    assert world.does(change.model_copy(update={"force": True})) == [
        TenantChanged(changes={"isolation": isolation})
    ]


def test_what_is_no_move_is_no_question() -> None:
    world = World(put("acme", "schema"), provisioned("acme"))
    world.does(ChangeTenant(id="acme", patch={"isolation": {"schema_name": "acme"}}))
    world.does(ChangeTenant(id="acme", patch={"isolation": {"setting_names": ["app.tenant"]}}))


def test_defaults_move_nobody_either() -> None:
    world = World(
        PutInstallation(settings={"defaults": {"isolation": {"database_name": "one"}}}),
        PutTenant(id="acme"),
        put("own", "schema", database_name="mine"),
        provisioned("acme"),
        provisioned("own"),
    )
    move = PutDefaults(defaults={"isolation": {"database_name": "two"}})
    assert world.refuses(move) == {
        "defaults.isolation": "says where the data of acme is, which would not move with it"
    }
    assert world.does(PutDefaults(defaults={"isolation": {"database_name": "one"}})) == []
    (fact,) = world.does(move.model_copy(update={"force": True}))
    assert isinstance(fact, InstallationChanged)
    # The places are those of the new defaults from now on.
    assert world.refuses(put("other", "database", database_name="two"))
    world.does(put("other", "database", database_name="one"))


def test_the_place_of_settings_that_make_no_sense_is_nowhere() -> None:
    assert place_of("a", {"isolation": {"strategy": "hope"}}, {}) is None
    assert place_of("a", {"isolation": 1}, {"isolation": []}) == Place("shared_db", "a")


IDS = st.sampled_from("abcd")
PLACES = st.one_of(
    st.builds(Place, st.sampled_from("xy")),
    st.builds(Place, st.sampled_from("xy"), st.sampled_from("st")),
    st.builds(Place, st.sampled_from("xy"), st.sampled_from("st"), st.sampled_from("12")),
)


def meet(one: Place, other: Place) -> bool:
    """The rule, said plainly."""
    if one.database != other.database:
        return False
    if not one.schema or not other.schema:
        return True
    if (one.value is None) != (other.value is None):
        return one.schema == other.schema
    if one.value is None:
        return one.schema == other.schema
    return one.value == other.value


@given(st.lists(st.tuples(IDS, PLACES | st.none()), max_size=30), IDS, PLACES)
def test_a_rival_is_found_exactly_when_there_is_one(
    history: list[tuple[str, Place | None]], id: str, place: Place
) -> None:
    places = Places()
    held: dict[str, Place] = {}
    for each, wanted in history:
        if wanted is None:
            places.release(each)
            held.pop(each, None)
        elif places.rival(each, wanted) is None:
            places.take(each, wanted)
            held[each] = wanted
    rivals = {each for each, there in held.items() if each != id and meet(there, place)}
    found = places.rival(id, place)
    assert (found is None) == (not rivals)
    assert found is None or found in rivals
