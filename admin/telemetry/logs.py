"""Log lines on standard error, for people or as JSON. Passwords in URLs are masked."""

from __future__ import annotations

import logging
import re
import sys
from datetime import UTC, datetime
from typing import Final

import orjson

from events.spans import about

MASK: Final = "********"
# The password in an address like nats://user:password@host:4222.
_URL_PASSWORD = re.compile(r"(?<=://)([^/@:\s]*):[^/@\s]*@")


def masked(text: str) -> str:
    """`text` without the passwords of the URLs in it."""
    return _URL_PASSWORD.sub(rf"\1:{MASK}@", text)


class HumanLines(logging.Formatter):
    """`10:31:07 WARNING worker 0: text`, in local time."""

    def __init__(self, who: str) -> None:
        super().__init__("%(asctime)s %(levelname)s %(who)s%(message)s", "%H:%M:%S")
        self._who = f"{who}: " if who else ""

    def format(self, record: logging.LogRecord) -> str:
        record.who = self._who
        return masked(super().format(record))


class JsonLines(logging.Formatter):
    """One object a line: time (UTC, ISO 8601), level, process, logger, message; tenant, trace_id
    and span_id where the work is about them; trace is a Python traceback."""

    def __init__(self, who: str) -> None:
        super().__init__()
        self._who = who

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "process": self._who,
            "logger": record.name,
            "message": masked(record.getMessage()),
        }
        what = about()
        for name in ("tenant", "trace_id", "span_id"):
            value = getattr(record, name, "") or getattr(what, name)
            if value:
                line[name] = value
        if record.exc_info:
            line["trace"] = masked(self.formatException(record.exc_info))
        return orjson.dumps(line).decode()


def set_up(level: str = "INFO", *, json: bool = False, who: str = "") -> None:
    """Send the log of this process to standard error; `who` names the process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(who) if json else HumanLines(who))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Its warnings would carry the text of statements.
    logging.getLogger("sqlglot").setLevel(logging.CRITICAL)
    if level.upper() != "DEBUG":
        # Their news is about themselves; what matters here is logged by our own modules.
        for noisy in ("asyncio", "nats", "psycopg", "pykka"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
