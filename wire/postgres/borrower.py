"""A client and the server it borrows: take one, bring it to the client's session, give it back.

A server comes from the tenant's pool (`attach`), perhaps needs its session changed first
(`set_up`), and goes back when nothing of the client is left on it (`server_idle`). What may not run
is refused in the server's place (`refuse`).
"""

from __future__ import annotations

import secrets
from typing import Final

from wire import errors as e
from wire.ports import Lease, Meter, Seal
from wire.postgres import noting
from wire.postgres import owed as o
from wire.postgres import protocol as p
from wire.postgres.answers import REFUSED_PARSE, REFUSED_SQL
from wire.postgres.client_stream import TAKEN, ClientStream
from wire.postgres.extended import Extended
from wire.postgres.owed import Owed
from wire.postgres.server import ServerConnection
from wire.postgres.session import (
    EMPTY,
    GUC_PREFIX,
    LOCK_PIN,
    PREPARE_PREFIX,
    PROBE_LOCKS_SQL,
    PROBE_SQL,
    TEMPORARY_PIN,
    Session,
    difference,
)
from wire.sql.verdict import DISCARD_ALL, RESET_ALL, Verdict

# DISCARD ALL, and what it forgets: the state of random(), from which its next values, and its last,
# can be computed. A new seed is random and used once; the number goes behind this text.
CROSSING_RESET: Final = (
    b"CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; DEALLOCATE ALL; UNLISTEN *;"
    b" DISCARD TEMP; DISCARD SEQUENCES;"
    b" SELECT pg_catalog.pg_advisory_unlock_all(), pg_catalog.setseed("
)
# DISCARD PLANS is left out where a server in a known state crosses to another tenant, because it
# costs more than all the rest: 200 us of planning anew, for `enter` first of all. Plans that
# functions keep belong to nobody: who is sealed is asked by each execution.
RESET: Final = b"DISCARD PLANS; " + CROSSING_RESET
SEED_BITS: Final = 53
NO_SETTINGS: Final[dict[str, str]] = {}


class Borrower(ClientStream):
    """The half of a client connection that deals with its server."""

    def __init__(self, meter: Meter) -> None:
        super().__init__(meter)
        self.serial = 0
        # Who it is, known after login (the address as soon as it has said who it wants to be).
        self.tenant = ""
        self.user = ""
        self.address = ""
        self.parameters: dict[str, str] = {}
        self.session = Session(EMPTY)
        self.session_mode = False
        # What it was told at its login, which it compares notifications with.
        self.process_id = 0
        # Settings for a server of its own (session pooling); else they are session state.
        self.startup_settings: dict[str, str] = NO_SETTINGS
        self.extended: Extended | None = None
        # The request that waits for a server has been charged already.
        self.paid = False
        # With that, a new text has been read already.
        self.read = False
        # Why the waiting request gets no server.
        self.pending: e.TenantryError | None = None
        self.waiting = False
        # Its server is being brought to its session state; nothing of its own is sent yet.
        self.handing_over = False
        self.pinned = False
        # It has let go of a server on which more may be left than we know.
        self.was_unsure = False

    # --- borrowing --------------------------------------------------------------------------------

    def attach(self) -> ServerConnection | None:
        """Borrow a server. None: blocked until there is one, or refused (see `pending`)."""
        if self.pending is not None:
            return None
        lease = self.lease
        if not self.paid:
            self.pending = lease.admit()
            if self.pending is not None:
                return None
            self.paid = True
            self.read = False
        server = lease.pool.acquire(self)
        if server is not None:
            return self.adopt(server)
        if self.pending is None:
            self.waiting = True
            self.block()
        return None

    def adopt(self, server: ServerConnection) -> ServerConnection | None:
        """Take a server over; None when its session state must be changed first."""
        server.client = self
        server.lease = self.lease
        server.told_id = self.process_id
        self.server = server
        if self.full:
            server.pause(True)
        if (
            server.state is self.session.state
            and server.seal is self.lease.seal
            and not server.stale
            and (server.owner == self.serial or not (server.unsure or server.names))
        ):
            server.owner = self.serial
            if server.parameters is not self.parameters:
                self.tell_parameters(server)
            return server
        return self.set_up(server)

    def set_up(self, server: ServerConnection) -> ServerConnection | None:
        """Bring the server's session to this client's state; None while that takes a round trip."""
        want = self.session.state
        foreign = server.owner != self.serial
        seal = self.lease.seal
        crossing = server.seal is not seal
        if (crossing and (server.named or server.names)) or (
            foreign and server.names and leaves_name(server, want)
        ):
            self.detach(server)
            server.pool.discard(server)
            return self.attach()
        reset = token = b""
        if crossing and server.owner and not server.unsure:
            reset = CROSSING_RESET
        elif server.stale or (server.unsure and foreign) or (crossing and server.owner):
            reset = RESET
        if reset:
            seed = secrets.randbits(SEED_BITS) / (1 << SEED_BITS)
            reset += f"{seed:.17f})".encode()
            server.forget_session()
        if seal is not None and seal.enters and server.seal is not seal:
            token = seal.token(server.backend)
        change = difference(server.state, want)
        server.owner = self.serial
        if not reset and not token and not change:
            # Equal but not the same object: share one from now on.
            server.state = want
            server.seal = seal
            self.tell_parameters(server)
            return server
        self.handing_over = True
        self.block()
        server.sealing = seal
        server.hand_over(reset, token, change)
        return None

    def reseal(self, server: ServerConnection, seal: Seal) -> None:
        """The client has broken the seal of a server that it keeps (RESET ALL, DISCARD ALL)."""
        state = self.session.state
        prepared = {key: sql for key, sql in state.items() if key.startswith(PREPARE_PREFIX)}
        change = difference(prepared, state)
        token = seal.token(server.backend) if seal.enters else b""
        if not token and not change:
            server.seal = seal
            self.server_idle(server)
            return
        self.handing_over = True
        self.block()
        server.sealing = seal
        server.hand_over(b"", token, change)

    def prepared_server(self, server: ServerConnection, failure: bytes) -> None:
        """The hand-over is answered."""
        self.handing_over = False
        if failure:
            fields = p.error_fields(failure[5:])
            self.server = None
            server.client = None
            server.end_work()
            server.pool.discard(server)
            self.pending = e.SessionNotRestored(fields.get("M", ""), detail=fields.get("D", ""))
        else:
            server.state = self.session.state
            self.note_names(server)
            server.seal = server.sealing
            server.stale = False
            server.unsure = False
            self.tell_parameters(server)
        self.unblock()

    def note_names(self, server: ServerConnection) -> None:
        """Made-up settings of the client's have been set on one more server."""
        given = self.lease.settings
        for key in self.session.state:
            if "." in key and key.startswith(GUC_PREFIX) and key not in given:
                server.names.add(key)

    def acquired(self, server: ServerConnection) -> None:
        """The pool has a server for this client, which has waited for it."""
        self.waiting = False
        if self.adopt(server) is not None:
            self.unblock()

    def acquire_failed(self, error: e.TenantryError) -> None:
        self.waiting = False
        self.pending = error
        self.unblock()

    def tell_parameters(self, server: ServerConnection) -> None:
        """Report settings that differ on this server from what the client was told last."""
        old = self.parameters
        new = server.parameters
        if new != old and self.startup is None:
            changed = [p.parameter_status(k, v) for k, v in new.items() if old.get(k) != v]
            self.deliver(b"".join(changed))
        self.parameters = new

    def charge(self) -> e.TenantryError | None:
        """Take the query from the rate, unless that was done before the wait for a server."""
        if self.paid:
            self.paid = False
            return None
        server = self.server
        return self.lease.admit(server is not None and server.working)

    def tie(self, server: ServerConnection, verdict: Verdict) -> e.TenantryError | None:
        """Note what the statement does to the server's session; an error when it may not pin it."""
        if breaks_seal(verdict) and server.seal is not None:
            if server.status != p.IDLE or server.owes_results():
                return e.NotSupported(
                    "RESET ALL cannot run inside a transaction or a pipeline here",
                    hint="RESET the settings by their names, or RESET ALL by itself.",
                )
            server.unsealing = True
        if verdict.unsure:
            server.unsure = True
        if verdict.named:
            server.named = True
        if verdict.escapes:
            self.escapes = True
        if verdict.pin and not self.pinned and not self.session_mode:
            refusal = self.lease.pin()
            if refusal is not None:
                return refusal
            self.pinned = True
        self.session.note(verdict)
        return None

    # --- refusing ---------------------------------------------------------------------------------

    def refuse_pending(self, what: int, sql: bytes = b"") -> int:
        error = self.pending
        self.pending = None
        self.paid = False
        assert error is not None
        return self.refuse(error, what, sql)

    def refuse(self, error: e.TenantryError, what: int, sql: bytes = b"") -> int:
        """Answer with an error, in the right place and true to the transaction. `sql` is the text
        that is refused, as far as it is known.

        With nothing open it is said here. Otherwise the server is sent something that must fail in
        place of the request, so that the block is aborted and the rest of a pipeline is skipped.
        """
        noting.refused(self, error, sql)
        self.paid = False
        if error.fatal:
            raise error
        said = p.error_response(error)
        server = self.server
        if server is None or server.at_rest():
            if what == o.QUERY:
                self.deliver(said + p.READY_IDLE)
                if server is not None:
                    self.server_idle(server)
            else:
                self.deliver(said)
                self.phase = p.SKIPPING
        elif what == o.QUERY:
            server.push(Owed(o.QUERY, refusal=said))
            self.send(p.query(REFUSED_SQL))
        else:
            server.push(Owed(o.PARSE, refusal=said))
            self.send(REFUSED_PARSE)
        return TAKEN

    def refuse_unsealed(self, what: int, sql: bytes = b"") -> int:
        return self.refuse(
            e.NotSupported(
                "no statement can follow RESET ALL in one pipeline here",
                hint="Wait for its answer first.",
            ),
            what,
            sql,
        )

    def refuse_oversized(self, what: int) -> int:
        return self.refuse(too_large(self.lease), what)

    def statement_failed(self, error: e.TenantryError) -> None:
        server = self.server
        noting.refused(self, error, b"" if server is None else server.sql)
        self.session.failed = True

    # --- giving back ------------------------------------------------------------------------------

    def server_idle(self, server: ServerConnection) -> None:
        """Nothing is owed. Outside a transaction the server goes back, if nothing ties it here."""
        if server.status != p.IDLE or not server.synced:
            return
        if self.body > 0 and not self.body_dropped:
            # The rest of a message is still to come, and must go where its start went.
            return
        session = self.session
        if session.pins and not self.session_mode:
            if server.seal is not self.lease.seal and self.lease.seal is not None:
                self.reseal(server, self.lease.seal)
            elif session.probe:
                session.probing()
                locks = LOCK_PIN in session.pins
                server.ask([PROBE_LOCKS_SQL if locks else PROBE_SQL], o.SETUP_PROBE)
            return
        if self.pinned:
            self.pinned = False
            self.lease.unpin()
        self.meter.transactions += 1
        if self.session_mode:
            return
        self.detach(server)
        if server.early_syncs or server.spoiled:
            # A ReadyForQuery or a cancel that nobody waits for may still come, for example.
            server.pool.discard(server)
        elif server.cancels:
            server.release_after_cancel = True
        else:
            server.pool.release(server)

    def detach(self, server: ServerConnection) -> None:
        """The two have nothing to do with each other any more, nor does one wait for the other."""
        self.server = None
        server.client = None
        server.lease = None
        if server.unsure:
            self.was_unsure = True
        # All that it said is in our buffer already; the next client must not wait for this one.
        server.pause(False)
        if self.held:
            self.hold(False)

    def probed(self, server: ServerConnection, found: bool) -> None:
        if not found and TEMPORARY_PIN in self.session.pins:
            # Functions and types may be left in the temporary schema; DISCARD ALL removes them.
            server.unsure = True
        self.session.probed(found)

    def leave_server(self) -> None:
        """The client is gone; its server is reused only if nothing of it can be left there."""
        if self.waiting:
            self.waiting = False
            self.lease.pool.forget(self)
        if self.pinned:
            self.pinned = False
            self.lease.unpin()
        server = self.server
        if self.was_unsure:
            self.was_unsure = False
            self.lease.pool.departed(self.serial)
        if server is None:
            return
        busy = server.outstanding() > 0
        server.end_work()
        self.detach(server)
        clean = server.at_rest() and not self.session.pins and not server.early_syncs
        if server.unsure:
            # An advisory lock taken inside a function, say: it would outlive its client.
            clean = False
        if self.body > 0 and not self.body_dropped:
            clean = False
        if clean and not server.cancels and not server.spoiled:
            if self.session_mode:
                server.stale = True
            server.pool.release(server)
            return
        if busy:
            server.cancel()
        server.pool.discard(server)

    def server_lost(self, server: ServerConnection, error: e.TenantryError | None) -> None:
        """The server's connection has ended under this client."""
        self.server = None
        if self.pinned:
            self.pinned = False
            self.lease.unpin()
        handing_over = self.handing_over
        self.handing_over = False
        if handing_over and self.phase == p.ACTIVE:
            # It was lost while it was being set up: nothing of the client's was sent to it.
            self.pending = error or e.ServerUnavailable("the server connection was lost")
            self.unblock()
            return
        lost = error or e.ServerLost("the server closed the connection unexpectedly")
        self.end(None if server.fatal or server.mid_message() else lost)

    # --- prepared statements ----------------------------------------------------------------------

    def forget_statements(self) -> None:
        if self.extended is not None:
            self.extended.statements.clear()

    def forget_statement(self, name: bytes) -> None:
        if self.extended is not None:
            self.extended.statements.pop(name, None)


def breaks_seal(verdict: Verdict) -> bool:
    """Whether the text holds what also resets the setting in which the seal is."""
    return any(effect.kind in (RESET_ALL, DISCARD_ALL) for effect in verdict.effects)


def leaves_name(server: ServerConnection, want: dict[str, bytes]) -> bool:
    """Whether a made-up setting ("app.user") of another client would leave its name behind.

    RESET and DISCARD ALL empty such a setting but do not remove it.
    """
    return any(key not in want for key in server.names)


def too_large(lease: Lease) -> e.TenantryError:
    return e.TooLarge(
        f"statement is larger than {lease.max_statement_bytes} bytes",
        hint="Send data as parameters or by COPY, or have rate_limits.max_statement_size raised.",
        limit="statement_size",
    )
