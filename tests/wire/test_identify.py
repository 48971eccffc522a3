"""Which tenant a connection names, and how the startup packet's `options` are read."""

from __future__ import annotations

import pytest

from events.installation import Identification
from wire.errors import ProtocolViolation
from wire.identify import Identifier, Identity, parse_options

Names = tuple[str, str, dict[str, str]]


def who(*methods: str, **settings: object) -> Identifier:
    given = {"methods": methods, **settings} if methods else settings
    return Identifier(Identification.model_validate(given))


ACME_OPTION = {"tenantry.tenant": "acme"}


@pytest.mark.parametrize(
    ("names", "identity"),
    [
        (("acme.appuser", "shared_db", {}), Identity("acme", "appuser", "username_prefix")),
        (("appuser", "acme_db", {}), Identity("acme", "appuser", "database_name")),
        (("appuser", "app", ACME_OPTION), Identity("acme", "appuser", "startup_option")),
        (("acme.app.user", "app", {}), Identity("acme", "app.user", "username_prefix")),
        (("acme.globex.bob", "app", {}), Identity("acme", "globex.bob", "username_prefix")),
        (("appuser", "app", {}), None),
        (("", "", {}), None),
        (("acme", "acme", {}), None),  # no separator, no suffix: nothing is named
        (("acme.", "app", {}), None),
        ((".bob", "app", {}), None),
        (("Acme.bob", "app", {}), None),  # not lower-cased
        (("acme .bob", "app", {}), None),
        (("acme\n.bob", "app", {}), None),
        (("bob", "acme\n_db", {}), None),
        (("bob", "_db", {}), None),
        (("bob", "ACME_db", {}), None),
        (("bob", "acme_DB", {}), None),
        (("bob", "app", {"tenantry.tenant": "Acme"}), None),
        (("bob", "app", {"tenantry.tenant": "acme\n"}), None),
        (("bob", "app", {"tenant": "acme"}), None),
        (("ä.bob", "app", {}), None),
        (("a" * 63 + ".bob", "app", {}), Identity("a" * 63, "bob", "username_prefix")),
        (("a" * 64 + ".bob", "app", {}), None),
        # An invalid name falls through to the next method.
        (("Acme.bob", "acme_db", {}), Identity("acme", "Acme.bob", "database_name")),
    ],
)
def test_the_three_methods_in_their_usual_order(names: Names, identity: Identity | None) -> None:
    assert who().identify(*names) == identity


def test_the_first_method_that_names_a_tenant_decides() -> None:
    names: Names = ("acme.bob", "globex_db", {"tenantry.tenant": "initech"})
    by_user = Identity("acme", "bob", "username_prefix")
    by_database = Identity("globex", "acme.bob", "database_name")
    by_option = Identity("initech", "acme.bob", "startup_option")
    assert who("username_prefix", "database_name").identify(*names) == by_user
    assert who("database_name", "username_prefix").identify(*names) == by_database
    assert who("startup_option", "database_name").identify(*names) == by_option
    assert who("username_prefix").identify("bob", *names[1:]) is None


def test_a_prefix_that_says_the_same_is_taken_off_whichever_method_decides() -> None:
    names: Names = ("acme.bob", "acme_db", ACME_OPTION)
    for first in ("database_name", "startup_option"):
        identity = who(first, "username_prefix").identify(*names)
        assert identity == Identity("acme", "bob", first)
        # Without that method a dot is just part of the name.
        assert who(first).identify(*names) == Identity("acme", "acme.bob", first)


def test_fallback_is_used_when_nothing_is_named() -> None:
    some = who(fallback="default")
    assert some.identify("bob", "app", {}) == Identity("default", "bob", "fallback")
    assert some.identify("default.bob", "app", {}) == Identity("default", "bob", "username_prefix")
    assert some.identify("acme.bob", "app", {}) == Identity("acme", "bob", "username_prefix")


def test_a_fallback_that_is_no_tenant_id_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="Default"):
        who(fallback="Default")


def test_separator_suffix_and_option_are_settings() -> None:
    some = who(separator="@", database_suffix="-data", option="app.tenant")
    assert some.identify("acme@bob", "x", {}) == Identity("acme", "bob", "username_prefix")
    assert some.identify("a.b", "acme-data", {}) == Identity("acme", "a.b", "database_name")
    assert some.identify("b", "x", {"app.tenant": "acme"}) is not None
    whole = who("database_name", database_suffix="")
    assert whole.identify("bob", "acme", {}) == Identity("acme", "bob", "database_name")
    # A tenant id may contain the separator's kin, even the separator when it is a dash.
    assert who(separator="-").identify("a-b-c", "x", {}) == Identity("a", "b-c", "username_prefix")


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("", {}),
        ("  \t\n ", {}),
        ("-c tenantry.tenant=acme", {"tenantry.tenant": "acme"}),
        ("-ctenantry.tenant=acme", {"tenantry.tenant": "acme"}),
        ("--tenantry.tenant=acme", {"tenantry.tenant": "acme"}),
        ("-c a=1 -c b=2\t-cc=3 --d=4", {"a": "1", "b": "2", "c": "3", "d": "4"}),
        ("-c a=1 -c a=2", {"a": "2"}),
        ("-c a=", {"a": ""}),
        ("-c a=b=c", {"a": "b=c"}),
        (r"-c a=one\ two", {"a": "one two"}),
        (r"-c a=back\\slash", {"a": "back\\slash"}),
        (r"-c a=x\-y", {"a": "x-y"}),
        ("-c a=end\\", {"a": "end"}),
        ("--search-path=x-y", {"search_path": "x-y"}),
        ("-c search-path=x", {"search_path": "x"}),
        ("-c a='quoted", {"a": "'quoted"}),
        ("-c a=☃", {"a": "☃"}),
        ("-c A=1", {"A": "1"}),
    ],
)
def test_options_are_cut_as_postgresql_cuts_them(text: str, settings: dict[str, str]) -> None:
    assert parse_options(text) == settings


@pytest.mark.parametrize(
    "text", ["-c", "-c a", "-c =1", "--a", "--=1", "--", "-", "a=1", "-d 5", "-e", "\\", "-c \\ "]
)
def test_what_cannot_be_understood_in_options_is_refused(text: str) -> None:
    with pytest.raises(ProtocolViolation):
        parse_options(text)
