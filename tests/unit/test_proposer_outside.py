"""The proposer of a node that holds no replica of the shard."""

from __future__ import annotations

from typing import Any

import pytest

from respkv.cluster.topology import Shard
from respkv.reply import RespError
from respkv.shard.batch import Ops, encode_runs
from respkv.shard.proposer import FORWARD, FORWARDED, READ, READ_DONE, Proposer
from tests.unit.raft_world import Client
from tests.unit.worlds import outcome

APPLIED, REFUSED, FAILED = 0, 1, 2


class Outside:
    """A proposer without a group, whose messages are kept."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sent: list[tuple[str, Any]] = []
        self.links = {"a", "b", "c"}
        self.woken = 0
        self.proposer = Proposer(
            Shard(0, (), ("a", "b", "c")), "x", None, None, send=self._send, wake=self._wake, now=lambda: self.now
        )

    def _send(self, peer: str, message: Any) -> bool:
        if peer not in self.links:
            return False
        self.sent.append((peer, message))
        return True

    def _wake(self) -> None:
        self.woken += 1

    def write(self, name: bytes) -> Client:
        client = Client("x", [name])
        self.proposer.write(client, 0, [b"ADD", name])
        self.proposer.pump()
        return client

    def turn(self, seconds: float = 0.1) -> None:
        self.now += seconds
        self.proposer.tick()
        self.proposer.pump()


def test_without_a_replica_one_batch_at_a_time_goes_to_the_likely_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    outside = Outside()
    first, second = outside.write(b"1"), outside.write(b"2")
    assert [(peer, message[:2], message[3]) for peer, message in outside.sent] == [("a", (FORWARD, 0), -1)]
    request = outside.sent[0][1][2]
    outside.proposer.receive("a", [FORWARDED, 0, request, REFUSED, ["c", 9]])
    outside.proposer.pump()
    assert [peer for peer, _ in outside.sent] == ["a", "c"]
    assert outside.sent[1][1][4] == encode_runs([Ops([[b"ADD", b"1"]])]), "in their old order"
    outside.proposer.receive("c", [FORWARDED, 0, outside.sent[1][1][2], APPLIED, [1]])
    outside.proposer.pump()
    outside.proposer.receive("c", [FORWARDED, 0, outside.sent[2][1][2], APPLIED, [2]])
    assert (first.answers, second.answers) == ({0: 1}, {0: 2})
    assert outside.proposer.pending_bytes == 0


def test_an_answer_to_a_request_that_is_over_is_ignored() -> None:
    outside = Outside()
    client = outside.write(b"1")
    request = outside.sent[0][1][2]
    outside.turn(6)
    assert outcome(client) == "TIMEOUT"
    for status, content in ((APPLIED, [1]), (REFUSED, None), (FAILED, RespError("ERR no"))):
        outside.proposer.receive("a", [FORWARDED, 0, request, status, content])
    assert client.ended == 1
    assert outside.proposer.pending_bytes == 0


def test_without_a_replica_a_lost_link_ends_the_batch_as_may_have_been_applied_and_reads_go_elsewhere() -> None:
    outside = Outside()
    client = outside.write(b"1")
    read = Client("x", [b"r"])
    outside.proposer.read(read, 0, [b"READ"])
    outside.proposer.pump()
    outside.links.discard("a")
    outside.proposer.link_lost("a")
    assert outcome(client) == "TIMEOUT"
    outside.turn()
    assert [(peer, message[0]) for peer, message in outside.sent] == [("a", FORWARD), ("a", READ), ("b", READ)]
    outside.proposer.receive("b", [READ_DONE, 0, outside.sent[-1][1][2], APPLIED, [7]])
    assert read.answers == {0: 7}


def test_a_write_and_a_read_that_are_refused_together_skip_nobody() -> None:
    outside = Outside()
    outside.proposer.read(Client("x", [b"r"]), 0, [b"READ"])
    outside.write(b"1")
    for kind, (_, message) in zip((FORWARDED, READ_DONE), outside.sent.copy(), strict=True):
        outside.proposer.receive("a", [kind, 0, message[2], REFUSED, None])
    outside.proposer.pump()
    assert [peer for peer, _ in outside.sent] == ["a", "a", "b", "b"]


def moved_on() -> tuple[Outside, Client]:
    """A batch is with `a`, which has just said that `c` leads now."""
    outside = Outside()
    client = outside.write(b"1")
    outside.proposer.read(Client("x", [b"r"]), 0, [b"READ"])
    outside.proposer.pump()
    outside.proposer.receive("a", [READ_DONE, 0, outside.sent[-1][1][2], REFUSED, ["c", 9]])
    outside.proposer.pump()
    return outside, client


def test_a_batch_is_lost_with_the_node_that_it_went_to_and_nothing_waits_behind_it() -> None:
    outside, first = moved_on()
    outside.links.discard("a")
    outside.proposer.link_lost("a")
    assert outcome(first) == "TIMEOUT"
    second = outside.write(b"2")
    assert (outside.sent[-1][0], outside.sent[-1][1][0]) == ("c", FORWARD)
    outside.proposer.receive("c", [FORWARDED, 0, outside.sent[-1][1][2], APPLIED, [1]])
    assert outcome(second) == "applied"
    assert outside.proposer.pending_bytes == 0


def test_a_batch_is_not_lost_with_another_node_that_is_believed_to_lead() -> None:
    outside, client = moved_on()
    outside.links.discard("c")
    outside.proposer.link_lost("c")
    assert client.ended == 0
    outside.proposer.receive("a", [FORWARDED, 0, outside.sent[0][1][2], APPLIED, [1]])
    assert outcome(client) == "applied"


def test_a_read_does_not_end_with_an_older_one_that_was_asked_with_it() -> None:
    outside = Outside()
    old, new = Client("x", [b"1"]), Client("x", [b"2"])
    outside.proposer.read(old, 0, [b"READ", b"1"])
    outside.turn(outside.proposer.timeout_s - 0.2)
    outside.links.discard("a")
    outside.proposer.link_lost("a")
    outside.proposer.read(new, 0, [b"READ", b"2"])
    outside.proposer.pump()
    outside.turn(0.3)
    assert outcome(old) == "CLUSTERDOWN"
    assert new.ended == 0
    outside.proposer.receive("b", [READ_DONE, 0, outside.sent[-1][1][2], APPLIED, [8, 7]])
    assert (old.ended, new.answers) == (1, {0: 7})


def test_a_read_is_not_answered_before_one_that_is_asked_again() -> None:
    outside = Outside()
    reads = [Client("x", [b"%d" % number]) for number in range(4)]
    for read in reads[:2]:
        outside.proposer.read(read, 0, [b"READ", read.ids[0]])
    outside.proposer.pump()
    outside.proposer.read(reads[2], 0, [b"READ", b"2"])
    outside.proposer.pump()
    assert [message[4] for _, message in outside.sent] == [[[b"READ", b"0"], [b"READ", b"1"]]]
    outside.proposer.receive("a", [READ_DONE, 0, outside.sent[-1][1][2], APPLIED, [0]])  # the second was too much
    outside.proposer.pump()
    outside.proposer.read(reads[3], 0, [b"READ", b"3"])
    outside.proposer.pump()
    assert [message[4] for _, message in outside.sent[1:]] == [[[b"READ", b"1"], [b"READ", b"2"]]]
    outside.proposer.receive("a", [READ_DONE, 0, outside.sent[-1][1][2], REFUSED, ["c", 9]])
    outside.proposer.pump()
    assert (outside.sent[2][0], outside.sent[2][1][4]) == ("c", [[b"READ", b"1"], [b"READ", b"2"], [b"READ", b"3"]])
    outside.proposer.receive("a", [READ_DONE, 0, outside.sent[1][1][2], APPLIED, [8, 8]])  # not asked any more
    outside.proposer.receive("c", [READ_DONE, 0, outside.sent[2][1][2], APPLIED, [1, 2, 3]])
    assert [read.answers for read in reads] == [{0: 0}, {0: 1}, {0: 2}, {0: 3}]


def test_a_read_that_is_cut_from_an_answer_does_not_see_the_write_behind_it() -> None:
    outside = Outside()
    first, second = Client("x", [b"1"]), Client("x", [b"2"])
    for client in (first, second):
        outside.proposer.read(client, 0, [b"READ"])
    outside.proposer.pump()
    outside.proposer.write(behind := Client("x", [b"3"], second), 0, [b"ADD", b"3"])
    outside.proposer.pump()
    (_, asked), (_, forwarded) = outside.sent
    assert forwarded[4] == encode_runs([Ops([[b"READ"]]), Ops([[b"ADD", b"3"]])])
    outside.proposer.receive("a", [READ_DONE, 0, asked[2], APPLIED, [0]])
    assert (first.answers, second.ended) == ({0: 0}, 0)
    outside.proposer.receive("a", [FORWARDED, 0, forwarded[2], APPLIED, [0, 1]])
    assert (second.answers, behind.answers) == ({0: 0}, {0: 1})


def test_another_leader_is_asked_what_the_last_one_has_not_answered() -> None:
    outside = Outside()
    first, second = Client("x", [b"1"]), Client("x", [b"2"])
    outside.proposer.read(first, 0, [b"READ", b"1"])
    outside.proposer.pump()
    outside.proposer.refused("a", ["b", 7])
    outside.proposer.read(second, 0, [b"READ", b"2"])
    outside.proposer.pump()
    assert (outside.sent[1][0], outside.sent[1][1][4]) == ("b", [[b"READ", b"1"], [b"READ", b"2"]])
    outside.proposer.receive("a", [READ_DONE, 0, outside.sent[0][1][2], APPLIED, [8]])
    outside.proposer.receive("b", [READ_DONE, 0, outside.sent[1][1][2], APPLIED, [1, 2]])
    assert (first.answers, second.answers) == ({0: 1}, {0: 2})


def test_without_a_replica_a_node_that_cannot_be_reached_is_not_waited_for() -> None:
    outside = Outside()
    outside.links = {"c"}
    client = outside.write(b"1")
    for _ in range(4):
        outside.turn()
    assert [peer for peer, _ in outside.sent] == ["c"]
    outside.proposer.receive("c", [FORWARDED, 0, outside.sent[0][1][2], REFUSED, ["a", 3]])  # still believes in a
    outside.turn()
    for _ in range(6):
        outside.turn()
    assert [peer for peer, _ in outside.sent] == ["c", "c"]
    outside.proposer.receive("c", [FORWARDED, 0, outside.sent[1][1][2], APPLIED, [1]])
    assert outcome(client) == "applied"


def test_nothing_reachable_ends_as_not_applied() -> None:
    outside = Outside()
    outside.links = set()
    client = outside.write(b"1")
    for _ in range(60):
        outside.turn()
    assert outcome(client) == "CLUSTERDOWN"
    assert outside.proposer.pending_bytes == 0
