"""What this node's clients write to one shard, gathered until it is sealed into a `Batch`.

Promises: commands keep the order in which they came; puts in a row become columns, encoded once for all replicas. What
becomes of a sealed batch is the proposer's business.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Raw

from respkv.shard.batch import Guarded, Ops, Puts
from respkv.shard.long import LONG_BYTES, LongRun, split_columns
from respkv.shard.waiting import Batch, Part, Sink
from respkv.storage.record import encode_puts

LONG_BYTES_PER_S = 8 << 20  # a batch has a second more for as many bytes


class Gathering:
    """The base of `Proposer` that connections write to.

    Plain puts are added to the columns `slots`, `keys` and `values` after `join`, with `put` or many at a time;
    everything else goes through `write`.
    `ok` is the object that stands for the reply of such a put until its batch has its outcome.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.ok = bytes(bytearray(b"+OK\r\n"))  # an object of its own: told apart by identity
        self.slots: list[int] = []
        self.keys: list[bytes] = []
        self.values: list[bytes] = []
        self.part: Part | None = None
        self.timeout_s = 5.0
        self.asked = [0, 0]  # commands of this node's clients of the standalone and of the cluster view
        self.pending_bytes = 0
        self._now = now
        self._runs: list[LongRun] = []
        self._encoded: dict[int, Raw] = {}  # by place, those of the runs that came so
        self._ops: list[list[bytes]] | None = None
        self._sinks: list[Sink] = []
        self._parts: list[Part] = []
        self._body: list[bytes] = []
        self._bytes = 0
        self._since = 0.0
        self._sequence = 0

    @property
    def gathered(self) -> int:
        """About how many writes wait to be sealed."""
        return len(self.keys) + len(self._sinks)

    def begun(self) -> None:
        """The first part has joined."""
        raise NotImplementedError

    def join(self, part: Part) -> None:
        """`part` is about to add to the batch being gathered; it will be told when that has its outcome."""
        self._begin()
        self.part = part
        part.pending += 1
        part.joined.append(self)
        self._parts.append(part)
        self._bytes += part.size
        self.pending_bytes += part.size

    def _begin(self) -> None:
        if not self._parts:
            self._since = self._now()
            self.begun()

    def put(self, slot: int, key: bytes, value: bytes) -> None:
        """Adds a plain put of the part that has joined last; its reply is +OK, and its part is told of a failure."""
        self.slots.append(slot)
        self.keys.append(key)
        self.values.append(value)

    def put_encoded(self, parts: list[Part], puts: Puts, encoded: Raw) -> None:
        """Adds plain puts of `parts` that have been made a run of already, and encoded: as if each part had joined,
        and its `pending` and `joined` say so."""
        size = sum([part.size for part in parts])
        self._begin()
        self.part = None
        self._parts += parts
        self._bytes += size
        self.pending_bytes += size
        if self.keys:
            self._close_puts()
        self._ops = None
        self._encoded[len(self._runs)] = encoded
        self._runs.append(puts)

    def write(self, part: Part, token: int, args: list[bytes]) -> None:
        """Adds a command in its place; its reply goes to `part.put(token, ...)`. `args[0]` is upper case."""
        if self.part is not part:
            self.join(part)
        if self.keys:
            self._close_puts()
        if self._ops is None:
            self._ops = []
            self._runs.append(Ops(self._ops))
        self._ops.append(args)
        self._sinks.append((part, token))

    def write_guarded(self, part: Part, token: int, args: list[bytes]) -> None:
        """As `write`, for a transaction with watched keys (`respkv.shard.watches`)."""
        if self.part is not part:
            self.join(part)
        if self.keys:
            self._close_puts()
        self._ops = None
        self._runs.append(Guarded([args]))
        self._sinks.append((part, token))

    def _close_puts(self) -> None:
        """Makes runs of the puts gathered so far."""
        slots, keys, values = self.slots, self.keys, self.values
        self.slots, self.keys, self.values = [], [], []
        self._ops = None
        if max(map(len, values)) < LONG_BYTES:
            self._runs.append(Puts(slots, keys, *encode_puts(keys, values)))
            return
        runs, body = split_columns(slots, keys, values)
        self._runs += runs
        self._body += body
        body_bytes = sum(map(len, body))
        self._bytes += body_bytes
        self.pending_bytes += body_bytes

    def _seal(self) -> Batch:
        """Makes a batch of what was gathered; the next one begins empty."""
        if self.keys:
            self._close_puts()
        deadline = self._since + self.timeout_s + self._bytes / LONG_BYTES_PER_S
        batch = Batch(self._runs, self._sinks, self._parts, self.ok, deadline, self._bytes)
        batch.body = self._body
        self._number(batch)
        if self._encoded:
            for place, encoded in self._encoded.items():
                batch.wires[place] = encoded
            self._encoded = {}
        self._runs, self._sinks, self._parts, self._ops, self._body = [], [], [], None, []
        self._bytes, self.part = 0, None
        return batch

    def _number(self, batch: Batch) -> None:
        self._sequence += 1
        batch.sequence = self._sequence

    def _taken(self, runs: list[Any], parts: list[Part], sinks: list[Sink], body: list[bytes], size: int) -> Batch:
        """A batch that another node has gathered."""
        deadline = self._now() + self.timeout_s + size / LONG_BYTES_PER_S
        batch = Batch(runs, sinks, parts, self.ok, deadline, size)
        batch.body = body
        self._number(batch)
        self.pending_bytes += size
        return batch
