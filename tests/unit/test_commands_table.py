"""The table: names in any spelling, arity, subcommands, keys, and what COMMAND tells about them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import respkv.commands  # noqa: F401  (fills the table)
from respkv.commands import describe, table
from respkv.commands.table import COMMANDS, command, find, resolve, spec_keys
from respkv.reply import OrderedSet, RespError, Simple
from respkv.resp.encoder import encode


@pytest.fixture
def container() -> Iterator[None]:
    """A server command with subcommands, as the server's modules declare them."""

    @command("ZZTEST", arity=-2, kind="server", group="connection", since="1.0.0", summary="s")
    def zztest() -> None: ...

    @command("ZZTEST|LIST", arity=-2, flags="admin noscript", kind="server", group="connection", since="1.0.0",
             summary="s")
    def zztest_list() -> None: ...

    @command("ZZTEST|ID", arity=2, flags="fast", kind="server", group="connection", since="1.0.0", summary="s")
    def zztest_id() -> None: ...

    yield
    del COMMANDS[b"zztest"], COMMANDS[b"ZZTEST"]


def refusal(*args: bytes) -> str:
    with pytest.raises(RespError) as caught:
        resolve(args)
    return caught.value.text


def test_a_name_is_found_in_any_spelling() -> None:
    assert COMMANDS[b"GET"] is COMMANDS[b"get"] is find(b"GeT") is resolve([b"gEt", b"k"])
    assert find(b"nope") is None


def test_a_command_is_declared_once() -> None:
    with pytest.raises(ValueError, match="get is declared twice"):
        command("GET", arity=2, group="string", since="1", summary="")(lambda: None)


def test_arity() -> None:
    assert refusal(b"GET") == "ERR wrong number of arguments for 'get' command"
    assert refusal(b"gEt", b"a", b"b") == "ERR wrong number of arguments for 'get' command"
    assert refusal(b"MSET", b"a") == "ERR wrong number of arguments for 'mset' command"
    assert resolve([b"MSET", b"a", b"b"]).arity_ok(5)
    assert not COMMANDS[b"mset"].arity_ok(2)


def test_unknown_commands_quote_what_was_sent_on_one_line() -> None:
    assert refusal(b"nope") == "ERR unknown command 'nope', with args beginning with: "
    assert refusal(b"nope", b"a", b"b c") == "ERR unknown command 'nope', with args beginning with: 'a' 'b c' "
    assert refusal(b"no\r\npe", b"\n") == "ERR unknown command 'no  pe', with args beginning with: ' ' "
    long = refusal(b"n" * 200, b"a" * 100, b"b" * 100, b"c")
    assert long == f"ERR unknown command '{'n' * 128}', with args beginning with: '{'a' * 100}' '{'b' * 25}' "


@pytest.mark.usefixtures("container")
def test_subcommands() -> None:
    assert resolve([b"ZZTEST", b"list", b"x"]).name == "zztest|list"
    assert resolve([b"zztest", b"Id"]).name == "zztest|id"
    assert find(b"ZZTEST|id") is COMMANDS[b"zztest"].subcommands[b"ID"]
    assert refusal(b"zztest") == "ERR wrong number of arguments for 'zztest' command"
    assert refusal(b"zztest", b"id", b"x") == "ERR wrong number of arguments for 'zztest|id' command"
    assert refusal(b"zzTest", b"Wat") == "ERR unknown subcommand 'Wat'. Try ZZTEST HELP."
    assert [child.name for child in describe.children(COMMANDS[b"zztest"])] == ["zztest|id", "zztest|list"]
    assert "zztest" in [spec.name for spec in table.all_specs()]


@pytest.mark.usefixtures("container")
def test_categories_follow_from_group_and_flags() -> None:
    assert COMMANDS[b"set"].categories == {"write", "string", "slow"}
    assert COMMANDS[b"get"].categories == {"read", "string", "fast"}
    assert COMMANDS[b"keys"].categories == {"keyspace", "read", "slow", "dangerous"}
    assert resolve([b"ZZTEST", b"LIST"]).categories == {"admin", "dangerous", "connection", "slow"}


@pytest.mark.parametrize(
    ("args", "keys"),
    [
        ([b"GET", b"a"], [b"a"]),
        ([b"SET", b"a", b"v", b"EX", b"1"], [b"a"]),
        ([b"DEL", b"a", b"b", b"a"], [b"a", b"b", b"a"]),
        ([b"MSET", b"a", b"1", b"b", b"2"], [b"a", b"b"]),
        ([b"KEYS", b"*"], []),
        ([b"FLUSHALL"], []),
    ],
)
def test_keys_of_a_command(args: list[bytes], keys: list[bytes]) -> None:
    assert list(spec_keys(resolve(args), args)) == keys


def test_keys_at_no_fixed_position_are_found_by_the_command() -> None:
    @command("ZZMOVABLE", arity=-1, group="string", since="1", summary="", keys_of=lambda args: list(args[2:]))
    def movable() -> None: ...

    try:
        assert spec_keys(find(b"zzmovable"), [b"x", b"1", b"k"]) == [b"k"]  # type: ignore[arg-type]
    finally:
        del COMMANDS[b"zzmovable"], COMMANDS[b"ZZMOVABLE"]


def test_docs_tell_history_and_what_is_deprecated() -> None:
    @command("ZZOLD", arity=1, group="string", since="1.0.0", summary="s", complexity="", doc_flags="syscmd",
             history=("1.1.0 Added a thing.", "1.2.0 It went."), deprecated="2.0.0 `ZZNEW` or none")
    def old() -> None: ...

    try:
        docs = describe.docs(COMMANDS[b"zzold"])
    finally:
        del COMMANDS[b"zzold"], COMMANDS[b"ZZOLD"]
    fields = [b"summary", b"since", b"group", b"doc_flags", b"deprecated_since", b"replaced_by", b"history"]
    assert list(docs) == fields
    assert docs[b"doc_flags"] == OrderedSet([Simple(b"deprecated"), Simple(b"syscmd")])
    assert (docs[b"deprecated_since"], docs[b"replaced_by"]) == (b"2.0.0", b"`ZZNEW` or none")
    history = [[b"1.1.0", b"Added a thing."], [b"1.2.0", b"It went."]]
    assert docs[b"history"] == OrderedSet(history)


def test_what_has_no_order_is_told_in_sets_to_clients_of_resp3() -> None:
    entry = encode(describe.info(COMMANDS[b"dbsize"]), 3)
    flags, categories = b"~2\r\n+readonly\r\n+fast\r\n", b"~3\r\n+@keyspace\r\n+@read\r\n+@fast\r\n"
    tips = b"~2\r\n$25\r\nrequest_policy:all_shards\r\n$23\r\nresponse_policy:agg_sum\r\n"
    assert entry == b"*10\r\n$6\r\ndbsize\r\n:1\r\n" + flags + b":0\r\n" * 3 + categories + tips + b"~0\r\n~0\r\n"
    keyed = encode(describe.info(COMMANDS[b"get"]), 3)
    assert b"~0\r\n~1\r\n%3\r\n$5\r\nflags\r\n~2\r\n+RO\r\n+access\r\n" in keyed


@pytest.mark.usefixtures("container")
def test_subcommands_are_told_in_an_array() -> None:
    entry = encode(describe.info(COMMANDS[b"zztest"]), 3)
    assert b"~0\r\n~0\r\n*2\r\n*10\r\n$9\r\nzztest|id\r\n" in entry


@pytest.mark.usefixtures("container")
def test_docs_nest_subcommands() -> None:
    assert describe.docs(COMMANDS[b"get"]) == {
        b"summary": b"Get the value of a key",
        b"since": b"1.0.0",
        b"group": b"string",
        b"complexity": b"O(1)",
        b"arguments": [{b"name": b"key", b"type": b"key", b"key_spec_index": 0}],
    }
    assert list(describe.docs(COMMANDS[b"zztest"])[b"subcommands"]) == [b"zztest|id", b"zztest|list"]  # type: ignore[arg-type]
