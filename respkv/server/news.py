"""What nodes tell each other for their clients' sake: published messages, events of keys, changed keys, pauses.

| kind       | fields after (kind, shard)                                              | answer   |
| ---------- | ----------------------------------------------------------------------- | -------- |
| `PUBLISH`  | request, whether it is a shard channel, channel, message                | `TOLD`   |
| `ASK`      | request, what (a number of `respkv.server.channels`, or `COUNT`), names | `TOLD`   |
| `PAUSE`    | request, milliseconds (0: no longer), whether all commands or writes    | `TOLD`   |
| `TOLD`     | request, numbers, names                                                 |          |
| `WANTS`    | classes of events that the sender's clients want, whether it caches     |          |
| `EVENTS`   | (class, event, key)...                                                  |          |
| `CHANGED`  | term, generation, whether all keys are meant, (key, mark)...            |          |

`shard` is 0 where it means nothing. Delivery is at most once and, from one node, in order: what is sent while a link is
down is lost, as is what is for a node for which more than `PEER_BYTES_MAX` wait already (`dropped` counts these;
`WANTS` is never dropped). Who asks several nodes gets an answer when each has answered, lost its link, or had
`ANSWER_S` (or as long as the asker grants).
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import structlog

from respkv.border import Count, Shape, require
from respkv.raft.group import Clock

if TYPE_CHECKING:
    from respkv.cluster.peers import Peers

log = structlog.get_logger()

PUBLISH = 50
ASK = 51
TOLD = 52
WANTS = 53
EVENTS = 54
CHANGED = 55
PAUSE = 56

PEER_BYTES_MAX = 64 << 20
ANSWER_S = 0.5
_TELL_EVERY_S = 1.0


class Publish(Shape):
    request: Count
    sharded: bool
    channel: bytes
    message: bytes


class Ask(Shape):
    request: Count
    what: Count
    names: list[bytes]


class Told(Shape):
    request: Count
    numbers: list[Count]
    names: list[bytes]


class Wants(Shape):
    events: Annotated[int, msgspec.Meta(ge=0, lt=1 << 16)]
    caches: bool


class Events(Shape):
    events: list[tuple[Annotated[int, msgspec.Meta(ge=0, lt=1 << 16)], bytes, bytes]]


class Changed(Shape):
    term: Count
    generation: Count
    whole: bool
    keys: list[tuple[bytes, bytes]]


class Pause(Shape):
    request: Count
    milliseconds: Count
    everything: bool


SHAPES: Final[dict[int, type[Shape]]] = {
    PUBLISH: Publish, ASK: Ask, TOLD: Told, WANTS: Wants, EVENTS: Events, CHANGED: Changed, PAUSE: Pause,
}  # fmt: skip

Told_ = tuple[list[int], list[bytes]]
Handler = Callable[[str, list[Any]], Told_ | None]
"""Takes a message of a node; what it returns is the answer to it."""


class _Question:
    """One question to several nodes."""

    __slots__ = ("answers", "done", "ends_at", "waiting")

    def __init__(self, waiting: set[str], ends_at: float, done: Callable[[list[Told_]], None]) -> None:
        self.waiting = waiting
        self.ends_at = ends_at
        self.done = done
        self.answers: list[Told_] = []


class News:
    """One node's links as its server uses them. `handlers` has, by kind, who takes what other nodes say."""

    def __init__(self, peers: Peers) -> None:
        self.handlers: dict[int, Handler] = {}
        self.dropped = 0
        self._peers = peers
        self._requests = itertools.count(1)
        self._questions: dict[int, _Question] = {}
        self._told_at = float("-inf")

    @property
    def peers(self) -> Sequence[str]:
        """The nodes that there is a link to."""
        return list(self._peers.links)

    def send(self, peer: str, message: tuple[Any, ...]) -> bool:
        """Whether `message` is on its way."""
        if message[0] != WANTS and self._peers.waiting_bytes(peer) > PEER_BYTES_MAX:
            self.dropped += 1
            if Clock.now() - self._told_at > _TELL_EVERY_S:
                self._told_at = Clock.now()
                log.warning("messages_dropped", peer=peer, dropped=self.dropped)
            return False
        return self._peers.send(peer, message)

    def ask(
        self, kind: int, fields: tuple[Any, ...], done: Callable[[list[Told_]], None], within_s: float = ANSWER_S
    ) -> None:
        """Asks all nodes that there is a link to; `done` gets their answers, later."""
        request = next(self._requests)
        asked = {peer for peer in self.peers if self.send(peer, (kind, 0, request, *fields))}
        if asked:
            self._questions[request] = _Question(asked, Clock.now() + within_s, done)
        else:
            asyncio.get_running_loop().call_soon(done, [])

    def receive(self, peer: str, message: list[Any]) -> None:
        """A message of node `peer`. Raises BadMessage: the link is to be broken."""
        require(message, SHAPES)
        kind = message[0]
        if kind == TOLD:
            self._on_told(peer, message[2], (message[3], message[4]))
            return
        answer = self.handlers[kind](peer, message)
        if answer is not None:
            self.send(peer, (TOLD, 0, message[2], *answer))

    def _on_told(self, peer: str, request: int, answer: Told_) -> None:
        question = self._questions.get(request)
        if question is not None and peer in question.waiting:
            question.answers.append(answer)
            self._heard(request, question, peer)

    def _heard(self, request: int, question: _Question, peer: str) -> None:
        question.waiting.discard(peer)
        if not question.waiting:
            self._end(request)

    def _end(self, request: int) -> None:
        question = self._questions.pop(request)
        question.done(question.answers)

    def link_down(self, peer: str) -> None:
        """The link to node `peer` is gone, and with it its answers."""
        for request, question in list(self._questions.items()):
            if peer in question.waiting:
                self._heard(request, question, peer)

    def tick(self) -> None:
        """Ends the questions that have waited long enough; to be called a few times per second."""
        now = Clock.now()
        for request in [request for request, question in self._questions.items() if question.ends_at <= now]:
            self._end(request)
