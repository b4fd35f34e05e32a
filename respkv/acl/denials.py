"""The log of what was refused: commands, keys, channels and passwords. Alike ones within a minute are one entry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from respkv.acl.selector import CHANNEL, COMMAND, KEY
from respkv.reply import Reply

ALIKE_FOR_S: Final = 60.0
_LOOK_BACK: Final = 10
AUTH: Final = 3
REASONS: Final = {COMMAND: b"command", KEY: b"key", AUTH: b"auth", CHANNEL: b"channel"}


@dataclass(slots=True, eq=False)
class Entry:
    """`object` is the command, key or channel; `context` is toplevel or multi; `at` in s of the caller's clock."""

    reason: int
    context: bytes
    object: bytes
    user: bytes
    client: bytes
    at: float
    count: int = 1

    def alike(self, other: Entry) -> bool:
        mine = (self.reason, self.context, self.object, self.user)
        return mine == (other.reason, other.context, other.object, other.user) and other.at - self.at <= ALIKE_FOR_S


class Denials:
    """The newest entries, newest first; at most `acllog-max-len`."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []

    def add(self, entry: Entry, entries_max: int) -> None:
        for earlier in islice(self._entries, _LOOK_BACK):
            if earlier.alike(entry):
                self._entries.remove(earlier)
                entry.count = earlier.count + 1
                break
        self._entries.insert(0, entry)
        del self._entries[entries_max:]

    def clear(self) -> None:
        self._entries.clear()

    def tell(self, count: int, now: float) -> Sequence[dict[bytes, Reply]]:
        """The newest `count` entries as ACL LOG answers them."""
        return [
            {
                b"count": entry.count,
                b"reason": REASONS[entry.reason],
                b"context": entry.context,
                b"object": entry.object,
                b"username": entry.user,
                b"age-seconds": round(now - entry.at, 3),
                b"client-info": entry.client,
            }
            for entry in self._entries[: max(0, count)]
        ]
