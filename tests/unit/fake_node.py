"""A node for tests of the command line: knows its configuration, answers PING, INFO and CLUSTER, stores nothing.

    python fake_node.py CONFIG

With a file DIR/plain its INFO does not say who it is, like Redis's. Each shard is led by its preferred leader, or as
DIR/../leaders says: a line "<shard> <node>" for each that differs.
"""

from __future__ import annotations

import os
import signal
import socketserver
import sys
import threading
from pathlib import Path
from typing import Any

import hiredis

from respkv.cluster.topology import Topology
from respkv.config import Config, load

CONFIG: Config
TOPOLOGY: Topology


def leaders() -> dict[int, str]:
    found = {shard.id: shard.replicas[0] for shard in TOPOLOGY.shards}
    file = CONFIG.dir.parent / "leaders"
    if file.exists():
        for line in file.read_text().splitlines():
            shard, node = line.split()
            found[int(shard)] = node
    return found


def info() -> str:
    lines = [f"node:{CONFIG.node}", f"cluster_id:{CONFIG.cluster.id}", f"run_id:{os.getpid()}"]
    lines += [f"tcp_port:{CONFIG.port}", "connected_clients:1"]
    for shard in TOPOLOGY.shards_of(CONFIG.node):
        leader = leaders()[shard.id]
        role = "leader" if leader == CONFIG.node else "follower"
        applied = 91 if role == "leader" else 90
        line = f"shard{shard.id}:role={role},term=3,leader={leader},commit=91,applied={applied},keys=5,bytes=2048"
        followers = [name for name in shard.replicas if name != leader] if role == "leader" else []
        lines.append(",".join([line, *(f"lag_{name}=1" for name in followers)]))
    return "# Raft\r\n" + "\r\n".join(lines) + "\r\n"


def answer(args: list[bytes]) -> bytes:
    command = b" ".join(args[:2]).upper()
    if command == b"PING":
        return b"+PONG\r\n"
    if command.startswith(b"INFO"):
        return bulk("" if (CONFIG.dir / "plain").exists() else info())
    if command == b"CLUSTER NODES":
        rows = [
            f"{TOPOLOGY.redis_id(n.id)} {n.host}:{n.port}@{n.peer_port},{n.id} master - 0 0 1 connected"
            for n in TOPOLOGY.nodes
        ]
        return bulk("\n".join(rows) + "\n")
    if command == b"CLUSTER SHARDS":
        return array([array_of_shard(shard.id) for shard in TOPOLOGY.shards])
    return b"-ERR unknown command\r\n"


def array_of_shard(shard: int) -> bytes:
    node = TOPOLOGY.node(leaders()[shard])
    described = array([bulk("ip"), bulk(node.host), bulk("port"), b":%d\r\n" % node.port, bulk("role"), bulk("master")])
    slots = [b":%d\r\n" % slot for pair in TOPOLOGY.ranges(shard) for slot in pair]
    return array([bulk("slots"), array(slots), bulk("nodes"), array([described])])


def bulk(text: str) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text.encode()), text.encode())


def array(items: list[bytes]) -> bytes:
    return b"*%d\r\n" % len(items) + b"".join(items)


class Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        reader = hiredis.Reader()
        authenticated = not CONFIG.requirepass
        while data := self.request.recv(4096):
            reader.feed(data)
            while (args := reader.gets()) is not False:
                if args[0].upper() == b"AUTH":
                    authenticated = args[1].decode() == CONFIG.requirepass
                    reply = b"+OK\r\n" if authenticated else b"-WRONGPASS invalid password\r\n"
                else:
                    reply = answer(args) if authenticated else b"-NOAUTH Authentication required.\r\n"
                self.request.sendall(reply)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def main() -> None:
    global CONFIG, TOPOLOGY
    CONFIG = load(Path(sys.argv[1]))
    TOPOLOGY = Topology.from_config(CONFIG)
    if (CONFIG.dir / "broken").exists():
        sys.exit("it is broken")
    server = Server((CONFIG.bind, CONFIG.port), Handler)
    pid = CONFIG.dir / "respkv.pid"
    pid.write_text(f"{os.getpid()}\n")

    def stop(_number: int, _frame: Any) -> None:
        if not (CONFIG.dir / "stubborn").exists():
            threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    server.serve_forever()
    pid.unlink()


if __name__ == "__main__":
    main()
