"""The configuration stream: its names, its shape, and what can go wrong with it.

LogError
├── Conflict           somebody else wrote to the subject: decide again
├── CommandIdReused    the command id was used for another subject before
├── CommitTooLarge     over COMMIT_BYTES_MAX
├── LogUnavailable     no answer; `unknown` says whether the commit may be stored all the same
├── LogMisconfigured   the stream exists but could lose or forget facts
└── LogGap             a stored message cannot be had
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

from events.facts import Commit

log = logging.getLogger("tenantry.log")

STREAM = "TENANTRY_CONFIG"
SUBJECT_PREFIX = "tenantry.config."

# Error codes of JetStream (server/errors.json of nats-server). The first two both mean that the
# expected sequence was not the last one.
WRONG_LAST_SEQUENCE = (10071, 10164)
NO_MESSAGE_FOUND = 10037
NO_STREAM_FOUND = 10059
STREAM_NAME_IN_USE = 10058

# apply(sequence, kind, id, commit)
Apply = Callable[[int, str, str, Commit], None]


class LogError(Exception):
    """Base of what the log raises."""


class Conflict(LogError):
    """The subject has moved on."""


class CommandIdReused(LogError):
    """Two different commands carry one id."""


class CommitTooLarge(LogError):
    """Nothing was stored."""


class LogUnavailable(LogError):
    """The log does not answer. With `unknown`, the commit may or may not be stored; sending the
    same command id again finds out."""

    def __init__(self, message: str, *, unknown: bool = False) -> None:
        super().__init__(message)
        self.unknown = unknown


class LogMisconfigured(LogError):
    """The stream was made or changed by somebody else in a way that can lose facts."""


class LogGap(LogError):
    """A message between two others is missing, again and again."""


class ApiError(Exception):
    """The server refused a JetStream request."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"{description} ({code})")
        self.code = code


def stream_config(replicas: int) -> StreamConfig:
    return StreamConfig(
        name=STREAM,
        description="Configuration of Tenantry: every change there ever was",
        subjects=[f"{SUBJECT_PREFIX}>"],
        retention=RetentionPolicy.LIMITS,
        discard=DiscardPolicy.NEW,
        storage=StorageType.FILE,
        num_replicas=replicas,
        max_msgs=-1,
        max_bytes=-1,
        max_age=0,
        deny_delete=True,
        deny_purge=True,
        allow_direct=False,
    )


def check_stream(found: dict[str, Any], replicas: int) -> None:
    """Raises LogMisconfigured unless every message stays and is found where it is looked for."""
    wrong = [
        f"{name} is {found.get(name)!r}"
        for name, harmless in (
            ("subjects", ([f"{SUBJECT_PREFIX}>"],)),
            ("retention", ("limits",)),
            ("storage", ("file",)),
            ("max_age", (0, None)),
            ("max_msgs", (-1, 0, None)),
            ("max_bytes", (-1, 0, None)),
            ("max_msgs_per_subject", (-1, 0, None)),
            ("deny_delete", (True,)),
            ("deny_purge", (True,)),
            ("allow_rollup_hdrs", (False, None)),
            ("persist_mode", ("", "default", None)),
        )
        if found.get(name) not in harmless
    ]
    if wrong:
        raise LogMisconfigured(f"the stream {STREAM} could lose facts: " + ", ".join(wrong))
    # More than were asked for do no harm; commands ask for 1, not knowing what is configured.
    if int(found.get("num_replicas") or 1) < replicas:
        log.warning(
            "%s has %s replicas instead of %d; change it with the nats tool if that is not meant",
            STREAM,
            found.get("num_replicas"),
            replicas,
        )
