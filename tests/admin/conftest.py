"""Fixtures of these tests: a home for `tenantry serve`, one for each module."""

from support.serving import home, original

__all__ = ["home", "original"]
