"""A client's connection: bytes in, commands run in order, replies out in order.

What one readable event brings waits for the turn if it is short (`respkv.server.arrivals`), and becomes a `Burst`
(several if it is long). Plain GET and SET take a short way (`respkv.server.arrivals` where they come alone, else
`respkv.server.plain`, and `_run` among others); everything else goes through `respkv.server.dispatch`. A burst whose
replies are all there at once is written at once; otherwise it waits in line, and is written, with those behind it, when
its last reply has come.

Back-pressure: reading stops while the client does not take its replies, and while it has too much under way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, cast

from respkv import errors
from respkv.acl.user import User
from respkv.cluster.slots import slot_of
from respkv.keyspace.values import KEY_BYTES_MAX
from respkv.raft.group import Clock
from respkv.resp.encoder import encode
from respkv.resp.limits import ProtocolError
from respkv.resp.parser import Parser
from respkv.server.arrivals import SHORT_BYTES
from respkv.server.burst import Burst, LonePuts, MutedBurst, Pushed, PutBurst
from respkv.server.dispatch import dispatch
from respkv.server.plain import ALIKE, PlainCommands
from respkv.server.session import HEARD, Session
from respkv.server.shares import FOREVER
from respkv.server.sockets import address_of, hang_up, keep_alive

if TYPE_CHECKING:
    from respkv.server.server import Server

BURST_COMMANDS = 512
OPEN_BURSTS_MAX = 64
OPEN_BYTES_MAX = 1 << 20
WRITE_BUFFER_BYTES = 1 << 20
REPLY_BYTES_MAX = 1 << 20  # of large replies, before the client has to take some

# Why a connection may not take the fast way (`Connection.hinder`); `respkv.server.server` has those of all at once.
RESTRICTED, SUBSCRIBED, TRACKED, MUTED, IN_TRANSACTION = (1 << bit for bit in range(8, 13))
_OF_THE_SESSION = RESTRICTED | SUBSCRIBED | TRACKED | MUTED | IN_TRANSACTION


class Connection(PlainCommands):
    """One client. Created by the listeners; `cluster_view` says which door."""

    __slots__ = (
        "_arrived",
        "_backlog",
        "_put_off",
        "_running",
        "_write_blocked",
        "chunk",
        "closing",
        "direct_fd",
        "fast",
        "flush_scheduled",
        "half_closed",
        "held",
        "hindrances",
        "lent",
        "open_bytes",
        "parser",
        "pipelines",
        "protocol_error",
        "reading",
        "server",
        "session",
        "transport",
        "waiting",
    )

    def __init__(self, server: Server, cluster_view: bool, port_shift: int = 0) -> None:
        self.server = server
        access = server.access
        self.session = Session(cluster_view=cluster_view, user=access.newcomer(), authenticated=access.open)
        self.session.port_shift = port_shift
        self.hindrances = server.hindrances
        self.waiting: deque[Burst | LonePuts | PutBurst | Pushed] = deque()
        self.closing = self.held = False
        self.lent = False  # the intake reads it (`respkv.server.lending`)
        self.pipelines = 0  # bursts of plain SETs since it was read here
        self.flush_scheduled = False
        self.protocol_error: str | None = None
        self.parser = Parser(server.limits, authenticated=self.session.authenticated)
        self.chunk = b""  # waits to be run, in this turn
        self._arrived = server.arrivals[cluster_view].connections
        self.transport: asyncio.Transport | None = None
        self.direct_fd = -1  # to write to; -1 if only the transport can
        self._backlog: list[list[bytes]] = []
        self.half_closed = False  # the client has closed its side, and has still replies to get
        self.open_bytes = 0
        self.reading = True
        self._running = False  # commands are being run, of which some may still be to come
        self._put_off = False  # others have their turn (`respkv.server.shares`)
        self._write_blocked = False
        self.hinder_by_session()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast("asyncio.Transport", transport)
        session = self.session
        here = transport.get_extra_info("sockname")
        session.is_unix = not isinstance(here, tuple)
        there = here if session.is_unix else transport.get_extra_info("peername")  # a path is the only one there is
        session.address, session.local_address = address_of(there), address_of(here)
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self.direct_fd = self.fd if transport.get_extra_info("sslcontext") is None else -1
        keep_alive(transport.get_extra_info("socket"), self.server.config.config.tcp_keepalive_s)
        access = self.server.access
        # Since it was made a turn has passed, or a TLS handshake: much may have changed.
        self.hindrances = self.server.hindrances
        session.user, session.logged_in = access.newcomer(), access.open
        self.permissions_changed()
        refusal = self.server.admit(self)
        if refusal is not None:
            transport.write(encode(refusal, 2))
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.chunk:
            self.server.run_arrivals()
        self.server.traffic.gone(self.socket)
        if self.lent:
            hang_up(self.socket)
            self._recall()
        self.transport = None
        self.closing = True
        self._backlog.clear()
        self.server.forget(self)

    def data_received(self, data: bytes) -> None:
        if self.chunk:
            self.server.run_arrivals()
        elif len(data) <= SHORT_BYTES:
            self.chunk = data
            if not self._arrived:
                self.server.wake()
            self._arrived.append(self)
            return
        self.take(data)

    def take(self, data: bytes) -> None:
        """Runs what one read has brought, or puts it off."""
        if self.closing:
            return
        try:
            commands = self.parser.feed(data)
        except ProtocolError as error:
            commands = error.commands
            self.protocol_error = error.text
        self.run(commands, len(data))
        if self.protocol_error is not None and not self._backlog:
            self._end_with_protocol_error()

    def run(self, commands: list[list[bytes]], size: int) -> None:
        """Runs what one read has brought, `size` bytes on the wire; what cannot be run yet is put off."""
        stats = self.server.stats
        stats.burst_reads += 1
        stats.burst_commands += len(commands)
        if self._backlog or not self.reading:
            self._backlog += commands
        elif commands:
            if self.fast and commands[0][0] in ALIKE and self._run_alike(commands, size):
                return
            self._execute(commands, size)
            self._go_on()

    def eof_received(self) -> bool:
        """A client that closes its side still gets the replies of what it sent."""
        if self.chunk:
            self.server.run_arrivals()
            self.server.send_posted()
        self.half_closed = bool(self.waiting or self._backlog)
        return self.half_closed

    def pause_writing(self) -> None:
        self._write_blocked = True
        self.pause()

    def resume_writing(self) -> None:
        self._write_blocked = False
        self._continue()

    # -- running commands

    def _execute(self, commands: list[list[bytes]], size: int) -> None:
        """Runs commands in pieces, as long as the client takes what is written in between and has a share left."""
        shares, one = self.server.shares, len(commands) == 1
        began_at = 0.0 if one else Clock.now()
        until = FOREVER if one else shares.until(began_at)
        shares.dear = False
        self._running = True
        try:
            while commands and not (self._write_blocked or self.closing or self.held):
                if not one and Clock.now() >= until:
                    self._put_off = True
                    shares.put_off(self)
                    break
                piece_size = size * BURST_COMMANDS // max(len(commands), BURST_COMMANDS)
                rest = self._run(commands[:BURST_COMMANDS], piece_size, until)
                commands = rest + commands[BURST_COMMANDS:]
                if not commands or (rest and self.waiting):
                    break
                self.server.send_posted()
        finally:
            self._running = False
            if not one:
                shares.spent_s += Clock.now() - began_at
        if commands and not self.closing:
            self._backlog = commands
            self.pause()
        elif not self.waiting and (self.closing or (self.half_closed and self.protocol_error is None)):
            self._close()

    def _run(self, commands: list[list[bytes]], size: int, until: float) -> list[list[bytes]]:
        """Commands of any kind, no further one after `until`. Returns those that were left for later, if any."""
        replies: list[bytes] = []
        append = replies.append
        server = self.server
        shares, table, now, fast = server.shares, server.proposer_of_slot, Clock.now(), self.fast
        kind = MutedBurst if self.session.muted else Burst
        burst = kind(self, size, replies, commands)
        cluster_view = self.session.cluster_view
        sets = heavy = 0
        rest: list[list[bytes]] = []
        for args in commands:
            name = args[0]
            count = len(args)
            if count == 3 and name == b"SET" and fast:
                key = args[1]
                slot = slot_of(key)
                proposer = table[slot]
                if proposer.refusal is None and len(key) <= KEY_BYTES_MAX and (not cluster_view or proposer.leads):
                    if proposer.part is not burst:
                        proposer.join(burst)
                    proposer.put(slot, key, args[2])
                    proposer.asked[cluster_view] += 1
                    append(proposer.ok)
                    sets += 1
                    continue
            elif count == 2 and name == b"GET" and fast and self._get_in_turn(burst, args):
                continue
            if self.closing:
                break
            goes_on = dispatch(self, burst, args)
            fast = self.fast
            heavy += len(replies[-1]) if goes_on else REPLY_BYTES_MAX
            if heavy + burst.expected_bytes >= REPLY_BYTES_MAX or (shares.dear and Clock.now() >= until):
                rest = commands[len(replies) :]  # one thing after the other
                break
        if sets:
            server.stats.plain_sets += sets
        session = self.session
        session.last_at = now
        session.last_words = tuple(commands[-1][:2])
        self._line_up(burst)
        return rest

    def _line_up(self, burst: Burst | PutBurst) -> None:
        """Writes the replies if they are all there and nothing is before them; else they wait in line."""
        if burst.pending or self.waiting:
            self.waiting.append(burst)
            self.open_bytes += burst.size
            if len(self.waiting) >= OPEN_BURSTS_MAX or self.open_bytes > OPEN_BYTES_MAX or self.server.crowded(burst):
                self.pause()
            if not burst.pending:
                self.flush()
        else:
            self._write(burst.wire())
            if self.closing:
                self._close()

    # -- replies

    def settled(self, burst: Burst | PutBurst) -> None:
        """A burst has all its replies."""
        waiting = self.waiting
        if len(waiting) == 1 and waiting[0] is burst and self.reading and not (self.closing or self.half_closed):
            waiting.clear()
            self.open_bytes = 0
            self._write(burst.wire())
        else:
            self.server.finished(self)

    def flush(self) -> None:
        """Writes the replies of the bursts at the head of the line that are complete."""
        self.flush_scheduled = False
        waiting = self.waiting
        out: list[bytes] = []
        long = False
        while waiting and waiting[0].pending == 0:
            burst = waiting.popleft()
            if type(burst) is not LonePuts:  # whose size is that of all its clients' commands
                self.open_bytes -= burst.size
            data = burst.wire()
            if isinstance(data, bytes):
                out.append(data)
            else:
                out += data
                long = True
        if out:
            self._write(out if long else b"".join(out))
        if self._running:  # whoever runs them goes on, or closes
            return
        if not waiting and (self.closing or self.half_closed) and not self._backlog:
            self._close()
            return
        if not self.reading and not self._write_blocked:
            self._continue()

    def _write(self, data: bytes | list[bytes]) -> None:
        """Short replies leave at the end of the turn, together with those of other clients; long ones at once."""
        if isinstance(data, bytes):
            self.server.post(self, data)
        else:
            self.server.send_posted()
            self.server.stats.writes += len(data)
            for part in data:
                self.send(part)

    def send(self, data: bytes) -> None:
        """Hands `data` to the transport, and closes the connection if the client takes too little of it."""
        transport = self.transport
        if transport is None:
            return
        transport.write(data)
        limit = self.server.output_bytes_max
        if limit and transport.get_write_buffer_size() > limit:
            self.server.log_output_limit(self)
            self.abort()

    def push(self, data: bytes) -> None:
        """Writes a message that answers no command, behind the replies that are under way."""
        waiting = self.waiting
        if not waiting:
            self._write(data)
            return
        last = waiting[-1]
        if not isinstance(last, Pushed):
            waiting.append(last := Pushed())
        last.add(data)

    # -- flow control

    def pause(self) -> None:
        """Reads no more for now."""
        if self.reading and self.transport is not None:
            self.reading = False
            if self.lent:
                self._recall()
            else:
                self.transport.pause_reading()

    def hold(self) -> None:
        """No further command is run before `release`: one that is under way must have ended."""
        self.held = True
        self.pause()

    def release(self) -> None:
        """To be called before the burst that the command belongs to has its last reply: then the rest is run."""
        self.held = False

    def _go_on(self) -> None:
        """What was put off is taken up at once if nothing is under way that will do so."""
        if not (self.waiting or self.reading):
            self._continue()

    def go_on(self) -> None:
        """The others have had their turn."""
        self._put_off = False
        self._continue()

    def _continue(self) -> None:
        """Takes up what was put off, and reads on once that is done and not too much is under way."""
        if self.held or self._running or self._put_off:
            return
        if self._backlog and not self._write_blocked:
            backlog, self._backlog = self._backlog, []
            self._execute(backlog, 0)
        if self._backlog or self._write_blocked or len(self.waiting) >= OPEN_BURSTS_MAX // 2:
            return
        if self.protocol_error is not None and not self.closing:
            self._end_with_protocol_error()
        if not self.reading and self.transport is not None and self.open_bytes <= OPEN_BYTES_MAX:
            self.reading = True
            if not self.lent:
                self.transport.resume_reading()

    def resume(self) -> None:
        """The same, where nothing of that command is under way."""
        self.release()
        self._continue()

    def hinder(self, reason: int, on: bool) -> None:
        """While there is any reason, every command goes through `dispatch`."""
        self.hindrances = self.hindrances | reason if on else self.hindrances & ~reason
        self.fast = not self.hindrances and not self.closing

    def hinder_by_session(self) -> None:
        """Brings the reasons up to date that lie in what the client has asked for."""
        session = self.session
        tracker = session.tracker
        reasons = IN_TRANSACTION if session.transaction is not None else 0
        if not (session.authenticated and session.user.everything):
            reasons |= RESTRICTED
        if session.subscriptions is not None and session.protocol == 2:
            reasons |= SUBSCRIBED
        if tracker is not None and (tracker.noloop or not tracker.bcast):
            reasons |= TRACKED
        if session.muted != HEARD:
            reasons |= MUTED
        self.hindrances = self.hindrances & ~_OF_THE_SESSION | reasons
        self.fast = not self.hindrances and not self.closing

    # -- the intake

    def lend(self) -> int:
        """The socket's descriptor, if somebody else may read it from now on; -1 if not now."""
        if self.lent or self.chunk or not self.reading or self.direct_fd < 0:
            return -1
        if self.parser.pending_bytes or self._backlog or self.half_closed:
            return -1
        assert self.transport is not None
        self.transport.pause_reading()
        self.lent = True
        return self.direct_fd

    def takes_puts(self, leads: bool) -> bool:
        """Whether plain SETs that the intake has read may join their batches unseen; `leads`: this node leads all
        their shards."""
        return (
            self.fast
            and self.reading
            and not (self._backlog or self.closing)
            and (leads or not self.session.cluster_view)
        )

    def take_puts(self, burst: PutBurst, now: float) -> None:
        """They have joined."""
        session = self.session
        session.last_at, session.last_words = now, (b"SET",)
        self._line_up(burst)

    def come_back(self, data: bytes) -> None:
        """The intake reads no more, and `data` is what comes next."""
        self.lent = False
        if self.transport is None:
            return
        if self.reading:
            self.transport.resume_reading()
        if data and not self.closing:
            self.data_received(data)

    def _recall(self) -> None:
        lending = self.server.lending
        assert lending is not None
        lending.recall(self)

    # -- the end

    def close_after_replies(self) -> None:
        """No further command is run; the connection closes when the replies so far are out."""
        self.closing = True
        self.fast = False
        self._backlog.clear()

    def close_when_answered(self) -> None:
        """The server stops: what was run is answered first, nothing more is run."""
        self.close_after_replies()
        if not self.waiting:
            self._close()

    def close_now(self) -> None:
        """The server stops: what was written is still sent, nothing more is read."""
        self.closing = True
        self._close()

    def abort(self) -> None:
        self.closing = True
        self.fast = False
        if self.transport is not None:
            self.transport.abort()

    def _end_with_protocol_error(self) -> None:
        text, self.protocol_error = self.protocol_error or "", None
        if self.closing:
            return
        self.closing = True
        self.waiting.append(Burst(self, 0, [encode(errors.protocol(text), self.session.protocol)], []))
        self.flush()

    def _close(self) -> None:
        self.server.send_posted()
        if self.transport is not None:
            self.transport.close()

    @property
    def socket(self) -> Any:
        """The client's socket, None when it is closed."""
        return self.transport.get_extra_info("socket") if self.transport is not None else None

    def authenticated(self, user: User) -> None:
        """The client has shown that it is `user`."""
        self.session.user, self.session.logged_in = user, True
        self.permissions_changed()

    def deauthenticated(self) -> None:
        """RESET: back to what a new connection may do."""
        access = self.server.access
        self.server.detach(self)
        self.session.reset(user=access.newcomer(), authenticated=access.open)
        self.permissions_changed()

    def permissions_changed(self) -> None:
        """The session's user is another one, or may do other things."""
        session = self.session
        session.authenticated = self.parser.authenticated = session.logged_in or self.server.access.open
        self.hinder_by_session()

    @property
    def is_local(self) -> bool:
        """Whether it comes from this machine, by an address that others cannot have."""
        host = self.session.address.rpartition(":")[0].strip("[]")
        return self.session.is_unix or host == "::1" or host.startswith(("127.", "::ffff:127."))

    @property
    def fd(self) -> int:
        """The socket's descriptor, -1 when it is closed."""
        sock = self.socket
        return int(sock.fileno()) if sock is not None else -1

    @property
    def output_bytes(self) -> int:
        """What the client has not taken, messages behind replies that are to come included."""
        waiting = sum(each.size_bytes for each in self.waiting if isinstance(each, Pushed))
        return waiting + self.unsent_bytes

    @property
    def unsent_bytes(self) -> int:
        """What was handed to the socket and has not left."""
        return self.transport.get_write_buffer_size() if self.transport is not None else 0

    @property
    def input_bytes(self) -> int:
        return self.parser.pending_bytes

    def taken_in(self) -> tuple[int, int]:
        """The bytes of what was not taken up, the beginning of an argument and commands that were put off; and of the
        arguments of commands that have not all their replies, or are not complete."""
        query_bytes, argument_bytes = self.parser.pending_bytes, 0
        if query_bytes:
            argument_bytes = self.parser.argument_bytes
        if self._backlog:
            query_bytes += sum(sum(map(len, args)) for args in self._backlog)
        return query_bytes - argument_bytes, argument_bytes + self.open_bytes

