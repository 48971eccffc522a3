"""The installation itself: configuration, version, health."""

from __future__ import annotations

import platform
from typing import Any, Final

from fastapi import APIRouter, Depends, Response

from admin.api import described, shown
from admin.api.access import Behind, Overseer
from admin.api.backend import Backend
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
    responses=answers(table(installation=described.OBJECT, settings=described.OBJECT)),
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
    responses=answers(table(version=described.NAME), {"version": "0.1.0"}),
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
            {"ready": True, "reasons": [], "workers": {"alive": 2, "wanted": 2}},
        ),
        503: {
            "description": "It is not.",
            "content": {
                "application/json": {"schema": table(ready={"const": False})},
            },
        },
    },
)
async def readyz(backend: Behind) -> Response:
    body = readiness(backend)
    return json(body, 200 if body["ready"] else 503, {} if body["ready"] else {"Retry-After": "1"})


def readiness(backend: Backend) -> dict[str, Any]:
    """What /readyz tells: no names, because it needs no token."""
    reasons: list[str] = []
    workers = list(backend.workers())
    control = backend.control_or_none
    staleness: float | None = None
    if control is None:
        reasons.append("the control process starts or stops")
    else:
        allowed = backend.installation.events.max_staleness_secs
        staleness = control.log.staleness()
        if not control.log.connected:
            reasons.append("the log cannot be reached")
        if staleness > (STALE_SECONDS if allowed is None else allowed):
            reasons.append("the configuration is stale")
    alive = sum(workers)
    if alive < len(workers) or not workers:
        reasons.append(f"{alive} of {len(workers)} workers serve")
    known = staleness is not None and staleness != float("inf")
    return {
        "ready": not reasons,
        "reasons": reasons,
        "log": {
            "connected": control is not None and control.log.connected,
            "staleness_seconds": round(staleness, 3) if known and staleness is not None else None,
            "sequence": 0 if control is None else control.projection.position,
        },
        "workers": {"alive": alive, "wanted": len(workers)},
        "statistics": control is not None and backend.counts,
    }
