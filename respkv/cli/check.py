"""`respkv check`: an offline look at every byte of one node's data."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from respkv.cli.process import running_pid
from respkv.config import ConfigError

# What a crash leaves behind and the next start makes anew: told, but no damage. An unfinished frame (`end`) is not
# among them: only the start, which has the journal, can tell a torn write from a damaged one.
_MENDED_AT_START = frozenset(("hint", "leftover"))


class Finding(Protocol):
    """What is wrong, and where: the same for both kinds of log."""

    @property
    def file(self) -> Any: ...
    @property
    def offset(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def detail(self) -> str: ...


def run(directory: Path) -> int:
    found = (path for path in directory.glob("shard-*/") if not path.suffix)  # not shard-0.incoming
    shards = sorted(found, key=lambda path: (len(path.name), path.name))
    journal = directory / "journal"
    if not directory.is_dir():
        raise ConfigError(str(directory), "no such directory")
    if not shards and not journal.is_dir():
        nodes = sorted(path.name for path in directory.glob("node-*/"))
        hint = f", it holds nodes: check {directory / nodes[0]}" if nodes else ""
        raise ConfigError(str(directory), f"not a node's directory (no journal, no shard-*){hint}")
    pid = running_pid(directory)
    if pid:
        raise ConfigError(str(directory), f"in use by process {pid}; stop the node first")

    from respkv import storage
    from respkv.raft import journal as raft_journal

    try:
        findings: list[Finding] = [finding for shard in shards for finding in storage.check(shard)]
    except storage.Locked as error:
        raise ConfigError(str(directory), f"in use: {error}") from None
    if journal.is_dir():
        findings.extend(raft_journal.check(journal))
    for finding in findings:
        print(f"{finding.file} at {finding.offset}: {finding.kind}: {finding.detail}")
    looked_at = f"{len(shards)} shards{' and the journal' if journal.is_dir() else ''}"
    files = [path for part in (*shards, journal) for path in part.rglob("*") if path.is_file()]
    size_mb = sum(path.stat().st_size for path in files) / (1 << 20)
    damage = [finding for finding in findings if finding.kind not in _MENDED_AT_START]
    verdict = f"{len(damage)} damaged places" if damage else "no damage"
    print(f"{directory}: {verdict} in {looked_at} ({len(files)} files, {size_mb:.1f} MB)")
    return 1 if damage else 0
