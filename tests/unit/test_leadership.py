"""The log of every node tells whom its replicas follow, once for each change."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from structlog.testing import capture_logs

from respkv.shard.leadership import LeaderNews
from tests.unit.running import eventually, respkv_cluster

TOLD = {"event": "leader_known", "log_level": "info", "shard": 2}


def group(leader: str | None, term: int, *, asks: bool = False) -> Any:
    elections = SimpleNamespace(prevotes=(term + 1, set()) if asks else None)
    return SimpleNamespace(shard=2, leader_id=leader, term=term, elections=elections)


def test_another_leader_or_term_is_told_once_and_nothing_of_this_node() -> None:
    news = LeaderNews("n1", 5.0, 0.0)
    with capture_logs() as events:
        for at, now in enumerate([("n2", 1), ("n2", 1), ("n3", 2), ("n3", 2), ("n1", 3), ("n3", 4), ("n3", 5)]):
            news.look(group(*now), float(at))
    told = [("n2", 1), ("n3", 2), ("n3", 4), ("n3", 5)]
    assert events == [TOLD | {"leader": leader, "term": term} for leader, term in told]


def test_that_there_is_no_leader_is_told_once_after_a_while_and_who_comes_then() -> None:
    """Whether the leader's term is over, or the replica only asks whether it could be elected."""
    news = LeaderNews("n1", 5.0, 0.0)
    with capture_logs() as events:
        news.look(group("n2", 1), 10.0)
        for now in range(11, 30):
            news.look(group("n2", 1, asks=True) if now % 2 else group(None, 1), float(now))
        news.look(group("n2", 1), 30.0)
        news.look(group(None, 1), 31.0)
    missed = {"event": "no_leader", "log_level": "warning", "shard": 2, "term": 1, "missed_s": 5.0}
    assert events == [TOLD | {"leader": "n2", "term": 1}, missed, TOLD | {"leader": "n2", "term": 1}]


def test_a_follower_on_a_running_cluster_tells_its_leader(tmp_path: Path) -> None:
    with respkv_cluster(tmp_path, 3, shards=1, replicas=3) as ports:
        for port in ports[1:]:
            eventually(lambda port=port: b"leader_known" in (tmp_path / f"{port}.log").read_bytes())  # type: ignore[misc]
