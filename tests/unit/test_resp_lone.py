"""The lone tier: exactly one short command of two or three arguments, or None."""

from __future__ import annotations

import pytest

from respkv.resp.lone import lone_command

GET = b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n"
SET = b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$5\r\nvalue\r\n"


def test_commands_of_two_and_three_arguments_are_taken() -> None:
    assert lone_command(GET) == [b"GET", b"key"]
    assert lone_command(SET) == [b"SET", b"key", b"value"]
    assert lone_command(b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n") == [b"GET", b""]


@pytest.mark.parametrize("whole", [GET, SET])
def test_anything_less_or_more_is_left_to_others(whole: bytes) -> None:
    for end in range(len(whole)):
        assert lone_command(whole[:end]) is None
    for extra in (b"\r", b"\n", b"\r\n", b"*", whole):
        assert lone_command(whole + extra) is None


@pytest.mark.parametrize(
    "data",
    [
        b"*2\r\n$3\r\nGET\r\n$4\r\nkey\r\n",
        b"*2\r\n$3\r\nGET\r\n$03\r\nkey\r\n",
        b"*2\r\n$+3\r\nGET\r\n$3\r\nkey\r\n",
        b"*3\r\n$3\r\nGET\r\n$3\r\nkey\r\n",
        b"*2\r\n$3\r\nSET\r\n$3\r\nkey\r\n$1\r\nv\r\n",
        b"*2\r\n:3\r\nGET\r\n$3\r\nkey\r\n",
        b"*2\r\n$3\r\nGET\r\n$4\r\nk\r\ny\r\n",
        b"*2\r\n$3\r\nGET\r\n$4096\r\n" + b"k" * 4096 + b"\r\n",
    ],
)
def test_a_header_that_does_not_say_what_is_there_is_left_to_others(data: bytes) -> None:
    assert lone_command(data) is None
