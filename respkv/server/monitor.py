"""MONITOR: every command that this node's clients run, told to those who watch, as it begins to run.

Not shown: commands that are refused before they run, and administrative ones, as in Redis. Passwords are replaced by
`(redacted)`. While somebody monitors, no connection takes the fast way (`Connection.hinder`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from respkv.commands.table import Spec
from respkv.reply import Simple
from respkv.resp.encoder import encode

if TYPE_CHECKING:
    from respkv.server.connection import Connection
    from respkv.server.outbox import Outbox

REDACTED: Final = b"(redacted)"

_PRINTED: Final = {ord("\\"): b"\\\\", ord('"'): b'\\"', 10: b"\\n", 13: b"\\r", 9: b"\\t", 7: b"\\a", 8: b"\\b"}
_SHOWN: Final = tuple(
    _PRINTED.get(byte) or (bytes((byte,)) if 0x20 <= byte < 0x7F else b"\\x%02x" % byte) for byte in range(256)
)


class Monitors:
    """The clients of one node that monitor.

    Args:
        changed: called with whether there are any.
    """

    def __init__(self, outbox: Outbox, changed: Callable[[bool], None]) -> None:
        self._outbox = outbox
        self._changed = changed
        self._connections: dict[Connection, None] = {}

    def __bool__(self) -> bool:
        return bool(self._connections)

    def add(self, connection: Connection) -> None:
        connection.session.monitors = True
        self._connections[connection] = None
        self._changed(True)

    def remove(self, connection: Connection) -> None:
        if connection in self._connections:
            connection.session.monitors = False
            del self._connections[connection]
            if not self._connections:
                self._changed(False)

    def show(self, connection: Connection, spec: Spec, args: Sequence[bytes]) -> None:
        """A command of `connection` that is about to run."""
        if "admin" in spec.flags or "skip_monitor" in spec.flags:
            return
        line = encode(Simple(monitor_line(time.time_ns(), connection.session.address, redacted(spec, args))), 2)
        for monitor in self._connections:
            self._outbox.push(monitor, line)


def monitor_line(now_ns: int, address: str, args: Sequence[bytes]) -> bytes:
    """A line as Redis prints it: `1339518083.107412 [0 127.0.0.1:60866] "keys" "*"`."""
    seconds, micros = divmod(now_ns // 1000, 1_000_000)
    words = b" ".join(b'"%b"' % printed(arg) for arg in args)
    return b"%d.%06d [0 %b] %b" % (seconds, micros, address.encode(), words)


def printed(text: bytes) -> bytes:
    """`text` with everything escaped that is not plain (Redis: sdscatrepr)."""
    if text.isalnum():
        return text
    return b"".join(map(_SHOWN.__getitem__, text))


def redacted(spec: Spec, args: Sequence[bytes]) -> Sequence[bytes]:
    """The arguments of a command without the secrets in them."""
    if spec.name == "auth":
        return [args[0], *(REDACTED for _ in args[1:])]
    if spec.name == "hello":
        return _without_login(args, b"AUTH", 2)
    if spec.name == "migrate":
        return _without_login(_without_login(args, b"AUTH", 1), b"AUTH2", 2)
    return args


def _without_login(args: Sequence[bytes], word: bytes, count: int) -> Sequence[bytes]:
    shown = list(args)
    at = 2
    while at < len(shown):
        if shown[at].upper() == word and at + count < len(shown):
            shown[at + 1 : at + 1 + count] = [REDACTED] * count
            at += count
        at += 1
    return shown
