"""The options: one tree of frozen dataclasses with, for each, its name, default, check and one sentence about it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from respkv.config.events import events
from respkv.config.limits import OutputLimits, output_limits_or_size
from respkv.config.values import (
    CLUSTER_ID,
    INT_MAX,
    LONG_MAX,
    NODE_ID,
    PORT,
    PORT_OR_ZERO,
    UINT_MAX,
    ULONG_MAX,
    Parser,
    Share,
    addresses,
    choice,
    directory,
    hostname,
    integer,
    lines,
    memory,
    path,
    percentiles,
    permissions,
    ratio,
    secret,
    share,
    size,
    text,
    tls_versions,
    yes_no,
)

ENVIRONMENT_PREFIX: Final = "RESPKV_"
SHARDS_MAX: Final = 100  # what respkv.cluster.ring can place
POLICIES: Final = (
    "volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl",
    "allkeys-lru", "allkeys-lfu", "allkeys-random", "noeviction",
)  # fmt: skip


def option(default: Any, name: str, parse: Parser, about: str, *, live: bool = False, secret: bool = False) -> Any:
    """A dataclass field that is a configuration option; the arguments are those of `Option`."""
    metadata = {"name": name, "parse": parse, "about": about, "live": live}
    return dataclasses.field(default=default, repr=not secret, metadata=metadata)


@dataclass(frozen=True)
class ClusterNode:
    """One node as `[[cluster.nodes]]` lists it. Ports are never 0 once loaded."""

    id: str
    host: str
    port: int
    cluster_port: int
    peer_port: int


@dataclass(frozen=True)
class Cluster:
    """The `[cluster]` table; it must be the same on every node."""

    id: str = option("", "id", CLUSTER_ID, "Tells clusters apart: nodes of different ids refuse each other.")
    secret: str = option("", "secret", text(), "What nodes prove to each other when they connect.", secret=True)
    shards: int = option(3, "shards", integer(1, SHARDS_MAX), "Number of shards of a new cluster.")
    replicas: int = option(1, "replicas", integer(1, 15), "Nodes that hold each shard; 3 survive the loss of one.")
    nodes: tuple[ClusterNode, ...] = ()


@dataclass(frozen=True)
class Config:
    """A node's configuration. From `load`, every port is the real one and `cluster.nodes` holds at least this node."""

    dir: Path = option(Path("respkv-data"), "dir", directory, "Where the node keeps its data.")
    node: str = option("n1", "node", NODE_ID, "This node's id, one of those in cluster.nodes.")
    bind: str = option("127.0.0.1", "bind", addresses, "Addresses to listen on, separated by spaces.")
    port: int = option(6379, "port", PORT, "Port of the standalone view: looks like one Redis server.")
    cluster_port: int = option(0, "cluster-port", PORT_OR_ZERO, "Port of the cluster view; 0 is port + 1000.")
    peer_port: int = option(0, "peer-port", PORT_OR_ZERO, "Port for the other nodes; 0 is port + 10000.")

    announce_ip: str = option(
        "", "cluster-announce-ip", text(), "Address of the cluster view that clients are told.", live=True
    )
    announce_port: int = option(
        0, "cluster-announce-port", PORT_OR_ZERO, "Port of the cluster view that clients are told.", live=True
    )
    announce_hostname: str = option(
        "", "cluster-announce-hostname", hostname, "Name of this node that clients are told.", live=True
    )
    preferred_endpoint: str = option(
        "ip",
        "cluster-preferred-endpoint-type",
        choice("ip", "hostname", "unknown-endpoint"),
        "What MOVED and CLUSTER SLOTS tell of a node.",
        live=True,
    )

    requirepass: str = option(
        "", "requirepass", secret, "Password clients must give; empty is none.", live=True, secret=True
    )
    protected_mode: bool = option(
        True, "protected-mode", yes_no, "Without a password, only this machine may connect.", live=True
    )
    unixsocket: Path | None = option(None, "unixsocket", path, "Unix socket of the standalone view.")
    unixsocketperm: str = option("0", "unixsocketperm", permissions, "Its mode, in octal digits; 0 leaves it alone.")
    maxclients: int = option(
        10_000, "maxclients", integer(1, UINT_MAX), "Most client connections at once.", live=True
    )
    timeout_s: int = option(
        0, "timeout", integer(0, INT_MAX), "Seconds after which an idle client is closed; 0 is never.", live=True
    )
    tcp_keepalive_s: int = option(
        300, "tcp-keepalive", integer(0, INT_MAX), "Seconds between TCP keepalive probes; 0 is none.", live=True
    )
    tcp_backlog: int = option(511, "tcp-backlog", integer(1, 65535), "Connections waiting to be accepted.")
    proto_max_bulk_bytes: int = option(
        512 << 20, "proto-max-bulk-len", memory(1 << 20, 1 << 31), "Longest single argument of a command.", live=True
    )
    client_query_buffer_bytes: int = option(
        1 << 30,
        "client-query-buffer-limit",
        memory(1 << 20, LONG_MAX),
        "Longest whole command of a client, with what it has queued in MULTI.",
        live=True,
    )
    client_output_buffer: OutputLimits = option(
        OutputLimits(),
        "client-output-buffer-limit",
        output_limits_or_size,
        "What may wait for a client that does not read, by class: hard limit, soft limit, seconds above the latter.",
        live=True,
    )
    notify_keyspace_events: str = option(
        "", "notify-keyspace-events", events, "Events of keys that this node's subscribers are told of.", live=True
    )
    tracking_table_max_keys: int = option(
        1_000_000,
        "tracking-table-max-keys",
        integer(0, LONG_MAX),
        "Keys that clients are known to cache; beyond that some are invalidated. 0 is no limit.",
        live=True,
    )
    maxmemory_bytes: int = option(
        0,
        "maxmemory",
        memory(0, ULONG_MAX),
        "Memory for keys before writes are refused or keys evicted; 0 is no limit.",
        live=True,
    )
    maxmemory_clients: Share = option(
        Share(0), "maxmemory-clients", share, "What all clients' buffers may take; bytes, or % of maxmemory.", live=True
    )
    maxmemory_policy: str = option(
        "noeviction", "maxmemory-policy", choice(*POLICIES), "What goes when maxmemory is reached.", live=True
    )
    maxmemory_samples: int = option(
        5, "maxmemory-samples", integer(1, INT_MAX), "Keys looked at for each one that is evicted.", live=True
    )
    lfu_log_factor: int = option(
        10, "lfu-log-factor", integer(0, INT_MAX), "How slowly the counter of uses of *-lfu grows.", live=True
    )
    lfu_decay_minutes: int = option(
        1, "lfu-decay-time", integer(0, INT_MAX), "Minutes without use that take one off; 0 is never.", live=True
    )

    user: tuple[str, ...] = option((), "user", lines, "Users, each as in an ACL file without the first word.")
    aclfile: Path | None = option(None, "aclfile", path, "File of users, for ACL LOAD and ACL SAVE.")
    acl_pubsub_default: str = option(
        "resetchannels",
        "acl-pubsub-default",
        choice("allchannels", "resetchannels"),
        "What channels a new user may use.",
        live=True,
    )
    acllog_max_len: int = option(128, "acllog-max-len", integer(0, LONG_MAX), "Most entries of ACL LOG.", live=True)
    rename_command: tuple[str, ...] = option(
        (), "rename-command", lines, 'Commands under other names; "" for the new name disables one.'
    )

    tls_port: int = option(
        0, "tls-port", PORT_OR_ZERO, "Port of the standalone view over TLS; the same as port: nothing else there."
    )
    tls_cluster_port: int = option(0, "tls-cluster-port", PORT_OR_ZERO, "The same for the cluster view.")
    tls_cluster: bool = option(False, "tls-cluster", yes_no, "Whether nodes speak TLS with each other.")
    tls_cert_file: Path | None = option(None, "tls-cert-file", path, "This node's certificate chain (PEM).", live=True)
    tls_key_file: Path | None = option(None, "tls-key-file", path, "Its private key (PEM).", live=True)
    tls_key_file_pass: str = option("", "tls-key-file-pass", secret, "What the key is encrypted with.", secret=True)
    tls_ca_cert_file: Path | None = option(
        None, "tls-ca-cert-file", path, "Who signs the certificates of clients and nodes (PEM).", live=True
    )
    tls_ca_cert_dir: Path | None = option(None, "tls-ca-cert-dir", path, "The same as a directory.", live=True)
    tls_auth_clients: str = option(
        "yes", "tls-auth-clients", choice("no", "yes", "optional"), "Whether clients show certificates.", live=True
    )
    tls_protocols: str = option(
        "TLSv1.2 TLSv1.3", "tls-protocols", tls_versions, "Versions of TLS, separated by spaces.", live=True
    )
    tls_ciphers: str = option("", "tls-ciphers", text(), "Ciphers of TLS 1.2, as OpenSSL names them.", live=True)

    log_level: str = option(
        "info", "log-level", choice("debug", "info", "warning", "error"), "Least level that is logged.", live=True
    )
    log_format: str = option("console", "log-format", choice("console", "json"), "Lines for people or for machines.")
    log_file: Path | None = option(None, "log-file", path, "File to log to; empty is standard error.")

    appendfsync: str = option(
        "always",
        "appendfsync",
        choice("always", "everysec", "no"),
        "When writes reach the disk: before they are answered, every second, or when the system likes.",
    )
    cluster_timeout_ms: int = option(
        5000, "cluster-timeout-ms", integer(1, 3_600_000), "Longest a command waits for its shard.", live=True
    )
    read_mode: str = option(
        "lease",
        "read-mode",
        choice("lease", "readindex"),
        "Reads trust the leader's lease or ask a majority each time.",
    )
    election_timeout_ms: int = option(
        500,
        "election-timeout-ms",
        integer(50, 60_000),
        "Silence after which a follower stands for leader (up to twice this).",
    )
    heartbeat_ms: int = option(100, "heartbeat-ms", integer(10, 10_000), "How often a leader shows that it lives.")
    follow_clients: bool = option(
        True,
        "cluster-follow-clients",
        yes_no,
        "Whether a leader moves to the node by which nearly all commands for its shard come.",
        live=True,
    )
    segment_bytes: int = option(
        128 << 20, "segment-bytes", size(64 << 10, 2 << 30), "Length of a data file before the next is begun."
    )
    journal_segment_bytes: int = option(
        64 << 20, "journal-segment-bytes", size(64 << 10, 2 << 30), "Length of a journal file before the next is begun."
    )
    journal_keep_bytes: int = option(
        64 << 20, "journal-keep-bytes", size(0, 1 << 40), "Log kept, in memory and on disk, for followers that lag."
    )
    read_cache_bytes: int = option(
        96 << 20, "read-cache-bytes", size(0, 1 << 40), "Memory for what was read or written last; 0 reads the files."
    )
    huge_pages: bool = option(True, "huge-pages", yes_no, "Whether to ask for huge pages for the memory.")
    intake: str = option(
        "auto", "intake", choice("auto", "yes", "no"), "Whether a second process reads pipelines of plain SETs."
    )
    merge_dead_ratio: float = option(
        0.5, "merge-dead-ratio", ratio(0.05, 0.95), "Share of dead bytes at which data files are merged.", live=True
    )
    disk_headroom_bytes: int = option(
        256 << 20, "disk-headroom-bytes", size(0, 1 << 50), "Free disk below which writes are refused.", live=True
    )
    pending_bytes_max: int = option(
        64 << 20,
        "pending-bytes-max",
        size(64 << 10, 1 << 40),
        "Unanswered writes per shard before clients wait.",
        live=True,
    )
    slowlog_slower_than_us: int = option(
        10_000, "slowlog-log-slower-than", integer(-1, LONG_MAX), "Microseconds for the slow log; -1 is off.", live=True
    )
    slowlog_length_max: int = option(
        128, "slowlog-max-len", integer(0, LONG_MAX), "Entries that the slow log keeps.", live=True
    )
    latency_monitor_threshold_ms: int = option(
        0, "latency-monitor-threshold", integer(0, LONG_MAX), "Milliseconds for LATENCY; 0 is off.", live=True
    )
    latency_tracking: bool = option(
        True, "latency-tracking", yes_no, "Whether to keep how long commands took, by command.", live=True
    )
    latency_percentiles: tuple[float, ...] = option(
        (50.0, 99.0, 99.9), "latency-tracking-info-percentiles", percentiles, "What INFO latencystats shows.",
        live=True,
    )
    enable_debug_command: str = option(
        "no", "enable-debug-command", choice("no", "yes", "local"), "Who may use DEBUG; local is from this machine."
    )
    metrics_port: int = option(0, "metrics-port", PORT_OR_ZERO, "Port of the Prometheus endpoint; 0 is off.")

    cluster: Cluster = Cluster()
    file: Path | None = dataclasses.field(default=None, compare=False)  # that it was read from

    @property
    def bind_addresses(self) -> tuple[str, ...]:
        return tuple(self.bind.split())

    @property
    def self_node(self) -> ClusterNode:
        """This node as the others see it. Only of a loaded configuration."""
        return next(node for node in self.cluster.nodes if node.id == self.node)


@dataclass(frozen=True)
class Option:
    """One key: its name in TOML, its field in `Config` (or `Cluster`), and what may be done with it."""

    name: str  # as in TOML: "cluster-port", "cluster.shards"
    field: str
    parse: Parser
    about: str
    default: Any
    live: bool  # CONFIG SET may change it

    @property
    def flag(self) -> str:
        return "--" + self.name.replace(".", "-")

    @property
    def variable(self) -> str:
        return ENVIRONMENT_PREFIX + re.sub(r"[.-]", "_", self.name).upper()


@cache
def options() -> Mapping[str, Option]:
    """Every key by its TOML name, in the order of the dataclasses; those of the `[cluster]` table as `cluster.id`..."""
    found = {}
    for cls, prefix in ((Config, ""), (Cluster, "cluster.")):
        for field in dataclasses.fields(cls):
            if field.metadata:
                meta = field.metadata
                name = prefix + meta["name"]
                found[name] = Option(name, field.name, meta["parse"], meta["about"], field.default, meta["live"])
    return found
