"""The parser: every input gives the same commands and the same error however it is cut into chunks."""

import tracemalloc

import pytest

from respkv.resp import strict
from respkv.resp.encoder import encode_commands
from respkv.resp.parser import Limits, Parser, ProtocolError
from respkv.resp.strict import StrictParser

Outcome = tuple[list[list[bytes]], str | None]


def run(parser: Parser | StrictParser, chunks: list[bytes]) -> Outcome:
    """The commands that `chunks` give and the text of the error that ends them."""
    commands: list[list[bytes]] = []
    try:
        for chunk in chunks:
            commands += parser.feed(chunk)
    except ProtocolError as error:
        return commands + error.commands, error.text
    return commands, None


def cuts(data: bytes) -> list[list[bytes]]:
    """`data` whole, byte by byte, and in every two parts."""
    whole_and_bytes = [[data], [data[at : at + 1] for at in range(len(data))]]
    return whole_and_bytes + [[data[:at], data[at:]] for at in range(1, len(data))]


def check(data: bytes, expected: list[list[bytes]], text: str | None = None, *, authenticated: bool = True) -> None:
    for chunks in cuts(data):
        assert run(Parser(Limits(), authenticated), chunks) == (expected, text), chunks
        assert run(StrictParser(Limits(), authenticated), chunks) == (expected, text), chunks


PING = b"*1\r\n$4\r\nPING\r\n"
SET = [b"SET", b"key", b"value"]

GOOD = [
    (b"", []),
    (PING, [[b"PING"]]),
    (PING * 3, [[b"PING"]] * 3),
    (encode_commands([SET, [b"GET", b"key"]]), [SET, [b"GET", b"key"]]),
    (encode_commands([[b"SET", b"", b""]]), [[b"SET", b"", b""]]),
    (encode_commands([[b""], [b"", b"a"], [b"a"]]), [[b""], [b"", b"a"], [b"a"]]),
    (b"*0\r\n" + PING + b"*-1\r\n*-5\r\n" + PING + b"*0\r\n", [[b"PING"]] * 2),
    (b"\r\n\n  \r\n" + PING + b"\r\n", [[b"PING"]]),
    (
        b"PING\r\nSET a 'b c'\n" + PING + b'ECHO "\\x00"\r\n',
        [[b"PING"], [b"SET", b"a", b"b c"], [b"PING"], [b"ECHO", b"\0"]],
    ),
    (b"$3\r\nabc\r\n:1\r\n+OK\r\n", [[b"$3"], [b"abc"], [b":1"], [b"+OK"]]),
    (PING + b"#f\r\n" + PING, [[b"PING"], [b"#f"], [b"PING"]]),
    (PING + b"#f\r\n", [[b"PING"], [b"#f"]]),
    (
        PING + b":0\r\n_\r\n$-1\r\n$0\r\n\r\n~0\r\n%0\r\n",
        [[b"PING"], [b":0"], [b"_"], [b"$-1"], [b"$0"], [b"~0"], [b"%0"]],
    ),
    (b"*2\r\n$3\r\nGETXX$1\r\n**+\r\n".replace(b"**+\r\n", b"*\r\n") + PING, [[b"GET", b"*"], [b"PING"]]),
    # The two bytes behind an argument are skipped unseen, as in Redis.
    (b"*1\r\n$4\r\nPING**" + PING + b"*1\r\n$1\r\na=+", [[b"PING"], [b"PING"], [b"a"]]),
]


@pytest.mark.parametrize(("data", "expected"), GOOD)
def test_commands_come_out_the_same_in_any_chunks(data: bytes, expected: list[list[bytes]]) -> None:
    check(data, expected)


@pytest.mark.parametrize(
    "value",
    [
        b"\r\n*1000000000\r\n",
        b"*1000000000\r\n$999999999999\r\n",
        b"\n:1\r\n+OK\r\n-ERR\r\n",
        b"\r\n$-1\r\n*-1\r\n_\r\n#f\r\n",
        b"#f",
        b"=7\r\ntxt:abc\r\n(123\r\n>2\r\n~1\r\n%1\r\n|1\r\n,1.5\r\n!1\r\na\r\n",
        b"a+b=c==(d)<e>~f|g**",
        b">1000000\r\n~1000000\r\n|1000000\r\n",
        PING,
        PING[:-1],
        b"*3\r\n$3\r\nSET\r\n",
        bytes(range(256)),
        b"\r",
        b"\n",
        b"\r\n",
    ],
)
def test_values_may_look_like_anything(value: bytes) -> None:
    commands = [[b"SET", b"key", value], [b"PING"], [value, value]]
    check(encode_commands(commands), commands)
    check(encode_commands([[value]]), [[value]])


BAD = [
    (b"*a\r\n", "Protocol error: invalid multibulk length"),
    (b"*\r\n", "Protocol error: invalid multibulk length"),
    (b"*-\r\n", "Protocol error: invalid multibulk length"),
    (b"*-0\r\n", "Protocol error: invalid multibulk length"),
    (b"*03\r\n", "Protocol error: invalid multibulk length"),
    (b"*+3\r\n", "Protocol error: invalid multibulk length"),
    (b"* 3\r\n", "Protocol error: invalid multibulk length"),
    (b"*1_0\r\n", "Protocol error: invalid multibulk length"),
    (b"*1048577\r\n", "Protocol error: invalid multibulk length"),
    (b"*1000000000\r\n", "Protocol error: invalid multibulk length"),
    (b"*99999999999999999999999999999999999999999\r\n", "Protocol error: invalid multibulk length"),
    (b"*9223372036854775808\r\n", "Protocol error: invalid multibulk length"),
    (b"*1\rX$4\r\n", "Protocol error: invalid multibulk length"),
    (b"*1\r\n$999999999999\r\n", "Protocol error: invalid bulk length"),
    (b"*1\r\n$536870913\r\n", "Protocol error: invalid bulk length"),
    (b"*1\r\n$-1\r\n", "Protocol error: invalid bulk length"),
    (b"*1\r\n$x\r\n", "Protocol error: invalid bulk length"),
    (b"*1\r\n$03\r\nabc\r\n", "Protocol error: invalid bulk length"),
    (b"*1\r\n:1\r\n", "Protocol error: expected '$', got ':'"),
    (b"*1\r\n+OK\r\n", "Protocol error: expected '$', got '+'"),
    (b"*1\r\n(123\r\n", "Protocol error: expected '$', got '('"),
    (b"*1\r\n=7\r\ntxt:abc\r\n", "Protocol error: expected '$', got '='"),
    (b"*1\r\n=7\r\ntxt:ab=\r\n", "Protocol error: expected '$', got '='"),
    (b"*1\r\n_\r\n", "Protocol error: expected '$', got '_'"),
    (b"*1\r\n-ERR\r\n", "Protocol error: expected '$', got '-'"),
    (b"*1\r\n%1\r\n$1\r\na\r\n$1\r\nb\r\n", "Protocol error: expected '$', got '%'"),
    (b"*1\r\n~1\r\n$1\r\na\r\n", "Protocol error: expected '$', got '~'"),
    (b"*1\r\n>1\r\n$1\r\na\r\n", "Protocol error: expected '$', got '>'"),
    (b"*1\r\n|1\r\n$1\r\na\r\n$1\r\nb\r\n", "Protocol error: expected '$', got '|'"),
    (b"*1\r\n*1\r\n$4\r\nPING\r\n", "Protocol error: expected '$', got '*'"),
    (b"*2\r\n$3\r\nGET\r\n*0\r\n", "Protocol error: expected '$', got '*'"),
    (b"*2\r\n$3\r\nGET\r\n*1\r\n$1\r\na\r\n", "Protocol error: expected '$', got '*'"),
    (b"*2\r\n$3\r\nGET\r\n*1000000000\r\n", "Protocol error: expected '$', got '*'"),
    (b"*2\r\n$3\r\nGETabc\r\n", "Protocol error: expected '$', got 'c'"),
    (b"*1\r\n\xff", "Protocol error: expected '$', got '\udcff'"),
    (b"SET 'a\r\n", "Protocol error: unbalanced quotes in request"),
]


@pytest.mark.parametrize(("data", "text"), BAD)
def test_bad_frames_end_with_the_words_of_redis(data: bytes, text: str) -> None:
    check(data, [], text)
    check(PING + b"PING\r\n" + PING + data + PING, [[b"PING"]] * 3, text)
    check(encode_commands([[b"SET", b"*", b"$+=*"]]) + data, [[b"SET", b"*", b"$+=*"]], text)
    check(PING + b"$0\r\n\r\n" + PING + data, [[b"PING"], [b"$0"], [b"PING"]], text)
    check(PING + b">0\r\n*0\r\n" + data, [[b"PING"], [b">0"]], text)


@pytest.mark.parametrize("kind", [b"~2", b"%1", b">2", b"|1"])
def test_aggregates_between_commands_are_inline_words_and_never_commands(kind: bytes) -> None:
    data = encode_commands([[b"ECHO", b"*"]]) + kind + b"\r\n$1\r\na\r\n$1\r\nb\r\n"
    words = [[b"ECHO", b"*"], [kind], [b"$1"], [b"a"], [b"$1"], [b"b"]]
    check(data, words)
    check(data + PING, [*words, [b"PING"]])


@pytest.mark.parametrize(
    ("start", "text"),
    [
        (b"*", "Protocol error: too big mbulk count string"),
        (b"*1\r\n$", "Protocol error: too big bulk count string"),
        (b"", "Protocol error: too big inline request"),
    ],
)
@pytest.mark.parametrize("chunk_bytes", [1 << 20, 65_536, 4096, 1000])
def test_lines_are_bounded(start: bytes, text: str, chunk_bytes: int) -> None:
    for end in (b"", b"\r\n"):
        data = PING + start + b"1" * 70_000 + end
        chunks = [data[at : at + chunk_bytes] for at in range(0, len(data), chunk_bytes)]
        assert run(Parser(Limits()), chunks) == ([[b"PING"]], text)


def test_the_longest_inline_command_passes_in_any_chunks() -> None:
    line = b"ECHO " + b"x" * (65_536 - 6) + b"\r"
    for cut in (1, 65_535, 65_536, 65_537):
        parser = Parser(Limits())
        assert run(parser, [line[:cut], line[cut:] + b"\n"]) == ([line.split()], None)
    assert run(Parser(Limits()), [line + b"x\n"])[1] == "Protocol error: too big inline request"


def test_an_unauthenticated_client_is_held_to_tight_limits() -> None:
    ten = [b"x"] * 10
    check(encode_commands([ten]), [ten], authenticated=False)
    check(b"*11\r\n", [], "Protocol error: unauthenticated multibulk length", authenticated=False)
    check(b"*1\r\n$16385\r\n", [], "Protocol error: unauthenticated bulk length", authenticated=False)
    parser = Parser(Limits(), authenticated=False)
    assert parser.feed(encode_commands([[b"x" * 16_384]])) == [[b"x" * 16_384]]


def test_what_follows_a_login_in_its_chunk_is_parsed_as_if_it_succeeded() -> None:
    login = encode_commands([[b"auth", b"secret"]])
    large = encode_commands([[b"SET", b"k", b"v" * 20_000]])
    for success in (True, False):
        parser = Parser(Limits(), authenticated=False)
        assert len(parser.feed(login + large + large[:100])) == 2
        parser.authenticated = success
        if success:
            assert parser.feed(large[100:] + PING) == [[b"SET", b"k", b"v" * 20_000], [b"PING"]]
            parser.authenticated = False  # as RESET does
            with pytest.raises(ProtocolError, match="unauthenticated bulk length"):
                parser.feed(large)
        else:
            with pytest.raises(ProtocolError, match="unauthenticated bulk length"):
                parser.feed(large[100:])


def test_a_login_in_the_middle_of_a_command_takes_effect_at_once() -> None:
    parser = Parser(Limits(), authenticated=False)
    assert parser.feed(b"*11\r\n"[:3]) == []
    parser.authenticated = True
    assert parser.feed(b"\r\n" + b"$1\r\nx\r\n" * 11 + PING) == [[b"x"] * 11, [b"PING"]]
    assert parser.authenticated


def test_limits_apply_at_once_when_changed() -> None:
    limits = Limits()
    parser = Parser(limits)
    data = encode_commands([[b"SET", b"k", b"v" * 100]])
    assert len(parser.feed(data)) == 1
    limits.max_bulk_bytes = 99
    with pytest.raises(ProtocolError, match="invalid bulk length"):
        parser.feed(data)
    with pytest.raises(ProtocolError, match="invalid multibulk length"):
        Parser(Limits(max_array=2)).feed(data)
    with pytest.raises(ProtocolError, match="exceeds client-query-buffer-limit"):
        Parser(Limits(query_buffer_bytes=110)).feed(data)
    assert Parser(Limits(query_buffer_bytes=len(data), max_bulk_bytes=100, max_array=3)).feed(data)


def test_an_error_stays() -> None:
    parser = Parser(Limits())
    with pytest.raises(ProtocolError) as first:
        parser.feed(PING + b"*x\r\n")
    assert first.value.commands == [[b"PING"]]
    with pytest.raises(ProtocolError, match="invalid multibulk length") as second:
        parser.feed(PING)
    assert second.value.commands == []
    parser.authenticated = True
    with pytest.raises(ProtocolError, match="invalid multibulk length"):
        parser.feed(PING)


def test_pending_bytes_are_those_of_the_incomplete_command() -> None:
    data = encode_commands([SET])
    for start in (b"", PING, b"PING\r\n"):
        for cut in range(len(data)):
            parser = Parser(Limits())
            parser.feed(start + data[:cut])
            assert parser.pending_bytes == cut
            parser.feed(data[cut:])
            assert parser.pending_bytes == 0
    parser = Parser(Limits())
    for cut in range(len(data)):
        assert parser.pending_bytes == cut
        parser.feed(data[cut : cut + 1])


@pytest.mark.parametrize(
    "data",
    [
        b"*1000000000\r\n",
        b"*1048577\r\n",
        b"*1048576\r\n",
        b"*1\r\n$999999999999\r\n",
        b"*1\r\n$536870912\r\n",
        b"*1\r\n*1000000000\r\n",
        b"*1\r\n$4\r\nPINGXX*1000000000\r\n",
        b"*1\r\n>1000000000\r\n",
        b"*1\r\n~1000000000\r\n",
        b"*1\r\n|1000000000\r\n",
        b"*1\r\n%1000000000\r\n",
        b"*99999\r\n" * 1000,
        b"*2\r\n$0\r\n\r\n*99999\r\n" * 1000,
        b"*99\r\n" * 1000,
        b"~99999\r\n" * 1000,
    ],
)
def test_no_memory_is_taken_for_what_is_only_announced(data: bytes) -> None:
    for start in (b"", PING):
        for chunks in ([start + data], [start + data[:3], data[3:]]):
            tracemalloc.start()
            run(Parser(Limits()), chunks)
            peak_bytes = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak_bytes < 3_000_000, chunks


@pytest.mark.parametrize("chunk_bytes", [65_536, 262_144])
def test_large_values_are_put_together_with_twice_their_memory(chunk_bytes: int) -> None:
    size = 16 << 20
    value = bytes(size)
    data = encode_commands([[b"SET", b"k", value], [b"PING"]])
    parser = Parser(Limits())
    tracemalloc.start()
    commands = []
    for at in range(0, len(data), chunk_bytes):
        commands += parser.feed(data[at : at + chunk_bytes])
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert commands == [[b"SET", b"k", value], [b"PING"]]
    assert peak_bytes < 2.3 * size
    assert parser.pending_bytes == 0


def test_a_command_of_many_arguments() -> None:
    command = [b"MSET", *(b"%d" % n for n in range(200_000))]
    data = encode_commands([command, command])
    for chunk_bytes in (len(data), 65_536):
        chunks = [data[at : at + chunk_bytes] for at in range(0, len(data), chunk_bytes)]
        assert run(Parser(Limits()), chunks) == ([command, command], None)


@pytest.mark.parametrize("portion", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("value_bytes", [8, 9, 100])
def test_a_long_argument_is_gathered_from_portions_of_any_size(
    monkeypatch: pytest.MonkeyPatch, portion: int, value_bytes: int
) -> None:
    monkeypatch.setattr(strict, "LONG_BYTES", 8)
    value = bytes(range(33, 33 + value_bytes))
    commands = [[b"SET", b"a", value], [b"PING"], [b"MSET", b"b", value, b"c", value[::-1]], [b"GET", b"c"]]
    data = encode_commands(commands)
    parser = strict.StrictParser(Limits())
    got: list[list[bytes]] = []
    for start in range(0, len(data), portion):
        got += parser.feed(data[start : start + portion])
        assert 0 <= parser.pending_bytes <= start + portion
    assert got == commands
    assert all(type(argument) is bytes for command in got for argument in command)
    assert parser.pending_bytes == 0
