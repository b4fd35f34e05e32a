"""WAIT's questions: who leads is found out wherever it is, and whoever is asked answers."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from respkv.border import BadMessage
from respkv.server import holders as holders_module
from respkv.server.holders import HOLDERS_ASK, HOLDERS_HINT, HOLDERS_TELL, Holders
from tests.unit.test_proposer_outside import Outside

WANTED = 2


class Asking:
    """A node without a replica of the only shard; `leader` leads and answers, the others know `hint`, or are silent."""

    def __init__(self, leader: str, hint: Any, silent: str = "") -> None:
        self.leader = leader
        self.hint = hint
        self.silent = silent
        self.asked: list[str] = []
        self.outside = Outside()
        self.holders = Holders("x", [self.outside.proposer], self._send)

    def _send(self, peer: str, message: Any) -> bool:
        if peer not in self.outside.links:
            return False
        self.asked.append(peer)
        kind, shard, request, index = message
        assert kind == HOLDERS_ASK
        answer = [HOLDERS_TELL, shard, request, index or 7, WANTED]
        if peer != self.leader:
            answer = [HOLDERS_HINT, shard, request, self.hint]
        if peer != self.silent:
            asyncio.get_running_loop().call_soon(self.holders.receive, peer, answer)
        return True

    def followers(self) -> int:
        async def scenario() -> int:
            async with asyncio.timeout(20):
                return await self.holders.followers([0], WANTED, lambda: False)

        return asyncio.run(scenario())


def test_who_does_not_lead_says_who_does() -> None:
    asking = Asking("c", ["c", 5])
    assert asking.followers() == WANTED
    assert asking.asked == ["a", "c"]


def test_where_nobody_knows_the_leader_one_after_the_other_is_asked() -> None:
    asking = Asking("c", None)
    assert asking.followers() == WANTED
    assert asking.asked == ["a", "b", "c"]


def test_who_asks_several_times_at_once_skips_nobody() -> None:
    asking = Asking("c", None)

    async def scenario() -> list[int]:
        async with asyncio.timeout(20):
            questions = [asking.holders.followers([0], WANTED, lambda: False) for _ in range(3)]
            return await asyncio.gather(*questions)

    assert asyncio.run(scenario()) == [WANTED] * 3
    assert asking.asked == ["a"] * 3 + ["b"] * 3 + ["c"] * 3


def test_a_node_that_does_not_answer_or_has_no_link_is_not_asked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holders_module, "ASK_S", 0.01)
    asking = Asking("c", None, silent="a")
    asking.outside.links.discard("b")
    assert asking.followers() == WANTED
    assert asking.asked == ["a", "c"]


def test_a_node_that_does_not_lead_answers_with_whom_it_follows() -> None:
    sent: list[Any] = []
    follower: Any = SimpleNamespace(group=SimpleNamespace(readable=False), leader=lambda: ("b", 3))
    holders = Holders("a", [follower], lambda peer, message: bool(sent.append((peer, message))))
    holders.receive("x", [HOLDERS_ASK, 0, 5, 0])
    assert sent == [("x", (HOLDERS_HINT, 0, 5, ("b", 3)))]


@pytest.mark.parametrize("hint", [["b"], ["b", 1, 2], [1, 2], "b"])
def test_hints_of_another_shape_break_the_link(hint: Any) -> None:
    with pytest.raises(BadMessage):
        Holders("x", [Outside().proposer], lambda *_: True).receive("a", [HOLDERS_HINT, 0, 1, hint])
