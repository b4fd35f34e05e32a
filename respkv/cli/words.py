"""How the command line writes counts and tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.console import Console

WIDE: Final = 400  # columns, more than any table needs


def counted(count: int, noun: str) -> str:
    """`1 shard`, `3 shards`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def console() -> Console:
    """What prints tables: as wide as the terminal, and whole where there is none."""
    from rich.console import Console

    found = Console()
    return found if found.is_terminal else Console(width=WIDE)
