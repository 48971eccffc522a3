"""Which version runs."""

from __future__ import annotations

from importlib import metadata


def version() -> str:
    """Of the installed distribution; "0" in a tree that was never installed."""
    try:
        return metadata.version("tenantry")
    except metadata.PackageNotFoundError:
        return "0"
