"""The cluster's record of users: how a change on one node becomes one on all, and what its answer says.

The record is one of shard 0's system records (`respkv.keyspace.system`): all users as text, with a version. ACL
SETUSER, DELUSER and LOAD work out the new text from the newest version known here and propose it as the next one, to
replace exactly that; if another change was first they begin again with its outcome. So changes are linearizable among
themselves, and as durable as any write. Where these need not last (`appendfsync everysec`, `no`), shard 0 may have lost
what a node remembers: the next change then replaces what shard 0 has, with a version above both.

| kind         | fields after (kind, shard) |                                                                  |
| ------------ | -------------------------- | ---------------------------------------------------------------- |
| `USERS_TELL` | version, content           | to each node when there is a new version, and over each new link |
| `USERS_HAVE` | version                    | what the sender, who tells is one too, enforces from now on      |

A change is answered when this node and, by their own word, all that it has a link to enforce it. A node without a link
to this one enforces it as soon as it has a link to any node that does, or (it holds a replica of shard 0) applies the
entry. A node that starts first listens to the others, for a moment, and then for clients.

Nodes that hold shard 0 find the record in its state when they start; others keep a copy in the file `users`, and say
nothing of a version before they have it there: `version u64 | content | crc32 of all before it`. Who has neither lets
nobody in before another node has told.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

from respkv import errors
from respkv.acl.users import Users, UsersError
from respkv.border import Count, Shape, require
from respkv.checksum import crc32
from respkv.disk import Disk
from respkv.keyspace.system import NONE, USERS, SystemRecord, pack, unpack
from respkv.offload import Worker
from respkv.raft.log import Standing
from respkv.reply import Reply, RespError
from respkv.server.access import Access
from respkv.shard.machine import system_op
from respkv.shard.proposer import Proposer
from respkv.shard.waiting import Part
from respkv.storage.record import CRC_RESIDUE

if TYPE_CHECKING:
    from respkv.cluster.peers import Peers
    from respkv.shard.replica import Replica

log = structlog.get_logger()

USERS_TELL = 40
USERS_HAVE = 41

SHARD: Final = 0
_CRC_BYTES: Final = 4
_HEAD_BYTES: Final = 8

Edit = Callable[[Users], tuple[Users, Reply]]
"""Makes new users of the old ones, and the reply, or raises RespError. Gives the same users if nothing changes."""


class Tell(Shape):
    version: Count
    content: bytes


class Have(Shape):
    version: Count


SHAPES: Final[dict[int, type[Shape]]] = {USERS_TELL: Tell, USERS_HAVE: Have}


class _Proposal(Part):
    """One attempt to replace the record; `outcome` is what the shard replied."""

    __slots__ = ("outcome",)

    def __init__(self, proposer: Proposer, args: list[bytes]) -> None:
        super().__init__(sum(map(len, args)))
        self.outcome: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        proposer.write(self, 0, args)

    def put(self, token: int, value: Reply) -> None:
        if not self.outcome.done():
            self.outcome.set_result(value)

    def fail(self, ok: bytes, error: RespError) -> None:
        """`put` was given the error."""

    def done(self) -> None:
        """The outcome is there."""


class Roll:
    """This node's part in it. `replica` is that of shard 0 if this node holds one."""

    def __init__(
        self, access: Access, proposer: Proposer, replica: Replica | None, peers: Peers, file: Path, worker: Worker,
        disk: Disk,
    ) -> None:  # fmt: skip
        self._access = access
        self._proposer = proposer
        self._replica = replica
        self._peers = peers
        self._file = file
        self._worker = worker
        self._disk = disk
        self._has: dict[str, int] = {}  # by peer, the version that it said to enforce
        self._heard = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._kept = NONE  # what is in the file
        self._keeping = False

    # -- start and stop

    def start(self) -> None:
        """Takes over what this node knew before, and waits for other nodes where that is not enough."""
        if self._replica is None:
            self._access.forget()
            self._read_file()
        else:
            self._replica.watch_system(USERS, self._changed)
            if not self._replica_remembers():
                self._access.forget()

    async def hear(self, others: int, longest_s: float) -> None:
        """Waits until so many other nodes have told what they know, but no longer than that: before a node lets clients
        in it should know what has changed while it was down."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                while len(self._has) < others:
                    self._heard.clear()
                    await self._heard.wait()

    def tick(self) -> None:
        """Sees whether what this node waited for has come; to be called now and then."""
        if not self._access.known and self._replica_remembers():
            self._know()

    def _replica_remembers(self) -> bool:
        """Whether a record that there is would be known here: a replica that lost its state, or never had one, does not
        know it."""
        replica = self._replica
        return replica is not None and (
            self._access.record.version > 0 or replica.membership.standing is Standing.VOTER
        )

    def _know(self) -> None:
        if not self._access.known:
            self._access.know()
            self._tell_all()

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    # -- changes

    def change(self, edit: Edit, answer: Callable[[Reply], None]) -> None:
        """Changes the users as `edit` says, and calls `answer` with the reply when that has its outcome."""
        self._spawn(self._change(edit, answer))

    async def _change(self, edit: Edit, answer: Callable[[Reply], None]) -> None:
        reply: Reply = errors.generic("internal error")
        try:
            async with asyncio.timeout(self._proposer.timeout_s * 2):  # the proposal itself ends within one
                reply = await self._try_change(edit)
        except RespError as error:
            reply = error.with_traceback(None)
        except TimeoutError:
            reply = errors.timeout("not every node has confirmed the change")
        except asyncio.CancelledError:
            reply = errors.timeout("the node stops")
            raise
        except Exception:
            log.exception("users_change_failed")
        finally:
            answer(reply)

    async def _try_change(self, edit: Edit) -> Reply:
        access, lost = self._access, None
        while True:
            users = access.users
            changed, reply = edit(users)
            if changed is users:
                return reply
            refusal = self._proposer.refusal
            if refusal is not None and not errors.is_oom(refusal):  # no user is kept for want of memory
                raise refusal
            known = access.record.version if lost is None else lost
            record = SystemRecord(access.record.version + 1, access.record_of(changed))
            outcome = await _Proposal(self._proposer, system_op(USERS, known, record)).outcome
            if isinstance(outcome, RespError):
                raise outcome
            if isinstance(outcome, int):
                self._changed(record)
                await self._all_have(record.version)
                return reply
            assert isinstance(outcome, list)
            found = SystemRecord(*outcome)  # somebody was faster, or shard 0 has lost what is known here
            self._changed(found)
            lost = found.version if found.version < access.record.version else None

    async def _all_have(self, version: int) -> None:
        """Waits until every node that there is a link to enforces this version."""
        while not self._settled or any(self._said(peer) < version for peer in self._peers.links):
            self._heard.clear()
            await self._heard.wait()

    def _changed(self, record: SystemRecord) -> None:
        """There may be a new record: from this node's replica, another node, or a change of its own."""
        before = self._access.record.version
        taken = self._take(record)
        if taken and record.version == before:
            self._has.clear()  # who has that version may have the other one
        if self._settled:
            if taken:
                self._tell_all()
        elif not self._keeping:
            self._keeping = True
            self._spawn(self._keep())

    def _take(self, record: SystemRecord) -> bool:
        try:
            return self._access.take(record)
        except UsersError as error:
            log.warning("users_not_understood", version=record.version, reason=str(error))
            return False

    @property
    def _settled(self) -> bool:
        """Whether what is enforced here will be after a restart. Before that it is told to nobody."""
        return self._replica is not None or self._kept == self._access.record

    # -- other nodes

    def _said(self, peer: str) -> int:
        return self._has.get(peer, -1)

    def _tell_all(self) -> None:
        for peer in self._peers.links:
            if self._said(peer) < self._access.record.version:
                self._say(peer)

    def _say(self, peer: str) -> None:
        """Says what is enforced here, and what that is if the peer may not know."""
        if self._access.known and self._settled:
            record = self._access.record
            told = self._said(peer) >= record.version
            self._peers.send(peer, (USERS_HAVE, SHARD, record.version) if told else (USERS_TELL, SHARD, *record))

    def link_up(self, peer: str) -> None:
        self._has.pop(peer, None)
        self._say(peer)

    def link_down(self, peer: str) -> None:
        self._has.pop(peer, None)
        self._heard.set()

    def receive(self, peer: str, message: Any) -> None:
        """Raises BadMessage: the link is to be broken."""
        require(message, SHAPES)
        kind, _, version, *content = message
        self._has[peer] = version
        self._heard.set()
        if kind == USERS_TELL:
            told = SystemRecord(version, *content)
            self._changed(told)
            self._know()
            if told < self._access.record:
                self._has.pop(peer, None)  # it is to be told
            self._say(peer)

    async def _keep(self) -> None:
        """Writes the copy until it is that of the newest version, and then says so to all."""
        try:
            while not self._settled:
                record = self._access.record
                await self._worker.run(functools.partial(self._write_file, record))
                self._kept = record
        except OSError:
            log.exception("users_file_not_written", file=str(self._file))
            return
        finally:
            self._keeping = False
        self._heard.set()
        for peer in self._peers.links:
            self._say(peer)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- the copy

    def _read_file(self) -> None:
        try:
            data = self._file.read_bytes()
        except OSError:
            return
        whole = len(data) >= _HEAD_BYTES + _CRC_BYTES and crc32(data) == CRC_RESIDUE
        if not whole:
            log.error("users_file_damaged", file=str(self._file))
            return
        record = unpack(data[:-_CRC_BYTES])
        if self._take(record):
            self._kept = record
            self._access.know()

    def _write_file(self, record: SystemRecord) -> None:
        data = pack(record)
        temporary = self._file.with_suffix(".tmp")
        temporary.unlink(missing_ok=True)
        fd = self._disk.create(temporary)
        try:
            os.fchmod(fd, 0o600)
            self._disk.write(fd, data + crc32(data).to_bytes(_CRC_BYTES, "little"), 0)
            self._disk.sync(fd)
        finally:
            self._disk.close(fd)
        self._disk.rename(temporary, self._file)
        self._disk.sync_dir(self._file.parent)
