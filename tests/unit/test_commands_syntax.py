"""The notation for the syntax of commands: what each sign of it means, and that the table keeps to it."""

from __future__ import annotations

import doctest
from collections.abc import Sequence
from math import inf

import pytest

import respkv.server.commands  # noqa: F401  (fills the table)
from respkv.commands import describe, syntax
from respkv.commands.syntax import Argument, parse
from respkv.commands.table import Spec, all_specs
from respkv.reply import OrderedSet, Simple

SPECS = [spec for each in all_specs() for spec in (each, *describe.children(each))]
# Redis declares no arguments of these, but an arity that asks for some.
UNDECLARED = ("command|getkeys", "command|getkeysandflags", "debug")
TAKE_MORE = ("psync", "quit")  # and their arity allows what their syntax does not tell


def nx(**given: bool) -> Argument:
    return Argument("nx", "pure-token", token="NX", **given)


@pytest.mark.parametrize(
    ("text", "argument"),
    [
        ("value", Argument("value", "string")),
        ("start:integer", Argument("start", "integer")),
        ("ip:port", Argument("ip:port", "string")),
        ("yes/no", Argument("yes/no", "string")),
        ("key", Argument("key", "key", key_spec=0)),
        ("key:string", Argument("key", "string")),
        ("newkey:key#1", Argument("newkey", "key", key_spec=1)),
        ("pattern", Argument("pattern", "pattern")),
        ("BY pattern#1", Argument("pattern", "pattern", key_spec=1, token="BY")),
        ("NX", nx()),
        ("sorting=ALPHA", Argument("sorting", "pure-token", token="ALPHA")),
        ("EX seconds:integer", Argument("seconds", "integer", token="EX")),
        ("[NX]", nx(is_optional=True)),
        ("key...", Argument("key", "key", key_spec=0, is_multiple=True)),
        ("[value...]", Argument("value", "string", is_optional=True, is_multiple=True)),
        ("ID id...", Argument("id", "string", token="ID", is_multiple=True)),
        ("[ID id]...", Argument("id", "string", token="ID", is_optional=True, is_multiple=True,
                                is_multiple_token=True)),
        ("GET@6.2.0", Argument("get", "pure-token", token="GET", since="6.2.0")),
        ("value@-2.8.12", Argument("value", "string", deprecated_since="2.8.12")),
        ("value@2.0.0-2.8.12", Argument("value", "string", since="2.0.0", deprecated_since="2.8.12")),
        ("(pair: field value)...", Argument("pair", "block", is_multiple=True, arguments=(
            Argument("field", "string"), Argument("value", "string")))),
        ("(only: value)", Argument("only", "block", arguments=(Argument("value", "string"),))),
        ("[when: NX | AT time:unix-time]@7.0.0", Argument("when", "oneof", since="7.0.0", is_optional=True, arguments=(
            nx(), Argument("time", "unix-time", token="AT")))),
        ("[LIMIT (range: a b)]", Argument("range", "block", token="LIMIT", is_optional=True, arguments=(
            Argument("a", "string"), Argument("b", "string")))),
    ],
)  # fmt: skip
def test_an_argument(text: str, argument: Argument) -> None:
    assert parse(text) == (argument,)


def test_arguments_follow_each_other() -> None:
    assert [argument.name for argument in parse(" key [NX] [GET p]... (a: B|C)  D E f")] == ["key", "nx", "p", "a",
                                                                                          "d", "f"]  # fmt: skip
    assert parse("") == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("key]", "']' closes nothing"),
        ("a | b", "'|' closes nothing"),
        ("(a: b", "'(' is not closed"),
        ("[a)", "'[' is not closed"),
        ("(a b)", "is not one argument"),
        ("[a b]", "is not one argument"),
        ("[]", "is not one argument"),
        ("(a: b | c d)", "is not one argument"),
        ("(a: b | )", "is not one argument"),
        ("[a | b]", "alternatives and round brackets need a name"),
        ("(a)", "alternatives and round brackets need a name"),
        ("...", "'...' is out of place"),
        ("@7.0.0", "'@7.0.0' is out of place"),
        ("a: b", "'a:' is out of place"),
        ("a#b", "unknown signs"),
        ("a.b", "unknown signs"),
    ],
)
def test_what_is_not_the_notation_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(text)
    assert message in str(caught.value)
    assert repr(text) in str(caught.value)


def test_the_example_in_the_documentation_is_right() -> None:
    assert doctest.testmod(syntax) == (0, 2)


def words(arguments: Sequence[Argument]) -> tuple[float, float]:
    """How many words a client sends for `arguments`, at least and at most."""
    ranges = [_words(argument) for argument in arguments]
    return sum(low for low, _ in ranges), sum(high for _, high in ranges)


def _words(argument: Argument) -> tuple[float, float]:
    low = high = 1.0
    if argument.type == "oneof":
        each = [words([alternative]) for alternative in argument.arguments]
        low, high = min(low for low, _ in each), max(high for _, high in each)
    elif argument.type == "block":
        low, high = words(argument.arguments)
    if argument.token and argument.type != "pure-token":
        low, high = low + 1, high + 1
    # What is not optional as a whole is at least one word, even if each of its parts is.
    return 0 if argument.is_optional else max(low, 1), inf if argument.is_multiple else high


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_the_syntax_of_a_command_parses_and_agrees_with_its_arity(spec: Spec) -> None:
    least, most = words(parse(spec.syntax))
    if spec.name in UNDECLARED or spec.subcommands:
        assert spec.syntax == ""
        assert spec.arity < 0
        return
    name_words = 1 + spec.name.count("|")
    assert name_words + least == abs(spec.arity)
    assert (least == most) == (spec.arity > 0) or spec.name in TAKE_MORE


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_key_specs_of_arguments_are_those_of_the_command(spec: Spec) -> None:
    def used(arguments: Sequence[Argument]) -> set[int]:
        inside = {number for argument in arguments for number in used(argument.arguments)}
        return inside | {argument.key_spec for argument in arguments if argument.key_spec is not None}

    assert used(parse(spec.syntax)) <= set(range(len(spec.key_specs)))


def test_docs_tell_arguments_in_the_order_of_redis() -> None:
    [optional, several] = describe.arguments("[GET (op: SET@7.0.0 | key#1)]... value@-2.0.0")
    assert optional == {
        b"name": b"op",
        b"type": b"oneof",
        b"token": b"GET",
        b"flags": OrderedSet([Simple(b"optional"), Simple(b"multiple"), Simple(b"multiple_token")]),
        b"arguments": [
            {b"name": b"set", b"type": b"pure-token", b"token": b"SET", b"since": b"7.0.0"},
            {b"name": b"key", b"type": b"key", b"key_spec_index": 1},
        ],
    }
    assert list(optional) == [b"name", b"type", b"token", b"flags", b"arguments"]
    assert several == {b"name": b"value", b"type": b"string", b"deprecated_since": b"2.0.0"}
