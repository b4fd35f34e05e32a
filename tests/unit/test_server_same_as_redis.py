"""The same commands to a real redis-server and to a node: the bytes of every reply must be equal, in RESP2 and RESP3.

Skipped where `redis-server` is not in PATH.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from respkv.commands.describe import children
from respkv.commands.table import all_specs
from respkv.server.commands.cluster import REFUSED
from tests.unit.running import Wire, eventually, redis, respkv

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not in PATH")

Ports = tuple[int, int]  # redis-server, respkv

SAME = """
PING
PING text
PING a b
ECHO
ECHO text
SELECT 0
SELECT a
SELECT 16
SELECT -1
SELECT 99999999999
HELLO a
HELLO 1
HELLO 4
HELLO 3 nonsense
HELLO 3 AUTH default
HELLO 3 AUTH nobody x
HELLO 3 SETNAME
AUTH x
AUTH default x
AUTH nobody x
AUTH a b c
AUTH
CLIENT
CLIENT ID x
CLIENT nonsense
CLIENT GETNAME
CLIENT SETNAME me
CLIENT GETNAME
CLIENT SETNAME a\x80b
CLIENT LIST ID a
CLIENT LIST ID 999999
CLIENT LIST ID 0
CLIENT LIST ID
CLIENT LIST TYPE nonsense
CLIENT LIST TYPE
CLIENT LIST TYPE slave
CLIENT LIST TYPE PubSub
CLIENT LIST nonsense
CLIENT KILL 1.1.1.1:1
CLIENT KILL ID
CLIENT KILL ID 0
CLIENT KILL ID a
CLIENT KILL ID 999999
CLIENT KILL TYPE nonsense
CLIENT KILL TYPE nonsense x
CLIENT KILL TYPE pubsub
CLIENT KILL ID 999999 x
CLIENT KILL USER nobody
CLIENT KILL USER default ID 999999
CLIENT KILL LADDR 1.1.1.1:1
CLIENT KILL SKIPME nonsense
CLIENT KILL SKIPME yes nonsense
CLIENT KILL nonsense x
CLIENT KILL nonsense x y
CLIENT NO-EVICT nonsense
CLIENT NO-EVICT on
CLIENT NO-EVICT OFF
CONFIG
CONFIG GET
CONFIG GET SAVE
CONFIG GET maxclients MAXCLIENTS
CONFIG GET nothing
CONFIG SET nonsense 1
CONFIG SET maxclients
CONFIG SET maxclients 1 nonsense
CONFIG SET maxclients 1 MaxClients 2
CONFIG SET maxclients 9000 timeout 0
CONFIG SET maxclients 10000
CONFIG SET databases 3
CONFIG RESETSTAT
CONFIG nonsense
CONFIG SET daemonize yes
CONFIG SET client-output-buffer-limit a
CONFIG SET client-output-buffer-limit nonsense
CONFIG SET maxmemory-clients 200%
CONFIG SET latency-tracking maybe
CONFIG GET client-output-buffer-limit
CONFIG GET latency-tracking-info-percentiles
CONFIG GET maxmemory-policy
CONFIG GET slowlog-max-len
CONFIG GET list-max-listpack-size
CONFIG SET maxmemory 10mb maxmemory-policy allkeys-lru save
CONFIG SET maxmemory 0 maxmemory-policy noeviction hz 10
CONFIG GET maxmemory
CONFIG REWRITE
CONFIG REWRITE x
SLOWLOG
SLOWLOG RESET
SLOWLOG RESET x
SLOWLOG LEN
SLOWLOG LEN x
SLOWLOG GET
SLOWLOG GET 0
SLOWLOG GET -1
SLOWLOG GET -2
SLOWLOG GET a
SLOWLOG GET 1 2
SLOWLOG HELP
SLOWLOG nonsense
LATENCY
LATENCY RESET
LATENCY RESET nothing
LATENCY LATEST
LATENCY LATEST x
LATENCY HISTORY nothing
LATENCY HISTORY
LATENCY GRAPH nothing
LATENCY HISTOGRAM nothing
LATENCY HELP
LATENCY HELP x
LATENCY nonsense
DEBUG PROTOCOL string
DEBUG PROTOCOL integer
DEBUG PROTOCOL double
DEBUG PROTOCOL bignum
DEBUG PROTOCOL null
DEBUG PROTOCOL array
DEBUG PROTOCOL map
DEBUG PROTOCOL verbatim
DEBUG PROTOCOL attrib
DEBUG PROTOCOL push
DEBUG PROTOCOL true
DEBUG PROTOCOL nonsense
DEBUG ERROR MINE
DEBUG SLEEP 0
DEBUG SLEEP
DEBUG SET-ACTIVE-EXPIRE 0
DEBUG SET-ACTIVE-EXPIRE 1
DEBUG RELOAD
SAVE
SAVE x
BGSAVE nonsense
LASTSAVE x
REPLICAOF NO ONE
REPLICAOF
SWAPDB 0 0
SWAPDB a 0
SWAPDB 0 a
SWAPDB 0 99
SWAPDB 0
MODULE
MODULE LIST
MODULE LIST x
MODULE nonsense
FUNCTION
FUNCTION LIST
FUNCTION LIST nonsense
FUNCTION FLUSH
FUNCTION FLUSH nonsense
FUNCTION nonsense
ACL SETUSER sam on nopass skip-sanitize-payload >one +@all -@dangerous ~k* %R~r* &c* (+get ~*)
ACL GETUSER sam
ACL LIST
ACL SETUSER ann reset
ACL GETUSER ann
ACL LIST
ACL USERS
ACL DELUSER ann sam
ACL GETUSER default
COMMAND LIST FILTERBY PATTERN slowlog|ge*
COMMAND GETKEYS swapdb 0 0
COMMAND nonsense
COMMAND COUNT x
COMMAND INFO nonsense
COMMAND DOCS nonsense
COMMAND GETKEYS get
COMMAND GETKEYS get a
COMMAND GETKEYS get a b
COMMAND GETKEYS mset a 1 b 2
COMMAND GETKEYS ping x
COMMAND GETKEYS nonsense x
COMMAND GETKEYS memory|usage x
COMMAND GETKEYS memory usage x
COMMAND GETKEYS ssubscribe x
COMMAND GETKEYSANDFLAGS spublish a b
COMMAND GETKEYS config get x
COMMAND GETKEYSANDFLAGS ping x
COMMAND LIST FILTERBY ACLCAT nonsense
COMMAND LIST FILTERBY MODULE nonsense
COMMAND LIST FILTERBY PATTERN pin?
COMMAND LIST FILTERBY nonsense x
COMMAND LIST FILTERBY ACLCAT
COMMAND LIST nonsense
COMMAND HELP
CONFIG HELP x
INFO nonsense
INFO CLUSTER nonsense cluster
TIME x
ROLE x
SHUTDOWN nonsense
SHUTDOWN SAVE NOSAVE
SHUTDOWN NOW ABORT
SHUTDOWN ABORT
DEBUG
DEBUG DIGEST
DEBUG OBJECT
DEBUG OBJECT nothing
DEBUG nonsense x
READONLY
READWRITE
ASKING
MOVE nothing 0
MOVE nothing 99
MOVE nothing -1
MOVE nothing a
MOVE nothing 99999999999
MOVE nothing
OBJECT
OBJECT HELP
OBJECT HELP x
OBJECT nonsense
MEMORY
MEMORY HELP
MEMORY PURGE
MEMORY PURGE x
MEMORY USAGE
MEMORY USAGE nothing
MEMORY nonsense
COMMAND GETKEYS object encoding a
COMMAND GETKEYS memory usage a
COMMAND GETKEYS object help
COMMAND GETKEYS sort a by b* store c
COMMAND GETKEYS bitop and t a b
WAIT
WAIT 0
WAIT a 0
WAIT 0 a
WAIT 0 -1
WAIT 0 0
WAIT -1 0
WAIT 1 5
RESET x
RESET
nonsense a b
"""

SAME_IN_CLUSTER = """
SELECT 0
SELECT 1
SELECT a
INFO cluster
READONLY
READWRITE
ASKING
CLUSTER
CLUSTER nonsense
CLUSTER INFO x
CLUSTER KEYSLOT a{b}c
CLUSTER KEYSLOT
CLUSTER COUNTKEYSINSLOT a
CLUSTER COUNTKEYSINSLOT -1
CLUSTER COUNTKEYSINSLOT 16384
CLUSTER COUNTKEYSINSLOT 1
CLUSTER GETKEYSINSLOT a 1
CLUSTER GETKEYSINSLOT 1 a
CLUSTER GETKEYSINSLOT 1 -1
CLUSTER GETKEYSINSLOT 16384 1
CLUSTER GETKEYSINSLOT 1 1
CLUSTER REPLICAS nonsense
CLUSTER LINKS
CLUSTER SLAVES nonsense
CLUSTER COUNT-FAILURE-REPORTS nonsense
SWAPDB 0 1
REPLICAOF NO ONE
GET nothing
DBSIZE
MOVE nothing 0
MOVE nothing a
RENAME a b
COPY a b
BITOP AND a b
LCS a b
SORT a STORE b
OBJECT ENCODING nothing
WAIT 0 0
"""


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    with redis(tmp_path_factory.mktemp("redis")) as theirs, respkv(tmp_path_factory.mktemp("node")) as ours:
        yield theirs, ours


@pytest.fixture(scope="module")
def cluster_ports(ports: Ports, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    with redis(tmp_path_factory.mktemp("cluster"), "--cluster-enabled", "yes") as theirs:
        with Wire(theirs) as wire:
            wire("CLUSTER ADDSLOTSRANGE 0 16383")
            eventually(lambda: b"cluster_state:ok" in wire.raw("CLUSTER INFO"))
        yield theirs, ports[1] + 1000


def lines(text: str) -> list[str]:
    return text.strip().splitlines()


def assert_same(ports: Ports, commands: list[str], protocol: int) -> None:
    different = []
    with ExitStack() as stack:
        theirs, ours = (stack.enter_context(Wire(port)) for port in ports)
        for command in commands:
            for wire in (theirs, ours):
                wire.raw(f"HELLO {protocol}")
            args = command.encode("latin-1").split()
            replies = ours.raw(args), theirs.raw(args)
            if replies[0] != replies[1]:
                different.append((command, *replies))
    assert different == []


@pytest.mark.parametrize("protocol", [2, 3])
def test_replies_are_redis_own(ports: Ports, protocol: int) -> None:
    assert_same(ports, lines(SAME), protocol)


@pytest.mark.parametrize("protocol", [2, 3])
def test_replies_are_those_of_redis_cluster(cluster_ports: Ports, protocol: int) -> None:
    assert_same(cluster_ports, lines(SAME_IN_CLUSTER), protocol)


def test_logging_in_is_answered_as_redis_answers(ports: Ports) -> None:
    with ExitStack() as stack:
        admins = [stack.enter_context(Wire(port)) for port in ports]
        for admin in admins:
            assert admin("CONFIG SET requirepass secret") == b"OK"
        theirs, ours = (stack.enter_context(Wire(port)) for port in ports)
        for command in lines("""
            PING
            HELLO
            HELLO 3
            HELLO 9
            HELLO 3 AUTH default wrong
            AUTH wrong
            AUTH nobody secret
            AUTH default wrong
            RESET
            CLIENT ID
            CLIENT nonsense
            nonsense
        """):
            assert str(ours(command)) == str(theirs(command)), command
        assert ours("AUTH secret") == theirs("AUTH secret") == b"OK"
        for admin in admins:
            assert admin([b"CONFIG", b"SET", b"requirepass", b""]) == b"OK"


@pytest.mark.parametrize(
    "line", ["get a", "copy a b", "rename a b", "renamenx a b", "bitop and t a b", "sort_ro a", "sort a store b",
             "mset a 1 b 2", "object encoding a"]
)  # fmt: skip
def test_what_is_done_with_each_key_is_told_as_in_redis(ports: Ports, line: str) -> None:
    found = []
    for port in ports:
        with Wire(port) as wire:
            found.append(wire(f"COMMAND GETKEYSANDFLAGS {line}"))
    assert found[0] == found[1]


def test_commands_are_declared_as_in_redis(ports: Ports) -> None:
    """Arity, flags, keys, categories and tips; for containers the subcommands that both have."""
    with Wire(ports[0]) as theirs, Wire(ports[1]) as ours:
        names = [spec.name.encode() for spec in all_specs()]
        own, their = (wire([b"COMMAND", b"INFO", *names]) for wire in (ours, theirs))
    assert isinstance(own, list)
    assert isinstance(their, list)
    different = []
    for mine, redis_own in zip(own, their, strict=True):
        redis_has = {entry[0]: entry for entry in redis_own[9]}
        refused = {b"cluster|" + name.lower().encode() for name in REFUSED}
        pairs = [(entry, redis_has.get(entry[0])) for entry in mine[9] if entry[0] not in refused]
        for got, wanted in [(mine, redis_own), *pairs]:
            if wanted is None:
                assert got[0] in {b"client|setinfo", b"client|no-touch"}  # of Redis 7.2
            elif declared(got) != declared(wanted):
                different.append((declared(got), declared(wanted)))
    assert different == []


@pytest.mark.parametrize("protocol", [2, 3])
def test_command_info_is_redis_own_byte_for_byte(ports: Ports, protocol: int) -> None:
    """Of a container up to its first subcommand; of other commands all."""
    with Wire(ports[0]) as theirs, Wire(ports[1]) as ours:
        names = [spec.name for each in all_specs() for spec in (each, *children(each))]
        different = []
        for wire in (theirs, ours):
            wire.raw(f"HELLO {protocol}")
        for name in names:
            own, redis_own = (own_entry(wire.raw(f"COMMAND INFO {name}")) for wire in (ours, theirs))
            refused = name.startswith("cluster|") and name.removeprefix("cluster|").upper() in REFUSED
            if own != redis_own and not refused and name not in {"client|setinfo", "client|no-touch"}:
                different.append((own, redis_own))
    assert different == []


def own_entry(reply: bytes) -> bytes:
    """The first entry, without its subcommands and their number."""
    entry, subcommand, _ = reply.removeprefix(b"*1\r\n*10\r\n").partition(b"*10\r\n")
    return re.sub(rb"\d+\r\n$", b"", entry) if subcommand else entry


def declared(entry: list[Any]) -> list[Any]:
    return [*entry[:7], sorted(entry[7])]
