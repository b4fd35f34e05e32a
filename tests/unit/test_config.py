"""The configuration: which source counts, what is refused and how, and that its example says the truth."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from respkv.config import ClusterNode, Config, ConfigError, Live, load, options, parameters
from respkv.config.redis import ALIASES

CONF = Path(__file__).parents[2] / "conf"


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "respkv.toml"
    file.write_text(text)
    return file


def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(tmp_path: Path) -> None:
    file = written(tmp_path, "port = 1001\nmaxclients = 1002\ntimeout = 1003\n")
    environ = {"RESPKV_PORT": "2001", "RESPKV_MAXCLIENTS": "2002", "PATH": "/bin"}
    config = load(file, environ, {"port": "3001"})
    assert (config.port, config.maxclients, config.timeout_s, config.tcp_keepalive_s) == (3001, 2002, 1003, 300)


def test_alone_a_node_has_three_shards_on_itself() -> None:
    config = load(environ={})
    assert config.cluster.nodes == (ClusterNode("n1", "127.0.0.1", 6379, 7379, 16379),)
    assert (config.cluster.shards, config.cluster.replicas) == (3, 1)
    assert (config.port, config.cluster_port, config.peer_port) == (6379, 7379, 16379)
    assert config.dir == Path("respkv-data")


def test_the_other_ports_follow_the_first_unless_they_are_given() -> None:
    config = load(environ={}, flags={"port": "7001", "peer-port": "9999"})
    assert (config.port, config.cluster_port, config.peer_port) == (7001, 8001, 9999)
    assert config.self_node == ClusterNode("n1", "127.0.0.1", 7001, 8001, 9999)


def test_a_node_that_listens_everywhere_is_reached_at_an_address() -> None:
    config = load(environ={}, flags={"bind": "0.0.0.0"})
    assert config.bind_addresses == ("0.0.0.0",)
    assert config.self_node.host == "127.0.0.1"


def test_a_node_takes_its_addresses_from_its_entry() -> None:
    environ = {
        "RESPKV_NODE": "n2",
        "RESPKV_CLUSTER_NODES": "n1=10.0.0.1:7001, n2=[fe80::2]:7002",
        "RESPKV_CLUSTER_SECRET": "s",
        "RESPKV_CLUSTER_REPLICAS": "2",
    }
    config = load(environ=environ)
    assert (config.bind, config.port, config.cluster_port, config.peer_port) == ("fe80::2", 7002, 8002, 17002)
    assert load(environ=environ, flags={"bind": "::", "port": "5"}).port == 5
    assert load(environ=environ, flags={"bind": "::", "port": "5"}).self_node.port == 7002


def test_nodes_in_a_file_may_name_all_ports(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        'node = "b"\n[cluster]\nsecret = "s"\nshards = 8\n'
        '[[cluster.nodes]]\nid = "a"\nhost = "h"\nport = 1\n'
        '[[cluster.nodes]]\nid = "b"\nhost = "h"\nport = 2\ncluster-port = 30\npeer-port = 31\n',
    )
    cluster = load(file, {}).cluster
    assert cluster.nodes == (ClusterNode("a", "h", 1, 1001, 10001), ClusterNode("b", "h", 2, 30, 31))
    assert cluster.shards == 8


def test_relative_paths_in_a_file_are_relative_to_it(tmp_path: Path) -> None:
    file = written(tmp_path, 'dir = "."\nlog-file = "x.log"\n')
    assert load(file, {}).dir == tmp_path
    assert load(file, {}).log_file == tmp_path / "x.log"
    assert load(file, {}, {"dir": "elsewhere"}).dir == Path("elsewhere")


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("1048576", 1 << 20),
        ("2mb", 2 << 20),
        ("2M", 2_000_000),
        ("3gb", 3 << 30),
        ("1G", 10**9),
        ("4096kb", 4 << 20),
        ("4096KB", 4 << 20),
    ],
)
def test_sizes_take_the_units_of_redis(text: str, size_bytes: int) -> None:
    assert load(environ={}, flags={"client-query-buffer-limit": text}).client_query_buffer_bytes == size_bytes


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ({"prot": "1"}, "--prot: unknown option, did you mean --port?"),
        ({"xyzzy": "1"}, "--xyzzy: unknown option"),
        ({"port": "x"}, "--port: argument couldn't be parsed into an integer"),
        ({"port": "0"}, "--port: argument must be between 1 and 65535 inclusive"),
        ({"port": "60000"}, "port: port 60000 leaves no room for peer-port (70000); set peer-port"),
        ({"port": "7001", "peer-port": "7001"}, "port: ports must differ, not 7001, 8001 and 7001"),
        ({"metrics-port": "6379"}, "metrics-port: 6379 is already the port"),
        ({"appendfsync": "often"}, "--appendfsync: argument(s) must be one of the following: always, everysec, no"),
        ({"segment-bytes": "1tb"}, "--segment-bytes: argument must be a memory value"),
        ({"read-cache-bytes": ""}, "--read-cache-bytes: argument must be a memory value"),
        ({"segment-bytes": "4gb"}, "--segment-bytes: argument must be between 65536 and 2147483648 inclusive"),
        ({"merge-dead-ratio": "nan"}, "--merge-dead-ratio: must be a number from 0.05 to 0.95, not 'nan'"),
        ({"node": "a b"}, "--node: must be a name of letters, digits, '_', '.' and '-', at most 64, not 'a b'"),
        ({"bind": ""}, "--bind: must be one or more addresses separated by spaces, not ''"),
        ({"heartbeat-ms": "300"}, "heartbeat-ms: must be at most half of election-timeout-ms (500), not 300"),
        ({"cluster-replicas": "2"}, "cluster.replicas: 2 replicas need as many nodes, not 1"),
        ({"cluster-shards": "0"}, "--cluster-shards: argument must be between 1 and 100 inclusive"),
        ({"cluster-nodes": "n1:1"}, "--cluster-nodes: must be id=host:port,id=host:port,..., not 'n1:1'"),
        ({"cluster-nodes": "n1=h:1,n1=h:2"}, "cluster.nodes: two nodes have the id 'n1'"),
        ({"cluster-nodes": "n1=h:1,n2=h:1001"}, "cluster.nodes: n1 and n2 both use h:1001"),
        ({"cluster-nodes": "n2=h:1"}, "node: 'n1' is not among cluster.nodes (n2)"),
        (
            {"cluster-nodes": "n1=h:1,n2=h:2"},
            "cluster.secret: must be set, the same on every node, when there are several nodes",
        ),
        ({"dir": ""}, "--dir: must not be empty"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line_that_names_the_option(flags: dict[str, str], line: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(environ={}, flags=flags)
    assert str(error.value) == line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("prot = 1", "prot: unknown option, did you mean port?"),
        ("shards = 1", "shards: unknown option, did you mean cluster.shards?"),
        ("port = true", "port: argument couldn't be parsed into an integer"),
        ("timeout = 1.5", "timeout: argument couldn't be parsed into an integer"),
        ("requirepass = 5", "requirepass: must be a text, not 5"),
        ("[cluster]\nshard = 1", "cluster.shard: unknown option, did you mean cluster.shards?"),
        ("cluster = 1", "cluster: must be a table, not 1"),
        ("[xyzzy]\nport = 1", "xyzzy: unknown option"),
        ("[cluster]\nnodes = 1", "cluster.nodes: must be written as [[cluster.nodes]] tables"),
        ("[[cluster.nodes]]\nid = 'a'", "cluster.nodes 1: host: must be given"),
        ("[[cluster.nodes]]\nidd = 'a'", "cluster.nodes 1: idd: unknown option, did you mean id?"),
    ],
)
def test_what_a_file_may_not_say_is_refused_with_the_file_named(tmp_path: Path, text: str, line: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load(file, {})
    assert str(error.value) == f"{file}: {line}"


def test_a_file_that_is_no_toml_or_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"not valid TOML: .* line 1"):
        load(written(tmp_path, "port: 1"), {})
    with pytest.raises(ConfigError, match="none: no such file or directory"):
        load(tmp_path / "none", {})


def test_an_unknown_variable_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"RESPKV_PROT: unknown option, did you mean RESPKV_PORT\?"):
        load(environ={"RESPKV_PROT": "1"})
    assert load(environ={"RESPKV_CONFIG": "read by the command line"}) == load(environ={})


def test_secrets_are_not_shown() -> None:
    config = load(environ={}, flags={"requirepass": "hush-1", "cluster-secret": "hush-2"})
    assert "hush" not in repr(config)


def test_the_example_has_every_option_with_its_default(tmp_path: Path) -> None:
    lines = (CONF / "respkv.toml").read_text().splitlines()
    assert all(not line or line.startswith("#") for line in lines)
    uncommented = [line[2:] if re.match(r"# (\[cluster\]|[a-z-]+ = )", line) else line for line in lines]
    config = load(written(tmp_path, "\n".join(uncommented)), {})
    assert dataclasses.replace(config, dir=config.dir.relative_to(tmp_path)) == load(environ={})
    present = [line.partition(" = ")[0] for line in uncommented if " = " in line and not line.startswith("#")]
    assert present == [name.removeprefix("cluster.") for name in options()]


def test_a_list_is_a_list_in_a_file_and_has_lines_elsewhere(tmp_path: Path) -> None:
    file = written(tmp_path, 'user = ["a on", "b off"]\n')
    assert load(file, {}).user == load(environ={"RESPKV_USER": "a on\n\n b off"}).user == ("a on", "b off")
    for bad in ("user = 1", "user = [1]", 'user = ["a", ["b"]]'):
        with pytest.raises(ConfigError, match="user: must be a list of texts"):
            load(written(tmp_path, bad), {})


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ({"tls-port": "6379"}, None),
        ({"tls-port": "7379"}, "tls-port: 7379 is already the cluster-port"),
        ({"tls-port": "7000", "tls-cluster-port": "7000"}, "tls-cluster-port: 7000 is already the tls-port"),
        ({"tls-protocols": "SSLv3"}, "--tls-protocols: must be TLSv1.2, TLSv1.3 or both, not 'SSLv3'"),
        ({"unixsocketperm": "9"}, "--unixsocketperm: must be octal digits such as 700, not '9'"),
    ],
)
def test_what_may_be_said_of_tls_and_sockets(flags: dict[str, str], line: str | None) -> None:
    if line is None:
        load(environ={}, flags=flags)
        return
    with pytest.raises(ConfigError) as refused:
        load(environ={}, flags=flags)
    assert str(refused.value) == line


@pytest.mark.parametrize("node", ["n1", "n2", "n3"])
def test_the_example_of_a_cluster_can_be_used(node: str) -> None:
    config = load(CONF / "cluster" / f"{node}.toml", {})
    assert config.node == node
    assert config.cluster == load(CONF / "cluster" / "n1.toml", {}).cluster
    assert config.bind == config.self_node.host


def test_config_get_shows_every_option_but_the_clusters() -> None:
    found = parameters(load(environ={}, flags={"timeout": "5"}))
    lists = {"user", "rename-command"}  # as in Redis
    assert {name for name in options() if "." not in name} - set(found) == lists
    assert found["timeout"].value == "5"
    assert found["proto-max-bulk-len"].value == "536870912"
    assert found["merge-dead-ratio"].value == "0.5"
    assert found["log-file"].value == ""
    assert found["save"].value == ""
    assert not any("secret" in name for name in found)


def test_config_set_changes_what_may_change_and_tells_who_watches() -> None:
    live = Live(load(environ={}))
    seen: list[Config] = []
    live.watch(seen.append)
    live.set({"maxclients": "7", "proto-max-bulk-len": "2mb", "log-level": "DEBUG"})
    assert (live.config.maxclients, live.config.proto_max_bulk_bytes, live.config.log_level) == (7, 2 << 20, "debug")
    assert [config.maxclients for config in seen] == [10_000, 7]


SETTABLE = {
    "requirepass", "maxclients", "timeout", "tcp-keepalive", "proto-max-bulk-len", "client-query-buffer-limit",
    "client-output-buffer-limit", "cluster-timeout-ms", "log-level", "loglevel", "maxmemory", "maxmemory-clients",
    "maxmemory-policy", "maxmemory-samples", "lfu-log-factor", "lfu-decay-time", "slowlog-log-slower-than",
    "slowlog-max-len", "latency-monitor-threshold", "latency-tracking", "latency-tracking-info-percentiles",
    "cluster-announce-ip", "cluster-announce-port", "cluster-announce-hostname", "cluster-preferred-endpoint-type",
    "merge-dead-ratio", "pending-bytes-max", "disk-headroom-bytes", "notify-keyspace-events",
    "tracking-table-max-keys", "protected-mode", "acl-pubsub-default", "acllog-max-len", "tls-cert-file",
    "tls-key-file", "tls-ca-cert-file", "tls-ca-cert-dir", "tls-auth-clients", "tls-protocols", "tls-ciphers",
    "cluster-follow-clients",
}  # fmt: skip


def test_exactly_the_settable_options_are_settable() -> None:
    assert {
        name for name, parameter in parameters(Config()).items() if parameter.live and parameter.field
    } == SETTABLE


def test_two_names_of_a_parameter_are_one() -> None:
    live = Live(load(environ={}))
    live.set({"slave-priority": "7"})
    assert live.parameters()["replica-priority"].value == "7"
    live.set({"slave-priority": "8", "replica-priority": "7"})  # one after the other
    assert live.parameters()["slave-priority"].value == "7"
    assert ALIASES.keys() <= live.parameters().keys()


def test_what_is_set_to_what_it_is_has_not_changed() -> None:
    live = Live(load(environ={}))
    live.set({"timeout": "0", "port": "6379", "appendfsync": "always", "min-replicas-to-write": "0"})
    assert not live.changed
    with pytest.raises(ConfigError, match="databases: can't set immutable config"):
        live.set({"databases": "1"})  # no more than on Redis


def test_output_limits_may_be_a_single_size_in_a_file_but_not_later(tmp_path: Path) -> None:
    for text in ('"64mb"', "67108864"):
        config = load(written(tmp_path, f"client-output-buffer-limit = {text}\n"), {})
        assert str(config.client_output_buffer).startswith("normal 67108864 0 0 slave 268435456 ")
    with pytest.raises(ConfigError, match="Wrong number of arguments in buffer limit configuration"):
        Live(config).set({"client-output-buffer-limit": "64mb"})
    with pytest.raises(ConfigError, match="Wrong number of arguments in buffer limit configuration"):
        load(written(tmp_path, "client-output-buffer-limit = true\n"), {})


def test_switches_may_be_booleans_in_a_file(tmp_path: Path) -> None:
    for text, wanted in (('"no"', False), ("true", True), ('"YES"', True)):
        config = load(written(tmp_path, f"protected-mode = {text}\n"), {})
        assert config.protected_mode is wanted
        assert parameters(config)["protected-mode"].value == ("yes" if wanted else "no")


def test_config_set_changes_all_or_nothing() -> None:
    live = Live(load(environ={}))
    before = live.config
    with pytest.raises(ConfigError, match="timeout: argument must be between 0 and 2147483647 inclusive"):
        live.set({"maxclients": "7", "timeout": "-1"})
    with pytest.raises(ConfigError, match="port: can't set immutable config"):
        live.set({"maxclients": "7", "port": "8"})
    with pytest.raises(KeyError, match="nonsense"):
        live.set({"maxclients": "7", "nonsense": "8"})
    assert live.config is before
