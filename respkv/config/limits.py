"""`client-output-buffer-limit`: what may wait for a client that does not read, by class, as Redis writes it.

`normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60`: for each class the hard limit in bytes, the soft
one, and the seconds after which being above the soft one is too much; 0 is no limit. A text may name some of the
classes; the others stay as they are. A single size limits what normal clients may leave unread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from respkv.config.values import Parser, integer, size

_BYTES: Final = size(0, 1 << 40)
_WRONG_NUMBER: Final = "Wrong number of arguments in buffer limit configuration."
_SECONDS: Final = integer(0, 1 << 31)
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


def output_limits(current: OutputLimits) -> Parser:
    """A parser of what is to replace `current`, or a part of it."""

    def parse(value: object) -> OutputLimits:
        if isinstance(value, OutputLimits):
            return value
        words = value.split() if isinstance(value, str) else [value]
        found = {name: getattr(current, name) for name in ("normal", "slave", "pubsub")}
        if len(words) == 1:
            try:
                return OutputLimits(**found | {"normal": Limit(_BYTES(words[0]))})
            except ValueError:
                raise ValueError(_WRONG_NUMBER) from None
        if len(words) % 4 or not words:
            raise ValueError(_WRONG_NUMBER)
        for start in range(0, len(words), 4):
            name, hard, soft, soft_s = words[start : start + 4]
            if str(name).lower() not in _NAMES:
                raise ValueError("Invalid client class specified in buffer limit configuration.")
            try:
                found[_NAMES[str(name).lower()]] = Limit(_BYTES(hard), _BYTES(soft), _SECONDS(soft_s))
            except ValueError:
                wrong = "Error in hard, soft or soft_seconds setting in buffer limit configuration."
                raise ValueError(wrong) from None
        return OutputLimits(**found)

    return parse



