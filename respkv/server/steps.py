"""A server command that asks shards, step by step, before it has its reply."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from respkv.reply import Reply, RespError
from respkv.resp.encoder import encode
from respkv.server.dispatch import LATER, Call, Later, failed
from respkv.shard.waiting import Part, finish

if TYPE_CHECKING:
    from respkv.server.burst import Burst
    from respkv.server.connection import Connection


class Steps(Part):
    """Runs the generator `run`: it registers this part with proposers, yields while something is `pending`, and
    returns the reply.

    `holding`: the connection's next commands wait for the end, unless that comes at once.
    """

    __slots__ = ("_burst", "_held", "_open", "_run", "_token", "call", "holding")

    def __init__(self, call: Call, burst: Burst, size: int = 0) -> None:
        super().__init__(size)
        self.joined = burst.joined
        self.call = call
        self.holding = True
        self._burst = burst
        self._token = call.token
        self._held = False
        self._open = True
        self._run = self.run()

    @property
    def client(self) -> Connection:
        return self.call.connection

    def run(self) -> Generator[None, None, Reply]:
        raise NotImplementedError

    def wire(self, reply: Reply) -> bytes:
        """The bytes of the reply."""
        return encode(reply, self._burst.protocol)

    def start(self) -> Later:
        self._burst.pending += 1
        self.done()
        if self._open and self.holding:
            self._held = True
            self.call.connection.hold()
        return LATER

    def done(self) -> None:
        """All that was asked for has come: the next step."""
        try:
            next(self._run)
        except StopIteration as end:
            self._end(end.value)
        except RespError as error:
            self._end(error.with_traceback(None))
        except Exception as fault:  # noqa: BLE001 - nothing may escape into what a shard applies
            self._end(failed(self.call.connection, self.call.args, fault))

    def fail(self, ok: bytes, error: RespError) -> None:
        """No plain put is among what was asked for."""

    def _end(self, reply: Reply) -> None:
        self._open = False
        burst = self._burst
        burst.replies[self._token] = self.wire(reply)
        if self._held:
            self.call.connection.release()
        finish(burst)
