"""`respkv check`: an offline look at every byte of one node's data."""

from __future__ import annotations

from pathlib import Path

from respkv.cli.process import running_pid
from respkv.cli.words import counted
from respkv.config import ConfigError
from respkv.finding import Finding


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
        findings = [finding for shard in shards for finding in storage.check(shard)]
    except storage.Locked as error:
        raise ConfigError(str(directory), f"in use: {error}") from None
    in_journal, begins_behind = raft_journal.check(journal)
    findings += in_journal
    if not any(finding.is_damage for finding in findings):
        findings += _gaps(directory, begins_behind)
    for finding in findings:
        print(f"{finding.file} at {finding.offset}: {finding.kind}: {finding.detail}")
    looked_at = f"{counted(len(shards), 'shard')}{' and the journal' if journal.is_dir() else ''}"
    files = [path for part in (*shards, journal) for path in part.rglob("*") if path.is_file()]
    size_mb = sum(path.stat().st_size for path in files) / (1 << 20)
    damage = [finding for finding in findings if finding.is_damage]
    verdict = counted(len(damage), "damaged place") if damage else "no damage"
    print(f"{directory}: {verdict} in {looked_at} ({counted(len(files), 'file')}, {size_mb:.1f} MB)")
    return 1 if damage else 0


def _gaps(directory: Path, begins_behind: dict[int, int]) -> list[Finding]:
    """Shards whose data end before the journal begins."""
    from respkv import storage

    findings = []
    for shard, base in sorted(begins_behind.items()):
        path = directory / f"shard-{shard}"
        held = storage.last_index(path)
        if max(1, held) < base:
            findings.append(Finding(path, 0, "damage", f"holds entries up to {held}, the journal begins behind {base}"))
    return findings
