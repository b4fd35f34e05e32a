"""`respkv cluster`: the files of a cluster on this machine, and the command that runs it.

A node's file, DIR/node-i/respkv.toml, is written once and never changed after that; it holds the cluster's secret, so
only its owner may read it. Running the nodes is `respkv.cli.supervisor`.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from respkv.cli.supervisor import Supervisor, extent, node_environment
from respkv.config import Cluster, ClusterNode, Config, ConfigError, load
from respkv.config.values import HOST

NODES_DEFAULT: Final = 3
REPLICAS_DEFAULT: Final = 3
PORT_DEFAULT: Final = 7001
HOST_DEFAULT: Final = "127.0.0.1"


@dataclass(frozen=True)
class Wanted:
    """What the flags ask for; None where they say nothing."""

    nodes: int | None = None
    shards: int | None = None
    replicas: int | None = None
    port: int | None = None
    hosts: str | None = None


def run(directory: Path, wanted: Wanted, *, init_only: bool = False) -> int:
    """Writes what is missing in `directory` and runs the nodes until a signal. Returns the exit status."""
    environ = node_environment()
    existing = {path.parent.name: load(path, environ) for path in _files(directory)}
    if existing:
        first = next(iter(existing.values()))
        cluster = first.cluster
        for line in _contradictions(wanted, cluster):
            print(f"respkv: {line}", file=sys.stderr)
        for name, config in existing.items():
            if config.cluster != cluster:
                raise ConfigError(str(directory / name / "respkv.toml"), "its [cluster] table differs from node-1's")
    else:
        cluster = _new_cluster(wanted)
    names = [f"node-{number}" for number in range(1, len(cluster.nodes) + 1)]
    for name, node in zip(names, cluster.nodes, strict=True):
        if name not in existing:
            path = directory / name / "respkv.toml"
            _write(path, _render(node, cluster))
            if existing:
                print(f"{path} was missing: written again, the same as its neighbours'")
    configs = {name: load(directory / name / "respkv.toml", environ) for name in names}
    if any(_turns_clients_away(config) for config in configs.values()):
        print(
            "respkv: without a password only clients that come over a loopback address are let in: set requirepass or"
            ' users, or protected-mode = "no", in each respkv.toml',
            file=sys.stderr,
        )
    if init_only:
        print(f"{directory}: {extent(cluster)}")
        return 0
    return Supervisor({directory / name: config for name, config in configs.items()}).run()


def _turns_clients_away(config: Config) -> bool:
    """Whether those who come to the address that the node was given are denied."""
    has_users = bool(config.requirepass or config.user or config.aclfile)
    host = config.self_node.host
    is_loopback = host in {"localhost", "::1"} or host.startswith("127.")
    return config.protected_mode and not has_users and not is_loopback


def _files(directory: Path) -> list[Path]:
    found = [path for path in directory.glob("node-*/respkv.toml") if path.parent.name[5:].isdecimal()]
    return sorted(found, key=lambda path: int(path.parent.name[5:]))


def _contradictions(wanted: Wanted, cluster: Cluster) -> list[str]:
    """A line for each flag that says something else than the files; the files count."""
    nodes = cluster.nodes
    hosts = [node.host for node in nodes]
    known = {
        "--nodes": (wanted.nodes, len(nodes)),
        "--shards": (wanted.shards, cluster.shards),
        "--replicas": (wanted.replicas, cluster.replicas),
        "--port": (wanted.port, nodes[0].port),
        "--hosts": (None if wanted.hosts is None else _hosts(wanted.hosts, len(nodes)), hosts),
    }
    return [
        f"{flag} is ignored: this directory holds a cluster with {_listed(is_)}, not {_listed(asked)}"
        for flag, (asked, is_) in known.items()
        if asked is not None and asked != is_
    ]


def _listed(value: object) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)


def _new_cluster(wanted: Wanted) -> Cluster:
    """The cluster that the flags describe, with a random id and secret. Raises ConfigError naming the flag."""
    count = _within("--nodes", wanted.nodes, NODES_DEFAULT, 1, 100)
    shards = _within("--shards", wanted.shards, Cluster.shards, 1, 100)
    replicas = _within("--replicas", wanted.replicas, min(REPLICAS_DEFAULT, count), 1, 15)
    port = _within("--port", wanted.port, PORT_DEFAULT, 1, 55535 - count + 1)
    if replicas > count:
        raise ConfigError("--replicas", f"{replicas} replicas need as many nodes, not {count}")
    hosts = _hosts(HOST_DEFAULT if wanted.hosts is None else wanted.hosts, count)
    nodes = tuple(
        ClusterNode(f"n{i + 1}", hosts[i], port + i, port + i + 1_000, port + i + 10_000) for i in range(count)
    )
    return Cluster(secrets.token_hex(8), secrets.token_hex(32), shards, replicas, nodes)


def _within(flag: str, value: int | None, default: int, low: int, high: int) -> int:
    value = default if value is None else value
    if not low <= value <= high:
        raise ConfigError(flag, f"must be an integer from {low} to {high}, not {value}")
    return value


def _hosts(hosts: str, count: int) -> list[str]:
    found = [host.strip() for host in hosts.split(",") if host.strip()]
    if len(found) == 1:
        found *= count
    if len(found) != count:
        raise ConfigError("--hosts", f"must be one address or one for each of the {count} nodes, not {hosts!r}")
    for host in found:
        try:
            HOST(host)
        except ValueError as error:
            raise ConfigError("--hosts", str(error)) from None
    return found


def _render(node: ClusterNode, cluster: Cluster) -> str:
    lines = [
        f"# Node {node.id}, written by `respkv cluster`. conf/respkv.toml explains every key.",
        f'node = "{node.id}"',
        'dir = "."  # beside this file',
        "",
        "[cluster]  # the same on every node",
        f'id = "{cluster.id}"',
        f'secret = "{cluster.secret}"',
        f"shards = {cluster.shards}",
        f"replicas = {cluster.replicas}",
    ]
    for other in cluster.nodes:
        lines += ["", "[[cluster.nodes]]"]
        for field in dataclasses.fields(other):
            value = getattr(other, field.name)
            key = field.name.replace("_", "-")
            lines.append(f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}")
    return "\n".join(lines) + "\n"


def _write(path: Path, content: str) -> None:
    """Writes a file that others may not read, whole or not at all."""
    partial = path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(content)
        partial.replace(path)
    except OSError as error:
        raise ConfigError(str(path), error.strerror or str(error)) from None
