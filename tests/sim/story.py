"""What happened, for people: the last events of a simulation with their time and node, and a hash of all of them.

Two runs with the same hash have done the same things in the same order, byte for byte.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from respkv.checksum import crc32
from respkv.raft import messages as raft
from respkv.shard import proposer

EVENTS_KEPT = 3000
_KINDS = {
    value: name
    for module in (raft, proposer)
    for name, value in vars(module).items()
    if name.isupper() and isinstance(value, int) and not name.startswith("_") and value <= 60
    if (module is raft and name != "REPLICA_KIND_MAX") or name in {"FORWARD", "FORWARDED", "READ", "READ_DONE"}
}


class Story:
    """Events are kept as they are and put into words only when somebody asks."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.trace = 0
        self.events = 0
        self.counts: Counter[str] = Counter()
        self._now = now
        self._last: deque[tuple[float, str, str, Any]] = deque(maxlen=EVENTS_KEPT)

    def tell(self, node: str, what: str, detail: Any = "") -> None:
        """Something a reader should know."""
        self.counts[what] += 1
        self._add(node, what, detail)
        self.trace = crc32(f"{self._now():.9f} {node} {what} {detail}".encode(), self.trace)

    def delivered(self, source: str, target: str, message: Any, payload: bytes) -> None:
        self._add(target, "<- " + source, message)
        self.trace = crc32(payload, crc32(f"{self._now():.9f} {source}{target}".encode(), self.trace))

    def _add(self, node: str, what: str, detail: Any) -> None:
        self.events += 1
        self._last.append((self._now(), node, what, detail))

    def last(self, count: int = 150, nodes: str = "") -> str:
        """The last events, one a line; of these nodes only, if any are named."""
        chosen = [event for event in self._last if not nodes or event[1] in nodes or not event[1]]
        return "\n".join(f"{at:10.4f}  {node:3} {what} {_words(detail)}" for at, node, what, detail in chosen[-count:])


def _words(detail: Any) -> str:
    """A message as its kind and what of it fits on a line."""
    if not isinstance(detail, list | tuple) or not detail or not isinstance(detail[0], int):
        return str(detail)
    kind, shard, *fields = detail
    return f"{_KINDS.get(kind, kind)} shard {shard} " + " ".join(map(_field, fields))


def _field(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, bytes):
        return f"({len(value)} bytes)"
    if isinstance(value, list):
        if value and all(map(_is_entry, (value[0], value[-1]))):
            return f"[entries {value[0][1]}..{value[-1][1]}]"
        return f"[{len(value)}: {str(value)[:60]}]" if value else "[]"
    return str(value)


def _is_entry(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and isinstance(value[0], bytes)
