"""`respkv status`: one look at the whole cluster, gathered from every node it can reach."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from respkv.cli.words import console
from respkv.client import Address, Client, ClientError, parse_info, parse_shards
from respkv.cluster.topology import redis_id
from respkv.config import ConfigError


@dataclass
class NodeStatus:
    """What one node said of itself: INFO as it is, and its replicas (shard -> field -> value)."""

    address: str
    node: str
    error: str = ""
    refuses: bool = False  # the error is its answer
    info: dict[str, str] = field(default_factory=dict)
    shards: dict[int, dict[str, str]] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        """The first sentence of `error`; what Redis says when it lets nobody in has many."""
        return self.error.partition(". ")[0]


def address_of(url: str) -> Address:
    """The address in `--url`. Raises ConfigError."""
    try:
        return Address.parse(url)
    except ValueError as error:
        raise ConfigError("--url", str(error)) from None


def run(url: str, *, as_json: bool) -> int:
    nodes = gather(address_of(url))
    leaders = find_leaders(nodes)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(as_data(nodes))).decode())
    elif all(node.error for node in nodes):
        print(f"respkv: {nodes[0].reason}", file=sys.stderr)
    else:
        _show(nodes)
    return 0 if all(not node.error for node in nodes) and leaders and None not in leaders.values() else 1


def gather(first: Address) -> list[NodeStatus]:
    """Asks the node at `first`, and every other node that it knows."""
    found = [ask(first)]
    if found[0].error:
        return found
    try:
        with Client(first) as client:
            lines = client.text("CLUSTER", "NODES").splitlines()
    except ClientError:  # a node without a cluster view: it is all there is
        return found
    ids = {_address_in(line, first): line.split(" ")[0] for line in lines}
    silent: dict[str, NodeStatus] = {}
    for address, id_ in ids.items():
        if address != first:
            status = ask(address)
            # Both views of a node are ports of one process, and a host has several names: the run id tells.
            if status.error or status.info.get("run_id") not in [known.info.get("run_id") for known in found]:
                found.append(status)
            if status.error:
                silent[id_] = status
    names = _names(found)
    for id_, status in silent.items():
        status.node = names.get(id_, status.node)
    return found


def _names(nodes: Iterable[NodeStatus]) -> dict[str, str]:
    """The nodes that `nodes` speak of as leaders and followers: name by the id that CLUSTER NODES has for it."""
    found = {}
    for node in nodes:
        for values in node.shards.values():
            followers = [name[4:] for name in values if name.startswith("lag_")]
            for name in (values.get("leader", "-"), *followers):
                found[redis_id(node.info.get("cluster_id", ""), name)] = name
    return found


def _address_in(line: str, first: Address) -> Address:
    """The address in a line of CLUSTER NODES: `<id> <host>:<port>@<bus port>[,<name>] <flags> ...`."""
    host, _, port = line.split(" ")[1].partition("@")[0].rpartition(":")
    return replace(first, host=host.strip("[]") or first.host, port=int(port))


def ask(address: Address) -> NodeStatus:
    """INFO of one node; on failure `error` says why."""
    try:
        with Client(address) as client:
            info = parse_info(client.text("INFO", "everything"))
    except ClientError as error:
        return NodeStatus(str(address), str(address), str(error), bool(error.code))
    return NodeStatus(str(address), info.get("node", str(address)), info=info, shards=parse_shards(info))


def find_leaders(nodes: Iterable[NodeStatus]) -> dict[int, str | None]:
    """Shard -> node that says it leads it in the highest term, or None."""
    best: dict[int, tuple[int, str | None]] = {}
    for node in nodes:
        for shard, values in node.shards.items():
            term = int(values.get("term", 0))
            known = best.setdefault(shard, (-1, None))
            if values.get("role") == "leader" and term > known[0]:
                best[shard] = (term, node.node)
    return {shard: node for shard, (_, node) in sorted(best.items())}


def as_data(nodes: list[NodeStatus]) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "nodes": [
            {"node": node.node, "address": node.address, "error": node.error or None, "info": node.info}
            | {"shards": {str(shard): values for shard, values in node.shards.items()}}
            for node in nodes
        ],
        "leaders": {str(shard): leader for shard, leader in find_leaders(nodes).items()},
    }


def _show(nodes: list[NodeStatus]) -> None:
    from rich.markup import escape
    from rich.table import Column, Table

    out = console()
    names = (Column("node", no_wrap=True), Column("address", no_wrap=True))
    table = Table(*names, "state", "leads", "replicas", "keys", "size", "clients", title="Nodes", title_justify="left")
    for node in nodes:
        roles = [values.get("role") for values in node.shards.values()]
        state = "[red]refuses" if node.refuses else "[red]down" if node.error else "[green]up"
        keys = sum(int(values.get("keys", 0)) for values in node.shards.values())
        size = sum(int(values.get("bytes", 0)) for values in node.shards.values())
        counts = (str(roles.count("leader")), str(len(roles)), str(keys), human_bytes(size))
        clients = node.info.get("connected_clients", "")
        row = (state, *(counts if not node.error else ("", "", "", "")), clients)
        table.add_row(escape(node.node), escape(node.address), *row)  # [fe80::1] would be a style
    out.print(table)
    for node in nodes:
        if node.error:
            print(f"{node.node}: {node.reason}")

    columns = ("shard", "node", "role", "term", "commit", "applied", "lag", "keys", "size")
    table = Table(*columns, title="Shards", title_justify="left")
    leaders = find_leaders(nodes)
    for shard, leader in leaders.items():
        replicas = [node for node in nodes if shard in node.shards]
        replicas.sort(key=lambda node: node.node != leader)
        commit = max(int(node.shards[shard].get("commit", 0)) for node in replicas)
        if leader is None:
            table.add_row(str(shard), "[red]no leader")
        for node in replicas:
            table.add_row(str(shard), node.node, *_replica_row(node.shards[shard], commit))
        table.add_section()
    out.print(table)


def _replica_row(values: dict[str, str], commit: int) -> tuple[str, ...]:
    role = values.get("role", "?")
    lag = commit - int(values.get("applied", 0))
    return (
        {"leader": "[bold]leader", "learner": "[yellow]learner"}.get(role, role),
        values.get("term", ""),
        values.get("commit", ""),
        values.get("applied", ""),
        f"[yellow]{lag}" if lag else "0",
        values.get("keys", ""),
        human_bytes(int(values["bytes"])) if "bytes" in values else "",
    )


def human_bytes(count: int) -> str:
    value = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TB"
