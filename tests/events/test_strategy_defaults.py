"""What a tenant may do by default depends on its strategy: row tenants have no EXPLAIN."""

from __future__ import annotations

from typing import Any

import pytest

from admin.config.rules import resolve
from events.commands import PutInstallation, PutTenant, decide
from events.facts import KIND_INSTALLATION, KIND_TENANT, Commit
from events.projection import Projection

ROW = {"isolation": {"strategy": "row"}}
ON = {"permissions": {"allow_explain": True}}


def folded(settings: dict[str, Any], defaults: dict[str, Any]) -> bool:
    """EXPLAIN of a tenant as workers see it."""
    projection = Projection()
    for kind, id, command in (
        (KIND_INSTALLATION, "installation", PutInstallation(settings={"defaults": defaults})),
        (KIND_TENANT, "t", PutTenant(id="t", settings=settings)),
    ):
        commit = Commit(command.command_id, "test", "", tuple(decide(projection, command)))
        projection.apply(projection.position + 1, kind, id, commit)
    found = projection.tenant("t")
    assert found is not None
    return found.permissions.allow_explain


@pytest.mark.parametrize(
    ("settings", "defaults", "expected"),
    [
        ({}, {}, True),
        (ROW, {}, False),
        ({}, ROW, False),
        ({**ROW, **ON}, {}, True),
        (ROW, ON, True),
        ({**ROW, "permissions": {"read_only": True}}, {}, False),
        ({"isolation": {"strategy": "schema"}}, ROW, True),
    ],
)
def test_row_tenants_explain_only_when_somebody_said_so(
    settings: dict[str, Any], defaults: dict[str, Any], expected: bool
) -> None:
    assert resolve("t", settings, defaults).permissions.allow_explain is expected
    assert folded(settings, defaults) is expected
