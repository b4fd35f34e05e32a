"""What COMMAND INFO and COMMAND DOCS say about a command: `Spec` in Redis's shapes."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from respkv.commands.syntax import Argument, parse
from respkv.commands.table import CATEGORIES, FLAGS, KeySpec, Spec
from respkv.reply import OrderedSet, Reply, Simple


def info(spec: Spec) -> list[Any]:
    """One entry of COMMAND INFO: name, arity, flags, first, last, step, categories, tips, key specs, subcommands."""
    return [
        spec.name.encode(),
        spec.arity,
        words(flag for flag in FLAGS if flag in spec.flags),
        spec.first,
        spec.last,
        spec.step,
        words("@" + category for category in CATEGORIES if category in spec.categories),
        OrderedSet(tip.encode() for tip in spec.tips),
        OrderedSet(_key_spec(key_spec) for key_spec in spec.key_specs),
        [info(child) for child in children(spec)] or set(),  # Redis 7.0: an array, and only if there are none a set
    ]


def docs(spec: Spec) -> dict[bytes, Reply]:
    """One value of COMMAND DOCS; the key is the command's name. What is empty is left out."""
    texts = {b"summary": spec.summary, b"since": spec.since, b"group": spec.group, b"complexity": spec.complexity}
    found: dict[bytes, Reply] = _told(texts)
    if spec.doc_flags:
        found[b"doc_flags"] = words(spec.doc_flags)
    found |= _told({b"deprecated_since": spec.deprecated_since, b"replaced_by": spec.replaced_by})
    if spec.history:
        found[b"history"] = OrderedSet([since.encode(), text.encode()] for since, text in spec.history)
    if spec.syntax:
        found[b"arguments"] = arguments(spec.syntax)
    if spec.subcommands:
        found[b"subcommands"] = {child.name.encode(): docs(child) for child in children(spec)}
    return found


@cache  # bounded by the table, whose syntaxes are the only ones
def arguments(syntax: str) -> list[Any]:
    """What `syntax` declares, as COMMAND DOCS tells it."""
    return [_argument(argument) for argument in parse(syntax)]


def _argument(argument: Argument) -> Reply:
    found: dict[bytes, Reply] = _told({b"name": argument.name, b"type": argument.type})
    if argument.key_spec is not None:
        found[b"key_spec_index"] = argument.key_spec
    found |= _told({
        b"token": argument.token, b"since": argument.since, b"deprecated_since": argument.deprecated_since,
    })  # fmt: skip
    flags = {
        "optional": argument.is_optional,
        "multiple": argument.is_multiple,
        "multiple_token": argument.is_multiple_token,
    }
    if any(flags.values()):
        found[b"flags"] = words(flag for flag, is_set in flags.items() if is_set)
    if argument.arguments:
        found[b"arguments"] = [_argument(each) for each in argument.arguments]
    return found


def _told(texts: dict[bytes, str]) -> dict[bytes, Reply]:
    return {name: text.encode() for name, text in texts.items() if text}


def children(spec: Spec) -> list[Spec]:
    """The subcommands, each once, by name."""
    return [child for name, child in sorted(spec.subcommands.items()) if name.islower()]


def words(flags: Iterable[str]) -> OrderedSet:
    """Flags in Redis's order: a set to clients of RESP3, and a list to others."""
    return OrderedSet(Simple(flag.encode()) for flag in flags)


def _key_spec(spec: KeySpec) -> dict[bytes, Reply]:
    found: dict[bytes, Reply] = {b"notes": spec.notes.encode()} if spec.notes else {}
    found[b"flags"] = words(spec.access)
    if not spec.first:
        unknown: Reply = {b"type": b"unknown", b"spec": {}}
        return found | {b"begin_search": unknown, b"find_keys": unknown}
    found[b"begin_search"] = {b"type": b"index", b"spec": {b"index": spec.first}}
    reach: Reply = {b"lastkey": spec.last, b"keystep": spec.step, b"limit": 0}
    found[b"find_keys"] = {b"type": b"range", b"spec": reach}
    return found
