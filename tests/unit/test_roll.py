"""The record of users on its way between nodes: who takes what from whom, and when a change is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from respkv.border import BadMessage
from respkv.config import Config
from respkv.config.live import Live
from respkv.disk import Disk
from respkv.keyspace.system import SystemRecord
from respkv.reply import OK, Reply, RespError
from respkv.server.access import Access
from respkv.server.roll import USERS_HAVE, USERS_TELL, Roll

ALICE = b"user alice on nopass resetchannels -@all\n"
BOB = b"user bob off resetchannels -@all\n"


class Shard:
    """Shard 0, wherever it is: takes proposals one at a time, as its log would."""

    def __init__(self) -> None:
        self.record = SystemRecord(0, b"")
        self.refusal: RespError | None = None
        self.timeout_s = 5.0
        self.faster: list[bytes] = []
        """What others change just before the next proposals."""

    def write(self, part: Any, token: int, args: list[bytes]) -> None:
        if self.faster:
            self.record = SystemRecord(self.record.version + 1, self.faster.pop(0))
        _, _, known, version, content = args
        reply: Reply = [*self.record]
        if int(known) == self.record.version:
            self.record = SystemRecord(int(version), content)
            reply = self.record.version
        asyncio.get_running_loop().call_soon(part.put, token, reply)


class OneWorker:
    def __init__(self) -> None:
        self.free = asyncio.Event()
        self.free.set()

    async def run(self, job: Callable[[], None]) -> None:
        await self.free.wait()
        job()


class Node:
    """A node without a replica of shard 0."""

    def __init__(self, directory: Path, shard: Shard, peers: tuple[str, ...] = ()) -> None:
        self.sent: list[tuple[str, Any]] = []
        self.links = SimpleNamespace(links=dict.fromkeys(peers), send=self._send)
        self.access = Access(Live(Config()), {})
        self.worker = OneWorker()
        self.file = directory / "users"
        arguments: Any = (self.access, shard, None, self.links, self.file, self.worker, Disk())
        self.roll = Roll(*arguments)
        self.roll.start()

    def _send(self, peer: str, message: Any) -> bool:
        self.sent.append((peer, list(message)))
        return True

    def add(self, name: bytes) -> list[Reply]:
        answers: list[Reply] = []
        self.roll.change(lambda users: (users.with_rules(name, [], every_channel=False), OK), answers.append)
        return answers


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_a_change_is_answered_when_all_that_are_linked_have_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        node = Node(tmp_path, Shard(), ("n2", "n3"))
        answers = node.add(b"bob")
        await turns()
        assert [message[:3] for _, message in node.sent if message[0] == USERS_TELL] == []  # nobody has told it yet
        node.roll.receive("n2", [USERS_TELL, 0, 0, b""])
        await turns()
        node.roll.receive("n2", [USERS_HAVE, 0, 1])
        await turns()
        assert answers == []
        node.roll.receive("n3", [USERS_HAVE, 0, 1])
        await turns()
        assert answers == [OK]

    asyncio.run(scenario())


def test_a_broken_link_is_not_waited_for(tmp_path: Path) -> None:
    async def scenario() -> None:
        node = Node(tmp_path, Shard(), ("n2",))
        node.access.know()
        answers = node.add(b"bob")
        await turns()
        assert ("n2", [USERS_TELL, 0, 1, BOB]) in node.sent
        assert answers == []
        del node.links.links["n2"]
        node.roll.link_down("n2")
        await turns()
        assert answers == [OK]

    asyncio.run(scenario())


def test_who_was_slower_begins_again_with_what_others_have_changed(tmp_path: Path) -> None:
    async def scenario() -> None:
        shard = Shard()
        shard.faster = [ALICE, ALICE.replace(b"alice", b"carol")]
        node = Node(tmp_path, shard)
        answers = node.add(b"bob")
        await turns(40)
        assert answers == [OK]
        assert shard.record.version == 3
        assert set(node.access.users) == {b"bob", b"carol", b"default"}  # `carol` replaced all of alice's record

    asyncio.run(scenario())


def test_what_may_not_be_written_is_refused_before_it_is_proposed(tmp_path: Path) -> None:
    async def scenario() -> None:
        shard = Shard()
        shard.refusal = RespError("MISCONF no room")
        node = Node(tmp_path, shard)
        answers = node.add(b"bob")
        await turns()
        assert answers == [RespError("MISCONF no room")]
        assert shard.record.version == 0

    asyncio.run(scenario())


def test_the_newest_record_wins_whoever_brings_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        node = Node(tmp_path, Shard(), ("n2", "n3"))
        assert not node.access.known
        node.roll.receive("n2", [USERS_TELL, 0, 5, ALICE])
        assert node.access.known
        assert set(node.access.users) == {b"alice", b"default"}
        await turns()
        assert ("n3", [USERS_TELL, 0, 5, ALICE]) in node.sent
        node.sent.clear()
        node.roll.receive("n3", [USERS_TELL, 0, 4, BOB])  # late: it is told what there is
        assert set(node.access.users) == {b"alice", b"default"}
        assert node.sent == [("n3", [USERS_TELL, 0, 5, ALICE])]
        await turns()
        node.roll.receive("n3", [USERS_TELL, 0, 6, BOB])
        await turns()
        assert ("n3", [USERS_HAVE, 0, 6]) in node.sent

    asyncio.run(scenario())


def test_a_copy_is_on_the_disk_before_it_is_confirmed_and_read_at_the_next_start(tmp_path: Path) -> None:
    async def scenario() -> None:
        node = Node(tmp_path, Shard(), ("n2",))
        node.roll.receive("n2", [USERS_TELL, 0, 5, ALICE])
        assert node.sent == []
        await turns()
        assert node.sent == [("n2", [USERS_HAVE, 0, 5])]
        again = Node(tmp_path, Shard())
        assert again.access.known
        assert again.access.record == (5, ALICE)
        data = bytearray((tmp_path / "users").read_bytes())
        data[10] ^= 1
        (tmp_path / "users").write_bytes(data)
        assert not Node(tmp_path, Shard()).access.known  # a damaged copy lets nobody in

    asyncio.run(scenario())


def test_a_node_says_nothing_older_behind_something_newer(tmp_path: Path) -> None:
    """A copy takes its time to be written; meanwhile somebody else may tell of what has changed since."""

    async def scenario() -> None:
        node = Node(tmp_path, Shard(), ("n2", "n3"))
        node.worker.free.clear()
        node.roll.receive("n2", [USERS_TELL, 0, 7, ALICE])
        node.roll.receive("n3", [USERS_TELL, 0, 8, BOB])
        await turns()
        node.worker.free.set()
        await turns()
        assert node.sent == [("n2", [USERS_TELL, 0, 8, BOB]), ("n3", [USERS_HAVE, 0, 8])]

    asyncio.run(scenario())


def test_a_change_of_its_own_is_on_the_disk_before_it_is_answered(tmp_path: Path) -> None:
    async def scenario() -> None:
        node = Node(tmp_path, Shard())
        node.worker.free.clear()
        answers = node.add(b"bob")
        await turns()
        assert b"bob" in node.access.users
        assert answers == []
        node.worker.free.set()
        await turns()
        assert answers == [OK]
        assert Node(tmp_path, Shard()).access.record == (1, BOB)

    asyncio.run(scenario())


def test_a_copy_that_could_not_be_written_is_not_confirmed_but_tried_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        node = Node(tmp_path, Shard(), ("n2",))
        node.file.mkdir()
        node.roll.receive("n2", [USERS_TELL, 0, 5, ALICE])
        await turns()
        assert node.sent == []
        node.file.rmdir()
        node.roll.receive("n2", [USERS_TELL, 0, 5, ALICE])
        await turns()
        assert node.sent == [("n2", [USERS_HAVE, 0, 5])]

    asyncio.run(scenario())


def test_a_copy_that_is_not_understood_lets_nobody_in(tmp_path: Path) -> None:
    async def scenario() -> None:
        node = Node(tmp_path, Shard())
        node.roll._write_file(SystemRecord(5, b"nonsense\n"))
        again = Node(tmp_path, Shard())
        assert not again.access.known
        assert again.access.record.version == 0

    asyncio.run(scenario())


def test_what_shard_0_has_lost_is_made_again_by_the_next_change(tmp_path: Path) -> None:
    """All nodes lost power, and writes needed not be durable: a copy of the record is, always."""

    async def scenario() -> None:
        shard = Shard()
        shard.record = SystemRecord(3, b"")
        node = Node(tmp_path, shard)
        node.roll.receive("n2", [USERS_TELL, 0, 9, ALICE])
        answers = node.add(b"bob")
        await turns()
        assert answers == [OK]
        assert shard.record == (10, ALICE + BOB)

    asyncio.run(scenario())


@pytest.mark.parametrize("first", [ALICE, BOB])
def test_of_two_records_of_the_same_version_all_take_the_same(tmp_path: Path, first: bytes) -> None:
    async def scenario() -> None:
        second = BOB if first is ALICE else ALICE
        node = Node(tmp_path, Shard(), ("n2", "n3"))
        node.roll.receive("n2", [USERS_TELL, 0, 9, first])
        await turns()
        node.sent.clear()
        node.roll.receive("n3", [USERS_TELL, 0, 9, second])
        await turns()
        assert node.access.record == (9, BOB)
        told = ["n3"] if first is BOB else ["n2", "n3"]  # all whose version may be the other one
        assert node.sent == [(peer, [USERS_TELL, 0, 9, BOB]) for peer in told]
        assert Node(tmp_path, Shard()).access.record == (9, BOB)

    asyncio.run(scenario())


def test_who_waits_for_a_change_when_the_node_stops_is_told_that_it_may_have_been_made(tmp_path: Path) -> None:
    async def scenario() -> None:
        node = Node(tmp_path, Shard(), ("n2",))
        answers = node.add(b"bob")
        await turns()
        node.roll.stop()
        await turns()
        assert [str(answer).split()[0] for answer in answers] == ["TIMEOUT"]

    asyncio.run(scenario())


def test_requirepass_counts_until_default_is_changed_by_acl(tmp_path: Path) -> None:
    async def scenario() -> None:
        node = Node(tmp_path, Shard())
        access = node.access
        access.know()
        assert node.add(b"bob") is not None
        await turns()
        assert b"user default" not in access.record.content
        access._live.set({"requirepass": "own"})
        assert access.users[b"default"].accepts(b"own")
        assert not access.users[b"default"].accepts(b"")
        node.roll.receive("n2", [USERS_TELL, 0, 9, b"user default on nopass ~* &* +@all\n"])
        assert access.users[b"default"].accepts(b"")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "message",
    [
        [USERS_TELL, 0],
        [USERS_TELL, 0, -1, b""],
        [USERS_TELL, 0, 1, "text"],
        [USERS_HAVE, 0, b"1"],
        [USERS_HAVE, 0, 1, 2],
    ],
)
def test_messages_of_another_shape_break_the_link(tmp_path: Path, message: list[Any]) -> None:
    async def scenario() -> None:
        with pytest.raises(BadMessage):
            Node(tmp_path, Shard()).roll.receive("n2", message)

    asyncio.run(scenario())


def test_a_record_that_is_not_understood_changes_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        node = Node(tmp_path, Shard(), ("n2",))
        node.roll.receive("n2", [USERS_TELL, 0, 5, ALICE])
        node.roll.receive("n2", [USERS_TELL, 0, 6, b"nonsense\n"])
        assert node.access.record.version == 5
        # Commands of a later version are no reason: here is nothing that they could allow or forbid.
        node.roll.receive("n2", [USERS_TELL, 0, 7, b"user bob on nopass resetchannels -@all +hget2 +get\n"])
        assert node.access.record.version == 7
        assert node.access.users[b"bob"].describe() == b"on nopass resetchannels -@all +get"

    asyncio.run(scenario())
