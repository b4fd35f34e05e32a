"""What an offline check of a log finds: the same words for the journal and for the data files."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

HARMLESS = frozenset(("torn", "hint", "leftover"))


class Finding(NamedTuple):
    """Something that is not as it should be, and where.

    `kind` is `damage` (bytes that were safely on the disk are lost or wrong), `torn` (a write that was under way when
    the process ended; the next start cuts it), `hint` (not usable; made again) or `leftover` (removed at the next
    start). Only damage is a loss.
    """

    file: Path
    offset: int
    kind: str
    detail: str

    @property
    def is_damage(self) -> bool:
        return self.kind not in HARMLESS
