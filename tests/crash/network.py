"""The network between the nodes of a test, which can be cut in one direction or both, and slowed down.

`Mesh` needs no rights: every node listens for its peers on a port of its own (RESPKV_PEER_PORT), and a proxy of ours on
the one that the cluster map names. Who dials is found by the connection's socket in /proc. A cut direction keeps what
is sent, as TCP does, and delivers it after healing; a close does not pass a cut, and no connection is made over one.

`Namespaces` uses the kernel instead: a network namespace per node on one bridge. A cut is a neighbour entry that leads
nowhere, so packets vanish without a word. It needs to be root in namespaces of its own: see `tests.crash.isolated`.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import subprocess
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import uvloop

from tests.cluster import NodeProcess

REAL_PORT_OFFSET = 2_000
READ_BYTES = 1 << 16
QUEUED_MAX = 128
BRIDGE_NET = "10.77.0"
NOWHERE = "02:00:00:00:00:01"


class Network(Protocol):
    """What a nemesis may do to the links between nodes."""

    def cut(self, source: NodeProcess, target: NodeProcess) -> None:
        """Nothing that `source` sends reaches `target` from now on."""

    def slow(self, delay_ms: float, bytes_per_s: float = 0) -> bool:
        """Every link takes `delay_ms` and carries at most `bytes_per_s` (0: no limit). False: cannot be done here."""

    def heal(self) -> None:
        """All links are whole and fast."""

    def close(self) -> None: ...


def separate(network: Network, groups: Sequence[Iterable[NodeProcess]]) -> None:
    """Cuts all links between nodes of different groups, in both directions."""
    for one, other in itertools.permutations(map(list, groups), 2):
        for source, target in itertools.product(one, other):
            network.cut(source, target)


class _Direction:
    """One way of a pair of nodes."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()


class Mesh:
    """Proxies between the nodes, in a thread of their own. To be made before the nodes start."""

    def __init__(self, nodes: Sequence[NodeProcess]) -> None:
        self._nodes = {node.name: node for node in nodes}
        self._ways = {(a, b): _Direction() for a, b in itertools.permutations(self._nodes, 2)}
        self._delay_s = 0.0
        self._bytes_per_s = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mesh", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    def cut(self, source: NodeProcess, target: NodeProcess) -> None:
        self._loop.call_soon_threadsafe(self._ways[source.name, target.name].open.clear)

    def slow(self, delay_ms: float, bytes_per_s: float = 0) -> bool:
        self._delay_s, self._bytes_per_s = delay_ms / 1000, bytes_per_s
        return True

    def heal(self) -> None:
        self._delay_s = self._bytes_per_s = 0.0
        for way in self._ways.values():
            self._loop.call_soon_threadsafe(way.open.set)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    # -- inside the thread

    async def _listen(self) -> None:
        self._servers = []
        for node in self._nodes.values():
            node.options["PEER_PORT"] = str(node.port + REAL_PORT_OFFSET)
            server = await asyncio.start_server(self._acceptor(node), node.host, node.peer_port)
            self._servers.append(server)

    async def _shut_down(self) -> None:
        for server in self._servers:
            server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _acceptor(self, target: NodeProcess):  # type: ignore[no-untyped-def]
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                await self._serve(target, reader, writer)
            except (OSError, asyncio.CancelledError):
                pass
            finally:
                writer.close()
                self._tasks.discard(task)

        return accept

    async def _serve(self, target: NodeProcess, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        source = self._owner(writer.get_extra_info("peername")[1], target.peer_port)
        if source is None:
            return
        there, back = self._ways[source, target.name], self._ways[target.name, source]
        await there.open.wait()
        await back.open.wait()
        far_reader, far_writer = await asyncio.open_connection(target.host, target.port + REAL_PORT_OFFSET)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._carry(reader, far_writer, there))
                group.create_task(self._carry(far_reader, writer, back))
        except* (OSError, RuntimeError):  # uvloop says the latter of a transport that was closed by the other way
            pass
        finally:
            far_writer.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: _Direction) -> None:
        """Takes bytes from one side to the other, late or not at all for now; the end of the one ends the other."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUED_MAX)
        fetching = asyncio.create_task(self._fetch(reader, queue))
        try:
            while True:
                due, data = await queue.get()
                wait = due - self._loop.time()
                if wait > 0:
                    await asyncio.sleep(wait)
                await way.open.wait()
                if not data:
                    raise ConnectionResetError
                if writer.transport.is_closing():
                    raise ConnectionResetError
                writer.write(data)
                await writer.drain()
                if self._bytes_per_s:
                    await asyncio.sleep(len(data) / self._bytes_per_s)
        finally:
            fetching.cancel()

    async def _fetch(self, reader: asyncio.StreamReader, queue: asyncio.Queue[tuple[float, bytes]]) -> None:
        while True:
            try:
                data = await reader.read(READ_BYTES)
            except OSError:
                data = b""
            await queue.put((self._loop.time() + self._delay_s, data))
            if not data:
                return

    def _owner(self, port: int, target_port: int) -> str | None:
        """The node whose process made the connection from local `port`; None if it is gone again."""
        wanted = f":{port:04X} [0-9A-F]+:{target_port:04X} "
        inode = None
        for line in Path("/proc/net/tcp").read_text().splitlines():
            if re.search(wanted, line):
                inode = f"socket:[{line.split()[9]}]"
        for name, node in self._nodes.items():
            if node.running and inode is not None and _holds(node.pid, inode):
                return name
        return None


def _holds(pid: int, socket: str) -> bool:
    try:
        return any(str(link.readlink()) == socket for link in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


class Namespaces:
    """A network namespace per node, all on one bridge, on which this process has an address, too."""

    def __init__(self, nodes: Sequence[NodeProcess]) -> None:
        self._cuts: set[tuple[str, str]] = set()
        self._names = [node.name for node in nodes]
        ip("link", "add", "respkv0", "type", "bridge")
        ip("addr", "add", f"{BRIDGE_NET}.254/24", "dev", "respkv0")
        ip("link", "set", "respkv0", "up")
        for node in nodes:
            name = node.name
            ip("netns", "add", name)
            ip("link", "add", f"v-{name}", "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", f"v-{name}", "master", "respkv0", "up")
            ip("-n", name, "addr", "add", f"{node.host}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", "eth0", "up")
            node.prefix = ["ip", "netns", "exec", name]

    @staticmethod
    def hosts(count: int) -> list[str]:
        return [f"{BRIDGE_NET}.{number + 1}" for number in range(count)]

    def cut(self, source: NodeProcess, target: NodeProcess) -> None:
        entry = ("neigh", "replace", target.host, "lladdr", NOWHERE, "dev", "eth0", "nud", "permanent")
        ip("-n", source.name, *entry)
        self._cuts.add((source.name, target.host))

    def slow(self, delay_ms: float, bytes_per_s: float = 0) -> bool:
        """Only where the kernel has netem."""
        return False

    def heal(self) -> None:
        for name, host in self._cuts:
            ip("-n", name, "neigh", "del", host, "dev", "eth0")
        self._cuts.clear()

    def close(self) -> None:
        """Takes all away, so that another cluster can have the names. The nodes have been stopped."""
        for name in self._names:
            ip("link", "del", f"v-{name}")
            ip("netns", "del", name)
        ip("link", "del", "respkv0")


def ip(*args: str) -> None:
    done = subprocess.run(["ip", *args], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, f"ip {' '.join(args)}: {done.stderr}"
