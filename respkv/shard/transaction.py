"""Transactions as the log holds them: one operation whose commands run one after the other in one state.

| operation  | arguments                                         | reply                                    |
| ---------- | ------------------------------------------------- | ---------------------------------------- |
| `EXEC_OP`  | MessagePack `[watched, commands]` (`Transaction`) | the commands' replies, or a null array   |
| `EXEC_OP`  | none: its leader has refused it (`watches`)       | a null array                             |
| `WATCH_OP` | keys                                              | for each key its fingerprint and a stamp |

An entry is one frame of the Bitcask log, so a transaction is durable as a whole and nobody reads what is between its
commands. Errors of commands are elements of the reply, as in Redis; nothing is undone.

A transaction with watched keys is a run of its own, `Guarded`: its leader has to look at it before it proposes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from respkv.commands.table import COMMANDS
from respkv.shard.batch import Guarded, Ops

EXEC_OP: Final = b"\0exec"
WATCH_OP: Final = b"\0watch"

REFUSED: Final = (EXEC_OP,)


class Watched(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A key as it was when it was watched: `Db.fingerprint`, and the stamp that its leader gave for it."""

    key: bytes
    fingerprint: bytes
    stamp: int


class Transaction(msgspec.Struct, array_like=True, gc=False):
    """What is to be run if the watched keys are as they were. Names of commands are upper case."""

    watched: list[Watched]
    commands: list[list[bytes]]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Transaction).decode


def exec_args(watched: Sequence[Watched], commands: list[list[bytes]]) -> list[bytes]:
    """The operation."""
    return [EXEC_OP, _encode(Transaction(list(watched), commands))]


def transaction_of(args: Sequence[bytes]) -> Transaction | None:
    """The transaction in an `EXEC_OP`; None if it was refused. Raises msgspec.DecodeError."""
    return _decode(args[1]) if len(args) > 1 else None


def is_possible(args: list[bytes], possible: Callable[[list[bytes]], bool]) -> bool:
    """Whether an entry may hold this `EXEC_OP`. `possible` judges its commands."""
    try:
        transaction = transaction_of(args)
    except (msgspec.DecodeError, RecursionError):
        return False
    return len(args) <= 2 and (
        transaction is None or all(args and args[0] in COMMANDS and possible(args) for args in transaction.commands)
    )


def is_read(args: list[bytes], readable: Callable[[list[bytes]], bool]) -> bool:
    """Whether this `EXEC_OP` may be served as a read: it watches nothing and its commands are reads."""
    if len(args) != 2 or not is_possible(args, readable):
        return False
    return not _decode(args[1]).watched


def guarded(args: list[bytes]) -> Ops:
    """The run for an `EXEC_OP` with watched keys."""
    return Guarded([args])
