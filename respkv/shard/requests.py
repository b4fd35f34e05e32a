"""Who waits for a batch or for reads when it is no client of this node: another node, or the proposer itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from respkv.cluster.frames import Parts
from respkv.reply import LongBulk, RespError
from respkv.shard.border import APPLIED, FAILED, READ_DONE, READ_LATER, REFUSED
from respkv.shard.waiting import Part

if TYPE_CHECKING:
    from respkv.shard.proposer import Proposer


class Forwarded(Part):
    """Another node's batch or reads: its outcome goes back as one message. Reads without one are refused: they change
    nothing, so the other node can ask again."""

    __slots__ = ("_kind", "_peer", "_proposer", "_request", "_values", "failed", "value_bytes")

    def __init__(self, proposer: Proposer, peer: str, kind: int, request: int, count: int) -> None:
        super().__init__()
        self._proposer = proposer
        self._peer = peer
        self._kind = kind
        self._request = request
        self._values: list[Any] = [None] * count
        self.value_bytes = 0
        self.failed: RespError | None = None

    @property
    def client(self) -> str:
        return self._peer

    def put(self, token: int, value: Any) -> None:
        self._values[token] = value
        if type(value) is bytes:
            self.value_bytes += len(value)

    @property
    def count(self) -> int:
        """How many are answered."""
        return len(self._values)

    def cut(self, count: int) -> None:
        """No more than the first `count` are answered now."""
        del self._values[count:]

    def fail(self, ok: bytes, error: RespError) -> None:
        self.failed = error

    def expect(self, value_bytes: int) -> None:
        self._proposer.send(self._peer, (READ_LATER, self._proposer.shard, self._request, value_bytes))

    def done(self) -> None:
        parts: Parts | None = None
        status: int = APPLIED
        content: Any = self._values
        if self.failed is None:
            parts = Parts(part for value in content if isinstance(value, LongBulk) for part in value.parts)
        elif self._kind == READ_DONE:
            status, content = REFUSED, self._proposer.leader()
        else:
            status, content = FAILED, self.failed
        message = (self._kind, self._proposer.shard, self._request, status, content)
        self._proposer.send(self._peer, (*message, parts) if parts else message)


class Expiry(Part):
    """Waits for the removal of expired keys that the proposer itself has asked for, and counts them."""

    __slots__ = ("_proposer",)

    def __init__(self, proposer: Proposer) -> None:
        super().__init__()
        self._proposer = proposer

    def put(self, token: int, value: Any) -> None:
        if isinstance(value, int):
            self._proposer.expired += value

    def fail(self, ok: bytes, error: RespError) -> None:
        """It will be proposed again if it is still needed."""

    def done(self) -> None:
        self._proposer.expiring = False
