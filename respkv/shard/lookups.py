"""Which keys a command looks for in order to read them, as `keyspace_hits`, `keyspace_misses` and the event `keymiss`
have it: those that Redis looks up for reading, not those that a command writes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from respkv.commands.access import keys_and_access
from respkv.commands.table import Spec, resolve, spec_keys

# Of the commands that write, those that answer with what was there (SET if it says GET).
_READS_FIRST = frozenset(("getset", "getdel", "getex", "set"))


@cache
def looks(spec: Spec) -> bool:
    """Whether the command may look for keys at all."""
    reads_sources = any(each.access[0] == "RO" for each in spec.key_specs)
    return spec.is_readonly or bool(spec.subcommands) or reads_sources or spec.name in _READS_FIRST | {"bitfield"}


def looked_for(spec: Spec, args: list[bytes]) -> Sequence[bytes]:
    """The keys, in order, with repetitions."""
    if spec.name == "object":  # its subcommands have the keys; MEMORY looks past all counting
        return spec_keys(resolve(args), args)
    if spec.is_readonly:
        return spec_keys(spec, args)
    reads_first = spec.name in _READS_FIRST
    accesses = keys_and_access(spec, args)
    return [args[at] for at, access in accesses if access[0] == "RO" or (reads_first and "access" in access)]
