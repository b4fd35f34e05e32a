"""CLUSTER: the map as clients of a Redis Cluster read it. Both views answer it.

To such a client every node is a master of the slots whose shards it leads at this moment, as far as this node knows;
who leads several shards has all their slots, who leads none is shown as a replica of a node that leads one of its
shards. A node is one or the other: clients that see it as a master here and as a replica there take it for a replica,
and leave it out when they add up DBSIZE or SCAN over masters. Only CLUSTER SHARDS tells all replicas of each shard. The
addresses told are those of the cluster view (`respkv.server.announce`). A shard whose leader is not known is left out
of CLUSTER SLOTS, and the state is `fail`.

Slots and nodes are placed by respkv itself: the subcommands that would move them are refused.
"""

from __future__ import annotations

from typing import Any

from respkv import errors
from respkv.cluster.slots import SLOTS, slot_of
from respkv.cluster.topology import Node, Shard
from respkv.commands.args import integer
from respkv.commands.table import command
from respkv.reply import Reply, Verbatim
from respkv.server.announce import Endpoint
from respkv.server.commands.helping import help_reply
from respkv.server.dispatch import Call
from respkv.server.server import Server
from respkv.shard.machine import Machine


@command("CLUSTER", kind="server", arity=-2, group="cluster", since="3.0.0", complexity="Depends on subcommand.",
         summary="A container for cluster commands")
def cluster(call: Call) -> Reply:
    raise errors.unknown_subcommand(call.args[0], call.args[1])


# --- the map ---


def _led_by(server: Server) -> dict[str, list[Shard]]:
    """Node id to the shards that it leads; only nodes that lead."""
    found: dict[str, list[Shard]] = {}
    for shard in server.topology.shards:
        found.setdefault(server.owner(shard), []).append(shard)
    return found


def _ranges(server: Server, shards: list[Shard]) -> list[tuple[int, int]]:
    """The slots of several shards as ascending ranges (first, last), adjoining ones joined."""
    joined: list[tuple[int, int]] = []
    for first, last in sorted(pair for shard in shards for pair in server.topology.ranges(shard.id)):
        if joined and joined[-1][1] == first - 1:
            joined[-1] = (joined[-1][0], last)
        else:
            joined.append((first, last))
    return joined


def _reachable(server: Server, node: str) -> bool:
    return node == server.node or node in server.peers.links


@command("CLUSTER|SLOTS", kind="server", arity=2, flags="stale", group="cluster", since="3.0.0",
         summary="Get array of Cluster slot to node mappings", tips="nondeterministic_output",
         complexity="O(N) where N is the total number of Cluster nodes",
         history=("4.0.0 Added node IDs.", "7.0.0 Added additional networking metadata field."),
         deprecated="7.0.0 `CLUSTER SHARDS`")
def cluster_slots(call: Call) -> Reply:
    server = call.server
    led = _led_by(server)
    rows: list[list[Any]] = []
    for leader, shards in led.items():
        for shard in shards:
            names = [leader, *(name for name in shard.replicas if name not in led)]
            nodes = [_slot_node(call, name) for name in names]
            rows += [[first, last, *nodes] for first, last in server.topology.ranges(shard.id)]
    return sorted(rows, key=lambda row: row[0])


def _slot_node(call: Call, name: str) -> Reply:
    endpoint = _endpoint(call, name)
    preferred = None if endpoint.preferred is None else endpoint.preferred.encode()
    return [preferred, endpoint.port, call.server.topology.redis_id(name).encode(), endpoint.others]


def _endpoint(call: Call, name: str) -> Endpoint:
    """Where this client finds node `name`."""
    return call.server.endpoints.of(name, call.session.port_shift)


@command("CLUSTER|SHARDS", kind="server", arity=2, flags="stale", group="cluster", since="7.0.0",
         summary="Get array of cluster slots to node mappings", tips="nondeterministic_output",
         complexity="O(N) where N is the total number of cluster nodes")
def cluster_shards(call: Call) -> Reply:
    """One entry for each shard, in their order. A node is in the entry of every shard that it holds."""
    server = call.server
    return [
        {
            b"slots": [slot for pair in server.topology.ranges(shard.id) for slot in pair],
            b"nodes": [_shard_node(call, shard, name) for name in shard.replicas],
        }
        for shard in server.topology.shards
    ]


def _shard_node(call: Call, shard: Shard, name: str) -> Reply:
    server, endpoint = call.server, _endpoint(call, name)
    hostname: dict[bytes, Reply] = {b"hostname": endpoint.hostname.encode()} if endpoint.hostname else {}
    return {
        b"id": server.topology.redis_id(name).encode(),
        b"port": endpoint.port,
        b"ip": endpoint.ip.encode(),
        b"endpoint": None if endpoint.preferred is None else endpoint.preferred.encode(),
        **hostname,
        b"role": b"master" if server.owner(shard) == name else b"replica",
        b"replication-offset": _offset(server, shard, name),
        b"health": b"online" if _reachable(server, name) else b"failed",
    }


def _offset(server: Server, shard: Shard, name: str) -> int:
    """The Raft index that the node's replica has: applied here, acknowledged there; 0 where this node cannot know."""
    group = server.proposers[shard.id].group
    if group is None:
        return 0
    if name == server.node:
        return group.applied
    lag = group.lag().get(name)
    return 0 if lag is None else group.log.last_index - lag


@command("CLUSTER|NODES", kind="server", arity=2, flags="stale", group="cluster", since="3.0.0",
         summary="Get Cluster config for the node", tips="nondeterministic_output",
         complexity="O(N) where N is the total number of Cluster nodes")
def cluster_nodes(call: Call) -> Reply:
    server = call.server
    led = _led_by(server)
    return Verbatim("".join(_node_line(call, node, led) + "\n" for node in server.topology.nodes).encode())


def _node_line(call: Call, node: Node, led: dict[str, list[Shard]]) -> str:
    """`<id> <ip>:<port>@<peer port>[,<name>] <flags> <master> <ping sent> <pong received> <epoch> <link> <ranges>`."""
    server, topology, endpoint = call.server, call.server.topology, _endpoint(call, node.id)
    reachable = _reachable(server, node.id)
    master = None if node.id in led else _followed(server, node.id)
    flags = ["myself"] if node.id == server.node else []
    flags.append("slave" if master else "master")
    if not reachable:
        flags.append("fail?")
    fields = [
        topology.redis_id(node.id),
        f"{endpoint.ip}:{endpoint.port}@{node.peer_port}" + (f",{endpoint.hostname}" if endpoint.hostname else ""),
        ",".join(flags),
        topology.redis_id(master) if master else "-",
        "0",
        "0",
        str(topology.epoch),
        "connected" if reachable else "disconnected",
    ]
    ranges = _ranges(server, led.get(node.id, []))
    return " ".join(fields + [str(first) if first == last else f"{first}-{last}" for first, last in ranges])


def _followed(server: Server, name: str) -> str | None:
    """The leader of the first shard that node `name`, which leads none, holds a replica of."""
    owners = (server.owner(shard) for shard in server.topology.shards_of(name))
    return next((owner for owner in owners if owner != name), None)


@command("CLUSTER|REPLICAS", kind="server", arity=3, flags="admin stale", group="cluster", since="5.0.0",
         summary="List replica nodes of the specified master node", tips="nondeterministic_output", syntax="node-id")
def cluster_replicas(call: Call) -> Reply:
    """The lines of CLUSTER NODES that call the node their master."""
    return _replicas(call)


@command("CLUSTER|SLAVES", kind="server", arity=3, flags="admin stale", group="cluster", since="3.0.0",
         summary="List replica nodes of the specified master node", tips="nondeterministic_output", syntax="node-id",
         deprecated="5.0.0 `CLUSTER REPLICAS`")
def cluster_slaves(call: Call) -> Reply:
    """The older name."""
    return _replicas(call)


def _known_node(call: Call) -> str:
    topology, wanted = call.server.topology, call.args[2].decode(errors="replace").lower()
    name = next((node.id for node in topology.nodes if topology.redis_id(node.id) == wanted), None)
    if name is None:
        raise errors.generic(f"Unknown node {errors.quoted(call.args[2])}")
    return name


def _replicas(call: Call) -> Reply:
    server, name = call.server, _known_node(call)
    led = _led_by(server)
    if name not in led:
        raise errors.generic("The specified node is not a master")
    others = [node for node in server.topology.nodes if node.id not in led and _followed(server, node.id) == name]
    return [_node_line(call, node, led).encode() for node in others]


@command("CLUSTER|COUNT-FAILURE-REPORTS", kind="server", arity=3, flags="admin stale", group="cluster", since="3.0.0",
         summary="Return the number of failure reports active for a given node", tips="nondeterministic_output",
         complexity="O(N) where N is the number of failure reports", syntax="node-id")
def cluster_count_failure_reports(call: Call) -> Reply:
    """Nodes do not report failures to each other: 1 if this node has no link to the other, else 0."""
    return int(not _reachable(call.server, _known_node(call)))


@command("CLUSTER|INFO", kind="server", arity=2, flags="stale", group="cluster", since="3.0.0",
         summary="Provides info about Redis Cluster node state", tips="nondeterministic_output")
def cluster_info(call: Call) -> Reply:
    server, topology = call.server, call.server.topology
    led, counts = _led_by(server), server.peers.counts
    with_leader = [shard for shard in topology.shards if server.reachable_leader(shard) is not None]
    served = sum(last - first + 1 for first, last in _ranges(server, with_leader))
    fields = {
        "cluster_state": "ok" if served == SLOTS else "fail",
        "cluster_slots_assigned": SLOTS,
        "cluster_slots_ok": served,
        "cluster_slots_pfail": 0,
        "cluster_slots_fail": SLOTS - served,
        "cluster_known_nodes": len(topology.nodes),
        "cluster_size": len(led),
        "cluster_current_epoch": topology.epoch,
        "cluster_my_epoch": topology.epoch,
        **_messages("sent", counts.sent, counts.sent_pings),
        **_messages("received", counts.received, counts.received_pings),
        "total_cluster_links_buffer_limit_exceeded": 0,
    }
    return Verbatim("".join(f"{name}:{value}\r\n" for name, value in fields.items()).encode())


def _messages(which: str, count: int, pings: int) -> dict[str, int]:
    """What other nodes were sent, or have sent. As in Redis a kind of which there were none is left out; of the kinds
    of messages here `ping` is the only one that Redis knows, too."""
    by_kind = {f"cluster_stats_messages_ping_{which}": pings} if pings else {}
    return {**by_kind, f"cluster_stats_messages_{which}": count}


@command("CLUSTER|MYID", kind="server", arity=2, flags="stale", group="cluster", since="3.0.0",
         summary="Return the node id")
def cluster_myid(call: Call) -> Reply:
    return call.server.topology.redis_id(call.server.node).encode()


@command("CLUSTER|LINKS", kind="server", arity=2, flags="stale", group="cluster", since="7.0.0",
         summary="Returns a list of all TCP links to and from peer nodes in cluster", tips="nondeterministic_output",
         complexity="O(N) where N is the total number of Cluster nodes")
def cluster_links(call: Call) -> Reply:
    """The connection to a node carries both ways, and is told as the two links that Redis has for that."""
    server = call.server
    return [
        {
            b"direction": direction,
            b"node": server.topology.redis_id(name).encode(),
            b"create-time": link.created_ms,
            b"events": b"rw",
            b"send-buffer-allocated": waiting_bytes,
            b"send-buffer-used": waiting_bytes,
        }
        for name, link in sorted(server.peers.links.items())
        for direction, waiting_bytes in ((b"to", link.waiting_bytes), (b"from", 0))
    ]


# --- slots and keys ---


@command("CLUSTER|KEYSLOT", kind="server", arity=3, flags="stale", group="cluster", since="3.0.0",
         summary="Returns the hash slot of the specified key",
         complexity="O(N) where N is the number of bytes in the key", syntax="key:string")
def cluster_keyslot(call: Call) -> Reply:
    return slot_of(call.args[2])


@command("CLUSTER|COUNTKEYSINSLOT", kind="server", arity=3, flags="stale", group="cluster", since="3.0.0",
         summary="Return the number of local keys in the specified hash slot", syntax="slot:integer")
def cluster_countkeysinslot(call: Call) -> Reply:
    slot = integer(call.args[2])
    if not 0 <= slot < SLOTS:
        raise errors.generic("Invalid slot")
    return len(_keys_in_slot(call.server, slot))


@command("CLUSTER|GETKEYSINSLOT", kind="server", arity=4, flags="stale", group="cluster", since="3.0.0",
         summary="Return local key names in the specified hash slot", tips="nondeterministic_output",
         complexity="O(log(N)) where N is the number of requested keys", syntax="slot:integer count:integer")
def cluster_getkeysinslot(call: Call) -> Reply:
    slot, count = integer(call.args[2]), integer(call.args[3])
    if not 0 <= slot < SLOTS or count < 0:
        raise errors.generic("Invalid slot or number of keys")
    return _keys_in_slot(call.server, slot)[:count]


def _keys_in_slot(server: Server, slot: int) -> list[bytes]:
    """The live keys of a slot as this node's replica has them; none if it holds no replica of the slot's shard."""
    machine: Machine | None = server.proposer_of_slot[slot].machine
    if machine is None:
        return []
    machine.read([b"DBSIZE"])  # sets the clock
    return machine.db.keys_in_slot(slot)


# --- what respkv does itself ---

_SLOTS = "slots are placed on shards by the ring, and shards on nodes by the cluster's configuration"
_NODES = "the nodes of a cluster are those of cluster.nodes in every node's configuration"
_LEADERS = "each shard elects its leader itself; stop a node to move what it leads"
_EPOCH = "the map's epoch is respkv's own"

_RANGES = "(start-slot_end-slot: start-slot:integer end-slot:integer)..."
_SETSLOT = "slot:integer (subcommand: IMPORTING node-id | MIGRATING node-id | NODE node-id | STABLE)"

REFUSED = {  # subcommand to arity, since, syntax and reason
    "ADDSLOTS": (-3, "3.0.0", "slot:integer...", _SLOTS),
    "ADDSLOTSRANGE": (-4, "7.0.0", _RANGES, _SLOTS),
    "BUMPEPOCH": (2, "3.0.0", "", _EPOCH),
    "DELSLOTS": (-3, "3.0.0", "slot:integer...", _SLOTS),
    "DELSLOTSRANGE": (-4, "7.0.0", _RANGES, _SLOTS),
    "FAILOVER": (-2, "3.0.0", "[options: FORCE | TAKEOVER]", _LEADERS),
    "FLUSHSLOTS": (2, "3.0.0", "", _SLOTS),
    "FORGET": (3, "3.0.0", "node-id", _NODES),
    "MEET": (-4, "3.0.0", "ip port:integer [cluster_bus_port:integer@4.0.0]", _NODES),
    "REPLICATE": (3, "3.0.0", "node-id", _SLOTS),
    "RESET": (-2, "3.0.0", "[hard_soft: HARD | SOFT]", _NODES),
    "SAVECONFIG": (2, "3.0.0", "", _NODES),
    "SET-CONFIG-EPOCH": (3, "3.0.0", "config-epoch:integer", _EPOCH),
    "SETSLOT": (-4, "3.0.0", _SETSLOT, _SLOTS),
}


def _refuse(name: str, arity: int, since: str, syntax: str, reason: str) -> None:
    @command(f"CLUSTER|{name}", kind="server", arity=arity, flags="admin stale", group="cluster", since=since,
             summary=f"Refused: {reason}", syntax=syntax)
    def refused(call: Call) -> Reply:
        raise errors.generic(f"CLUSTER {name} is not supported: {reason}")


for _name, _declared in REFUSED.items():
    _refuse(_name, *_declared)


@command("CLUSTER|HELP", kind="server", arity=2, flags="loading stale", group="cluster", since="5.0.0",
         summary="Show helpful text about the different subcommands")
def cluster_help(call: Call) -> Reply:
    nodes = (
        "Return cluster configuration seen by node. Output format:\n"
        "<id> <ip:port> <flags> <master> <pings> <pongs> <epoch> <link> <slot> ..."
    )
    slots = (
        "Return information about slots range mappings. Each range is made of:\n"
        "start, end, master and replicas IP addresses, ports and ids"
    )
    links = (
        "Return information about all network links between this node and its peers.\n"
        "Output format is an array where each array element is a map containing attributes of a link"
    )
    return help_reply(
        "CLUSTER",
        ("COUNTKEYSINSLOT <slot>", "Return the number of keys in <slot>."),
        ("COUNT-FAILURE-REPORTS <node-id>", "Return number of failure reports for <node-id>."),
        ("GETKEYSINSLOT <slot> <count>", "Return key names stored by current node in a slot."),
        ("INFO", "Return information about the cluster."),
        ("KEYSLOT <key>", "Return the hash slot for <key>."),
        ("MYID", "Return the node id."),
        ("NODES", nodes),
        ("REPLICAS <node-id>", "Return <node-id> replicas."),
        ("SLOTS", slots),
        ("SHARDS", "Return information about slot range mappings and the nodes associated with them."),
        ("LINKS", links),
    )
