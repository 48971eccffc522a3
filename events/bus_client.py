"""Sends commands over NATS and gets their answers: the other end of events.bus.

An answer that does not come is asked for again with the same command id, which is harmless.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import orjson
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

from events.bus import COMMAND_ID_HEADER, REPLY_HEADER, TOKEN_HEADER, TRACE_HEADER
from events.bus_durable import STREAM, ensure_stream
from events.commands_model import Command
from events.connection import PATIENCE_SECONDS, RETRY_SECONDS
from events.log import ConfigLog
from events.stream import LogUnavailable
from events.verbs import COMMANDS_PREFIX, REQUEST_PREFIX, address, body

# One try; a control process answers within milliseconds unless the log is away.
TRY_SECONDS: Final = 8.0
# How long it is tried when the caller says nothing. A control process that is started again is back
# in a second or two.
SECONDS: Final = 20.0
# Without anybody who listens for this long, nobody will.
NOBODY_SECONDS: Final = 3.0


class NobodyAnswers(LogUnavailable):
    """No control process listens. The command was not carried out by this try."""


class CommandClient:
    """Sends over `source`'s connection, with `token`."""

    def __init__(self, source: ConfigLog, token: str) -> None:
        self._source = source
        self._token = token

    async def send(
        self, command: Command, *, seconds: float = SECONDS, traceparent: str = ""
    ) -> dict[str, Any]:
        """The answer (events.answer). Raises NobodyAnswers; LogUnavailable, with `unknown` when
        the command may have been carried out all the same."""
        tenant, verb = address(command)
        headers = self._headers(command, traceparent)
        data = body(command)
        subject = f"{REQUEST_PREFIX}{tenant}.{verb}"
        start = time.monotonic()
        sent = False
        while True:
            left = start + seconds - time.monotonic()
            if not self._source.connected:
                # Asked now, it would wait in the library's buffer and be carried out whenever NATS
                # is back, long after the caller was told that it failed.
                patience = seconds if sent else min(seconds, PATIENCE_SECONDS)
                if time.monotonic() - start >= patience:
                    raise _no_answer(verb, "NATS is away", unknown=sent)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            try:
                message = await self._source.connection.exchange(
                    subject, data, max(RETRY_SECONDS, min(left, TRY_SECONDS)), headers
                )
                answer: dict[str, Any] = orjson.loads(message.data)
                return answer
            except NoRespondersError:
                waited = time.monotonic() - start
                if not sent and waited > min(NOBODY_SECONDS, seconds):
                    raise NobodyAnswers("nobody takes commands: is Tenantry running?") from None
                if waited >= seconds:
                    raise _no_answer(verb, "nobody is there any more", unknown=True) from None
            except (NatsError, OSError, TimeoutError) as error:
                sent = True
                if time.monotonic() - start >= seconds:
                    raise _no_answer(verb, repr(error), unknown=True) from None
            await asyncio.sleep(RETRY_SECONDS)

    async def store(self, command: Command, *, reply_to: str = "", traceparent: str = "") -> int:
        """Leave the command to be carried out whenever somebody can; its place in the queue.

        Raises LogUnavailable, LogMisconfigured.
        """
        await ensure_stream(self._source, self._source.replicas)
        tenant, verb = address(command)
        headers = self._headers(command, traceparent)
        headers["Nats-Msg-Id"] = command.command_id
        headers["Nats-Expected-Stream"] = STREAM
        if reply_to:
            headers[REPLY_HEADER] = reply_to
        subject, data = f"{COMMANDS_PREFIX}{tenant}.{verb}", body(command)

        async def once(wait: float) -> dict[str, Any]:
            return await self._source.connection.ask(subject, data, wait, headers)

        answer = await self._source.connection.persist(once, f"{verb} {tenant}", writing=True)
        return int(answer["seq"])

    def _headers(self, command: Command, traceparent: str) -> dict[str, str]:
        headers = {TOKEN_HEADER: self._token, COMMAND_ID_HEADER: command.command_id}
        if traceparent:
            headers[TRACE_HEADER] = traceparent
        return headers


def _no_answer(verb: str, why: str, *, unknown: bool) -> LogUnavailable:
    again = "; repeat it with the same command id" if unknown else "; it was not sent"
    return LogUnavailable(f"no answer to {verb} ({why}){again}", unknown=unknown)
