"""CONFIG, INFO, COMMAND, DEBUG and TIME against a running node."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import hiredis
import pytest

from respkv.client import parse_info, parse_shards
from respkv.commands.describe import children
from respkv.commands.table import all_specs
from tests.unit.running import Wire, eventually, respkv


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with respkv(tmp_path_factory.mktemp("node"), "--cluster-shards", "4") as port:
        yield port


@pytest.fixture
def wire(port: int) -> Iterator[Wire]:
    with Wire(port) as wire:
        wire("FLUSHALL")
        yield wire


def error(reply: object) -> str:
    assert isinstance(reply, hiredis.ReplyError), reply
    return str(reply)


def pairs(reply: object) -> dict[bytes, bytes]:
    assert isinstance(reply, list)
    return dict(zip(reply[::2], reply[1::2], strict=True))


def info(wire: Wire, *sections: str) -> dict[str, str]:
    return parse_info(bytes(wire(" ".join(["INFO", *sections]))).decode())  # type: ignore[call-overload]


# --- CONFIG ---


def test_config_get_takes_patterns_in_any_case_and_names_each_option_once(wire: Wire) -> None:
    found = pairs(wire("CONFIG GET MAXC* maxclients cluster-timeout-* nothing save"))
    assert found == {b"maxclients": b"10000", b"cluster-timeout-ms": b"5000", b"save": b""}
    assert pairs(wire("CONFIG GET MaxClients")) == {b"MaxClients": b"10000"}
    assert len(pairs(wire("CONFIG GET *"))) > 20


def test_config_set_takes_effect_at_once_and_all_or_nothing(wire: Wire, port: int) -> None:
    assert wire("CONFIG SET timeout 100 CLUSTER-TIMEOUT-MS 4000") == b"OK"
    assert pairs(wire("CONFIG GET timeout cluster-timeout-ms")) == {b"timeout": b"100", b"cluster-timeout-ms": b"4000"}
    for rest in ("nonsense 1", "port 1", "maxclients none", "timeout 6"):
        assert error(wire(f"CONFIG SET timeout 5 {rest}")).startswith("ERR ")
        assert pairs(wire("CONFIG GET timeout")) == {b"timeout": b"100"}
    wire("CONFIG SET timeout 0 cluster-timeout-ms 5000")
    before = info(wire, "clients")["connected_clients"]
    assert wire(f"CONFIG SET maxclients {before}") == b"OK"
    with Wire(port) as other:
        assert other.rest() == b"-ERR max number of clients reached\r\n"
    assert wire("CONFIG SET maxclients 10000") == b"OK"


def test_config_set_says_what_is_wrong(wire: Wire) -> None:
    unknown = "ERR Unknown option or number of arguments for CONFIG SET - 'nonsense'"
    assert error(wire("CONFIG SET nonsense 1")) == unknown
    failed = "ERR CONFIG SET failed (possibly related to argument "
    assert error(wire("CONFIG SET port 1")) == failed + "'port') - can't set immutable config"
    assert error(wire("CONFIG SET timeout 1 Timeout 2")) == failed + "'Timeout') - duplicate parameter"
    wrong = "argument couldn't be parsed into an integer"
    assert error(wire("CONFIG SET maxclients none")) == failed + f"'maxclients') - {wrong}"


def test_config_resetstat(wire: Wire) -> None:
    wire("GET nothing")
    assert int(info(wire, "stats")["keyspace_misses"]) > 0
    assert wire("CONFIG RESETSTAT") == b"OK"
    assert int(info(wire, "stats")["keyspace_misses"]) == 0


# --- INFO ---


def test_info_has_the_sections_asked_for(wire: Wire) -> None:
    def titles(*sections: str) -> list[str]:
        text = bytes(wire(" ".join(["INFO", *sections]))).decode()  # type: ignore[call-overload]
        return [line[2:] for line in text.split("\r\n") if line.startswith("# ")]

    assert titles("raft") == ["Raft"]
    assert titles("CPU", "server", "cpu", "nonsense") == ["Server", "CPU"]
    assert titles("nonsense") == []
    default = titles()
    assert default == titles("default")
    assert {"Server", "Clients", "Memory", "Persistence", "Stats", "Replication", "Cluster", "Keyspace"} < set(default)
    assert {"Raft", "Respkv"} < set(default)
    assert "Commandstats" not in default
    assert set(titles("all")) == set(titles("everything")) == {*default, "Commandstats", "Latencystats"}


def test_info_is_verbatim_text_with_a_blank_line_between_sections(wire: Wire) -> None:
    wire("HELLO 3")
    assert wire.raw("INFO cluster") == b"=34\r\ntxt:# Cluster\r\ncluster_enabled:0\r\n\r\n"
    assert wire.raw("INFO nonsense") == b"=4\r\ntxt:\r\n"
    assert b"\r\n\r\n# Keyspace" in wire.raw("INFO cluster keyspace")


def test_info_tells_the_view(port: int) -> None:
    for door, enabled, mode in ((port, "0", "standalone"), (port + 1000, "1", "cluster")):
        with Wire(door) as wire:
            found = info(wire)
            assert (found["cluster_enabled"], found["redis_mode"], found["tcp_port"]) == (enabled, mode, str(door))


def test_info_raft_has_a_line_for_each_shard(wire: Wire) -> None:
    for i in range(50):
        wire(f"SET key:{i} value")
    shards = parse_shards(info(wire, "raft"))
    assert list(shards) == [0, 1, 2, 3]
    for fields in shards.values():
        assert list(fields)[:5] == ["role", "term", "leader", "commit", "applied"]
        assert (fields["role"], fields["leader"]) == ("leader", "n1")
        assert int(fields["applied"]) == int(fields["commit"]) <= int(fields["last"])
    assert sum(int(fields["keys"]) for fields in shards.values()) == 50


def test_info_keyspace_counts_live_keys(wire: Wire) -> None:
    assert "db0" not in info(wire, "keyspace")
    wire("SET stays 1")
    wire("SET leaves 1 PX 100000")
    wire("SET gone 1 PX 1")
    time.sleep(0.01)
    keys, expires, ttl = info(wire, "keyspace")["db0"].split(",")
    assert keys == "keys=2"
    assert expires in ("expires=1", "expires=2")  # until `gone` is removed
    assert 40_000 < int(ttl.removeprefix("avg_ttl=")) <= 100_000


def test_info_commandstats_counts_every_call_however_it_was_run(wire: Wire) -> None:
    wire("CONFIG RESETSTAT")
    for command in ("SET a 1", "SET a 2 EX 100", "GET a", "GET b", "get a", "STRLEN a", "CLIENT ID"):
        wire(command)
    found = info(wire, "commandstats")
    for name, calls in (("strlen", 1), ("client|id", 1), ("set", 2), ("get", 3)):
        pattern = rf"calls={calls},usec=[1-9]\d*,usec_per_call=[\d.]+,rejected_calls=0,failed_calls=0"
        assert re.fullmatch(pattern, found[f"cmdstat_{name}"]), name


def test_info_commandstats_counts_each_get_of_a_pipeline_once_and_tells_the_time_they_took(wire: Wire) -> None:
    wire("SET expires 1 EX 100")
    wire("CONFIG RESETSTAT")
    gets = [f"GET k{number}" for number in range(19)]
    wire.send(*gets, "GET expires")  # which goes the long way
    assert [wire.reply() for _ in range(20)] == [None] * 19 + [b"1"]
    time.sleep(0.05)  # until a sample is wanted
    for _ in range(3):
        wire.send("SET {other}key 1", *gets)
        assert [wire.reply() for _ in range(20)] == [b"OK"] + [None] * 19
    found = info(wire, "commandstats")["cmdstat_get"]
    assert re.match(r"calls=77,usec=[1-9]", found), found
    stats = info(wire, "stats")
    assert (stats["keyspace_hits"], stats["keyspace_misses"]) == ("1", "76")


def test_info_commandstats_tells_what_was_refused_from_what_failed(wire: Wire) -> None:
    wire("CONFIG RESETSTAT")
    for command in ("SET k word", "INCR k", "INCR k", "STRLEN", "STRLEN k", "SELECT a", "NONSENSE"):
        wire(command)
    found = info(wire, "commandstats")
    for name, calls, rejected, failed in (("incr", 2, 0, 2), ("strlen", 1, 1, 0), ("select", 1, 0, 1)):
        fields = dict(field.split("=") for field in found[f"cmdstat_{name}"].split(","))
        counted = (fields["calls"], fields["rejected_calls"], fields["failed_calls"])
        assert counted == (str(calls), str(rejected), str(failed)), name
    assert info(wire, "errorstats") == {"errorstat_ERR": "count=5"}


def test_info_latencystats_shows_the_percentiles_that_are_wanted(wire: Wire) -> None:
    wire("CONFIG RESETSTAT")
    for command in ("SET k v", "GET k", "INCR n"):
        wire(command)
    for name in ("set", "get", "incr"):
        shown = info(wire, "latencystats")[f"latency_percentiles_usec_{name}"]
        assert re.fullmatch(r"p50=\d+\.\d{3},p99=\d+\.\d{3},p99\.9=\d+\.\d{3}", shown), name
    assert wire([b"CONFIG", b"SET", b"latency-tracking-info-percentiles", b"0.0 100.0"]) == b"OK"
    assert info(wire, "latencystats")["latency_percentiles_usec_get"].startswith("p0=")
    assert wire("CONFIG SET latency-tracking no") == b"OK"
    assert info(wire, "latencystats") == {}
    wire("CONFIG SET latency-tracking yes")
    assert wire([b"CONFIG", b"SET", b"latency-tracking-info-percentiles", b"50 99 99.9"]) == b"OK"


def test_info_counts_hits_and_misses_however_a_key_was_read(wire: Wire) -> None:
    wire("MSET a 1 b 2")
    wire("SET c 3 EX 100")
    wire("CONFIG RESETSTAT")
    for command in ("GET a", "GET nothing", "GET c", "MGET a b nothing", "STRLEN a", "TTL nothing", "GETDEL b"):
        wire(command)
    stats = info(wire, "stats")
    assert (stats["keyspace_hits"], stats["keyspace_misses"]) == ("6", "3")


def test_resetstat_begins_anew_with_bytes_however_long_ago_they_came(wire: Wire) -> None:
    wire([b"SET", b"k", b"v" * 1_000_000])
    wire("CONFIG RESETSTAT")
    assert int(info(wire, "stats")["total_net_input_bytes"]) < 10_000


def test_info_tells_how_many_bytes_went_to_and_came_from_clients(wire: Wire, port: int) -> None:
    def total() -> tuple[int, int]:
        stats = info(wire, "stats")
        return int(stats["total_net_input_bytes"]), int(stats["total_net_output_bytes"])

    before = total()
    with Wire(port) as other:
        other([b"SET", b"k", b"v" * 50_000])
        other("GET k")
    eventually(lambda: all(new - old > 50_000 for new, old in zip(total(), before, strict=True)))


def test_info_counts_what_is_read_from_and_written_to_sockets_and_not_commands(wire: Wire) -> None:
    def counted() -> tuple[int, ...]:
        stats = info(wire, "stats")
        return tuple(int(stats[f"total_{what}_processed"]) for what in ("reads", "writes", "commands"))

    before = counted()
    for _ in range(10):
        wire("PING")
    lone = tuple(new - old for new, old in zip(counted(), before, strict=True))
    assert lone == (11, 11, 11)
    before = counted()
    wire.send(*["PING"] * 200)
    for _ in range(200):
        wire.reply()
    reads, writes, commands = (new - old for new, old in zip(counted(), before, strict=True))
    assert commands == 201
    assert 2 <= reads < 100
    assert 2 <= writes < 100


def test_info_tells_how_much_is_left_of_what_has_expired_and_whether_a_removal_is_enough(wire: Wire) -> None:
    wire("DEBUG SET-ACTIVE-EXPIRE 0")
    for number in range(300):
        wire(f"SET {{t}}{number} v PX 1")
    for number in range(100):
        wire(f"SET {{t}}stays:{number} v EX 1000")
    time.sleep(0.01)
    wire("CONFIG RESETSTAT")
    stats = info(wire, "stats")
    assert (stats["expired_stale_perc"], stats["expired_keys"]) == ("75.00", "0")
    assert stats["expired_time_cap_reached_count"] == "0"
    wire("DEBUG SET-ACTIVE-EXPIRE 1")
    eventually(lambda: info(wire, "stats")["expired_stale_perc"] == "0.00")
    stats = info(wire, "stats")
    assert (stats["expired_keys"], stats["expired_time_cap_reached_count"]) == ("300", "1")
    wire("CONFIG RESETSTAT")
    assert info(wire, "stats")["expired_keys"] == "0"


def test_info_errorstats_counts_by_code(wire: Wire) -> None:
    wire("CONFIG RESETSTAT")
    for command in ("NONSENSE", "GET", "SELECT 1"):
        wire(command)
    assert info(wire, "errorstats") == {"errorstat_ERR": "count=3"}
    assert info(wire, "stats")["total_error_replies"] == "3"


def test_info_stats_tells_the_rate_of_commands(wire: Wire) -> None:
    def busy() -> bool:
        for _ in range(20):
            wire("PING")
        return int(info(wire, "stats")["instantaneous_ops_per_sec"]) > 50

    eventually(busy)


# --- COMMAND ---


def test_command_tells_the_whole_table(wire: Wire) -> None:
    import respkv.server.commands  # noqa: F401  (fills the table of this process)

    names = sorted(spec.name.encode() for spec in all_specs())
    with_children = [each.name.encode() for spec in all_specs() for each in (spec, *children(spec))]
    every = wire("COMMAND")
    assert isinstance(every, list)
    assert sorted(entry[0] for entry in every) == names
    assert sorted(wire("COMMAND LIST")) == sorted(with_children)  # type: ignore[call-overload]
    assert wire("COMMAND COUNT") == len(names)
    assert sorted(pairs(wire("COMMAND DOCS"))) == names
    assert wire("COMMAND INFO") == every


def test_command_of_single_names(wire: Wire) -> None:
    found = wire("COMMAND INFO Get nonsense client|LIST")
    assert isinstance(found, list)
    assert [entry and entry[0] for entry in found] == [b"get", None, b"client|list"]
    docs = wire("COMMAND DOCS GET nonsense config|get")
    assert list(pairs(docs)) == [b"get", b"config|get"]
    wire("MULTI")
    wire("COMMAND DOCS GET nonsense config|get")
    assert wire("EXEC") == [docs]
    assert wire("COMMAND GETKEYS MSET a 1 b 2") == [b"a", b"b"]
    with_flags = wire("COMMAND GETKEYSANDFLAGS GET a")
    assert isinstance(with_flags, list)
    assert [(key, sorted(flags)) for key, flags in with_flags] == [(b"a", [b"RO", b"access"])]
    assert wire("COMMAND LIST FILTERBY PATTERN CLIENT|K*") == [b"client|kill"]
    assert wire("COMMAND LIST FILTERBY MODULE any") == []


def test_every_help_ends_with_help(wire: Wire) -> None:
    for container in (b"CLIENT", b"CLUSTER", b"COMMAND", b"CONFIG", b"DEBUG"):
        lines = wire([container, b"help"])
        assert isinstance(lines, list)
        assert lines[0] == container + b" <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
        assert lines[-2:] == [b"HELP", b"    Prints this help."]


# --- DEBUG, TIME ---


def digest(wire: Wire, rest: str = "") -> int:
    reply = wire("DEBUG DIGEST" + rest)
    assert isinstance(reply, bytes), reply
    assert len(reply) == 40
    return int(reply, 16)


def test_the_digest_is_that_of_the_live_keys(wire: Wire) -> None:
    assert digest(wire) == 0
    wire.raw([b"MSET", *(word for i in range(2000) for word in (b"key:%d" % i, b"%d" % i))])
    first = digest(wire)
    assert first not in (0, digest(wire, " SHARD 0"))
    combined = 0
    for shard in range(4):
        combined ^= digest(wire, f" SHARD {shard}")
    assert combined == first
    wire("SET key:0 other")
    assert digest(wire) != first
    wire("SET key:0 0")
    assert digest(wire) == first
    wire("SET leaves 1 PX 1")
    time.sleep(0.01)
    assert digest(wire) == first


def test_debug_refuses_what_it_does_not_know(wire: Wire) -> None:
    assert error(wire("DEBUG DIGEST SHARD 9")) == "ERR this node holds no replica of shard 9"
    unknown = "ERR unknown subcommand or wrong number of arguments for 'JMAP'. Try DEBUG HELP."
    assert error(wire("DEBUG JMAP")) == unknown


def test_debug_object_looks_at_one_key(wire: Wire) -> None:
    assert error(wire("DEBUG OBJECT nothing")) == "ERR no such key"
    for value, encoding in (("12", "int"), ("word", "embstr"), ("x" * 45, "raw")):
        wire(f"SET key {value}")
        assert f"encoding:{encoding} serializedlength:{len(value)} ".encode() in bytes(wire("DEBUG OBJECT key"))  # type: ignore[call-overload]


def test_time_is_now(wire: Wire) -> None:
    seconds, microseconds = wire("TIME")  # type: ignore[misc]
    assert abs(int(seconds) + int(microseconds) / 1e6 - time.time()) < 60
    assert 0 <= int(microseconds) < 1_000_000
