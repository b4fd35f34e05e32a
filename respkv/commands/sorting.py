"""SORT and SORT_RO over what there is to sort: nothing yet but absent keys, which are empty lists, and refusals.

Options are checked as Redis checks them. STORE of an empty result removes its target.
"""

from __future__ import annotations

from collections.abc import Sequence

from respkv import errors
from respkv.commands.args import integer
from respkv.commands.context import Context
from respkv.commands.table import KeySpec, command
from respkv.keyspace.db import Db
from respkv.reply import Reply

_FLAGS = ("RO", "access")
_PATTERN_KEYS = KeySpec(
    0, 0, 0, _FLAGS,
    "For the optional BY/GET keyword. It is marked 'unknown' because the key names derive from the content of the key "
    "we sort",
)  # fmt: skip
_STORE_KEY = KeySpec(
    0, 0, 0, ("OW", "update"),
    "For the optional STORE keyword. It is marked 'unknown' because the keyword can appear anywhere in the argument "
    "array",
)  # fmt: skip
_COMPLEXITY = (
    "O(N+M*log(M)) where N is the number of elements in the list or set to sort, and M the number of returned "
    "elements. When the elements are not sorted, complexity is O(N)."
)
_ARGUMENTS = {b"ASC": 0, b"DESC": 0, b"ALPHA": 0, b"LIMIT": 2, b"BY": 1, b"GET": 1, b"STORE": 1}


def _target(args: Sequence[bytes], *, may_store: bool) -> bytes | None:
    """Checks the options; the key of the last STORE. Raises RespError."""
    target = None
    at = 2
    while at < len(args):
        name = args[at].upper()
        count = _ARGUMENTS.get(name, len(args))
        if at + count >= len(args) or (name == b"STORE" and not may_store):
            raise errors.syntax()
        if name == b"LIMIT":
            integer(args[at + 1])
            integer(args[at + 2])
        elif name == b"STORE":
            target = args[at + 1]
        at += 1 + count
    return target


def _sort_keys(args: Sequence[bytes]) -> list[bytes]:
    """The key to sort, and that of the last STORE, wherever it is."""
    keys = list(args[1:2])
    at, target = 2, None
    while at < len(args):
        name = args[at].upper()
        if name == b"STORE" and at + 1 < len(args):
            target = args[at + 1]
        at += 1 + (_ARGUMENTS.get(name, 0) if at + _ARGUMENTS.get(name, 0) < len(args) else 0)
    return keys if target is None else [*keys, target]


def _refuse_string(db: Db, key: bytes) -> None:
    """Raises RespError (WRONGTYPE) for a key of a type that has no elements: any that there is."""
    if db.exists(key):
        raise errors.wrong_type()


@command("SORT", arity=-2, flags="write denyoom movablekeys", keys=(1, 1, 1), group="generic", group_category=False,
         key_specs=(KeySpec(1, 0, 1, _FLAGS), _PATTERN_KEYS, _STORE_KEY), keys_of=_sort_keys, since="1.0.0",
         categories="set sortedset list dangerous", complexity=_COMPLEXITY,
         summary="Sort the elements in a list, set or sorted set",
         syntax="key [BY pattern#1] [LIMIT (offset_count: offset:integer count:integer)] [GET pattern#1]... "
                "[order: ASC | DESC] [sorting=ALPHA] [STORE destination:key#2]")
def sort(db: Db, args: list[bytes], ctx: Context) -> Reply:
    target = _target(args, may_store=True)
    _refuse_string(db, args[1])
    if target is None:
        return []
    db.delete(target)
    return 0


@command("SORT_RO", arity=-2, flags="readonly movablekeys", keys=(1, 1, 1), group="generic", group_category=False,
         key_specs=(KeySpec(1, 0, 1, _FLAGS), _PATTERN_KEYS), since="7.0.0",
         categories="set sortedset list dangerous", complexity=_COMPLEXITY,
         summary="Sort the elements in a list, set or sorted set. Read-only variant of SORT.",
         syntax="key [BY pattern#1] [LIMIT (offset_count: offset:integer count:integer)] [GET pattern#1]... "
                "[order: ASC | DESC] [sorting=ALPHA]")
def sort_ro(db: Db, args: list[bytes], ctx: Context) -> Reply:
    _target(args, may_store=False)
    _refuse_string(db, args[1])
    return []
