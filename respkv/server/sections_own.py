"""The sections of INFO that are respkv's own: `raft`, a line for each replica on this node, and `respkv`.

| line of `raft` | |
| --- | --- |
| `role` | leader, follower; learner: repairs itself, or has not met the other nodes, and does not vote |
| `term`, `leader` | as this replica knows them; `-` if it knows no leader |
| `commit`, `applied`, `last` | indexes: known committed, applied here, newest in the log |
| `durable`, `synced` | indexes up to which the journal, and the Bitcask log, are on the disk |
| `log_entries`, `log_bytes` | the part of the log that is kept |
| `keys`, `bytes`, `live_bytes` | of the Bitcask log; expired keys count until they are removed |
| `pending_bytes` | writes of clients that have no outcome yet |
| `standing` | voter, learner, stranger, new: see `respkv.raft.membership` |
| `repairs` | how often this replica began anew since the node was started, because its files were damaged |
| `lag`, `lag_<node>` | on a leader, entries that the slowest, and each, follower has not acknowledged |
"""

from __future__ import annotations

from typing import Any

from respkv.server.server import Server
from respkv.shard.replica import Replica

Fields = dict[str, Any]


def raft(server: Server) -> Fields:
    return {f"shard{replica.shard.id}": _pairs(_replica_fields(replica)) for replica in server.replicas}


def _replica_fields(replica: Replica) -> Fields:
    group, cask = replica.group, replica.cask
    fields = {
        "role": "leader" if group.leader else "follower" if group.votes else "learner",
        "term": group.term,
        "leader": group.leader_id or "-",
        "commit": group.commit,
        "applied": group.applied,
        "last": group.log.last_index,
        "durable": group.log.durable,
        "synced": cask.synced,
        "log_entries": len(group.log) - 1,
        "log_bytes": group.log.bytes,
        "keys": len(cask),
        "bytes": cask.file_bytes,
        "live_bytes": cask.live_bytes,
        "pending_bytes": replica.proposer.pending_bytes,
        "standing": group.log.standing.name.lower(),
        "repairs": replica.repairs,
    }
    lag = group.lag()
    if lag:
        fields["lag"] = max(lag.values())
        fields |= {f"lag_{name}": entries for name, entries in sorted(lag.items())}
    return fields


def _pairs(fields: Fields) -> str:
    return ",".join(f"{name}={value}" for name, value in fields.items())


def respkv(server: Server) -> Fields:
    topology, config = server.topology, server.config.config
    leads = sum(replica.group.leader for replica in server.replicas)
    return {
        "node": server.node,
        "cluster_id": topology.cluster_id,
        "epoch": topology.epoch,
        "topology": topology.fingerprint,
        "nodes": len(topology.nodes),
        "shards": len(topology.shards),
        "replicas_held": len(server.replicas),
        "shards_led": leads,
        "peers_connected": len(server.peers.links),
        "appendfsync": config.appendfsync,
        "read_mode": config.read_mode,
        "journal_bytes": server.journal.file_bytes,
        "journal_sequence": server.journal.sequence,
        "journal_synced": server.journal.synced,
        "entries_proposed": sum(replica.proposer.proposed for replica in server.replicas),
        "writes_refused": int(any(replica.proposer.refusal is not None for replica in server.replicas)),
    }
