"""What a command does with its arguments: the keys and channels among them, for ACL and COMMAND GETKEYSANDFLAGS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Final

from respkv.commands.table import Spec, spec_keys

Access = tuple[str, ...]

NOT_KEY: Final = "not_key"  # of what has a slot as keys have, but is none: shard channels

_READ: Final[Access] = ("RO", "access")
_OVERWRITE: Final[Access] = ("OW", "update")
_READ_AND_WRITE: Final[Access] = ("RW", "access", "update")

# Where a command has its channels: the first and, if there is but one, the last; whether they are patterns.
_CHANNELS: Final = {
    "publish": (1, 2, False),
    "spublish": (1, 2, False),
    "subscribe": (1, None, False),
    "ssubscribe": (1, None, False),
    "psubscribe": (1, None, True),
}


@cache
def _lone(spec: Spec) -> tuple[tuple[int, Access]] | None:
    """Of a command with one key at a fixed place: the answer of `keys_and_access`."""
    if len(spec.key_specs) != 1 or spec.keys_of is not None or spec.name in _VARIABLE:
        return None
    [only] = spec.key_specs
    return ((only.first, only.access),) if only.first and not only.last and NOT_KEY not in only.access else None


def keys_and_access(spec: Spec, args: Sequence[bytes]) -> Sequence[tuple[int, Access]]:
    """The position of each key among `args`, and what is done with it, as the flags of a key spec. A key at no fixed
    place is of the last key spec."""
    lone = _lone(spec)
    if lone is not None:
        return lone
    if spec.name in _VARIABLE:
        return [(1, _VARIABLE[spec.name](args))]
    found: list[tuple[int, Access]] = []
    for key_spec in spec.key_specs:
        if key_spec.first and NOT_KEY not in key_spec.access:
            last = len(args) + key_spec.last if key_spec.last < 0 else key_spec.first + key_spec.last
            found += [(at, key_spec.access) for at in range(key_spec.first, min(last + 1, len(args)), key_spec.step)]
    if spec.keys_of is None:
        return found
    for key in spec_keys(spec, args)[len(found) :]:
        at = next(at for at in reversed(range(len(args))) if args[at] is key or args[at] == key)
        found.append((at, spec.key_specs[-1].access))
    return found


def _set_access(args: Sequence[bytes]) -> Access:
    """SET reads only with GET, wherever that stands behind the value (Redis: setGetKeys)."""
    return _READ_AND_WRITE if any(arg.upper() == b"GET" for arg in args[3:]) else _OVERWRITE


def _bitfield_access(args: Sequence[bytes]) -> Access:
    """BITFIELD that is nothing but GETs, as far as it can be told, reads only (Redis: bitfieldGetKeys)."""
    at = 2
    while at < len(args):
        left, word = len(args) - at - 1, args[at].upper()
        if word == b"GET" and left >= 2:
            at += 3
        elif word == b"OVERFLOW" and left >= 1:
            at += 2
        else:
            return _READ_AND_WRITE
    return _READ


_VARIABLE: Final = {"set": _set_access, "bitfield": _bitfield_access}


def channels_of(spec: Spec, args: Sequence[bytes]) -> Iterator[tuple[int, bool]]:
    """The position of each channel to publish or subscribe to, and whether it is a pattern. Leaving is always free."""
    place = _CHANNELS.get(spec.name)
    if place is not None:
        first, end, is_pattern = place
        for at in range(first, min(end or len(args), len(args))):
            yield at, is_pattern
