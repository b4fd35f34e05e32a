"""Clients that send nonsense, too much, or never read: they get Redis's words, and nobody else notices."""

from __future__ import annotations

import random
import resource
import select
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any

import pytest

from respkv.checksum import crc32
from respkv.cluster.codec import encode
from respkv.cluster.handshake import Handshake
from respkv.cluster.link import HELLO
from respkv.cluster.topology import Topology
from respkv.config import load
from tests.cluster import NodeProcess, TestCluster, wait_until

needs_redis = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not in PATH")

BAD_FRAMES = [
    b"*99999999999999999999\r\n",
    b"*x\r\n",
    b"*-5\r\nPING\r\n",
    b"*+1\r\n$4\r\nPING\r\n",
    b"*1 \r\n$4\r\nPING\r\n",
    b"*1\r\n$99999999999\r\n",
    b"*1\r\n$536870913\r\n",
    b"*1\r\n$-1\r\n",
    b"*1\r\n$x\r\n",
    b"*1\r\n$04\r\nPING\r\n",
    b"*1\r\nPING\r\n",
    b"*2\r\n*1\r\n$4\r\nPING\r\n",
    b"*1\r\n*1\r\n*1\r\n*1\r\n",
    b"*1\r\n+PING\r\n",
    b"*1\r\n:1\r\n",
    b"*2\r\n$3\r\nGET\r\n:1\r\n",
    b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n#t\r\n",
    b'"unbalanced\r\n',
    b"GET 'a\r\n",
    b'SET a "b"c\r\n',
    b"$5\r\nnosuch\r\n",
    b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: example.org\r\n\r\n",
]
GOOD = b"*1\r\n$4\r\nPING\r\n*2\r\n$4\r\nECHO\r\n$2\r\nhi\r\n"


def until_closed(port: int, data: bytes, last: bytes = b"\r\nQUIT\r\n", timeout_s: float = 3.0) -> bytes:
    """What a server answers to `data` and then `last`, until it closes."""
    said = b""
    with socket.create_connection(("127.0.0.1", port), timeout_s) as raw:
        try:
            raw.sendall(data + last)
            while part := raw.recv(65536):
                said += part
        except ConnectionError:
            pass  # closed with something unread
        except TimeoutError:
            said += b"(and waits)"
    return said


def ping(node: NodeProcess) -> None:
    assert node.answers()


# --- frames ---


@needs_redis
@pytest.mark.parametrize("frame", BAD_FRAMES, ids=lambda frame: repr(frame[:30])[2:-1])
def test_bad_frames_get_the_words_of_redis(single: NodeProcess, redis_port: int, frame: bytes) -> None:
    theirs = until_closed(redis_port, GOOD + frame)
    assert until_closed(single.port, GOOD + frame) == theirs
    assert until_closed(single.cluster_port, GOOD + frame) == theirs
    ping(single)


@needs_redis
@pytest.mark.parametrize("line", [b"x" * 70_000, b"*" + b"1" * 70_000], ids=["inline", "header"])
def test_a_line_without_end_is_cut_off_in_the_words_of_redis(single: NodeProcess, redis_port: int, line: bytes) -> None:
    assert until_closed(single.port, line, b"") == until_closed(redis_port, line, b"") != b""
    ping(single)


@pytest.mark.parametrize("frame", [b"*1048577\r\n", b"*1000000000\r\n"])
def test_commands_have_at_most_1048576_arguments(single: NodeProcess, frame: bytes) -> None:
    """Stricter than Redis, which allows 2,147,483,647."""
    said = until_closed(single.port, GOOD + frame, b"")
    assert said == b"+PONG\r\n$2\r\nhi\r\n-ERR Protocol error: invalid multibulk length\r\n"
    ping(single)


@needs_redis
@pytest.mark.parametrize(
    "lines",
    [
        b"PING\r\n",
        b"ping\n",
        b"\r\n\n  \r\nPING hello\r\n",
        b'SET key "a\\x00\\"b c"\r\nGET key\r\nSTRLEN key\r\nDEL key\r\n',
        b"SET key 'it\\'s'\r\nGET key\r\nDEL key\r\n",
        b"*0\r\n*-1\r\nPING\r\n",
        b"GET\r\nNOSUCH a b\r\nSET a\r\nINCR a b c\r\n",
        b"*1\r\n$0\r\n\r\nPING\r\n",
        b"QUIT\r\nPING\r\n",
    ],
)
def test_inline_commands_as_in_redis(single: NodeProcess, redis_port: int, lines: bytes) -> None:
    assert until_closed(single.port, lines) == until_closed(redis_port, lines)


def test_random_bytes_break_only_their_own_connection(single: NodeProcess) -> None:
    chance = random.Random(1)
    alphabet = b"*$+-:\r\n0123456789 'x\"\\GETSINCR\x00\xff"
    with single.client() as bystander:
        bystander.set("kept", "value")
        for number in range(150):
            size = chance.randrange(1, 3000)
            noise = chance.randbytes(size) if number % 2 else bytes(chance.choices(alphabet, k=size))
            with single.connect() as raw:
                try:
                    raw.sendall(noise)
                    raw.shutdown(socket.SHUT_WR)
                    raw.settimeout(5)
                    while raw.recv(65536):
                        pass
                except ConnectionError:
                    pass
        assert bystander.get("kept") == b"value"
        wait_until(lambda: len(bystander.client_list()) < 10, "the connections are gone")


def test_a_command_in_single_bytes_is_a_command(single: NodeProcess) -> None:
    with single.connect() as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$5\r\na\r\nbc\r\n*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n":
            raw.sendall(bytes([byte]))
        assert read_exactly(raw, 16) == b"+OK\r\n$5\r\na\r\nbc\r\n"


def test_huge_promises_take_no_memory(single: NodeProcess) -> None:
    before = single.memory_bytes()
    with ExitStack() as stack:
        for _ in range(50):
            raw = stack.enter_context(closing(single.connect()))
            raw.sendall(b"*1048576\r\n$536870912\r\n" + b"x" * 1000)
        for _ in range(50):
            raw = stack.enter_context(closing(single.connect()))
            raw.sendall(b"*1048576\r\n" + b"$0\r\n\r\n" * 1000)
        ping(single)
        assert single.memory_bytes() - before < 64 << 20
    ping(single)


def read_exactly(raw: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = raw.recv(count - len(data))
        assert part, data
        data += part
    return data


# --- too much ---


@contextmanager
def many_files(count: int) -> Iterator[None]:
    """This process may open `count` files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        if hard < count:
            pytest.skip(f"the system allows {hard} open files")
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_almost_10000_idle_clients_cost_little_and_slow_nobody(single: NodeProcess) -> None:
    count = 9900
    with many_files(count + 500), ExitStack() as stack, single.client() as client:
        client.ping()
        before = single.memory_bytes()
        for _ in range(count):
            stack.enter_context(closing(single.connect()))
        wait_until(lambda: client.info("clients")["connected_clients"] >= count, "all are connected")
        assert (single.memory_bytes() - before) / count < 10_000
        began = time.monotonic()
        for number in range(100):
            client.set("key", number)
        assert time.monotonic() - began < 5
    with single.client() as client:
        wait_until(lambda: client.info("clients")["connected_clients"] < 10, "all are gone")


@pytest.mark.parametrize(
    ("command", "count", "value_bytes"),
    [(b"GET key\r\n", 100_000, 1000), (b"GET key\r\n", 500, 4 << 20), (b"INCR count\r\n", 100_000, 0)],
    ids=["100,000 reads", "500 reads of 4 MB", "100,000 writes"],
)
def test_replies_that_nobody_reads_take_bounded_memory(
    single: NodeProcess, command: bytes, count: int, value_bytes: int
) -> None:
    """The server stops reading such a client; the others are served meanwhile, and it gets everything in the end."""
    with single.client() as client, single.connect() as raw:
        client.set("key", b"v" * value_bytes)
        before = peak = single.memory_bytes()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        raw.setblocking(False)
        left = command * count
        quiet_since = time.monotonic()
        while left and time.monotonic() - quiet_since < 0.5:
            try:
                left = left[raw.send(left[: 1 << 16]) :]
                quiet_since = time.monotonic()
            except BlockingIOError:
                time.sleep(0.01)
            peak = max(peak, single.memory_bytes())
        for number in range(20):
            client.set("other", number)
            assert client.get("other") == b"%d" % number
            peak = max(peak, single.memory_bytes())
        assert peak - before < 160 << 20, f"{(peak - before) >> 20} MiB"
        answered = drain(raw, left, command, count, value_bytes)
    assert answered == count
    ping(single)


def test_a_client_over_its_output_limit_is_closed_and_logged(single: NodeProcess) -> None:
    """It gets what was on the way, and then the end; what it had asked for is not kept for it."""
    with single.client() as client, setting(single, "client-output-buffer-limit", "normal 2mb 0 0", "normal 0 0 0"):
        client.set("key", b"v" * (4 << 20))
        before = single.memory_bytes()
        with single.connect() as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            raw.sendall(b"GET key\r\n" * 50)
            wait_until(lambda: "client_output_limit" in single.log(), "it is logged")
            received = 0
            with suppress(ConnectionError):
                while part := raw.recv(1 << 20):
                    received += len(part)
            assert received < 50 * (4 << 20)
        assert single.memory_bytes() - before < 64 << 20
        assert client.get("key") == b"v" * (4 << 20)


@pytest.mark.parametrize(
    ("count", "start", "piece"),
    [
        (1000, b"*3\r\n$3\r\nSET\r\n$9\r\ntrickling\r\n$100000\r\n", b"x"),
        (1000, b"*1000000\r\n", b"$"),
        (300, b"*2\r\n$3\r\nGET\r\n$65536\r\n" + b"k" * 60_000, b"k"),
        (1000, b"inline command without an end ", b"."),
    ],
    ids=["a value", "an array", "a long key", "a line"],
)
def test_clients_that_trickle_half_commands_hold_nobody_up(
    single: NodeProcess, count: int, start: bytes, piece: bytes
) -> None:
    with many_files(count + 500), ExitStack() as stack, single.client() as client:
        client.ping()
        before = single.memory_bytes()
        tricklers = [stack.enter_context(closing(single.connect())) for _ in range(count)]
        for raw in tricklers:
            raw.sendall(start)
        slowest_s = 0.0
        for _ in range(5):
            for raw in tricklers:
                raw.sendall(piece)
            for number in range(20):
                began = time.monotonic()
                assert client.incr("served") == number + 1
                slowest_s = max(slowest_s, time.monotonic() - began)
            client.delete("served")
        assert slowest_s < 2
        assert single.memory_bytes() - before < count * (len(start) * 2 + 20_000)
    ping(single)


def drain(raw: socket.socket, left: bytes, command: bytes, count: int, value_bytes: int) -> int:
    """Sends the rest, reads all replies, and returns how many there were."""
    one = len(b"$%d\r\n" % value_bytes) + value_bytes + 2 if command.startswith(b"GET") else 0
    wanted = one * count if one else sum(len(b":%d\r\n" % number) for number in range(1, count + 1))
    received, deadline = 0, time.monotonic() + 60
    raw.setblocking(False)
    while received < wanted and time.monotonic() < deadline:
        moved = False
        if left:
            try:
                left = left[raw.send(left[: 1 << 16]) :]
                moved = True
            except BlockingIOError:
                pass
        try:
            received += len(raw.recv(1 << 20))
            moved = True
        except BlockingIOError:
            pass
        if not moved:
            time.sleep(0.001)
    assert received == wanted
    return count


def test_a_client_that_closes_its_side_gets_all_replies(single: NodeProcess) -> None:
    last_replies = {b"INCR half\r\n": b":20000\r\n", b"SET half 1\r\n": b"+OK\r\n", b"PING\r\n": b"+PONG\r\n"}
    for command, reply in last_replies.items():
        with single.connect() as raw:
            raw.sendall(command * 20_000)
            raw.shutdown(socket.SHUT_WR)
            data = b""
            while part := raw.recv(1 << 20):
                data += part
        assert data.count(b"\r\n") == 20_000
        assert data.endswith(reply)
        single.call("DEL", "half")


def test_clients_that_vanish_in_the_middle_of_commands_leave_nothing(single: NodeProcess) -> None:
    for _ in range(100):
        with single.connect() as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # closes with RST
            raw.sendall(b"INCR vanish\r\n" * 50 + b"*3\r\n$3\r\nSET\r\n$1000000\r\nx")
    with single.client() as client:
        wait_until(lambda: client.info("clients")["connected_clients"] < 10, "all are gone")
        wait_until(lambda: all(shard["pending_bytes"] == "0" for shard in single.shards().values()), "all is done", 5)
        assert int(client.get("vanish") or 0) <= 5000


# --- limits ---


@contextmanager
def setting(node: NodeProcess, name: str, value: Any, before: Any) -> Iterator[None]:
    with node.client() as admin:
        admin.config_set(name, value)
        try:
            yield
        finally:
            admin.config_set(name, before)


def test_more_clients_than_allowed_are_told_and_closed(single: NodeProcess) -> None:
    with single.client() as client:
        client.ping()
        wait_until(lambda: len(client.client_list()) == 1, "no other client is left")
        with setting(single, "maxclients", 5, 10_000), ExitStack() as stack:
            for _ in range(3):
                raw = stack.enter_context(closing(single.connect()))
                raw.sendall(b"PING\r\n")
                assert raw.recv(100) == b"+PONG\r\n"
            for _ in range(3):
                refused = stack.enter_context(closing(single.connect()))
                assert refused.recv(100) == b"-ERR max number of clients reached\r\n"
                assert refused.recv(100) == b""
            assert client.ping()
    ping(single)


@needs_redis
@pytest.mark.parametrize(
    "data",
    [
        b"PING\r\n",
        b"SET a b\r\nGET a\r\nMGET a b\r\nDBSIZE\r\nNOSUCH\r\nFLUSHALL\r\nINFO\r\nCLIENT LIST\r\nCONFIG GET *\r\n",
        b"*11\r\n",
        b"*2\r\n$20000\r\n",
        b"*1000000\r\n",
        b"AUTH wrong\r\nPING\r\nAUTH secret\r\nPING\r\n",
        b"AUTH secret\r\n*11\r\n" + b"$4\r\nping\r\n" * 11,
        b"HELLO 3\r\nPING\r\n",
        b"*1\r\n$4\r\nPING\r\n" * 50,
    ],
)
def test_without_the_password_little_is_possible_in_the_words_of_redis(
    single: NodeProcess, redis_port: int, data: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", redis_port), 5) as theirs:
        theirs.sendall(b"CONFIG SET requirepass secret\r\n")
        assert theirs.recv(100) == b"+OK\r\n"
        try:
            expected = until_closed(redis_port, data)
        finally:
            theirs.sendall(b'CONFIG SET requirepass ""\r\n')
            assert theirs.recv(100) == b"+OK\r\n"
    with setting(single, "requirepass", "secret", ""):
        assert until_closed(single.port, data) == expected


def test_a_full_disk_refuses_writes_and_serves_reads(cluster: TestCluster) -> None:
    """Enough headroom asked for makes any disk full."""
    keys = [cluster.keys_of_shard(shard, 1)[0] for shard in range(3)]
    node, other = cluster.nodes[0], cluster.nodes[1]
    led_here = keys[next(shard for shard, name in cluster.leaders().items() if name == node.name)]
    with node.client() as client, other.client() as elsewhere:
        client.set(led_here, "before")
        with setting(node, "disk-headroom-bytes", 1 << 49, 256 << 20):
            wait_until(lambda: node.info()["writes_refused"] == "1", "the node sees it")
            for command in (f"SET {led_here} x", f"INCR {led_here}", f"DEL {led_here}", "FLUSHALL", "MSET a 1 b 2 c 3"):
                assert until_closed(node.port, command.encode() + b"\r\n").startswith(b"-MISCONF "), command
            reply = until_closed(other.port, f"SET {led_here} x\r\n".encode())
            assert reply.startswith(b"-MISCONF "), "the leader refuses what others forward"
            assert b"not applied" in reply
            assert client.get(led_here) == elsewhere.get(led_here) == b"before"
            assert client.mget(keys)
        wait_until(lambda: node.info()["writes_refused"] == "0", "the node sees that there is room")
        assert client.set(led_here, "after")
        assert elsewhere.get(led_here) == b"after"


# --- the port of the other nodes ---


def test_garbage_on_the_peer_port_is_cut_off_unanswered(cluster: TestCluster) -> None:
    node = cluster.nodes[1]
    for noise in (b"PING\r\n" * 10, b"\xff" * 5000, b"GET / HTTP/1.1\r\n\r\n", b"RKV2" + b"x" * 64):
        with socket.create_connection(("127.0.0.1", node.peer_port), 5) as raw:
            raw.sendall(noise)
            try:
                assert raw.recv(1000) == b""
            except ConnectionResetError:
                pass
    assert all(node.answers() for node in cluster.nodes)
    assert cluster.nodes[1].info()["peers_connected"] == "2"


def test_a_peer_with_a_wrong_secret_is_refused(cluster: TestCluster) -> None:
    node = cluster.nodes[1]
    shake = Handshake(b"wrong", dialer=True)
    with socket.create_connection(("127.0.0.1", node.peer_port), 5) as raw:
        raw.sendall(shake.take_output())
        read_exactly(raw, 64)
        raw.sendall(bytes(32) + b"\x10\0\0\0" + bytes(100))
        try:
            assert raw.recv(1000) == b""
        except ConnectionResetError:
            pass
    wait_until(lambda: "wrong cluster secret" in node.log(), "it is logged")
    assert node.info()["peers_connected"] == "2"


def test_random_bytes_on_every_port_break_only_their_own_connection(cluster: TestCluster) -> None:
    chance = random.Random(2)
    node = cluster.nodes[0]
    with node.client() as bystander:
        bystander.set("kept", "value")
        for number in range(150):
            port = (node.port, node.cluster_port, node.peer_port)[number % 3]
            start = chance.choice((b"", b"RKV1", b"*3\r\n$3\r\nSET\r\n", b"\x00\x00\x00\x80"))
            with socket.create_connection(("127.0.0.1", port), 5) as raw, suppress(ConnectionError):
                raw.sendall(start + chance.randbytes(chance.randrange(3000)))
                raw.shutdown(socket.SHUT_WR)
                while raw.recv(65536):
                    pass
        assert bystander.get("kept") == b"value"
    assert all(other.info()["peers_connected"] == "2" for other in cluster.nodes)


def test_a_node_that_sends_garbage_loses_its_link_and_stops_nobody(cluster: TestCluster) -> None:
    """It knows the secret and its messages check, but no node in order says them: the link ends with one log line."""
    node = cluster.nodes[1]
    garbage: list[Any] = [
        [[0, 0, "term"]], [[0, 99, 1, 0, 0, 0, 1.0, []]], [[0, -1]], [[77, 0]], [5], [[]], [[20, 1, 1, -1, b"\xff"]],
        [[21, 0, 1, 0, b"x"]], [[23, 0, 1, 7, None]], [[8, 0, 1, 0, 0, 0, "no bytes"]], {"a": 1}, b"x",
    ]  # fmt: skip
    for messages in garbage:
        said_before = complaints(node)
        pose(node, "n1", messages)
        wait_until(lambda said=said_before: complaints(node) > said, f"{messages} is noticed")
        assert node.running
    wait_until(lambda: all(other.info()["peers_connected"] == "2" for other in cluster.nodes), "the real n1 is back")
    cluster.wait_ready()
    cluster.wait_home()


def frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "little") + crc32(payload).to_bytes(4, "little") + payload


def complaints(node: NodeProcess) -> int:
    return node.log().count("peer_link_broken")


def pose(node: NodeProcess, name: str, messages: Any) -> None:
    """Says `messages` to `node` on a link that it takes for that of node `name`, until it has had enough."""
    config = load(node.directory / "respkv.toml", {})
    topology = Topology.from_config(config)
    shake = Handshake(config.cluster.secret.encode(), dialer=True)
    with socket.create_connection(("127.0.0.1", node.peer_port), 5) as raw, suppress(ConnectionError):
        raw.sendall(shake.take_output())
        shake.feed(read_exactly(raw, 64))
        agreement = f"election-timeout-ms={config.election_timeout_ms}"
        hello = [HELLO, name, topology.cluster_id, topology.fingerprint, agreement]
        raw.sendall(shake.take_output() + frame(encode([hello])) + frame(encode(messages)))
        while raw.recv(65536):
            pass


@contextmanager
def flooded(nodes: Sequence[NodeProcess], count: int) -> Iterator[None]:
    """`count` strangers at the peer port of each node, who come back as soon as they are thrown out."""
    over = threading.Event()
    strangers: dict[socket.socket, int] = {}

    def come(port: int) -> None:
        with suppress(OSError):
            raw = socket.create_connection(("127.0.0.1", port), 1)
            raw.sendall(b"RKV1" + bytes(10))
            raw.setblocking(False)
            strangers[raw] = port

    def come_back() -> None:
        while not over.wait(0.05):
            closed, _, _ = select.select(strangers, [], [], 0)
            for raw in closed:
                port = strangers.pop(raw)
                raw.close()
                come(port)

    for node in nodes:
        for _ in range(count):
            come(node.peer_port)
    thread = threading.Thread(target=come_back, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(5)
        for raw in strangers:
            raw.close()


def test_a_flood_of_half_open_handshakes_keeps_no_node_out(cluster: TestCluster) -> None:
    """A node that restarts still finds its peers while strangers occupy the peer ports of the others."""
    victim, *others = cluster.nodes  # it is the first node that dials the others
    with flooded(others, 250):
        victim.kill()
        victim.start()
        wait_until(lambda: victim.info()["peers_connected"] == "2", "the node has its peers", 10)
        assert all(node.answers() for node in others)
    cluster.wait_ready()
    cluster.wait_home()


def test_thousands_of_half_open_handshakes_take_bounded_memory_and_no_lead(cluster: TestCluster) -> None:
    """They come faster than they time out: few are kept, the links stay, nobody is elected, clients are served."""
    node = cluster.nodes[1]
    before, terms = node.memory_bytes(), {shard: fields["term"] for shard, fields in node.shards().items()}
    half = Handshake(b"no matter", dialer=True).take_output()
    with ExitStack() as stack, node.client() as client:
        for number in range(5000):
            raw = stack.enter_context(closing(socket.create_connection(("127.0.0.1", node.peer_port), 5)))
            with suppress(ConnectionError):
                raw.sendall((b"", half[:20], half, b"RKV2" + bytes(60))[number % 4])
            if number % 500 == 0:
                assert client.set("key", number)
                assert client.get("key") == b"%d" % number
            if number % 1000 == 999:
                stack.pop_all().close()
        assert node.memory_bytes() - before < 48 << 20
        assert node.info()["peers_connected"] == "2"
    assert {shard: fields["term"] for shard, fields in node.shards().items()} == terms
    assert node.log().count("peer_refused") < 500, "of many only some are logged"
