"""A client that sends much at once gets its share of the loop and no more: on a running node, and of many clients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest

from respkv.client import parse_info
from respkv.server.shares import SHARE_S, TURN_S, Shares
from tests.unit.running import Wire, eventually, respkv

MANY = 4000


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with respkv(tmp_path_factory.mktemp("node")) as port:
        yield port


@pytest.mark.parametrize("command", ["DEBUG DIGEST", "INFO everything", "CONFIG GET *", "MEMORY STATS"])
def test_a_client_is_served_while_another_has_thousands_of_dear_commands(port: int, command: str) -> None:
    name = "cmdstat_" + command.lower().partition(" ")[0]
    with Wire(port) as one, Wire(port) as other:
        other("CONFIG RESETSTAT")
        one.send(*[command] * MANY)
        first = one.reply()
        stats = parse_info(bytes(cast("bytes", other("INFO commandstats"))).decode())
        done = sum(
            int(value.partition("calls=")[2].partition(",")[0]) for key, value in stats.items() if key.startswith(name)
        )
        assert done < MANY
        assert cast("bytes", other("PING")) == b"PONG"
        assert [type(one.reply()) for _ in range(20)] == [type(first)] * 20


def test_replies_stay_in_order_and_nothing_is_lost_or_done_twice(port: int) -> None:
    with Wire(port) as wire:
        wire("SET n 0")
        commands = [line for number in range(3000) for line in ("INCR n", "RANDOMKEY", f"ECHO {number}", "GET n")]
        wire.send(*commands)
        for number in range(3000):
            assert wire.reply() == number + 1
            assert wire.reply() is not None
            assert wire.reply() == b"%d" % number
            assert wire.reply() == b"%d" % (number + 1)


def test_a_client_that_ends_in_the_middle_gets_all_its_replies(port: int) -> None:
    with Wire(port) as wire:
        wire.send(*["DEBUG DIGEST"] * 500, "QUIT")
        assert wire.rest().endswith(b"+OK\r\n")
    with Wire(port) as wire:
        wire.send(*["DEBUG DIGEST"] * 500)
        wire.socket.shutdown(1)
        assert wire.rest().count(b"\r\n") == 500


def test_one_that_goes_away_in_the_middle_leaves_nothing_behind(port: int) -> None:
    with Wire(port) as wire:
        wire.send(*["DEBUG DIGEST"] * MANY)
        assert wire.reply()
    with Wire(port) as wire:
        eventually(lambda: bytes(cast("bytes", wire("CLIENT LIST"))).count(b"\n") == 1)
        wire("CONFIG RESETSTAT")
        assert "cmdstat_debug" not in str(wire("INFO commandstats"))


class Client:
    """One that has always more, and uses its share whole."""

    def __init__(self, shares: Shares, order: list[Client]) -> None:
        self._shares, self._order = shares, order

    def go_on(self) -> None:
        self._order.append(self)
        assert self._shares.until(5.0) > 5.0
        self._shares.spent_s += SHARE_S
        self._shares.put_off(cast("Any", self))


def test_of_many_clients_each_has_its_turn() -> None:
    woken: list[bool] = []
    shares = Shares(lambda: woken.append(True))
    order: list[Client] = []
    clients = [Client(shares, order) for _ in range(25)]
    for client in clients:
        shares.put_off(cast("Any", client))
    for _ in range(5):
        woken.clear()
        shares.begin_turn(lambda _client, error: pytest.fail(str(error)))
        assert shares.spent_s == pytest.approx(TURN_S)
        shares.end_turn()
        assert woken
    assert order == clients + clients
    assert shares.until(5.0) <= 5.0


def test_a_fault_costs_its_client_and_no_other() -> None:
    class Faulty:
        def go_on(self) -> None:
            raise ValueError("a fault")

    shares = Shares(lambda: None)
    order: list[Client] = []
    faulty, sound = Faulty(), Client(shares, order)
    for client in (faulty, sound):
        shares.put_off(cast("Any", client))
    told: list[tuple[object, str]] = []
    shares.begin_turn(lambda client, error: told.append((client, str(error))))
    assert told == [(faulty, "a fault")]
    assert order == [sound]
