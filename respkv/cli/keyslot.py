"""`respkv keyslot`: where a key lives."""

from __future__ import annotations

import os
import sys
from typing import Any

from respkv.cli.status import address_of
from respkv.client import Client, ClientError
from respkv.cluster.slots import slot_of


def run(key: str, url: str | None) -> int:
    slot = slot_of(os.fsencode(key))
    if url is None:
        print(f"slot {slot}")
        return 0
    try:
        with Client(address_of(url)) as client:
            shards = client.call("CLUSTER", "SHARDS")
    except ClientError as error:
        print(f"respkv: {error}", file=sys.stderr)
        return 1
    for number, shard in enumerate(shards):
        found = _pairs(shard)
        ranges = found[b"slots"]
        if any(ranges[i] <= slot <= ranges[i + 1] for i in range(0, len(ranges), 2)):
            print(f"slot {slot}, shard {number}, leader {_leader(found[b'nodes'])}")
            return 0
    print(f"slot {slot}, which no shard has")
    return 1


def _leader(nodes: list[Any]) -> str:
    for node in map(_pairs, nodes):
        if node.get(b"role") == b"master":
            return f"{node.get(b'ip', b'?').decode()}:{node.get(b'port', 0)}"
    return "unknown"


def _pairs(flat: list[Any]) -> dict[bytes, Any]:
    """A map as RESP2 has it: a flat list of names and values."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
