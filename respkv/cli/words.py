"""How the command line writes counts."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """`1 shard`, `3 shards`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
