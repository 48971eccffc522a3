"""The installation itself: configuration, version, health."""

from __future__ import annotations

import platform
from typing import Any, Final

from fastapi import APIRouter, Depends, Response

from admin.api import described, examples, shown
from admin.api.access import Behind, Overseer
from admin.api.backend import Backend
from admin.api.bodies import JSON
from admin.api.commands import caught_up, etag, json
from admin.api.described import answers, listed, table
from admin.api.version import version

router = APIRouter(tags=["system"])
open_router = APIRouter(tags=["system"])

# A replica that follows hears from NATS every second.
STALE_SECONDS: Final = 10.0


@router.get(
    "/config",
    summary="The installation's settings, resolved",
    description="Passwords are hidden. Durations are seconds, sizes bytes, null is unlimited.",
    responses=answers(
        table(installation=described.OBJECT, settings=described.OBJECT), examples.CONFIG
    ),
    dependencies=[Depends(caught_up)],
)
async def get_config(backend: Behind, who: Overseer) -> Response:
    state = backend.state
    body = {
        "installation": shown.installation(backend.installation),
        "settings": shown.without_passwords(shown.settings(state.installation_settings())),
        "version": state.installation_version,
        "sequence": state.position,
    }
    return json(body, headers=etag(state.installation_version))


@router.get(
    "/version",
    summary="Which version this is",
    responses=answers(table(version=described.NAME), examples.VERSION),
)
async def get_version(who: Overseer) -> Response:
    return json({"name": "tenantry", "version": version(), "python": platform.python_version()})


@open_router.get(
    "/healthz",
    summary="Whether this process answers",
    description="Needs no token.",
    responses=answers(table(status={"const": "alive"}), {"status": "alive"}),
)
async def healthz() -> Response:
    return json({"status": "alive"})


@open_router.get(
    "/readyz",
    summary="Whether commands can be carried out and clients are served",
    description="Needs no token. 503 with the reasons when not.",
    responses={
        **answers(
            table(
                ready={"type": "boolean"},
                reasons=listed(described.NAME),
                workers=table(alive=described.COUNT, wanted=described.COUNT),
            ),
            examples.READY,
        ),
        503: {
            "description": "It is not.",
            "content": {
                JSON: {"schema": table(ready={"const": False}), "example": examples.NOT_READY},
            },
        },
    },
)
async def readyz(backend: Behind) -> Response:
    body = readiness(backend)
    return json(body, 200 if body["ready"] else 503, {} if body["ready"] else {"Retry-After": "1"})


def readiness(backend: Backend) -> dict[str, Any]:
    """What /readyz tells: no names, because it needs no token."""
    control = backend.control_or_none
    if control is None:
        return {
            "ready": False,
            "reasons": ["the control process starts or stops"],
            "workers": {"alive": 0, "wanted": 0},
        }
    health = control.health()
    staleness, workers = health["staleness_seconds"], health["workers"]
    allowed = backend.installation.events.max_staleness_secs
    reasons: list[str] = []
    # Without NATS the last known configuration serves on, for a while.
    if staleness is None or staleness > (STALE_SECONDS if allowed is None else allowed):
        reached = "is stale" if health["log_connected"] else "is stale: the log cannot be reached"
        reasons.append(f"the configuration {reached}")
    if workers["alive"] < workers["wanted"] or not workers["wanted"]:
        reasons.append(f"{workers['alive']} of {workers['wanted']} workers serve")
    return {**health, "ready": not reasons, "reasons": reasons}
