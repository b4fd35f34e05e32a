"""COMMAND DOCS of a node and of a real redis-server: the same, byte for byte, for every command that both have.

With redis-server 7.0 everything is compared. Other versions tell their own texts, names of arguments and newer options:
with them only that is compared which all of them keep, and the test of the rest says that it was left out. Skipped
where `redis-server` is not in PATH.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from respkv.server.commands.cluster import REFUSED
from tests.cluster import NodeProcess
from tests.compat.targets import Command, SocketTarget, encode, parse_reply

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not in PATH")

# Commands of Redis 7.2 that respkv has besides those of 7.0.
NEWER = {"client|no-touch", "client|setinfo"}
# Fields that differ on purpose: where respkv refuses a command, its summary says so and why, to refuse costs O(1), and
# the history is that of what is not there.
DIFFERENT = {f"cluster|{name.lower()}": {b"summary", b"complexity", b"history"} for name in REFUSED}

Fields = list[tuple[bytes, Any]]


class Recorder:
    """A file that keeps what was read from it."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.data = b""

    def readline(self) -> bytes:
        line: bytes = self.file.readline()
        self.data += line
        return line

    def read(self, count: int) -> bytes:
        found: bytes = self.file.read(count)
        self.data += found
        return found


class Docs:
    """COMMAND DOCS of one server; `raw` has the bytes of its answers about one command each."""

    def __init__(self, target: SocketTarget) -> None:
        self.target = target
        self.fields = dict(_walk(self.ask([b"COMMAND", b"DOCS"])[1]))
        self.raw = {name: self.ask([b"COMMAND", b"DOCS", name.encode()])[0] for name in self.fields}

    def ask(self, args: Command) -> tuple[bytes, Any]:
        self.target.socket.sendall(encode(args))
        recorder = Recorder(self.target.file)
        reply = parse_reply(recorder)
        return recorder.data, reply

    def of(self, name: str) -> bytes | Fields:
        """All bytes where nothing may differ; else the fields that may not."""
        is_container = any(field == b"subcommands" for field, _ in self.fields[name])
        if name not in DIFFERENT and not is_container:
            return self.raw[name]
        skipped = DIFFERENT.get(name, {b"subcommands"})
        return [(field, value) for field, value in self.fields[name] if field not in skipped]

    def tokens(self, name: str) -> set[bytes]:
        """The words that clients send as they are, in upper case."""
        return {token.upper() for token in _tokens(dict(self.fields[name]).get(b"arguments", []))}


def _pairs(reply: Any) -> Fields:
    """A map, of either protocol, with its order."""
    return list(reply.items()) if isinstance(reply, dict) else list(zip(reply[::2], reply[1::2], strict=True))


def _walk(reply: Any) -> Iterator[tuple[str, Fields]]:
    for name, value in _pairs(reply):
        fields = _pairs(value)
        yield name.decode(), fields
        yield from _walk(dict(fields).get(b"subcommands", []))


def _tokens(arguments: list[Any]) -> Iterator[bytes]:
    for argument in map(dict, map(_pairs, arguments)):
        if b"token" in argument:
            yield argument[b"token"]
        yield from _tokens(argument.get(b"arguments", []))


@pytest.fixture(scope="module", params=[2, 3], ids=["RESP2", "RESP3"])
def both(redis_port: int, shared_single: NodeProcess, request: pytest.FixtureRequest) -> Iterator[tuple[Docs, Docs]]:
    targets = [SocketTarget(port, request.param) for port in (redis_port, shared_single.port)]
    yield Docs(targets[0]), Docs(targets[1])
    for target in targets:
        target.close()


@pytest.fixture(scope="module")
def version(redis_port: int) -> str:
    target = SocketTarget(redis_port)
    [info] = target.run([[b"INFO", b"server"]])
    target.close()
    found: bytes = info.split(b"redis_version:")[1].split(b"\r\n")[0]
    return found.decode()


def test_docs_equal_those_of_redis_7_0(both: tuple[Docs, Docs], version: str) -> None:
    if not version.startswith("7.0."):
        pytest.skip(f"redis-server is {version}: all fields are compared with 7.0 only, others in the next test")
    theirs, ours = both
    assert set(ours.fields) - set(theirs.fields) == NEWER
    common = set(ours.fields) - NEWER
    assert {name: ours.of(name) for name in common} == {name: theirs.of(name) for name in common}
    for name in DIFFERENT:
        assert ours.fields[name] != theirs.fields[name], "listed as different, and is not"


def test_what_every_version_of_redis_keeps_is_the_same(both: tuple[Docs, Docs]) -> None:
    """Group, version, and that clients may send each word that respkv tells of: newer versions know more words."""
    theirs, ours = both
    for name in set(ours.fields) & set(theirs.fields):
        own, real = dict(ours.fields[name]), dict(theirs.fields[name])
        assert (name, own[b"since"], own[b"group"]) == (name, real[b"since"], real[b"group"])
        assert ours.tokens(name) <= theirs.tokens(name), name
