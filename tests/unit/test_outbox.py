"""Messages for clients that do not read: bounded, and the client is let go; peers likewise."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from respkv.border import BadMessage
from respkv.config.limits import Limit, OutputLimits, output_limits
from respkv.raft.group import Clock
from respkv.server.news import ANSWER_S, PUBLISH, TOLD, News
from respkv.server.outbox import Outbox
from tests.unit.running import Wire, eventually, respkv


class Client:
    """A client that has taken all but `output_bytes`."""

    def __init__(self) -> None:
        self.session = SimpleNamespace(id=1, address="a:1")
        self.output_bytes = 0
        self.got: list[bytes] = []
        self.aborted = False

    def push(self, data: bytes) -> None:
        self.got.append(data)

    def abort(self) -> None:
        self.aborted = True


@pytest.fixture
def outbox() -> Outbox:
    made = Outbox(wake=lambda: None)
    made.limit = Limit(hard_bytes=100, soft_bytes=50, soft_s=10)
    return made


def test_messages_of_a_turn_leave_together(outbox: Outbox) -> None:
    client: Any = Client()
    outbox.push(client, b"a")
    outbox.push(client, b"b")
    assert client.got == []
    outbox.end_turn()
    assert client.got == [b"ab"]
    outbox.end_turn()
    assert client.got == [b"ab"]


def test_above_the_hard_limit_a_client_goes_at_once(outbox: Outbox) -> None:
    client: Any = Client()
    client.output_bytes = 101
    outbox.push(client, b"a")
    outbox.end_turn()
    assert client.aborted
    assert outbox.closed == 1


def test_above_the_soft_limit_it_has_some_time(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(Clock, "now", lambda: now)
    patient, slow = Client(), Client()
    for client in (patient, slow):
        client.output_bytes = 51
        outbox.push(client, b"a")  # type: ignore[arg-type]
    outbox.end_turn()
    now += 9
    outbox.tick()
    patient.output_bytes = 50
    outbox.tick()
    now += 2
    patient.output_bytes = 51
    outbox.tick()
    assert (patient.aborted, slow.aborted) == (False, True)


def test_a_subscriber_that_does_not_read_is_closed_and_logged_and_others_are_not(tmp_path: Path) -> None:
    options = ("--client-output-buffer-limit", "pubsub 2mb 1mb 60")
    with respkv(tmp_path, *options) as port, Wire(port) as slow, Wire(port) as good, Wire(port) as publisher:
        slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        slow("SUBSCRIBE a")
        good("SUBSCRIBE b")
        message = b"x" * 100_000
        eventually(lambda: publisher([b"PUBLISH", b"a", message]) == 0)
        (log,) = tmp_path.glob("*.log")
        assert "slow_subscriber" in log.read_text()
        assert publisher("PUBLISH b x") == 1
        assert good.reply() == [b"message", b"b", b"x"]


def test_limits_are_written_as_redis_writes_them() -> None:
    default = OutputLimits()
    assert str(default) == "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60"
    changed = output_limits(default)("pubsub 1mb 512kb 5 replica 0 0 0")
    assert str(changed) == "normal 0 0 0 slave 0 0 0 pubsub 1048576 524288 5"
    assert str(output_limits(changed)("normal 1 2 3")) == "normal 1 2 3 slave 0 0 0 pubsub 1048576 524288 5"
    for bad in ("normal 1 2", "nobody 1 2 3", "normal x 2 3", "normal -1 0 0", "4096", 4096, True):
        with pytest.raises(ValueError, match=r"."):
            output_limits(default)(bad)


# --- questions to other nodes


class Peers:
    def __init__(self) -> None:
        self.links = {"a": None, "b": None}
        self.sent: list[Any] = []

    def waiting_bytes(self, name: str) -> int:
        return 0

    def send(self, name: str, message: Any) -> bool:
        self.sent.append((name, message))
        return True


def test_a_question_ends_when_all_have_answered_or_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(Clock, "now", lambda: now)
    peers, answers = Peers(), []
    news = News(peers)  # type: ignore[arg-type]
    news.ask(PUBLISH, (False, b"c", b"m"), answers.append)
    request = peers.sent[0][1][2]
    assert peers.sent == [(name, (PUBLISH, 0, request, False, b"c", b"m")) for name in ("a", "b")]
    news.receive("a", [TOLD, 0, request, [2], []])
    news.receive("a", [TOLD, 0, request, [9], []])  # says it again
    assert answers == []
    news.link_down("b")
    assert answers == [[([2], [])]]
    news.receive("b", [TOLD, 0, request, [1], []])  # too late

    news.ask(PUBLISH, (False, b"c", b"m"), answers.append)
    now += ANSWER_S
    news.tick()
    assert answers[1:] == [[]]


@pytest.mark.parametrize(
    "message", [[TOLD, 0, 1, [-1], []], [TOLD, 0, 1, [1], ["text"]], [PUBLISH, 0, 1, False, b"c"], [PUBLISH, 0, 1, 1,
    b"c", b"m"]]
)
def test_what_no_node_in_order_says_breaks_the_link(message: list[Any]) -> None:
    with pytest.raises(BadMessage):
        News(Peers()).receive("a", message)  # type: ignore[arg-type]
