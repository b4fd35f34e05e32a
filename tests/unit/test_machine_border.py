"""What the machine can be asked by other nodes: data commands and their subcommands, with a right number of words."""

from __future__ import annotations

import pytest

from respkv.shard.machine import Machine


@pytest.mark.parametrize("args", [[b"GET", b"k"], [b"OBJECT", b"ENCODING", b"k"], [b"MEMORY", b"USAGE", b"k"]])
def test_reads_are_possible(args: list[bytes]) -> None:
    assert Machine.can_read(args)


@pytest.mark.parametrize(
    "args",
    [[b"GET"], [b"SET", b"k", b"v"], [b"OBJECT", b"NONE", b"k"], [b"PING"], [b"NO"], [b"OBJECT", b"HELP"]],
)
def test_what_is_no_read_of_data_is_not(args: list[bytes]) -> None:
    assert not Machine.can_read(args)
