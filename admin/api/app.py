"""Puts the application together: routes, the gate before them, one shape for every mistake."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import Any, Final

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from admin.api import (
    described,
    examples,
    routes_access,
    routes_analytics,
    routes_audit,
    routes_log,
    routes_named,
    routes_past,
    routes_system,
    routes_tenants,
    routes_usage,
    routes_users,
)
from admin.api.backend import Backend
from admin.api.docs_page import page
from admin.api.gate import Gate
from admin.api.problems import Problem
from admin.api.version import version
from events.commands_model import Mistake

log = logging.getLogger("tenantry.api")

# `/tenants/stats` comes before `/tenants/{id}`.
ROUTERS: Final = (
    routes_usage.router,
    routes_tenants.router,
    routes_past.router,
    routes_users.router,
    routes_analytics.router,
    routes_named.router,
    routes_access.router,
    routes_log.router,
    routes_audit.router,
    routes_system.router,
    routes_system.open_router,
)
_CODES: Final = {400: "malformed", 404: "missing", 405: "method", 415: "media_type"}


def build(backend: Backend, *, names: Iterable[str] = ()) -> Gate:
    """The application, behind its gate. `names` are host names that are served."""
    app = FastAPI(
        title=described.TITLE,
        version=version(),
        description=described.DESCRIPTION,
        openapi_tags=described.TAGS,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={
            "tracing": False,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
        },
        generate_unique_id_function=lambda route: route.name,
        exception_handlers={
            Problem: _problem,
            RequestValidationError: _invalid,
            HTTPException: _http_error,
            Exception: _failed,
        },
    )
    app.state.backend = backend
    for router in ROUTERS:
        app.include_router(router, dependencies=[Depends(known_parameters)])
    app.add_api_route("/docs", _docs, include_in_schema=False)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    document = app.openapi()
    app.state.parameters = _parameters(document)
    app.state.methods = [
        (compile_path(path)[0], {method.upper() for method in item})
        for path, item in document["paths"].items()
    ]
    return Gate(
        app,
        names=names,
        rates=backend.rates,
        loopback=backend.loopback,
        refused=backend.note_refusal,
    )


async def known_parameters(request: Request) -> None:
    """A parameter that nobody reads is a mistake, not a comment. Raises Problem."""
    key = (request.scope["route"].path, request.method.lower())
    known: frozenset[str] = request.app.state.parameters.get(key, frozenset())
    strange = sorted(set(request.query_params) - known)
    if strange:
        hint = f"Known here: {', '.join(sorted(known))}." if known else "There are none here."
        wrong = [Mistake(name[:64], "is no parameter", hint) for name in strange]
        raise Problem("refused", "; ".join(map(str, wrong)), mistakes=wrong)


def _parameters(document: dict[str, Any]) -> dict[tuple[str, str], frozenset[str]]:
    return {
        (path, method): frozenset(
            each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"
        )
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            tags=app.openapi_tags,
            routes=app.routes,
        )
        parts = document.setdefault("components", {})
        schemas = parts.setdefault("schemas", {})
        schemas["Problem"] = described.PROBLEM
        # FastAPI's own shape of mistakes is not ours.
        schemas.pop("HTTPValidationError", None)
        schemas.pop("ValidationError", None)
        app.openapi_schema = examples.with_nulls(document)
    return app.openapi_schema


async def _docs(request: Request) -> Response:
    return page(request.app.openapi())


# --- mistakes ------------------------------------------------------------------------------------


async def _problem(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, Problem)
    return problem.response(request.url.path)


async def _failed(request: Request, error: Exception) -> Response:
    """Of which only our own log tells more (admin.api.gate)."""
    return Problem("failed").response(request.url.path)


async def _invalid(request: Request, error: Exception) -> Response:
    """A parameter is wrong: all of them, in our shape. What was sent is not repeated."""
    assert isinstance(error, RequestValidationError)
    wrong = [
        Mistake(str(each["loc"][-1]) if each["loc"] else "", str(each["msg"]))
        for each in error.errors()
    ]
    in_path = any(each["loc"][:1] == ("path",) for each in error.errors())
    code = "missing" if in_path else "refused"
    detail = "; ".join(map(str, wrong))
    return Problem(code, detail, mistakes=wrong).response(request.url.path)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _CODES.get(error.status_code, "malformed")
    headers = dict(error.headers or {})
    detail = ""
    if error.status_code == 405:
        headers["Allow"] = ", ".join(sorted(_methods(request)))
        detail = f"{request.method} is not for {request.url.path}"
    elif error.status_code == 404:
        detail = f"there is no {request.url.path}"
    problem = Problem(code, detail, status=error.status_code, headers=headers)
    return problem.response(request.url.path)


def _methods(request: Request) -> set[str]:
    """The methods that the path has."""
    methods: list[tuple[re.Pattern[str], set[str]]] = request.app.state.methods
    found: set[str] = set()
    for pattern, known in methods:
        if pattern.match(request.url.path):
            found |= known
    return found
