"""The lone tier: exactly one short command of two or three arguments, or None."""

from __future__ import annotations

import pytest

from respkv.resp.limits import Limits, ProtocolError
from respkv.resp.lone import SET_HEADS, get_chunks, lone_command, lone_get, lone_set
from respkv.resp.parser import Parser

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


@pytest.mark.parametrize("key_bytes", [0, 1, 9, 10, 11, 97, 98, 99, 100, 101, 999, 1000, 1001, 4095])
@pytest.mark.parametrize("name", [b"GET", b"get"])
def test_a_get_is_known_by_its_length_whatever_is_in_its_key(name: bytes, key_bytes: int) -> None:
    for key in (b"k" * key_bytes, (b"\r\n$*" * key_bytes)[:key_bytes]):
        whole = b"*2\r\n$3\r\n%b\r\n$%d\r\n%b\r\n" % (name, key_bytes, key)
        assert lone_get(whole) == key
        assert whole in get_chunks(key)
        assert Parser(Limits()).feed(whole) == [[name, key]]
        assert lone_get(whole[:-1]) is None
        assert lone_get(whole + b"\r") is None
        assert lone_get(whole[:-1] + b"\r") is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET key\r\n",
        GET + GET,
        b"*2\r\n$3\r\nGET\r\n$4\r\nkey\r\n",
        b"*2\r\n$3\r\nGET\r\n$03\r\nkey\r\n",
        b"*2\r\n$3\r\nGeT\r\n$3\r\nkey\r\n",
        b"*2\r\n$3\r\nDEL\r\n$3\r\nkey\r\n",
        b"*2\r\n$3\r\nGET\r\n$4096\r\n" + b"k" * 4096 + b"\r\n",
        b"*2\r\n$3\r\nGET\r\n$8\r\nk\r\n*2\r\n$3\r\nGET\r\n$3\r\n",
    ],
)
def test_what_is_not_one_get_and_nothing_else_is_left_to_others(data: bytes) -> None:
    assert lone_get(data) is None


def only_set(data: bytes) -> tuple[bytes, bytes] | None:
    return lone_set(data) if data.startswith(SET_HEADS) else None


def test_a_set_is_taken_if_it_is_one_and_nothing_else() -> None:
    assert only_set(SET) == (b"key", b"value")
    assert only_set(SET.replace(b"SET", b"set")) == (b"key", b"value")
    assert only_set(b"*3\r\n$3\r\nSET\r\n$0\r\n\r\n$0\r\n\r\n") == (b"", b"")
    for end in range(len(SET)):
        assert only_set(SET[:end]) is None
    for extra in (b"\r", b"\n", b"\r\n", b"*", GET, SET):
        assert only_set(SET + extra) is None
    for other in (
        SET.replace(b"$5", b"$6"),
        SET.replace(b"$5", b"$05"),
        SET.replace(b"$3\r\nkey", b"$2\r\nkey"),
        SET.replace(b"SET", b"SeT"),
        SET.replace(b"$3\r\nSET", b"$6\r\nAPPEND"),
        SET.replace(b"*3", b"*4"),
        SET.replace(b"value", b"va\r\ne"),
        SET.replace(b"$5\r\nvalue", b"$4096\r\n" + bytes(4096)),
    ):
        assert only_set(other) is None


def test_neither_is_taken_within_a_command_nor_before_a_login_nor_after_an_error() -> None:
    parser = Parser(Limits())
    assert parser.at_boundary
    assert parser.feed(b"*2\r\n$4\r\nECHO\r\n$%d\r\n" % len(GET)) == []
    assert not parser.at_boundary
    assert parser.feed(GET) == []
    assert not parser.at_boundary
    assert parser.feed(b"\r\n") == [[b"ECHO", GET]]
    assert parser.at_boundary
    assert not Parser(Limits(), authenticated=False).at_boundary
    with pytest.raises(ProtocolError):
        parser.feed(b"*x\r\n")
    assert not parser.at_boundary
