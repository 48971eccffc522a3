"""Moments as people write them on a command line: RFC 3339, dates, or how long ago."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from admin.cli.failure import MISTAKE, Failure

_AGO: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z]+)(?:\s+ago)?")
_UNITS: Final = {
    "s": 1.0, "sec": 1.0, "second": 1.0,
    "m": 60.0, "min": 60.0, "minute": 60.0,
    "h": 3600.0, "hour": 3600.0,
    "d": 86400.0, "day": 86400.0,
    "w": 604800.0, "week": 604800.0,
}  # fmt: skip


def parse_when(text: str, now: datetime | None = None) -> datetime:
    """`2026-11-01T10:00Z`, `2026-11-01 10:00`, `2026-11-01`, `10 minutes ago`, `2h`, `yesterday`,
    `now`. Without an offset it is UTC. Raises Failure (wrong usage)."""
    now = datetime.now(UTC) if now is None else now
    plain = text.strip().lower()
    if plain == "now":
        return now
    if plain == "yesterday":
        return now - timedelta(days=1)
    ago = _AGO.fullmatch(plain)
    if ago is not None:
        unit = _UNITS.get(ago[2]) or _UNITS.get(ago[2].removesuffix("s"))
        if unit is not None:
            try:
                return now - timedelta(seconds=float(ago[1]) * unit)
            except OverflowError:
                raise Failure(f'"{text}" is before all time.', MISTAKE) from None
    try:
        moment = datetime.fromisoformat(text.strip().upper())
    except ValueError:
        raise Failure(
            f'"{text}" is not a time: write e.g. "2026-11-01T10:00Z", "2026-11-01" '
            'or "10 minutes ago".',
            MISTAKE,
        ) from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def show_when(moment: datetime) -> str:
    """In UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
