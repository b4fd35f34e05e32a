"""What COMMAND INFO and COMMAND DOCS say about a command: `Spec` in Redis's shapes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from respkv.commands.table import KeySpec, Spec
from respkv.reply import Reply, Simple


def info(spec: Spec) -> list[Any]:
    """One entry of COMMAND INFO: name, arity, flags, first, last, step, categories, tips, key specs, subcommands."""
    return [
        spec.name.encode(),
        spec.arity,
        {Simple(flag.encode()) for flag in spec.flags},
        spec.first,
        spec.last,
        spec.step,
        {Simple(b"@" + category.encode()) for category in spec.categories},
        [tip.encode() for tip in spec.tips],
        [_key_spec(key_spec) for key_spec in spec.key_specs],
        [info(child) for child in children(spec)],
    ]


def docs(spec: Spec) -> dict[bytes, Reply]:
    """One value of COMMAND DOCS; the key is the command's name."""
    found: dict[bytes, Reply] = {
        b"summary": spec.summary.encode(),
        b"since": spec.since.encode(),
        b"group": spec.group.encode(),
        b"complexity": spec.complexity.encode(),
    }
    if spec.subcommands:
        found[b"subcommands"] = {child.name.encode(): docs(child) for child in children(spec)}
    return found


def children(spec: Spec) -> list[Spec]:
    """The subcommands, each once, by name."""
    return [child for name, child in sorted(spec.subcommands.items()) if name.islower()]


def access_flags(access: Iterable[str]) -> Reply:
    """What is done with a key, in Redis's order: a set to clients of RESP3, and a list to others."""
    return dict.fromkeys(Simple(flag.encode()) for flag in access).keys()


def _key_spec(spec: KeySpec) -> dict[bytes, Reply]:
    found: dict[bytes, Reply] = {b"notes": spec.notes.encode()} if spec.notes else {}
    found[b"flags"] = access_flags(spec.access)
    if not spec.first:
        unknown: Reply = {b"type": b"unknown", b"spec": {}}
        return found | {b"begin_search": unknown, b"find_keys": unknown}
    found[b"begin_search"] = {b"type": b"index", b"spec": {b"index": spec.first}}
    reach: Reply = {b"lastkey": spec.last, b"keystep": spec.step, b"limit": 0}
    found[b"find_keys"] = {b"type": b"range", b"spec": reach}
    return found
