"""Puts a worker's console together: what it answers others, and the SQL console of its listener."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from nats.errors import Error as NatsError

from actors.manage import Pauses
from admin.console.calls import QUIET_SECONDS, Call, Caller, Place, Responder, node_id
from admin.console.node import NodeConsole
from admin.console.operator import OperatorConsole
from admin.console.shows import Shows
from events.tokens import TokenChecker, TokenSigner
from wire.errors import ServerUnavailable

if TYPE_CHECKING:
    from admin.worker import Worker

log = logging.getLogger("tenantry.console")

# In whose name a worker asks the others as it starts.
STARTING = "worker"


async def open_console(worker: Worker) -> Responder:
    """From now on operators may ask `worker`; `stop` what it gives. Raises NatsError, OSError.

    What is paused on other workers is paused here as well, before any client comes.
    """
    source, dispatcher, listener = worker.log, worker.dispatcher, worker.listener
    assert source is not None
    assert dispatcher is not None
    assert listener is not None
    assert worker.audit is not None
    assignment, projection, budget = worker.assignment, worker.projection, worker.budget
    place = Place(node_id(assignment.data_dir), assignment.worker, assignment.workers)
    signer = TokenSigner(worker.vault)
    here = NodeConsole(
        place,
        projection,
        dispatcher,
        listener,
        source,
        worker.pauses,
        worker.counters,
        lambda: (budget.used, budget.limit),
    )
    caller = Caller(source.connection, signer, place)
    await _adopt_pauses(caller, worker.pauses)
    checker = TokenChecker(signer.public_key, projection)
    responder = Responder(source.connection, place, checker, here.handle)
    await responder.start()
    shows = Shows(source, projection, worker.node)
    listener.console = OperatorConsole(
        here, caller, shows, source, projection, signer, worker.audit
    )
    return responder


async def _adopt_pauses(caller: Caller, pauses: Pauses) -> None:
    """A worker that takes another's place must not let go what an operator holds."""
    with contextlib.suppress(ServerUnavailable, NatsError, OSError):
        found = await caller.ask(Call("paused"), STARTING, "viewer", seconds=QUIET_SECONDS)
        for row in found.rows:
            pauses.everyone = pauses.everyone or bool(row["paused_all"])
            pauses.tenants.update(row["paused"])
        if pauses.everyone or pauses.tenants:
            log.warning("paused, as on other workers: RESUME ends it")
