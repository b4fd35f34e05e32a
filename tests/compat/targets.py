"""The two sides of a comparison: a server behind a socket, or respkv's command functions alone; and what must be equal.

What may differ is said in one place, `comparable`: the order of keys, what is random, and times to live within the
moments that pass between the two sides.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Set as AbstractSet
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import pytest

import respkv.commands  # noqa: F401  (fills the table)
from respkv.cluster.slots import SLOTS, slot_of
from respkv.commands.context import Context
from respkv.commands.table import resolve
from respkv.keyspace.db import Db
from respkv.reply import OrderedSet, RespError, Simple
from respkv.storage.bitcask import Bitcask

Command = list[bytes]
_tokens = count()
LIST_KEY = b"list"  # holds another type than a string on both sides


class Target(Protocol):
    """One side: empties itself, makes `LIST_KEY`, runs commands and returns their replies in `parse_reply`'s form."""

    def reset(self) -> None: ...

    def run(self, commands: list[Command]) -> list[Any]: ...


class SocketTarget:
    """A server on a loopback port, spoken to in RESP2 or RESP3."""

    def __init__(self, port: int, protocol: int = 2) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.file = self.socket.makefile("rb")
        if protocol == 3:
            assert isinstance(self.run([[b"HELLO", b"3"]])[0], dict)

    def reset(self) -> None:
        self.run([[b"FLUSHALL"], [b"RPUSH", LIST_KEY, b"x"]])

    def run(self, commands: list[Command]) -> list[Any]:
        self.socket.sendall(b"".join(map(encode, commands)))
        return [parse_reply(self.file) for _ in commands]

    def gather(self, *commands: Command) -> list[Any]:
        """Replies and messages that come until the answer to a PING behind `commands`; those that waited, too."""
        token = b"token %d" % next(_tokens)
        self.socket.sendall(b"".join(map(encode, [*commands, [b"PING", token]])))
        found: list[Any] = []
        while (reply := parse_reply(self.file)) not in (token, [b"pong", token]):
            found.append(reply)
        return found

    def close(self) -> None:
        self.file.close()
        self.socket.close()


class StringsTarget(SocketTarget):
    """A server without a list: `LIST_KEY` is a key like the others."""

    def reset(self) -> None:
        self.run([[b"FLUSHALL"]])


class LocalTarget:
    """The command functions over a `Db`, by the machine's clock; all of a script in one batch, or one per write."""

    def __init__(self, directory: Path, in_one_batch: bool) -> None:
        self.in_one_batch = in_one_batch
        self.cask = Bitcask(directory, buckets=SLOTS, bucket_of=slot_of, segment_bytes=64 << 20)
        self.db = Db(self.cask)
        self.index = 0

    def reset(self) -> None:
        batch = self.db.begin()
        self.db.flush_all()
        batch.put(LIST_KEY, b"x", 2)
        self.commit()

    def commit(self) -> None:
        self.index += 1
        self.db.commit(self.index, 1)

    def run(self, commands: list[Command]) -> list[Any]:
        self.db.now_ms = time.time_ns() // 1_000_000
        if not self.in_one_batch:
            return [self.one(args) for args in commands]
        self.db.begin()
        try:
            return [self.one(args) for args in commands]
        finally:
            self.commit()

    def one(self, args: Command) -> Any:
        own_batch = False
        try:
            spec = resolve(args)
            assert spec.fn is not None
            if spec.is_write and not self.in_one_batch:
                self.db.begin()
                own_batch = True
            return plain(spec.fn(self.db, args, Context(self.index)))
        except RespError as error:
            return plain(error)
        finally:
            if own_batch:
                self.commit()


def encode(args: Command) -> bytes:
    return b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in args)


def parse_reply(file: Any) -> Any:
    """A reply: ("+", text), ("-", text), int, bytes, None, a list, or of RESP3 a dict, (kind, text), or for a push
    (">", list)."""
    line = file.readline()[:-2]
    kind, rest = line[:1], line[1:]
    if kind in (b"+", b"-"):
        return (kind.decode(), rest)
    if kind == b":":
        return int(rest)
    if kind in (b"_", b",", b"#"):
        return None if kind == b"_" else (kind.decode(), rest)
    size = int(rest)
    if kind == b"%":
        return {parse_reply(file): parse_reply(file) for _ in range(size)}
    if kind in (b"$", b"="):
        return None if size < 0 else file.read(size + 2)[:-2]
    if kind == b">":
        return (">", [parse_reply(file) for _ in range(size)])
    assert kind in (b"*", b"~"), line
    return None if size < 0 else [parse_reply(file) for _ in range(size)]


def plain(reply: Any) -> Any:
    """A reply value in the form of `parse_reply`."""
    if isinstance(reply, Simple):
        return ("+", reply.text)
    if isinstance(reply, RespError):
        return ("-", reply.text.encode(errors="surrogateescape"))
    if isinstance(reply, OrderedSet):
        return [plain(item) for item in reply.items]
    if isinstance(reply, list | AbstractSet):
        return [plain(item) for item in reply]
    if isinstance(reply, dict):
        return [plain(item) for pair in reply.items() for item in pair]
    return reply


def comparable(args: Command, reply: Any) -> Any:
    """The part of a reply that must be equal on both sides."""
    name = args[0].upper()
    if name == b"DUMP" and len(args) == 2 and (isinstance(reply, tuple) or (reply and reply[0] != 0)):
        return "no string"
    if isinstance(reply, tuple):
        return ("+", b"list") if reply == ("+", b"unknown") else reply
    if name == b"KEYS":
        return sorted(reply)
    if name == b"SCAN" and reply is not None:
        return [reply[0], sorted(reply[1])] if reply[0] == b"0" else None
    if name == b"RANDOMKEY" or (name in (b"OBJECT", b"MEMORY") and args[1].upper() != b"IDLETIME"):
        return reply is None
    if name in (b"TTL", b"PTTL", b"EXPIRETIME", b"PEXPIRETIME") and reply > 0:
        unit_ms = 1 if name.startswith(b"P") else 1000
        return pytest.approx(reply, abs=5000 / unit_ms)
    return reply


def assert_same(redis: Target, ours: Target, commands: list[Command]) -> None:
    # Redis counts a key whose time has come until somebody looks at it; we do not. SCAN looks at all of them.
    look = [b"SCAN", b"0", b"COUNT", b"100000"]
    commands = [args for asked in commands for args in ([look, asked] if asked[0].upper() == b"DBSIZE" else [asked])]
    redis.reset()
    ours.reset()
    for args, theirs, own in zip(commands, redis.run(commands), ours.run(commands), strict=True):
        assert comparable(args, own) == comparable(args, theirs), (args, commands)
