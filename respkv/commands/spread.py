"""How the standalone view spans shards with one command: one strategy per way of splitting and merging.

`split` says what to ask which shard, `merge` makes one reply of theirs. Both are pure (but RANDOMKEY's choice). What
spans shards is not atomic: each shard does its part on its own, as with a Redis Cluster client that splits the command.
If all parts fail the client sees one of their errors, an uncertain one (TIMEOUT) before others; if only some fail, a
read is that error, and a write is "applied in part". Commands with keys in several slots and no strategy
(MSETNX) are for the dispatcher to refuse with CROSSSLOT.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from respkv import errors
from respkv.commands.args import integer, scan_cursor
from respkv.reply import OK, Reply, RespError

SlotOf = Callable[[bytes], int]
Part = tuple[int, list[bytes]]

SLOTS: Final = 16384
_SCAN_COUNT: Final = 10


class Spread:
    """A strategy. The base class asks every shard the same and answers the first reply; subclasses refine it."""

    is_write = False
    walks = False
    """Through all keys: where the answer has to be waited for, a client's next command waits as well."""

    def split(
        self, args: list[bytes], slot_of: SlotOf, shard_of_slot: Sequence[int], shards: Sequence[int]
    ) -> list[Part]:
        """(shard, command) for each part. `shard_of_slot[slot]` is the shard that owns it, `shards` are all of them.

        May name a shard more than once. `shards` may be none (a node that leads none, in the cluster view): then what
        is about the whole keyspace finds it empty. Raises RespError for what can be refused before anything is asked.
        """
        return [(shard, args) for shard in shards]

    def merge(self, args: list[bytes], parts: Sequence[Part], replies: Sequence[Reply], slot_of: SlotOf) -> Reply:
        """The reply to `args`, given that of each part, in the parts' order. Returns errors, raises none."""
        failed = [reply for reply in replies if isinstance(reply, RespError)]
        if not failed:
            return self.join(args, parts, replies, slot_of)
        error = next(filter(errors.is_outcome_unknown, failed), failed[0])
        return errors.partly_applied(error) if self.is_write and len(failed) < len(replies) else error

    def join(self, args: list[bytes], parts: Sequence[Part], replies: Sequence[Any], slot_of: SlotOf) -> Reply:
        """`merge` when no part failed."""
        return _reply(replies[0])


def _reply(reply: Any) -> Reply:
    """Back from the untyped reply of a part."""
    return reply  # type: ignore[no-any-return]


def _by_shard(
    keys: Iterable[bytes], rows: Iterable[list[bytes]], name: bytes, slot_of: SlotOf, shard_of_slot: Sequence[int]
) -> list[Part]:
    """Commands of `name` with the rows (a key and what belongs to it) of each shard, in their order."""
    found: dict[int, list[bytes]] = {}
    for key, row in zip(keys, rows, strict=True):
        shard = shard_of_slot[slot_of(key)]
        part = found.get(shard)
        if part is None:
            part = found[shard] = [name]
        part += row
    return list(found.items())


class _Keys(Spread):
    """Every argument is a key (DEL, EXISTS): the parts' counts add up."""

    def __init__(self, is_write: bool) -> None:
        self.is_write = is_write

    def split(
        self, args: list[bytes], slot_of: SlotOf, shard_of_slot: Sequence[int], shards: Sequence[int]
    ) -> list[Part]:
        keys = args[1:]
        return _by_shard(keys, ([key] for key in keys), args[0], slot_of, shard_of_slot)

    def join(self, args: list[bytes], parts: Sequence[Part], replies: Sequence[Any], slot_of: SlotOf) -> Reply:
        return sum(map(int, replies))


class _Mget(_Keys):
    """MGET: values go back to the places of their keys."""

    def join(self, args: list[bytes], parts: Sequence[Part], replies: Sequence[Any], slot_of: SlotOf) -> Reply:
        if len(parts) == 1:
            return _reply(replies[0])
        values: dict[bytes, bytes | None] = {}
        for (_, part), reply in zip(parts, replies, strict=True):
            values.update(zip(part[1:], reply, strict=True))
        return [values[key] for key in args[1:]]


class _Mset(Spread):
    """MSET: pairs of key and value."""

    is_write = True

    def split(
        self, args: list[bytes], slot_of: SlotOf, shard_of_slot: Sequence[int], shards: Sequence[int]
    ) -> list[Part]:
        if len(args) % 2 == 0:
            raise errors.arity("mset")
        rows = ([key, value] for key, value in zip(args[1::2], args[2::2], strict=True))
        return _by_shard(args[1::2], rows, args[0], slot_of, shard_of_slot)


class _Sum(Spread):
    """DBSIZE."""

    def join(self, args: list[bytes], parts: Sequence[Part], replies: Sequence[Any], slot_of: SlotOf) -> Reply:
        return sum(map(int, replies))


class _Concat(Spread):
    """KEYS."""

    walks = True

    def join(self, args: list[bytes], parts: Sequence[Part], replies: Sequence[Any], slot_of: SlotOf) -> Reply:
        return [key for reply in replies for key in reply]


class _Flush(Spread):
    """FLUSHALL, FLUSHDB."""

    is_write = True

    def join(self, args: list[bytes], parts: Sequence[Part], replies: Sequence[Any], slot_of: SlotOf) -> Reply:
        return OK


class _RandomKey(Spread):
    """RANDOMKEY: every shard offers a key and tells its size; one offer is taken with the sizes as weights.

    So every key is equally likely (as far as sizes stand still), and an empty shard is never taken.
    """

    def __init__(self) -> None:
        self.rng = random.Random()

    def split(
        self, args: list[bytes], slot_of: SlotOf, shard_of_slot: Sequence[int], shards: Sequence[int]
    ) -> list[Part]:
        return [(shard, command) for shard in shards for command in (args, [b"DBSIZE"])]

    def join(self, args: list[bytes], parts: Sequence[Part], replies: Sequence[Any], slot_of: SlotOf) -> Reply:
        offers = [(key, max(size, 1)) for key, size in zip(replies[::2], replies[1::2], strict=True) if key is not None]
        if not offers:
            return None
        keys, weights = zip(*offers, strict=True)
        return bytes(self.rng.choices(keys, weights)[0])


class _Scan(Spread):
    """SCAN: a cursor is a slot, and shards own slots here and there.

    Every shard is asked for its share of COUNT from the same cursor on. The next cursor is the least of theirs; what
    the others have beyond it is dropped and comes again with the next call.
    """

    walks = True

    def split(
        self, args: list[bytes], slot_of: SlotOf, shard_of_slot: Sequence[int], shards: Sequence[int]
    ) -> list[Part]:
        scan_cursor(args[1])
        if len(shards) <= 1:
            return [(shard, args) for shard in shards]
        rest, count, position = [], _SCAN_COUNT, 2
        while position + 1 < len(args):
            if args[position].upper() == b"COUNT":
                count = integer(args[position + 1])
                if count < 1:
                    raise errors.syntax()
            elif args[position].upper() in (b"MATCH", b"TYPE"):
                rest += args[position : position + 2]
            else:
                break  # for the shards to refuse
            position += 2
        share = -(-count // len(shards))
        command = [args[0], args[1], *rest, b"COUNT", b"%d" % share, *args[position:]]
        return [(shard, command) for shard in shards]

    def join(self, args: list[bytes], parts: Sequence[Part], replies: Sequence[Any], slot_of: SlotOf) -> Reply:
        if len(replies) == 1:
            return _reply(replies[0])
        if not replies:  # the cluster view of a node that leads no shard
            return [b"0", []]
        ends = [int(cursor) or SLOTS for cursor, _ in replies]
        end = min(ends)
        found: list[bytes] = []
        for own_end, (_, keys) in zip(ends, replies, strict=True):
            found += keys if own_end == end else [key for key in keys if slot_of(key) < end]
        return [b"%d" % (end % SLOTS), found]


MGET: Final = _Mget(is_write=False)
MSET: Final = _Mset()
COUNT_READ: Final = _Keys(is_write=False)
COUNT_WRITE: Final = _Keys(is_write=True)
DBSIZE: Final = _Sum()
KEYS: Final = _Concat()
FLUSH: Final = _Flush()
RANDOMKEY: Final = _RandomKey()
SCAN: Final = _Scan()
