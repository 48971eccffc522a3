"""The words and schemas of the OpenAPI document, and the parts that its endpoints share."""

from __future__ import annotations

from typing import Any, Final

from admin.api import examples
from admin.api.bodies import JSON, MERGE_PATCH
from admin.api.problems import MEDIA_TYPE, TITLES

Schema = dict[str, Any]

TITLE: Final = "Tenantry admin API"
DESCRIPTION: Final = """\
Tenants, their limits, permissions and users; what they use; the log of every change; the audit.

- **Tokens.** Every request but `/healthz` and `/readyz` carries `Authorization: Bearer TOKEN`; the
  command `tenantry tokens create` makes one.
- **Changes** are commands. `dry_run=true` only tells what would happen, `Idempotency-Key` makes a
  repeated request happen once, `If-Match` with the `ETag` of a read makes sure that nobody else
  was faster (412).
- **Mistakes** are told all at once, as problem details (RFC 9457): `errors` has the path, what is
  wrong, and a hint. 429 and 503 say when to come back (`Retry-After`).
- **Lists** have `limit` and `cursor`, and a `Link` to the next page.
- Unlimited is the word "unlimited" in settings and null in statistics.
- **Bodies** are JSON, as application/json or application/merge-patch+json; JSON that is sent as
  application/x-www-form-urlencoded, as `curl -d` does, is understood as well.
"""
TAGS: Final = [
    {"name": "tenants", "description": "Tenants and their settings."},
    {"name": "users", "description": "Login names of a tenant."},
    {"name": "usage", "description": "What tenants use."},
    {"name": "analytics", "description": "Reports over all tenants."},
    {"name": "tiers", "description": "Settings that tenants have in common."},
    {"name": "access", "description": "Operators and command tokens."},
    {"name": "log", "description": "Every change, as it was stored."},
    {"name": "audit", "description": "Who did what, refused or allowed."},
    {"name": "system", "description": "The installation itself."},
]

NAME: Final[Schema] = {"type": "string"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
NUMBER: Final[Schema] = {"type": "number"}
MAYBE_NUMBER: Final[Schema] = {"type": ["number", "null"]}
OBJECT: Final[Schema] = {"type": "object"}
# A limit of settings: a number, or the word.
MAYBE_COUNT: Final[Schema] = {"anyOf": [COUNT, {"const": "unlimited"}]}
MAYBE_RATE: Final[Schema] = {"anyOf": [NUMBER, {"const": "unlimited"}]}


def table(**properties: Schema) -> Schema:
    """An object that has all of these, and maybe more."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def listed(items: Schema) -> Schema:
    return {"type": "array", "items": items}


PROBLEM: Final = {
    **table(
        type=NAME,
        title=NAME,
        status={"type": "integer"},
        detail=NAME,
        instance=NAME,
        code={"type": "string", "enum": list(TITLES)},
        errors=listed(table(path=NAME, message=NAME, hint=NAME)),
    ),
    "description": "Problem details (RFC 9457).",
}
ANSWER: Final = {
    **table(
        accepted={"const": True},
        command_id=NAME,
        sequence=COUNT,
        events=listed(table(type=NAME, version=COUNT, data=OBJECT)),
        repeated={"type": "boolean"},
        dry_run={"type": "boolean"},
    ),
    "description": "What a command came to.",
}
TENANT: Final = table(
    id=NAME,
    name=NAME,
    enabled={"type": "boolean"},
    status={"type": "string", "enum": ["active", "pending", "failed", "disabled", "parked"]},
    tier={"type": ["string", "null"]},
    isolation=OBJECT,
    rate_limits=OBJECT,
    pool=OBJECT,
    permissions=OBJECT,
    users=listed(table(name=NAME)),
    features=OBJECT,
    metadata=OBJECT,
    settings=OBJECT,
    version=COUNT,
)
LIST_ENTRY: Final = table(
    id=NAME,
    name=NAME,
    isolation=NAME,
    active_connections=COUNT,
    qps_current=NUMBER,
    qps_limit=MAYBE_NUMBER,
)
STATS: Final = table(
    tenant_id=NAME,
    tenant=NAME,
    connections=table(active=COUNT, idle=COUNT, max={"type": ["integer", "null"]}),
    queries=table(total=COUNT, qps_current=NUMBER, qps_limit=MAYBE_NUMBER, slow_queries=COUNT),
    data=table(rows_read=COUNT, rows_written=COUNT, bytes_read=NAME, bytes_written=NAME),
    stats=table(
        requests_total=COUNT,
        requests_per_second=NUMBER,
        bandwidth_used=NAME,
        bandwidth_limit={"type": ["string", "null"]},
        active_connections=COUNT,
        rate_limit_exceeded=COUNT,
    ),
    quotas=table(bandwidth=table(used=COUNT, limit={"type": ["integer", "null"]}, reset_at=NAME)),
)
EVENT: Final = table(
    sequence=COUNT,
    kind=NAME,
    id=NAME,
    time=NAME,
    actor=NAME,
    command_id=NAME,
    events=listed(table(type=NAME, version=COUNT, data=OBJECT)),
)

# --- parts of a path item -------------------------------------------------------------------------


def body(
    schema: Schema | None = None,
    *,
    required: bool = True,
    patch: bool = False,
    examples: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """`openapi_extra` of an endpoint that reads a JSON object."""
    media: dict[str, Any] = {"schema": schema or OBJECT}
    if examples:
        media["examples"] = {name: {"value": value} for name, value in examples.items()}
    content = {JSON: media}
    if patch:
        content[MERGE_PATCH] = media
    return {"requestBody": {"required": required, "content": content}}


def answers(
    schema: Schema, example: Any = None, *, status: int = 200, words: str = "It is so."
) -> dict[int | str, dict[str, Any]]:
    """`responses` of an endpoint that answers with JSON, or with a problem."""
    media: dict[str, Any] = {"schema": schema}
    if example is not None:
        media["example"] = example
    return {status: {"description": words, "content": {JSON: media}}, **PROBLEMS}


def changed(
    schema: Schema, words: str = "It is so.", *, example: Any
) -> dict[int | str, dict[str, Any]]:
    """`responses` of an endpoint that changes something: how it is now, or, of a dry run, what
    would be stored."""
    shown = {"changed": {"value": example}, "dry run": {"value": examples.DRY_RUN}}
    media = {"schema": {"anyOf": [schema, ANSWER]}, "examples": shown}
    return {200: {"description": words, "content": {JSON: media}}, **PROBLEMS}


def made(schema: Schema, example: Any) -> dict[int | str, dict[str, Any]]:
    """`responses` of an endpoint that makes something: what was made, or, of a dry run, what would
    be stored."""
    return {
        **answers(schema, example, status=201, words="It was made."),
        200: answers(ANSWER, examples.DRY_RUN, words="What would be stored (dry run).")[200],
    }


def _problem(status: int, code: str, words: str) -> dict[str, Any]:
    example = {
        "type": f"urn:tenantry:problem:{code}",
        "title": TITLES[code],
        "status": status,
        "detail": words,
        "instance": "/tenants/acme",
        "code": code,
        "errors": [examples.MISTAKE] if status == 422 else [],
    }
    media = {"schema": {"$ref": "#/components/schemas/Problem"}, "example": example}
    return {"description": words, "content": {MEDIA_TYPE: media}}


PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    status: _problem(status, code, words)
    for status, code, words in (
        (400, "malformed", "The request cannot be read."),
        (401, "unauthenticated", "There is no good token."),
        (403, "forbidden", "The role does not allow it."),
        (404, "missing", "There is no such thing."),
        (409, "exists", "It exists already, or others were faster."),
        (412, "changed", "It is not at the version of If-Match."),
        (413, "too_large", "The body is too large."),
        (408, "timeout", "The body took too long."),
        (414, "too_large", "The address is too long."),
        (415, "media_type", "Send JSON."),
        (421, "misdirected", "This host is not served here."),
        (422, "refused", "Something in it is wrong; `errors` has all of it."),
        (429, "busy", "Too many requests."),
        (431, "too_large", "The headers are too many, or too long."),
        (503, "unavailable", "The log cannot be reached, or something starts."),
    )
}
COMMANDED: Final[dict[int | str, dict[str, Any]]] = {
    204: {"description": "Done, or it was so already."},
    **answers(ANSWER, examples.DRY_RUN, words="What would be stored (dry run)."),
}
