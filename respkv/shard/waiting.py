"""Who waits for what: the client side of a proposal, and the batches that carry it to an outcome.

A `Part` is one waiter: the commands of one read of a connection, one command that spans shards, or a request of
another node. It counts in `pending` what is still open, gets values by `put`, and is told `done` when nothing is open
any more. Every batch ends exactly once: `applied` or `fail`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from respkv.reply import Reply, RespError


class Part:
    """A waiter. `size` is what its commands weigh in bytes, for back-pressure; `joined` names the proposers that hold
    writes of it."""

    __slots__ = ("joined", "pending", "size")

    def __init__(self, size: int = 0) -> None:
        self.pending = 0
        self.joined: list[Any] = []
        self.size = size

    @property
    def client(self) -> Any:
        """Who sent the commands: a connection, or the name of a node."""
        return ""

    def put(self, token: int, value: Reply) -> None:
        """The reply of the command that was registered with `token`."""
        raise NotImplementedError

    def fail(self, ok: bytes, error: RespError) -> None:
        """Plain puts that were answered in advance with the object `ok` have not been applied for sure: `error`."""
        raise NotImplementedError

    def done(self) -> None:
        """Nothing is open any more."""
        raise NotImplementedError

    def expect(self, value_bytes: int) -> None:
        """A value of this size is on its way, which takes its time."""


Sink = tuple[Part, int]


def finish(part: Part) -> None:
    part.pending -= 1
    if part.pending == 0:
        part.done()


class Batch:
    """Writes that share one fate.

    runs      what to propose
    wires     the same as it is encoded: what came encoded is so still
    body      the long values in it, in parts (`respkv.shard.long`); empty for most batches
    sinks     for each command of the `Ops` runs, in order: who gets its reply, and under which token
    parts     who waits for the batch as a whole (a part may be there several times)
    ok        the object that stands for the replies of plain puts
    deadline  loop time at which it fails if it has no outcome
    term      the term in which it was proposed, forwarded or (from another node) accepted, -1 before
    target    the node it was forwarded to; `lost`: the link to it has broken since
    unseen    no log of this node tells whether it was applied: there is none, or its state was replaced since
    overtaken a later batch may have been applied since: it must not be proposed again
    origin    the node and its request number, if another node forwarded it
    """

    __slots__ = (
        "body",
        "bytes",
        "deadline",
        "lost",
        "ok",
        "origin",
        "overtaken",
        "parts",
        "request",
        "runs",
        "sequence",
        "sinks",
        "target",
        "term",
        "unseen",
        "wires",
    )

    def __init__(
        self, runs: list[Any], sinks: list[Sink], parts: list[Part], ok: bytes, deadline: float, size: int
    ) -> None:
        self.runs = runs
        self.wires = runs.copy()
        self.body: list[bytes] = []
        self.sinks = sinks
        self.parts = parts
        self.ok = ok
        self.deadline = deadline
        self.bytes = size
        self.term = -1
        self.sequence = 0
        self.request = 0
        self.origin: str | None = None
        self.target = ""
        self.lost = self.overtaken = self.unseen = False

    def applied(self, values: list[Any]) -> None:
        """`values` are the replies of the commands, in the order of `sinks`."""
        for (part, token), value in zip(self.sinks, values, strict=True):
            part.put(token, value)
        for part in self.parts:
            part.pending -= 1
            if part.pending == 0:
                part.done()

    def fail(self, error: RespError) -> None:
        for part, token in self.sinks:
            part.put(token, error)
        for part in self.parts:
            part.fail(self.ok, error)
            finish(part)


class Read:
    """One read that could not be served at once. `asked_at` is `Clock.now()` when it came."""

    __slots__ = ("args", "asked_at", "deadline", "part", "token")

    def __init__(self, part: Part, token: int, args: list[bytes], asked_at: float, deadline: float) -> None:
        self.part = part
        self.token = token
        self.args = args
        self.asked_at = asked_at
        self.deadline = deadline

    def answer(self, value: Reply) -> None:
        self.part.put(self.token, value)
        finish(self.part)


def tell_slow(
    slow: list[tuple[int, list[bytes], float]], batches: list[Batch], tell: Callable[[Part, list[bytes], float], None]
) -> None:
    """Of the commands of an entry some were slow to apply: `(position, arguments, seconds)` each. Tells who waits for
    them, where that is known here."""
    sinks = [sink for batch in batches for sink in batch.sinks]
    for position, args, seconds in slow:
        if position < len(sinks):
            tell(sinks[position][0], args, seconds)
