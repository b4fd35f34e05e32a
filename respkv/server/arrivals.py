"""Arrivals: what clients send command by command is run in a row, once per loop turn.

Most clients send one short command and wait for its reply. Their chunks are put aside until every socket that has
something is read; then one loop runs the plain GETs and SETs among them. For fifty clients a GET costs a tenth less so
than run as it comes, since the processor still has at hand what the one before has used.

A GET is answered if its value is at hand and the lease lasts; a SET joins its shard's batch. Everything else, and
whatever anything speaks against, is left to `Connection.take`, behind them. Each client's chunks are run in the order
in which they came, before the turn proposes or sends anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from respkv.cluster.slots import slot_of
from respkv.raft.group import Clock
from respkv.resp.encoder import BULK_HEADERS, CRLF, NIL2, NIL3
from respkv.resp.lone import SET_HEADS, lone_get, lone_set
from respkv.server.burst import LonePuts
from respkv.storage.errors import Damaged

if TYPE_CHECKING:
    from respkv.server.connection import Connection
    from respkv.server.server import Server

SHORT_BYTES: Final = 4096
"""What is longer is run at once, and so is what comes while something of the same client waits, behind that."""

_GET: Final = (b"GET",)
_SET: Final = (b"SET",)
_NILS: Final = {2: NIL2, 3: NIL3}
_HEADERS: Final = len(BULK_HEADERS)


class _Lane:
    """The SETs of one run that go to one shard. `part` stands for their clients; None: they may not be run here."""

    __slots__ = ("keys", "part", "slots", "values")

    def __init__(self, part: LonePuts | None) -> None:
        self.part = part
        self.slots: list[int] = []
        self.keys: list[bytes] = []
        self.values: list[bytes] = []


class Arrivals:
    """Those of one door. `connections`: whose `chunk` waits, in the order in which they came."""

    def __init__(self, server: Server, *, cluster_view: bool) -> None:
        self.connections: list[Connection] = []
        self._server = server
        self._cluster_view = cluster_view

    def run(self) -> None:
        """Runs what waits. Part of a turn, or before one that is sure to come."""
        while self.connections:
            connections = self.connections.copy()
            self.connections.clear()
            self._run(connections)

    def _run(self, connections: list[Connection]) -> None:
        server, stats, watch = self._server, self._server.stats, self._server.watch
        began_at = Clock.now()  # no shard's state changes before this is over: what is read is what it was now
        known, post = server.answers.known_at(began_at), server.posted.append
        shard_of_slot = server.shard_of_slot
        lanes: dict[int, _Lane] = {}
        unknown: list[tuple[Connection, bytes, bytes]] = []
        hits, newest, others = 0, b"", []
        for connection in connections:
            chunk, connection.chunk = connection.chunk, b""
            if connection.fast and connection.reading and not connection.waiting and connection.parser.at_boundary:
                if (reply := known(chunk)) is not None:
                    hits += 1
                    newest = chunk
                    session = connection.session
                    session.last_at, session.last_words = began_at, _GET
                    post((connection, reply))
                    continue
                if chunk.startswith(SET_HEADS):
                    if (put := lone_set(chunk)) is not None:
                        key, value = put
                        slot = slot_of(key)
                        shard = shard_of_slot[slot]
                        lane = lanes.get(shard) or self._open(lanes, shard)
                        if (part := lane.part) is not None:
                            lane.slots.append(slot)
                            lane.keys.append(key)
                            lane.values.append(value)
                            part.size += len(chunk)
                            part.connections.append(connection)
                            connection.waiting.append(part)
                            session = connection.session
                            session.last_at, session.last_words = began_at, _SET
                            continue
                elif (wanted := lone_get(chunk)) is not None:
                    unknown.append((connection, chunk, wanted))
                    continue
            others.append((connection, chunk))
        looked_up = self._look_up(unknown, began_at, others) if unknown else 0
        sets = sum([self._close(shard, lane) for shard, lane in lanes.items()])
        if hits:
            stats.hits += hits
            stats.lone += hits
            # The newest stands for all of this turn: over many turns each shard gets its share.
            server.proposer_of_slot[slot_of(lone_get(newest) or b"")].asked[self._cluster_view] += hits
        gets = hits + looked_up
        if (gets and watch.notable_s == 0.0) or (sets and watch.sample_puts):
            watch.lone(gets, sets, Clock.now() - began_at)
        for connection, chunk in others:
            try:
                connection.take(chunk)
            except Exception as error:  # noqa: BLE001 - a fault of ours costs this client its connection, no more
                server.fault(connection, error)

    def _look_up(
        self, gets: list[tuple[Connection, bytes, bytes]], began_at: float, others: list[tuple[Connection, bytes]]
    ) -> int:
        """Answers those of `gets` (whose, the chunk, its key) that can be answered as of `began_at`, and returns how
        many; the rest joins `others`."""
        server, answers = self._server, self._server.answers
        watch, post, proposer_of_slot = server.watch, server.posted.append, server.proposer_of_slot
        misses, read = 0, len(gets)
        at = Clock.now()
        for connection, chunk, key in gets:
            slot = slot_of(key)
            proposer = proposer_of_slot[slot]
            value: bytes | Literal[False] | None = False
            if proposer.lease.lease_until > began_at:
                try:
                    value = proposer.get_plain(slot, key)
                except Damaged:  # dispatch leaves it to another replica
                    pass
            session = connection.session
            if value is None:
                misses += 1
                reply = _NILS[session.protocol]
            elif value is False or len(value) >= _HEADERS:
                others.append((connection, chunk))
                read -= 1
                at = Clock.now()
                continue
            else:
                reply = BULK_HEADERS[len(value)] + value + CRLF
                answers.add(proposer, chunk, reply)
            proposer.asked[self._cluster_view] += 1
            session.last_at, session.last_words = began_at, _GET
            post((connection, reply))
            if (now := Clock.now()) - at >= watch.slow_s:
                watch.slow_get(connection, key, now - at)
            at = now
        server.stats.misses += misses
        server.stats.hits += read - misses
        server.stats.lone += read
        return read

    def _open(self, lanes: dict[int, _Lane], shard: int) -> _Lane:
        """The lane of the first SET to a shard."""
        proposer = self._server.proposers[shard]
        may_join = proposer.refusal is None and (proposer.leads or not self._cluster_view)
        lane = lanes[shard] = _Lane(LonePuts() if may_join else None)
        return lane

    def _close(self, shard: int, lane: _Lane) -> int:
        """What is in the lane joins the shard's batch; returns how many SETs that are."""
        part, count = lane.part, len(lane.keys)
        if part is None:
            return 0
        server, proposer = self._server, self._server.proposers[shard]
        proposer.join(part)
        proposer.slots += lane.slots
        proposer.keys += lane.keys
        proposer.values += lane.values
        proposer.asked[self._cluster_view] += count
        server.stats.plain_sets += count
        server.stats.lone += count
        if proposer.pending_bytes > server.pending_bytes_max:
            for connection in part.connections:
                connection.pause()
        return count
