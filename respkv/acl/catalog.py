"""Every command that a rule can name, as one bit each: what a user may run is then one int, and a category a mask.

The commands are those of the command table and, so that rules written for Redis keep their meaning, those of Redis that
respkv does not have. Bit `FUTURE` stands for commands that come with a later version: `+@all` sets it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import cache

from respkv.acl.foreign import FOREIGN
from respkv.commands.describe import children
from respkv.commands.table import CATEGORIES, Spec, all_specs


class Catalog:
    """bits        the number of the bit of each command and subcommand, by full name
    subcommands for each container, the mask of its subcommands
    members     for each category, the mask of the commands that are in it
    reach       for each category, the mask of those that a rule about it changes: a container and all in it
    weighed     the mask of those that Redis 7.0 has: what describes a user is chosen by these alone, as there
    future      the mask of the commands that are not there yet
    every       all of them, future ones included
    """

    def __init__(self, commands: dict[str, frozenset[str]], newer: Iterable[str] = ()) -> None:
        self.bits = {name: bit for bit, name in enumerate(sorted(commands))}
        self.future = 1 << len(self.bits)
        self.every = self.future * 2 - 1
        self.weighed = (self.future - 1) & ~sum(1 << self.bits[name] for name in newer)
        self.subcommands: dict[str, int] = defaultdict(int)
        for name, bit in self.bits.items():
            container, _, child = name.partition("|")
            if child:
                self.subcommands[container] |= 1 << bit
        self.members = dict.fromkeys(CATEGORIES, 0)
        self.reach = dict.fromkeys(CATEGORIES, 0)
        for name, categories in commands.items():
            for category in categories:
                self.members[category] |= 1 << self.bits[name]
                self.reach[category] |= self.mask(name)

    def mask(self, name: str) -> int:
        """The command `name` and its subcommands."""
        return 1 << self.bits[name] | self.subcommands.get(name, 0)

    def is_container(self, name: str) -> bool:
        return name in self.subcommands


def _known() -> dict[str, frozenset[str]]:
    """The categories of each command of the command table."""
    return {spec.name: spec.categories for spec in known_specs()}


def known_specs() -> list[Spec]:
    """Every command and subcommand that respkv has, by name."""
    return [each for spec in all_specs() for each in (spec, *children(spec))]


def _foreign() -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    categories: frozenset[str] = frozenset()
    for line in FOREIGN.strip().splitlines():
        if not line.startswith(" "):
            head, _, line = line.partition(":")
            categories = frozenset(head.split())
        found.update(dict.fromkeys(line.split(), categories))
    return found


@cache
def catalog() -> Catalog:
    """The catalog of the full command table, which must be filled by the first call."""
    newer = [spec.name for spec in known_specs() if tuple(map(int, spec.since.split("."))) >= (7, 1)]
    return Catalog(_foreign() | _known(), newer)
