"""Folding: deterministic, gapless, and one bad fact concerns one tenant."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events import codec
from events.facts import (
    Commit,
    Fact,
    InstallationChanged,
    TenantChanged,
    TenantCreated,
    TenantDeleted,
    TenantDisabled,
    TenantEnabled,
    Undecodable,
)
from events.projection import RESOLVED_MAX, GapError, Projection


class Story:
    """Tells a projection one commit after another."""

    def __init__(self) -> None:
        self.projection = Projection()
        self.told: list[tuple[int, str, str, Commit]] = []

    def of(self, id: str, *facts: Fact, kind: str = "tenant") -> Story:
        sequence = self.projection.position + 1
        commit = Commit(f"c{sequence}", "ann", "", facts)
        self.told.append((sequence, kind, id, commit))
        self.projection.apply(*self.told[-1])
        return self

    def name(self, id: str) -> str | None:
        tenant = self.projection.tenant(id)
        return None if tenant is None else tenant.name


def created(name: str = "") -> TenantCreated:
    return TenantCreated(settings={"name": name})


def renamed(name: str) -> TenantChanged:
    return TenantChanged(changes={"name": name})


def test_what_was_applied_is_not_applied_again_and_nothing_is_skipped() -> None:
    story = Story().of("acme", created("one"))
    story.projection.apply(1, "tenant", "acme", Commit("x", "", "", (renamed("two"),)))
    assert story.name("acme") == "one"
    with pytest.raises(GapError, match="sequence 3 follows 1"):
        story.projection.apply(3, "tenant", "acme", Commit("y", "", "", (renamed("two"),)))
    assert story.projection.position == 1


def test_subscribers_hear_of_every_commit_after_it_was_applied() -> None:
    story = Story()
    heard: list[tuple[str, str, str | None]] = []
    cancel = story.projection.subscribe(lambda kind, id: heard.append((kind, id, story.name(id))))
    story.of("acme", created("one")).of("acme", renamed("two")).of("acme", TenantDeleted())
    cancel()
    story.of("other", created())
    assert heard == [
        ("tenant", "acme", "one"),
        ("tenant", "acme", "two"),
        ("tenant", "acme", None),
    ]


def test_a_failing_subscriber_keeps_nothing_from_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    story = Story()
    heard: list[str] = []
    story.projection.subscribe(lambda kind, id: [][1])
    story.projection.subscribe(lambda kind, id: heard.append(id))
    story.of("acme", created())
    assert heard == ["acme"]
    assert "a subscriber failed on tenant acme" in caplog.text


POISON = [
    Undecodable(reason="from the future"),
    TenantCreated(settings={"name": "again"}),
    TenantChanged(changes={"pool": {"max_connections": "many"}}),
    InstallationChanged(settings={}),
]


@pytest.mark.parametrize("poison", POISON, ids=lambda fact: fact.TYPE)
def test_a_bad_fact_parks_its_tenant_and_all_that_follows_for_it(
    poison: Fact, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    story = Story().of("acme", created("good")).of("other", created("one"))
    story.of("acme", renamed("half"), poison)
    story.of("acme", renamed("later")).of("other", renamed("two"))

    assert story.name("acme") == "good"
    assert story.name("other") == "two"
    ((subject, waiting),) = story.projection.parked().items()
    assert (subject, waiting.sequence, waiting.commits) == (("tenant", "acme"), 3, 2)
    assert "tenant acme is parked at sequence 3" in caplog.text
    assert story.projection.position == 5
    record = story.projection.record("acme")
    assert record is not None
    assert record.version == 4


def test_a_parked_tenant_can_still_be_disabled_and_deleted_but_not_enabled() -> None:
    story = Story().of("acme", created()).of("acme", Undecodable(reason="?"))
    story.of("acme", TenantDisabled()).of("acme", TenantEnabled())
    tenant = story.projection.tenant("acme")
    assert tenant is not None
    assert not tenant.enabled
    story.of("acme", TenantDeleted())
    assert story.projection.tenant("acme") is None
    assert list(story.projection.ids()) == []


def test_a_tenant_whose_first_fact_is_bad_does_not_exist() -> None:
    story = Story().of("acme", Undecodable(reason="?")).of("acme", renamed("x"))
    assert story.projection.tenant("acme") is None
    assert story.projection.tenant_count() == 0
    assert story.projection.parked()["tenant", "acme"].sequence == 1


def test_a_bad_installation_keeps_the_last_good_one_until_a_good_one_comes() -> None:
    story = Story()
    for settings in ({"listen_address": "127.0.0.1:1"}, {"pool": "?"}):
        story.of("main", InstallationChanged(settings=settings), kind="installation")
    installation = story.projection.installation()
    assert installation is not None
    assert installation.listen_address == "127.0.0.1:1"
    assert ("installation", "main") in story.projection.parked()

    good = InstallationChanged(settings={"listen_address": "127.0.0.1:2", "novelty": 1})
    story.of("main", good, kind="installation")
    installation = story.projection.installation()
    assert installation is not None
    assert installation.listen_address == "127.0.0.1:2"
    assert story.projection.parked() == {}


def test_a_kind_of_a_newer_version_concerns_nobody() -> None:
    story = (
        Story().of("gold", Undecodable(reason="GalaxyMade"), kind="galaxy").of("acme", created())
    )
    assert list(story.projection.ids()) == ["acme"]
    assert story.projection.parked() == {}


def test_deleted_tenants_are_not_listed_and_not_counted() -> None:
    story = Story().of("a", created()).of("b", created()).of("a", TenantDeleted())
    assert (list(story.projection.ids()), story.projection.tenant_count()) == (["b"], 1)
    record = story.projection.record("a")
    assert record is not None
    assert record.deleted


def test_what_is_remembered_for_speed_is_bounded() -> None:
    story = Story()
    for number in range(RESOLVED_MAX + 1):
        story.of(f"t{number}", created())
        story.projection.tenant(f"t{number}")
    assert len(story.projection._resolved) == RESOLVED_MAX


FACTS = st.sampled_from(
    [
        created("x"),
        renamed("y"),
        TenantChanged(changes={"pool": {"min_idle": 4}}),
        TenantChanged(changes={"pool": None}),
        TenantDisabled(),
        TenantEnabled(),
        TenantDeleted(),
        Undecodable(reason="?"),
    ]
)
COMMITS = st.lists(st.tuples(st.sampled_from("abc"), st.lists(FACTS, min_size=1, max_size=3)))


@given(COMMITS)
def test_the_same_commits_always_give_the_same_state(commits: list[tuple[str, list[Fact]]]) -> None:
    story = Story()
    for id, facts in commits:
        story.of(id, *facts)
    again = Projection()
    for sequence, kind, id, commit in story.told:
        # Undecodable is never stored; all else takes the way through bytes.
        if not any(isinstance(fact, Undecodable) for fact in commit.events):
            commit = codec.decode(codec.encode(commit))
        again.apply(sequence, kind, id, commit)
        again.tenant(id)
    assert again.digest() == story.projection.digest()
    assert again.tenant_count() == len(list(again.ids()))


def test_whether_some_tenant_may_share_tables_is_known_without_resolving() -> None:
    story = Story().of("plain", TenantCreated(settings={"isolation": {"strategy": "schema"}}))
    assert not story.projection.may_have_rows()
    story.of("shared", TenantCreated(settings={"isolation": {"strategy": "row"}}))
    assert story.projection.may_have_rows()
    by_default = Story().of("plain", TenantCreated(settings={}))
    settings = {"defaults": {"isolation": {"strategy": "row"}}}
    by_default.of("installation", InstallationChanged(settings=settings), kind="installation")
    assert by_default.projection.may_have_rows()
