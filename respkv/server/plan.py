"""What of a transaction goes to which shard.

All keys, watched ones included, are on one shard, its *home*: what is done there is one operation, atomic. Commands
about the whole keyspace (DBSIZE, KEYS, SCAN, RANDOMKEY, FLUSHALL, FLUSHDB) do their part at home within it; the other
shards do theirs afterwards, each as one operation, if the first was not called off. Commands about the server are run
here at the end. A transaction without any keys has no home; keys that it watches may then be on several shards.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from respkv import errors
from respkv.cluster.slots import slot_of
from respkv.commands.spread import Part as SpreadPart
from respkv.commands.table import Spec, spec_keys
from respkv.reply import Reply, RespError
from respkv.server.dispatch import check_refusal, home_of, permit_still
from respkv.shard.transaction import Watched

if TYPE_CHECKING:
    from respkv.server.connection import Connection


class Errand:
    """What one shard is asked: `commands`, if the `watched` keys are as they were."""

    __slots__ = ("commands", "is_write", "watched")

    def __init__(self) -> None:
        self.watched: list[Watched] = []
        self.commands: list[list[bytes]] = []
        self.is_write = False

    def add(self, spec: Spec, args: list[bytes]) -> int:
        """The place that the reply will have."""
        self.is_write = self.is_write or spec.is_write
        self.commands.append(args)
        return len(self.commands) - 1


class Plan:
    """Who does what. Raises CROSSSLOT, MOVED, and what else forbids the whole.

    first   shards that are asked first: if one says no, nothing is done
    errands what each shard is asked
    places  for the commands with keys: position, shard, place in its errand
    spread  for the commands about the whole keyspace: position, parts, and the place of each part in its errand
    here    positions of the commands about the server
    refused position and error of those that the client may not run any more
    """

    def __init__(
        self, connection: Connection, commands: Sequence[tuple[Spec, list[bytes]]], watched: Collection[Watched]
    ) -> None:
        self._connection = connection
        self.commands = commands
        self.errands: dict[int, Errand] = {}
        self.places: list[tuple[int, int, int]] = []
        self.spread: list[tuple[int, list[SpreadPart], list[int]]] = []
        self.here: list[int] = []
        self.refused: list[tuple[int, Reply]] = []
        shard_of = connection.server.topology.slots
        for each in watched:
            self._errand(shard_of[slot_of(each.key)]).watched.append(each)
        keys = [key for spec, args in commands if spec.kind == "data" for key in spec_keys(spec, args)]
        if keys:
            self._errand(home_of(connection, keys).shard)
        if len(self.errands) > 1 and any(spec.kind == "data" for spec, _ in commands):
            raise errors.cross_slot()
        self.first = list(self.errands)
        for position, (spec, args) in enumerate(commands):
            try:
                permit_still(connection, spec, args)
                self._place(position, spec, args)
            except RespError as error:
                self.refused.append((position, error.with_traceback(None)))
        self._check_writable()

    @property
    def others(self) -> list[int]:
        """The shards that are asked after the first."""
        return [shard for shard in self.errands if shard not in self.first]

    def _errand(self, shard: int) -> Errand:
        errand = self.errands.get(shard)
        if errand is None:
            errand = self.errands[shard] = Errand()
        return errand

    def _place(self, position: int, spec: Spec, args: list[bytes]) -> None:
        if spec.kind == "server":
            self.here.append(position)
            return
        keys = spec_keys(spec, args)
        if keys:
            shard = self._connection.server.topology.slots[slot_of(keys[0])]
            self.places.append((position, shard, self._errand(shard).add(spec, args)))
            return
        if spec.spread is None:
            raise errors.cross_slot()
        server = self._connection.server
        proposers = server.concerned(self._connection.session)
        parts = spec.spread.split(args, slot_of, server.topology.slots, [proposer.shard for proposer in proposers])
        self.spread.append((position, parts, [self._errand(shard).add(spec, words) for shard, words in parts]))

    def _check_writable(self) -> None:
        """All shards take what they are to write. Raises EXECABORT."""
        proposers = self._connection.server.proposers
        asked = [(position, shard) for position, shard, _ in self.places]
        asked += [(position, shard) for position, parts, _ in self.spread for shard, _ in parts]
        try:
            for position, shard in asked:
                check_refusal(proposers[shard], self.commands[position][0])
        except RespError as error:
            raise errors.exec_abort_because(error) from None
