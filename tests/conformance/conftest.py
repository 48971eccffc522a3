"""Conformance tests compare what clients see through the proxy with what they see directly."""

from __future__ import annotations

from support.proxy import proxy, session_proxy, tenant_database, transaction_proxy

__all__ = ["proxy", "session_proxy", "tenant_database", "transaction_proxy"]
