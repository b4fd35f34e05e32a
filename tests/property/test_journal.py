"""The journal against a model: any order of changes, syncs, crashes and reopenings, for several shards."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path
from random import Random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from respkv.raft.journal import Journal, check
from respkv.raft.log import NO_OP, ShardLog, Standing
from tests.unit.raft_world import VolatileDisk

SHARDS = (0, 1)
Model = tuple[int, str | None, tuple[tuple[bytes, int, int], ...]]


def seen(shard_log: ShardLog) -> Model:
    return shard_log.term, shard_log.voted_for, tuple(shard_log)


class FullDisk(VolatileDisk):
    """Has no room for a file `full` times."""

    full = 0

    def allocate(self, fd: int, size_bytes: int) -> None:
        if self.full:
            self.full -= 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().allocate(fd, size_bytes)


class JournalMachine(RuleBasedStateMachine):
    """`turns` holds what the logs were after each flush, by frame; a crash leaves one of those not older than the
    newest synced."""

    @initialize()
    def begin(self) -> None:
        self.path = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.disk = FullDisk()
        self.journal = self._open()
        self.model = {shard: [0, None, [(NO_OP, 1, 0)]] for shard in SHARDS}
        self.turns = [(self.journal.sequence, self._model())]
        self.rolls: list[tuple[int, dict[int, Model]]] = []
        self.under_way: list[tuple[tuple[int, ...], int]] = []

    def _open(self) -> Journal:
        return Journal.open(self.path, SHARDS, segment_bytes=1500, disk=self.disk)

    def _model(self) -> dict[int, Model]:
        return {shard: (term, vote, tuple(log)) for shard, (term, vote, log) in self.model.items()}

    shards = st.sampled_from(SHARDS)

    @rule(shard=shards, sizes=st.lists(st.integers(0, 700), min_size=1, max_size=4))
    def add(self, shard: int, sizes: list[int]) -> None:
        term, _, log = self.model[shard]
        for size in sizes:
            entry = (b"\0" + b"%d" % len(log) * (size // 2), log[-1][1] + 1, term)
            log.append(entry)
            self.journal.logs[shard].add(*entry)

    @rule(shard=shards, back=st.integers(1, 6))
    def truncate(self, shard: int, back: int) -> None:
        log = self.model[shard][2]
        if len(log) > 1:
            position = max(1, len(log) - back)
            self.journal.logs[shard].truncate(log[position][1])
            del log[position:]

    @rule(shard=shards, share=st.floats(0, 1))
    def trim(self, shard: int, share: float) -> None:
        log = self.model[shard][2]
        position = round(share * (len(log) - 1))
        index = log[position][1]
        if index <= self.journal.logs[shard].durable:
            self.journal.logs[shard].trim(index)
            log[: position + 1] = [(NO_OP, index, log[position][2])]

    @rule(shard=shards, ahead=st.integers(1, 9))
    def reset(self, shard: int, ahead: int) -> None:
        state = self.model[shard]
        index = state[2][0][1] + ahead + (len(state[2]) > 5) * len(state[2])
        state[2][:] = [(NO_OP, index, state[0])]
        self.journal.logs[shard].reset(index, state[0])

    @rule(shard=shards, standing=st.sampled_from(Standing))
    def lose(self, shard: int, standing: Standing) -> None:
        shard_log = self.journal.logs[shard]
        shard_log.lose()
        shard_log.stand(standing)
        self.model[shard][2][:] = [(NO_OP, 1, 0)]

    @rule(shard=shards, higher=st.integers(0, 2), vote=st.sampled_from([None, "a", "node-b"]))
    def set_term(self, shard: int, higher: int, vote: str | None) -> None:
        state = self.model[shard]
        state[0] += higher
        state[1] = vote
        self.journal.logs[shard].setCurrentTerm(state[0], vote)

    @rule()
    def flush(self) -> None:
        before, segments = self.journal.sequence, len(self.journal._segments)
        self.journal.flush()
        if len(self.journal._segments) > segments:
            self.rolls.append((self.journal.sequence, self._only_checkpoint()))
        if self.journal.sequence > before:
            self.turns.append((self.journal.sequence, self._model()))
            self.under_way.append((self.journal.ask_sync(), self.journal.sequence))

    def _only_checkpoint(self) -> dict[int, Model]:
        """What a crash leaves if of a roll-over only the checkpoint arrives: the newest bases, terms and votes, which
        are true without the records behind it (the state machine has what is below a base)."""
        left = {}
        for shard, (term, vote, log) in self._model().items():
            old = self.turns[-1][1][shard][2]
            kept = [entry for entry in old if entry[1] > log[0][1]] if any(e[1:] == log[0][1:] for e in old) else []
            left[shard] = (term, vote, (log[0], *kept) if log[0][1] >= old[0][1] else old)
        return left

    @precondition(lambda self: self.under_way)
    @rule(whole=st.booleans())
    def sync(self, whole: bool) -> None:
        """The newest request (or the oldest, with newer ones to come) is carried out."""
        descriptors, sequence = self.under_way.pop(-1 if whole else 0)
        self.under_way = [request for request in self.under_way if request[1] > sequence]
        for descriptor in descriptors:
            self.disk.sync(descriptor)
        self.journal.sync_done(sequence)
        newest = max(position for position, (frame, _) in enumerate(self.turns) if frame <= sequence)
        del self.turns[:newest]
        self.rolls = [roll for roll in self.rolls if roll[0] > sequence]

    @rule()
    def release(self) -> None:
        self.journal.release()

    @rule(seed=st.integers(0, 1 << 20), full=st.booleans())
    def crash(self, seed: int, full: bool) -> None:
        """`full`: the next start finds no room for a fresh segment."""
        self.disk.crash(Random(seed))
        self.journal._failed = True
        self.journal.close()
        assert {finding.kind for finding in check(self.path)[0]} <= {"torn"}
        self.disk.full = full
        self._recover([model for _, model in self.turns + self.rolls])

    @rule(full=st.booleans())
    def reopen(self, full: bool) -> None:
        self.journal.close()
        self.disk.full = full
        self._recover([self._model()])

    def _recover(self, possible: list[dict[int, Model]]) -> None:
        self.journal = self._open()
        found = {shard: seen(shard_log) for shard, shard_log in self.journal.logs.items()}
        assert found in possible
        self.model = {shard: [term, vote, list(log)] for shard, (term, vote, log) in found.items()}
        self.turns = [(self.journal.sequence, found)]
        self.under_way = []
        self.rolls = []

    @invariant()
    def the_logs_are_those_of_the_model(self) -> None:
        for shard, shard_log in self.journal.logs.items():
            assert seen(shard_log) == self._model()[shard]
            assert shard_log.bytes == sum(len(command) for command, _, _ in shard_log[1:])
            assert 0 < shard_log.durable <= shard_log.last_index

    @invariant()
    def what_is_durable_is_in_every_state_that_a_crash_could_leave(self) -> None:
        for shard, shard_log in self.journal.logs.items():
            for entry in shard_log[1:]:
                if entry[1] <= shard_log.durable:
                    assert all(self._holds(model[shard], entry) for _, model in self.turns)
            if shard_log.state_durable:
                state = (shard_log.term, shard_log.voted_for)
                assert all(model[shard][:2] == state for _, model in self.turns)

    @staticmethod
    def _holds(model: Model, entry: tuple[bytes, int, int]) -> bool:
        return entry in model[2] or entry[1] <= model[2][0][1]

    def teardown(self) -> None:
        if hasattr(self, "journal"):
            self.journal._failed = True
            self.journal.close()
            shutil.rmtree(self.path)


TestJournal = JournalMachine.TestCase
TestJournal.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
