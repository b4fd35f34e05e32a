"""What a replica does when its files are damaged or gone: puts them aside, begins anew, is refilled by the others.

- A journal that is damaged or missing (while something shows that there was one): all replicas of the node are
  strangers to their shards.
- Data files that are damaged, missing, or older than the journal begins: that replica is a learner. The same for a
  record that turns out to be damaged when it is read, as soon as another replica leads (if this one leads, it hands the
  lead over first); in the middle of an entry that is being applied, at once.

What the standings mean, and why nothing is lost that was acknowledged, is in `respkv.raft.membership`. A shard without
another replica cannot be refilled: then everything stays as it is and the node refuses to start, naming file and
offset.

Damaged files are renamed `<name>.damaged-<seconds>`, for whoever wants to look; one such copy is kept of each, and none
where the disk has no room for it and its replacement.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import structlog

from respkv.cluster.topology import Shard
from respkv.config import Config
from respkv.disk import Disk
from respkv.raft.identity import was_here
from respkv.raft.journal import ForeignJournal, Journal
from respkv.raft.log import Standing
from respkv.raft.segment import JournalDamaged, list_segments
from respkv.raft.snapshot import remove_leftovers

log = structlog.get_logger()

ASIDE = ".damaged-"


class StartError(Exception):
    """The node's data do not allow it to start; the text says what to do."""


def open_journal(config: Config, shards: Sequence[Shard], disk: Disk) -> Journal:
    """The node's journal; in the place of a lost one, an empty one whose replicas know that they have lost it.

    Raises:
        StartError, JournalDamaged: it is lost, and a shard has no other replica.
        JournalInUse, OSError: as `Journal.open`.
    """
    directory = config.dir / "journal"
    alone = any(len(shard.replicas) == 1 for shard in shards)
    standing = Standing.VOTER if alone else Standing.NEW
    if not list_segments(directory):
        held = [shard.id for shard in shards if (config.dir / f"shard-{shard.id}").exists()]
        if held and alone:
            raise StartError(f"{directory}: offset 0: the segments are missing, but there are data of shards {held}")
        if held or was_here(directory):
            log.error("replica_damaged", file=str(directory), offset=0, reason="the journal's segments are missing")
            standing = Standing.STRANGER

    def open_with(standing: Standing) -> Journal:
        numbers = [shard.id for shard in shards]
        size = config.journal_segment_bytes
        return Journal.open(
            directory,
            numbers,
            segment_bytes=size,
            disk=disk,
            standing_if_new=standing,
            locked=lambda: remove_leftovers(config.dir),
        )

    try:
        return open_with(standing)
    except JournalDamaged as error:
        if alone or isinstance(error, ForeignJournal):
            raise
        damage = error
    log.error("replica_damaged", file=str(damage.file), offset=damage.offset, reason=damage.detail)
    put_aside(directory, config.disk_headroom_bytes, disk)
    return open_with(Standing.STRANGER)


def put_aside(path: Path, headroom_bytes: int, disk: Disk) -> None:
    """Renames the directory `path`, or removes it where the disk has no room for two of its size. Raises OSError."""
    for older in path.parent.glob(f"{path.name}{ASIDE}*"):
        shutil.rmtree(older)
    size = sum(file.stat().st_blocks * 512 for file in path.rglob("*") if file.is_file())
    aside = path.with_name(f"{path.name}{ASIDE}{int(time.time())}")
    disk.rename(path, aside)
    disk.sync_dir(path.parent)
    if shutil.disk_usage(path.parent).free < size + headroom_bytes:
        log.warning("damaged_files_removed", path=str(path), bytes=size, reason="no room on the disk to keep them")
        shutil.rmtree(aside)
    else:
        log.warning("damaged_files_kept", path=str(aside), bytes=size)
