"""Fixtures that every test may use: a shared PostgreSQL, a NATS account, unique names.

Two ways to run the suite: `.venv/bin/pytest` tests the installed build, compiled where a compiler
was found; `PYTHONPATH=. .venv/bin/pytest` tests the sources in the interpreter. The header of the
run says which; TENANTRY_TEST_VARIANT=compiled|interpreted makes the other an error.
"""

from __future__ import annotations

import importlib.machinery
import os

import pytest
from support.engines import SOCKET_VARIABLE, EngineHost, Nats, Postgres, ask, unique_name

import wire
from wire.postgres import protocol

# Tests that use one of these get the marker `engine`.
ENGINE_FIXTURES = {"postgres", "nats_server", "own_nats", "shared_nats"}

HOST = pytest.StashKey[EngineHost]()


def variant() -> str:
    """How the code under test runs."""
    compiled = str(protocol.__file__).endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES))
    return "compiled" if compiled else "interpreted"


def pytest_report_header() -> str:
    """Say which build is tested, and from where."""
    return f"tenantry: {variant()}, from {os.path.dirname(os.path.dirname(wire.__file__))}"


def pytest_configure(config: pytest.Config) -> None:
    """The controlling process alone owns the engine host; workers inherit its address."""
    if path := os.environ.get("PYTHONPATH"):  # for child processes in other folders
        os.environ["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, path.split(os.pathsep)))
    if (wanted := os.environ.get("TENANTRY_TEST_VARIANT", variant())) != variant():
        raise pytest.UsageError(f"the {wanted} build was to be tested, this is the {variant()} one")
    if not hasattr(config, "workerinput") and SOCKET_VARIABLE not in os.environ:
        config.stash[HOST] = EngineHost()
        config.stash[HOST].start()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the engines; had we been killed, the host would notice by itself."""
    if (host := config.stash.get(HOST, None)) is not None:
        host.stop()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that need a server, so that the quick ones can be chosen."""
    for item in items:
        if ENGINE_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("engine")


@pytest.fixture(scope="session")
def postgres() -> Postgres:
    """The run's PostgreSQL 18, shared: create databases and roles under unique names."""
    return Postgres(**ask("postgres"))


@pytest.fixture
def nats_server() -> Nats:
    """The run's NATS with an account of this test's own: streams start empty."""
    return Nats(**ask("nats"))


@pytest.fixture
def unique() -> str:
    """A name that no other test uses, usable as an identifier."""
    return unique_name("t")
