"""What a data command may know besides the data: the entry's seed and the limits that all replicas share."""

from __future__ import annotations

import random
from typing import Final

VALUE_BYTES_MAX: Final = 512 << 20


class Context:
    """The surroundings of the commands of one batch, equal on every replica but for `counts`: whether this is the one
    that counts the keys looked for.

    `seed` comes with the entry. `value_bytes_max` limits what APPEND and the like may build: a limit that differed
    between replicas would make their data differ, so it is the same on all of them, whatever `proto-max-bulk-len` says.
    """

    __slots__ = ("_rng", "counts", "seed", "value_bytes_max")

    def __init__(self, seed: int = 0, value_bytes_max: int = VALUE_BYTES_MAX, *, counts: bool = False) -> None:
        self.seed = seed
        self.counts = counts
        self.value_bytes_max = value_bytes_max
        self._rng: random.Random | None = None

    @property
    def rng(self) -> random.Random:
        """The batch's source of randomness, seeded at its first use (seeding costs more than most commands)."""
        if self._rng is None:
            self._rng = random.Random(self.seed)
        return self._rng
