"""What is in memory for clients: what they have sent and what they are to get. Looked at when somebody asks, and not
counted before.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from respkv.reply import LongBulk
from respkv.server.burst import Burst, Pushed
from respkv.shard.waiting import Part

if TYPE_CHECKING:
    from respkv.server.connection import Connection
    from respkv.server.server import Server


class Buffers(NamedTuple):
    """Of one client, in bytes, but for `parts`.

    query      sent by the client, and not taken up yet
    arguments  of commands that are under way, and of one that is not complete
    queued     since MULTI
    replies    of this turn of the loop, at the end of which they leave
    parts      what waits for earlier replies, or for the client to read; the socket's buffer is one part
    output     the bytes of these
    """

    query: int
    arguments: int
    queued: int
    replies: int
    parts: int
    output: int

    @property
    def total(self) -> int:
        return self.query + self.arguments + self.queued + self.replies + self.output


def buffers(server: Server, connections: Iterable[Connection]) -> list[Buffers]:
    """Of each of `connections`, in their order."""
    posted = server.posted_bytes()
    return [buffers_of(connection, posted.get(connection, 0)) for connection in connections]


def buffers_of(connection: Connection, posted_bytes: int = 0) -> Buffers:
    """`posted_bytes`: of the replies that leave at the end of this turn."""
    queue, unsent = connection.session.transaction, connection.unsent_bytes
    query, arguments = connection.taken_in()
    queued = 0 if queue is None else queue.bytes
    replies = posted_bytes + connection.server.outbox.waiting_bytes(connection)
    if not connection.waiting:
        return Buffers(query, arguments, queued, replies, int(unsent > 0), unsent)
    parts = [unsent, *map(reply_bytes, connection.waiting)]
    return Buffers(query, arguments, queued, replies, sum(map(bool, parts)), sum(parts))


def reply_bytes(part: Part) -> int:
    """The replies, or messages, that a waiter of a connection holds."""
    if isinstance(part, Burst):
        replies: list[Any] = part.replies  # a long one stands for itself
        return sum(reply.value_bytes if type(reply) is LongBulk else len(reply) for reply in replies)
    return part.size_bytes if isinstance(part, Pushed) else 0
