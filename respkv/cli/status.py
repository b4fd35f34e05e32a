"""`respkv status`: one look at the whole cluster, gathered from every node it can reach."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from respkv.client import Address, Client, ClientError, parse_info, parse_shards
from respkv.config import ConfigError


@dataclass
class NodeStatus:
    """What one node said of itself: INFO as it is, and its replicas (shard -> field -> value)."""

    address: str
    node: str
    error: str = ""
    info: dict[str, str] = field(default_factory=dict)
    shards: dict[int, dict[str, str]] = field(default_factory=dict)


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
    else:
        _show(nodes)
    return 0 if all(not node.error for node in nodes) and leaders and None not in leaders.values() else 1


def gather(first: Address) -> list[NodeStatus]:
    """Asks the node at `first`, and every other node that it knows."""
    addresses = [first]
    answer = ask(first)
    if not answer.error:
        try:
            with Client(first) as client:
                lines = client.text("CLUSTER", "NODES").splitlines()
            addresses = [_address_in(line, first) for line in lines]
        except ClientError:  # a node without a cluster view: it is all there is
            addresses = [first]
    found = [answer]
    for address in addresses:
        if address != first:
            status = ask(address)
            # Both views of a node are ports of one process, and a host has several names: the run id tells.
            if status.error or status.info.get("run_id") not in [known.info.get("run_id") for known in found]:
                found.append(status)
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
        return NodeStatus(str(address), str(address), str(error))
    return NodeStatus(str(address), info.get("node", str(address)), "", info, parse_shards(info))


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
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(
        "node", "address", "state", "leads", "replicas", "keys", "size", "clients", title="Nodes", title_justify="left"
    )
    for node in nodes:
        roles = [values.get("role") for values in node.shards.values()]
        state = "[red]" + node.error.partition(". ")[0] if node.error else "[green]up"
        keys = sum(int(values.get("keys", 0)) for values in node.shards.values())
        size = sum(int(values.get("bytes", 0)) for values in node.shards.values())
        counts = (str(roles.count("leader")), str(len(roles)), str(keys), human_bytes(size))
        clients = node.info.get("connected_clients", "")
        table.add_row(node.node, node.address, state, *(counts if not node.error else ("", "", "", "")), clients)
    console.print(table)

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
    console.print(table)


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
