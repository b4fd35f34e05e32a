"""What one Raft entry holds: a loop turn's batch of writes to one shard, stamped by the leader.

An entry is one byte 0 and a MessagePack array `[now_ms, seed, origins, runs]`:

- `now_ms`: the leader's clock, Unix time in milliseconds; the machine's clock never goes back.
- `seed`: for commands that need randomness.
- `origins`: which parts of the entry other nodes have forwarded: `[node, request, first_op, ops]`. A replica on that
  node learns from its own log that its request was applied, even if the leader that took it is gone.
- `runs`: in order, either plain puts in columns, `[0, slots, keys, sizes, records]`, with the records as the Bitcask
  log will hold them, encoded once for all replicas; or other commands, `[1, [[name, arg...], ...]]`; or one transaction
  that watches keys, `[3, [[name, arg...]]]` (`respkv.shard.transaction`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Final

import msgspec

from respkv.cluster.slots import SLOTS
from respkv.storage.record import OVERHEAD_BYTES

BY_OP: Final = b"\0by"
"""`BY_OP, mark, command...`: the command of a client that does not want to hear of its own writes (CLIENT TRACKING)."""


class Puts(msgspec.Struct, array_like=True, tag=0, gc=False):
    """`SET key value` without options, in columns. `sizes[i]` is the length of the i-th record in `records`."""

    slots: list[Annotated[int, msgspec.Meta(ge=0, lt=SLOTS)]]  # looked at while decoding: passes over them cost more
    keys: list[bytes]
    sizes: list[Annotated[int, msgspec.Meta(ge=OVERHEAD_BYTES)]]
    records: bytes


class Ops(msgspec.Struct, array_like=True, tag=1, gc=False):
    """Commands in order; reads among them answer their client and change nothing."""

    commands: list[list[bytes]]


class Guarded(Ops, tag=3):
    """One operation that the leader must judge before it proposes it."""


Run = Puts | Ops | Guarded
Wire = Run | msgspec.Raw
"""A run, or one that is encoded already."""
Origin = tuple[str, int, int, int]


class Entry(msgspec.Struct, array_like=True, gc=False):
    """The decoded content of an entry."""

    now_ms: int
    seed: int
    origins: list[Origin]
    runs: list[Run]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Entry).decode
_decode_runs = msgspec.msgpack.Decoder(list[Run]).decode
decode_puts_run = msgspec.msgpack.Decoder(Puts).decode
"""The inverse of `encode_puts_run`. Raises msgspec.DecodeError."""


def encode_entry(entry: Entry, wires: Sequence[Wire] | None = None) -> bytes:
    """The command for the Raft log (its first byte tells PySyncObj a regular entry). `wires`: its runs, as they go."""
    content = entry if wires is None else (entry.now_ms, entry.seed, entry.origins, wires)
    return b"\0" + _encode(content)


def decode_entry(command: bytes) -> Entry:
    """The inverse of `encode_entry`. Raises msgspec.DecodeError."""
    return _decode(memoryview(command)[1:])


def encode_runs(runs: Sequence[Wire]) -> bytes:
    """Runs as they travel to the leader's node."""
    return _encode(runs)


def decode_runs(data: bytes) -> list[Run]:
    """The inverse of `encode_runs`. Raises msgspec.DecodeError."""
    return _decode_runs(data)


def encode_puts_run(puts: Puts) -> msgspec.Raw:
    """One run, as it will be in an entry."""
    return msgspec.Raw(_encode(puts))


def joined(puts: list[Puts]) -> Puts:
    """Several runs of puts as one."""
    if len(puts) == 1:
        return puts[0]
    return Puts(
        [slot for run in puts for slot in run.slots],
        [key for run in puts for key in run.keys],
        [size for run in puts for size in run.sizes],
        b"".join(run.records for run in puts),
    )


def count_ops(runs: Iterable[Run]) -> int:
    return sum(len(run.commands) for run in runs if isinstance(run, Ops))
