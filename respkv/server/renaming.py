"""`rename-command`: commands under another name, or under none at all.

A client calls such a command by its new name alone; everything inside, ACL rules and what COMMAND tells too, goes by
the original one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from respkv import errors
from respkv.commands.table import COMMANDS, Spec, all_specs, find
from respkv.config import ConfigError

Renamed = Mapping[bytes, bytes]
"""What a lower-case name stands for; nothing (an empty name) for one that no command has any more."""

PLAIN = (b"get", b"set")


class RenamingError(ConfigError):
    """A `rename-command` that cannot be."""

    def __init__(self, reason: str) -> None:
        super().__init__("rename-command", reason)


def renamed(lines: Iterable[str]) -> dict[bytes, bytes]:
    """From lines `<command> <new name>`; the new name `""` disables the command. Raises RenamingError."""
    gone: dict[bytes, bytes] = {}
    found: dict[bytes, bytes] = {}
    for line in lines:
        words = line.split()
        if len(words) != 2:
            raise RenamingError(f'must be a command and its new name (or ""), not {line!r}')
        old, new = (word.encode("utf-8", "surrogateescape").lower() for word in words)
        if old not in COMMANDS:
            raise RenamingError(f"no such command: {words[0]}")
        gone[old] = b""
        if new != b'""':
            if new in found or (new in COMMANDS and new != old):
                raise RenamingError(f"the target command name already exists: {words[1]}")
            found[new] = old.upper()
    return gone | found


def original(names: Renamed, args: list[bytes]) -> list[bytes]:
    """The command under its original name. Raises RespError (unknown command) for a name that is none any more."""
    name = names.get(args[0].lower())
    if name is None:
        return args
    if not name:
        raise errors.unknown_command(args)
    return [name, *args[1:]]


def named(names: Renamed, name: bytes) -> Spec | None:
    """The command or `container|subcommand` that clients call `name`."""
    first, bar, child = name.partition(b"|")
    return find(names.get(first.lower(), first) + bar + child)


def callable_specs(names: Renamed) -> list[Spec]:
    """As `all_specs`, without those that have no name any more."""
    called = set(names.values())
    return [
        spec for spec in all_specs() if spec.name.encode() not in names or spec.name.upper().encode() in called
    ]
