"""The batches of one shard on their way to an outcome: sealed, proposed or forwarded; then applied, refused or lost.

Outcome, exactly one for each batch:

- *applied*: its entry was applied here, or the leader says so, or (if the leader is gone) this node's own replica
  applies an entry that carries the batch.
- *not applied for sure*: never proposed; refused; or an entry of a later term was applied here, which shows that the
  log has no place for it any more. It is proposed again until its deadline; then the client gets `-CLUSTERDOWN`, not
  applied.
- *unknown* at the deadline: `-TIMEOUT`, may have been applied. It is never proposed again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from respkv import errors
from respkv.cluster.topology import Shard
from respkv.reply import RespError
from respkv.shard.batch import Entry
from respkv.shard.border import FORWARDED, REFUSED
from respkv.shard.gathering import Gathering
from respkv.shard.waiting import Batch


class Outcomes(Gathering):
    """The base of `Proposer` that knows where each batch is.

    queue      sealed, not under way; in order
    proposals  by index: the term, and the batches of the entry that this node proposed there
    entries    by index: the same entries as they were before they were encoded
    forwards   by request number: sent to the leader's node
    """

    def __init__(
        self, shard: Shard, *, send: Callable[[str, Any], bool], wake: Callable[[], None], now: Callable[[], float]
    ) -> None:
        super().__init__(now)
        self.shard = shard.id
        self._replicas = shard.replicas
        self.send = send
        self.wake = wake
        self._queue: list[Batch] = []
        self._proposals: dict[int, tuple[int, list[Batch]]] = {}
        self._entries_by_index: dict[int, Entry] = {}
        self._forwards: dict[int, Batch] = {}

    def leader(self) -> tuple[str, int] | None:
        """The node that leads, as far as is known here, and its term (-1: not known)."""
        raise NotImplementedError

    @property
    def owes(self) -> bool:
        """Whether another node waits to be told what became of its batch, and that may become known here."""
        if self.leader() is None:
            return False
        proposed = [batch for _, batches in self._proposals.values() for batch in batches]
        return any(batch.origin is not None for batch in self._queue + proposed)

    def _close_batch(self) -> None:
        """Moves what was gathered to the end of the queue."""
        if self._parts:
            self._queue.append(self._seal())

    def put_first(self, batch: Batch) -> None:
        """Puts a batch of reads before everything that is not under way."""
        self._queue.insert(0, batch)

    def _older_under_way(self, term: int) -> bool:
        """A batch of an earlier term has no outcome yet: later ones must not overtake it."""
        return any(batch.term != term for batch in self._forwards.values()) or any(
            proposal[0] != term for proposal in self._proposals.values()
        )

    def _mark_overtaken(self, batch: Batch) -> None:
        """`batch` may have been applied: of those before it, the ones that were lost must not be proposed after it."""
        for earlier in self._forwards.values():
            earlier.overtaken = earlier.overtaken or (earlier.lost and earlier.sequence < batch.sequence)

    def _settle(self, batch: Batch, replies: list[Any]) -> None:
        self.pending_bytes -= batch.bytes
        batch.applied(replies)

    def _fail(self, batch: Batch, error: RespError) -> None:
        self.pending_bytes -= batch.bytes
        batch.fail(error)

    def _leave_unknown(self, batch: Batch, reason: str) -> None:
        """This node will not know what became of a batch that it proposed. One that has a replica and forwarded the
        batch finds it in its own log, or proof that it is not there: it is told nothing, as if this node had died."""
        if batch.origin in self._replicas:
            self.pending_bytes -= batch.bytes
        else:
            self._fail(batch, errors.timeout(reason))

    def _resolve_older(self, term: int) -> None:
        """An entry of `term` was applied: what was meant for earlier terms and was not applied by now never will be."""
        lost: list[Batch] = []
        for index in [i for i, proposal in self._proposals.items() if proposal[0] < term]:
            lost += self._proposals.pop(index)[1]
            self._entries_by_index.pop(index, None)
        for request in [r for r, batch in self._forwards.items() if 0 <= batch.term < term]:
            batch = self._forwards.pop(request)
            if batch.unseen:
                self._fail_unseen(batch)
            else:
                lost.append(batch)
        self._requeue(lost)

    def _requeue(self, batches: list[Batch]) -> None:
        """Batches that were not applied for sure: in their old order, before everything gathered later."""
        mine: list[Batch] = []
        for batch in batches:
            batch.term = -1
            if batch.origin is not None:
                self._refuse(batch)
            elif batch.overtaken:
                self._fail(batch, errors.cluster_down("the link to the leader broke"))
            else:
                batch.lost = batch.unseen = False
                mine.append(batch)
        if mine:
            self._queue = sorted(mine + self._queue, key=lambda batch: batch.sequence)
            self.wake()

    def _give_back(self, leads_in: int) -> None:
        """The role or the term has changed: what other nodes forwarded for an earlier term is refused for good."""
        stale = [batch for batch in self._queue if batch.origin is not None and batch.term != leads_in]
        for batch in stale:
            self._queue.remove(batch)
            self._refuse(batch)

    def _refuse(self, batch: Batch) -> None:
        """Gives a batch back to the node that forwarded it."""
        self.pending_bytes -= batch.bytes
        if batch.origin is not None:
            self.send(batch.origin, (FORWARDED, self.shard, batch.request, REFUSED, self.leader()))

    def installed(self) -> None:
        """A snapshot replaced the state: what it holds of the batches under way, only the leader that was asked can
        tell."""
        proposals, self._proposals = self._proposals, {}
        self._entries_by_index.clear()
        for _, batches in proposals.values():
            for batch in batches:
                self._leave_unknown(batch, "this replica was replaced by a snapshot")
        for batch in self._forwards.values():
            batch.unseen = True
        self._give_up_untold()

    def _give_up_untold(self) -> None:
        """Ends what neither a log of this node nor the node that was asked can tell the outcome of."""
        for request in [r for r, batch in self._forwards.items() if batch.unseen and batch.lost]:
            self._fail_unseen(self._forwards.pop(request))

    def _fail_unseen(self, batch: Batch) -> None:
        self._mark_overtaken(batch)
        self._fail(batch, errors.timeout("its outcome was lost with a link"))

    def _end_late(self, now: float) -> None:
        """Ends the batches that have waited too long."""
        for batch in [b for b in self._queue if b.deadline <= now]:
            self._queue.remove(batch)
            self._fail(batch, errors.cluster_down())
        for request in [r for r, batch in self._forwards.items() if batch.deadline <= now]:
            batch = self._forwards.pop(request)
            self._mark_overtaken(batch)
            self._fail(batch, errors.timeout())
        for index in [i for i, (_, batches) in self._proposals.items() if batches and batches[0].deadline <= now]:
            term, batches = self._proposals[index]
            self._proposals[index] = (term, [])
            for batch in batches:
                self._fail(batch, errors.timeout())
