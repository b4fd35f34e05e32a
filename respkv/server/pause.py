"""CLIENT PAUSE: commands that are put off until the pause is over.

A connection whose next command must wait runs nothing more and reads nothing more: the command stays in its backlog and
is run, with what is behind it, when the pause ends. Commands that are wrong anyhow are answered at once. Meanwhile this
node does not ask for the removal of expired keys either.

The pause of a client of the standalone view is for all nodes that its node has a link to; that of a client of the
cluster view for its node alone, as with Redis Cluster.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from respkv.commands.table import Spec
from respkv.raft.group import Clock
from respkv.server.news import PAUSE, News, Told_

if TYPE_CHECKING:
    from respkv.server.connection import Connection

_OBEYED_S: Final = 5.0  # for who pauses a cluster relies on it
_SPEAKS: Final = frozenset(("publish", "spublish"))  # not writes, but no less for others


class Pause:
    """One node's pause.

    Args:
        changed: called with whether there is one.
    """

    def __init__(self, news: News, changed: Callable[[bool], None]) -> None:
        self.active = False
        self.everything = False
        self._changed = changed
        self._news = news
        self._ends_at = 0.0
        self._held: dict[Connection, None] = {}
        news.handlers[PAUSE] = self._on_pause

    @property
    def held(self) -> int:
        """How many clients wait."""
        return len(self._held)

    def begin(self, seconds: float, *, everything: bool) -> None:
        """A pause for `seconds` from now, of all commands or of writes. One that is on becomes longer and stricter, not
        shorter."""
        self._ends_at = max(self._ends_at if self.active else 0.0, Clock.now() + seconds)
        self.everything = everything or (self.active and self.everything)
        self.active = True
        self._changed(True)

    def tick(self) -> None:
        """To be called about ten times per second."""
        if self.active and self._ends_at <= Clock.now():
            self.end()

    def end(self) -> None:
        """The pause is over: who has waited goes on."""
        if not self.active:
            return
        self.active = self.everything = False
        self._changed(False)
        held, self._held = self._held, {}
        for connection in held:
            connection.resume()

    def holds(self, spec: Spec) -> bool:
        """Whether this command must wait."""
        return self.everything or spec.is_write or spec.name in _SPEAKS

    def hold(self, connection: Connection) -> None:
        self._held[connection] = None
        connection.hold()

    def forget(self, connection: Connection) -> None:
        self._held.pop(connection, None)

    # -- all nodes

    def tell(self, milliseconds: int, *, everything: bool, done: Callable[[list[Told_]], None]) -> None:
        """Tells all other nodes to do the same; 0 ms ends a pause."""
        self._news.ask(PAUSE, (milliseconds, everything), done, within_s=_OBEYED_S)

    def _on_pause(self, peer: str, message: list[Any]) -> Told_:
        _, _, _, milliseconds, everything = message
        if milliseconds:
            self.begin(milliseconds / 1000, everything=everything)
        else:
            self.end()
        return [], []
