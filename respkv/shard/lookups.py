"""Which keys a command looks for in order to read them, as `keyspace_hits`, `keyspace_misses` and the event `keymiss`
have it: those that Redis looks up for reading, not those that a command writes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from respkv.commands.table import Spec, resolve, spec_keys

_READS_FIRST = frozenset(("getset", "getdel", "getex"))
_CHANGES = frozenset((b"SET", b"INCRBY"))


@cache
def looks(spec: Spec) -> bool:
    """Whether the command may look for keys at all."""
    return spec.is_readonly or bool(spec.subcommands) or spec.name in ("set", "bitfield") or _reads_sources(spec)


def _reads_sources(spec: Spec) -> bool:
    return spec.name in _READS_FIRST or any(each.access[0] == "RO" for each in spec.key_specs)


def looked_for(spec: Spec, args: list[bytes]) -> Sequence[bytes]:
    """The keys, in order, with repetitions."""
    name = spec.name
    if name == "object":  # its subcommands have the keys; MEMORY looks past all counting
        return spec_keys(resolve(args), args)
    if spec.is_readonly:
        return spec_keys(spec, args)
    if name == "set":
        return args[1:2] if b"GET" in map(bytes.upper, args[3:]) else ()
    if name == "bitfield":
        return args[1:2] if _CHANGES.isdisjoint(map(bytes.upper, args[2:])) else ()
    if name in _READS_FIRST:
        return args[1:2]
    return [  # sources, if it has any beside what it writes
        key
        for each in spec.key_specs
        if each.access[0] == "RO"
        for key in args[each.first : len(args) + each.last + 1 if each.last < 0 else each.first + each.last + 1]
    ]
