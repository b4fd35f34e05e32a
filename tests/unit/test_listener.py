"""A listening socket takes many connections in one turn of the loop."""

from __future__ import annotations

import asyncio
import socket

import uvloop

from respkv.listener import ACCEPTS_PER_TURN, listen


class Guest(asyncio.Protocol):
    def __init__(self, arrived: list[int]) -> None:
        self._arrived = arrived

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._arrived.append(1)


async def turns_until_all_are_in(guests: int) -> int:
    loop = asyncio.get_running_loop()
    arrived: list[int] = []
    servers = await listen(loop, lambda: Guest(arrived), "127.0.0.1", 0, backlog=guests)
    port = servers[0].sockets[0].getsockname()[1]
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(guests)]
    try:
        turns = 0
        while len(arrived) < guests:
            await asyncio.sleep(0)
            turns += 1
        return turns
    finally:
        for client in clients:
            client.close()
        for server in servers:
            server.close()


def test_guests_who_come_at_once_are_let_in_at_many_per_turn() -> None:
    guests = 8 * ACCEPTS_PER_TURN
    assert uvloop.run(turns_until_all_are_in(guests)) < guests / 4


def test_nobody_listens_once_all_servers_are_closed() -> None:
    async def scenario() -> int:
        servers = await listen(asyncio.get_running_loop(), lambda: Guest([]), "127.0.0.1", 0, backlog=5)
        port = servers[0].sockets[0].getsockname()[1]
        for server in servers:
            server.close()
            await server.wait_closed()
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port))

    assert uvloop.run(scenario()) != 0
