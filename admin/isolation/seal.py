"""Whether a database's seal is the one that this version installs: its functions and their owners.

The text of admin/provision/seal.sql is run under another schema name in a transaction that is
rolled back, and what the server makes of it is compared with what is there.
"""

from __future__ import annotations

import hashlib
import re
from importlib import resources
from typing import Final

from admin.isolation.finding import Finding, Place
from admin.protect.names import row_role
from admin.provision.steps import Connection, rows

_MODEL: Final = "tenantry_model"
_FUNCTIONS: Final = """
SELECT p.oid::regprocedure::text,
  CASE WHEN p.prokind = 'a' THEN '' ELSE pg_get_functiondef(p.oid) END,
  pg_get_userbyid(p.proowner)::text,
  ARRAY(SELECT coalesce(r.rolname::text, 'PUBLIC')
    FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) x
    LEFT JOIN pg_roles r ON r.oid = x.grantee WHERE x.grantee <> p.proowner ORDER BY 1)
FROM pg_proc p WHERE p.pronamespace = to_regnamespace(%(schema)s) ORDER BY 1"""
_ABOUT: Final = """
SELECT coalesce(obj_description(to_regnamespace('tenantry'), 'pg_namespace'), '')"""
# Made by `protect`, which knows itself when they must be made again.
_OTHERS: Final = re.compile(r"tenantry\.(copy_[0-9]|tell\()")
_REPAIR: Final = "COMMENT ON SCHEMA tenantry IS NULL;"
"""Without its comment, the next provisioning installs the seal again."""


async def check_seal(conn: Connection, place: Place) -> list[Finding]:
    """Raises psycopg.Error."""
    found: list[Finding] = []

    def tell(thing: str, what: str, fix: str = _REPAIR) -> None:
        tenants = tuple(sorted(each.id for each in place.row_tenants))
        found.append(Finding("hole", "seal", place.database, thing, what, fix, tenants))

    there = {name: rest for name, *rest in await rows(conn, _FUNCTIONS, schema="tenantry")}
    if not there:
        tell("schema tenantry", "there is no seal: nothing tells the rows of tenants apart", "")
        return found
    text = (resources.files("admin.provision") / "seal.sql").read_text("utf-8")
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    about = (await rows(conn, _ABOUT))[0][0]
    if about and not about.endswith(digest):
        what = "was installed by another version: it is renewed when a tenant is provisioned"
        whom = tuple(sorted(each.id for each in place.row_tenants))
        return [Finding("risk", "seal", place.database, "schema tenantry", what, _REPAIR, whom)]
    wanted = await _model(conn, text)
    for name, (definition, owner, _) in wanted.items():
        if name not in there:
            tell(name, "is missing")
            continue
        have, have_owner, who = there[name]
        if have != definition:
            tell(name, "was changed: it decides which tenant a session is")
        if have_owner != owner:
            tell(name, f"belongs to {have_owner} instead of {owner}, who can change it")
        if name.startswith("tenantry.enter"):
            excess = sorted(set(who) - {row_role(place.database)})
            if excess:
                fix = f"REVOKE EXECUTE ON FUNCTION {name} FROM {', '.join(excess)};"
                tell(name, f"{', '.join(excess)} may call it, and try tokens", fix)
    for name in sorted(there.keys() - wanted.keys()):
        if not _OTHERS.match(name):
            tell(
                name, "is a function of others in the schema of the seal", f"DROP FUNCTION {name};"
            )
    return found


async def _model(conn: Connection, text: str) -> dict[str, list[str]]:
    """The functions as this server understands `text`, which is admin/provision/seal.sql."""
    moved = re.sub(r"\btenantry\.", f"{_MODEL}.", text)
    moved = re.sub(r"(SCHEMA (?:IF NOT EXISTS )?)tenantry\b", rf"\1{_MODEL}", moved)
    async with conn.transaction(force_rollback=True):
        await conn.execute(moved.encode())
        made = await rows(conn, _FUNCTIONS, schema=_MODEL)
    return {
        name.replace(f"{_MODEL}.", "tenantry."): [
            definition.replace(f"{_MODEL}.", "tenantry."),
            owner,
            who,
        ]
        for name, definition, owner, who in made
    }
