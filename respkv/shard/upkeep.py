"""The upkeep of a replica's files: what must be done to them now and then, a round about once a second.

A round fdatasyncs the Bitcask log when much was written, time has passed or the journal is to be trimmed, trims the
journal behind what is synced, verifies the files if a snapshot of them is wanted, and hints and merges sealed ones.
Neither the log in memory nor the journal may grow while something of this takes long: see `_step`.
What takes long is cut into jobs for the worker thread, each of which holds `files`: whoever closes the log takes that
lock first, and no job begins on a closed log. At most one round runs at a time.

A record that is not intact is told to `damaged`; after any other error the disk cannot be trusted, and `fatal` is told.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from respkv.config import Config
from respkv.offload import Worker
from respkv.raft.group import Group
from respkv.raft.journal import Journal
from respkv.storage import Bitcask, Damaged

SYNC_EVERY_S = 10.0
SYNC_EVERY_BYTES = 8 << 20
"""Few, so that no sync takes long: that of the journal, for which clients wait, goes to the same disk."""
VERIFIED_FOR_S = 5.0
KEEP_TIMES_MAX = 8  # what the log and the journal may grow to while followers get snapshots, in `journal-keep-bytes`


class Upkeep:
    """Of the log `cask`, and of the journal's part that belongs to `group`."""

    def __init__(
        self,
        cask: Bitcask,
        group: Group,
        config: Config,
        journal: Journal,
        *,
        worker: Worker,
        now: Callable[[], float],
        damaged: Callable[[Damaged], None],
        fatal: Callable[[BaseException], None],
        trimmable: Callable[[int], int] = lambda index: index,
    ) -> None:
        self.files = threading.Lock()  # held by a job on the worker thread while it uses the log's files
        self.verify_wanted = False
        self.cask = cask
        self.group = group
        self.round: asyncio.Task[None] | None = None
        self._config = config
        self._journal = journal
        self._worker = worker
        self._now = now
        self._damaged = damaged
        self._fatal = fatal
        self._trimmable = trimmable
        self._synced_at = now()
        self._synced_bytes = cask.written_bytes
        self._verified_at = float("-inf")

    @property
    def verified_lately(self) -> bool:
        """Whether all files were found intact a moment ago."""
        return self._now() - self._verified_at < VERIFIED_FOR_S

    def use(self, cask: Bitcask) -> None:
        """Goes on with another log. `stop` has been called, and the old one was closed."""
        self.cask = cask
        self._synced_bytes = cask.written_bytes
        self._verified_at = float("-inf")

    def start(self) -> None:
        """Begins a round if the last one is over."""
        if self.round is None or self.round.done():
            self.round = asyncio.get_running_loop().create_task(self._keep_up())

    def stop(self) -> None:
        if self.round is not None:
            self.round.cancel()
            self.round = None

    async def _keep_up(self) -> None:
        cask = self.cask
        try:
            if self._should_sync():
                await self._sync(cask)
            self._trim()
            if self.verify_wanted:
                await self._verify(cask)
            for task in cask.maintain():
                if self.verify_wanted:
                    break  # the next round goes on with it
                await self._step(cask, task)
        except Damaged as damage:
            if cask is self.cask:
                self._damaged(damage)
        except Exception as error:  # noqa: BLE001 - whatever it is, the disk cannot be trusted any more
            if cask is self.cask:
                self._fatal(error)

    @property
    def _has_much_to_sync(self) -> bool:
        return self.cask.written_bytes - self._synced_bytes >= SYNC_EVERY_BYTES

    def _should_sync(self) -> bool:
        if self.cask.synced >= self.cask.applied:
            return False
        shard_log = self.group.log
        due = self._has_much_to_sync or self._now() - self._synced_at >= SYNC_EVERY_S
        return due or shard_log.bytes > self._keep_bytes // 2 or self.group.shard in self._journal.pinned()

    async def _sync(self, cask: Bitcask) -> None:
        point, written_bytes = cask.sync_point(), cask.written_bytes
        await self._run_job(cask, point.run)
        if cask is self.cask:
            cask.synced_to(point)
            self._synced_at, self._synced_bytes = self._now(), written_bytes

    async def _verify(self, cask: Bitcask) -> None:
        try:
            for task in cask.verify():
                await self._step(cask, task)
        finally:
            self.verify_wanted = False  # whoever has wished for it meanwhile has it
        self._verified_at = self._now()

    async def _step(self, cask: Bitcask, task: Callable[[], None] | None) -> None:
        """What is to be done before background work goes on, and the syncing of what was written meanwhile."""
        if task is None:
            await self._worker.pause()
        else:
            await self._run_job(cask, task)
        if self._has_much_to_sync:
            await self._sync(cask)
            self._trim()

    async def _run_job(self, cask: Bitcask, job: Callable[[], None]) -> None:
        """Runs `job` in the worker thread unless the log has been closed by then: its descriptors may be others'."""

        def guarded() -> None:
            with self.files:
                if not cask.closed:
                    job()

        await self._worker.run(guarded)

    @property
    def _keep_bytes(self) -> int:
        return self._config.journal_keep_bytes // max(1, len(self._journal.logs))

    def _trim(self) -> None:
        """Trims the journal behind what the Bitcask log has synced, keeping a tail for followers that lag a little, and
        a longer one for those that get a snapshot."""
        shard_log = self.group.log
        synced = min(self.cask.synced, self.group.applied)
        index = max(self._tail(self._trimmable(synced), 1), self._tail(synced, KEEP_TIMES_MAX))
        if index > shard_log.base_index:
            shard_log.trim(index)

    def _tail(self, limit: int, times: int) -> int:
        """What the base should be, but not beyond `limit`, for log and journal to hold `times` what is to be kept."""
        shard_log, config = self.group.log, self._config
        index, excess = shard_log.base_index, shard_log.bytes - times * self._keep_bytes
        while excess > 0 and index < limit:
            index += 1
            excess -= len(shard_log[index - shard_log.base_index][0])
        if self._journal.file_bytes > times * config.journal_keep_bytes + 2 * config.journal_segment_bytes:
            index = max(index, min(self._journal.pinned().get(self.group.shard, 0), limit))
        return index
