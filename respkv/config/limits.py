"""`client-output-buffer-limit`: what may wait for a client that does not read, by class, as Redis writes it.

`normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60`: for each class the hard limit in bytes, the soft
one, and the seconds after which being above the soft one is too much; 0 is no limit. A text may name some of the
classes; the others stay as they are. A single size, which files and flags may give but not CONFIG SET, limits what
normal clients may leave unread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from respkv.config.values import INT_MAX, ULONG_MAX, memory, split, whole

_BYTES: Final = memory(0, ULONG_MAX)
_NAMES: Final = {"normal": "normal", "slave": "slave", "replica": "slave", "pubsub": "pubsub"}


@dataclass(frozen=True)
class Limit:
    """Bytes that may wait: never more than `hard_bytes`, nor more than `soft_bytes` for longer than `soft_s`."""

    hard_bytes: int = 0
    soft_bytes: int = 0
    soft_s: int = 0

    def __str__(self) -> str:
        return f"{self.hard_bytes} {self.soft_bytes} {self.soft_s}"


@dataclass(frozen=True)
class OutputLimits:
    """`pubsub`: subscribers and monitors. There are no clients of the class `slave`; its limits are kept for show."""

    normal: Limit = Limit()
    slave: Limit = Limit(256 << 20, 64 << 20, 60)
    pubsub: Limit = Limit(32 << 20, 8 << 20, 60)

    def __str__(self) -> str:
        return f"normal {self.normal} slave {self.slave} pubsub {self.pubsub}"


def output_limits(current: OutputLimits) -> Callable[[object], OutputLimits]:
    """A parser of what is to replace `current`, or a part of it."""

    def parse(value: object) -> OutputLimits:
        if isinstance(value, OutputLimits):
            return value
        words = split(value) if isinstance(value, str) else [""]
        found = {name: getattr(current, name) for name in ("normal", "slave", "pubsub")}
        if len(words) % 4:
            raise ValueError("Wrong number of arguments in buffer limit configuration.")
        for name, hard, soft, soft_s in zip(*[iter(words)] * 4, strict=True):
            if name.lower() not in _NAMES:
                raise ValueError("Invalid client class specified in buffer limit configuration.")
            try:
                found[_NAMES[name.lower()]] = Limit(_BYTES(hard), _BYTES(soft), _seconds(soft_s))
            except ValueError:
                wrong = "Error in hard, soft or soft_seconds setting in buffer limit configuration."
                raise ValueError(wrong) from None
        return OutputLimits(**found)

    return parse


def _seconds(word: str) -> int:
    seconds = whole(word)
    if not 0 <= seconds <= INT_MAX:
        raise ValueError(word)
    return seconds


def output_limits_or_size(value: object) -> OutputLimits:
    """A parser of what a file or a flag says."""
    try:
        return OutputLimits(normal=Limit(_BYTES(value)))
    except ValueError:
        return output_limits(OutputLimits())(value)
