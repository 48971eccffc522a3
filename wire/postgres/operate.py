"""People of the operator's who work in tenants' data, and go from one tenant to another.

Such a client logs in by an operator's credential. Each of its statements runs as one tenant, under
that tenant's policy, and is noted in the audit:

    SET helios.tenant_id = 'acme'              from now on
    /*helios:tenant=acme*/ SELECT …            this text only

Both change the server and the session, so neither is possible inside a transaction. For all other
clients the one is a setting like any other, and the other a comment.
"""

from __future__ import annotations

import re
from typing import Final

from wire import errors as e

_SET: Final = re.compile(
    rb"\s*SET\s+(?:SESSION\s+)?helios\.tenant_id\s*(?:=|\s+TO\s)\s*'([^'\\]{1,63})'\s*;?\s*",
    re.IGNORECASE,
)
_HINT: Final = re.compile(rb"\s*/\*\s*helios:tenant=([a-z0-9][a-z0-9_-]{0,62})\s*\*/")
# What stands in the place of the SET, so that the server and the client's driver see one.
_STAND_IN: Final = b"SET application_name TO 'tenantry operator'"


class Operator:
    """One operator's session. `tenants` are the ids it may work in; None: all.

    home     the tenant of statements that name none
    failure  why the last change of tenant could not be had
    again    the text that comes next has come before, and waited for something
    """

    def __init__(self, name: str, tenants: frozenset[str] | None, home: str) -> None:
        self.name = name
        self.tenants = tenants
        self.home = home
        self.failure: e.TenantryError | None = None
        self.again = False

    def may(self, tenant: str) -> bool:
        return self.tenants is None or tenant in self.tenants

    def wanted(self, sql: bytes) -> tuple[str, bytes]:
        """The tenant that a text is for, and the text to run for it there (see `settled`).

        Raises Forbidden: it names one that is none of this operator's.
        """
        found = _SET.fullmatch(sql)
        if found is not None:
            tenant = found[1].decode("utf-8", "replace")
            self._check(tenant)
            return tenant, _STAND_IN
        hint = _HINT.match(sql)
        if hint is None:
            return self.home, sql
        tenant = hint[1].decode()
        self._check(tenant)
        return tenant, sql

    def settled(self, tenant: str, text: bytes) -> None:
        """The client works in the tenant that `wanted` has told, and the text may run."""
        if text is _STAND_IN:
            self.home = tenant

    def _check(self, tenant: str) -> None:
        if not self.may(tenant):
            raise e.Forbidden(
                f'operator "{self.name}" may not work in tenant "{tenant}"',
                hint="Its tenants are told by: tenantry operators list.",
            )


def inside_transaction() -> e.NotSupported:
    return e.NotSupported(
        "the tenant cannot be changed inside a transaction",
        hint="COMMIT or ROLLBACK first.",
    )
