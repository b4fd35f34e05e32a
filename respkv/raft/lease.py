"""What a leader may say about its leadership right now: the lease, and when a majority last confirmed it.

Ongaro's thesis, 6.4.1: followers that have answered an `APPEND` give no vote for the minimum election timeout after
they received it, so nobody else can lead until then. Counted from when that `APPEND` was *sent* by this node's own
clock, on which no time passes between sending and receiving, and shortened by `DRIFT` for clocks that run at
different speeds.
"""

from __future__ import annotations

from collections.abc import Iterable

from respkv.raft.clock import DRIFT, NEVER, Clock


class Lease:
    """The answers of one leader's followers.

    Args:
        others: the other replicas' nodes.
        election_min_s: how long a follower that has heard the leader gives no vote.
        used: whether reads trust the lease; if not, `until` always says no.
    """

    def __init__(self, others: Iterable[str], election_min_s: float, *, used: bool) -> None:
        self._answered = dict.fromkeys(others, NEVER)
        self._lasts_s = election_min_s * DRIFT
        self._used = used
        self._given_up_in = -1

    def start_over(self) -> None:
        """Leadership was gained or lost: nothing that was said before counts."""
        self._answered = dict.fromkeys(self._answered, NEVER)

    def answered(self, name: str, sent: float) -> bool:
        """The follower on node `name` has answered what was sent at `sent`; tells whether that is news."""
        news = sent > self._answered[name]
        if news:
            self._answered[name] = sent
        return news

    def confirmed(self) -> float:
        """The newest send time that a majority (this replica included) has answered."""
        others = sorted(self._answered.values(), reverse=True)
        needed = (len(others) + 1) // 2
        return others[needed - 1] if needed else Clock.now()

    def give_up(self, term: int) -> None:
        """Somebody was told to take over from the leader of `term`: its followers' promises hold no longer."""
        self._given_up_in = term

    def until(self, term: int, confirmed: float) -> float | None:
        """Until when the lease of the leader of `term` lasts, None if it has none."""
        if not self._used or term == self._given_up_in:
            return None
        return confirmed + self._lasts_s if self._answered else float("inf")
