"""Every error is one line that begins with its code, whatever bytes a client put into it."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest

from respkv import errors
from respkv.reply import RespError

FACTORIES = {
    name: fn
    for name, fn in inspect.getmembers(errors, inspect.isfunction)
    if fn.__module__ == errors.__name__ and inspect.signature(fn).return_annotation == "RespError"
}
HOSTILE = b"a\r\n-ERR b\x00c\xff"
SAMPLES = {
    "bytes": HOSTILE,
    "Sequence[bytes]": [HOSTILE, HOSTILE],
    "str": "text",
    "int": 7,
    "RespError": RespError("ERR x"),
}


@pytest.mark.parametrize("name", FACTORIES)
def test_an_error_is_one_line_with_a_code(name: str) -> None:
    fn: Callable[..., RespError] = FACTORIES[name]
    error = fn(*[SAMPLES[parameter.annotation] for parameter in inspect.signature(fn).parameters.values()])
    code = error.text.split(" ", 1)[0]
    assert code.isupper()
    assert code.isalpha()
    assert not set(error.text) & set("\r\n\0")


def test_each_call_makes_a_new_error() -> None:
    assert errors.syntax() is not errors.syntax()
    assert errors.syntax() == errors.syntax()


def test_what_was_not_applied_says_so_and_what_may_have_been_is_told_apart() -> None:
    for error in (errors.cluster_down(), errors.misconf("disk full")):
        assert error.text.endswith("the command was not applied")
        assert not errors.is_outcome_unknown(error)
    for error in (errors.timeout(), errors.partly_applied(errors.cluster_down())):
        assert "may have been applied" in error.text
        assert errors.is_outcome_unknown(error)


def test_bytes_that_are_no_text_come_back_as_they_were() -> None:
    assert errors.unknown_command([b"\x80"]).text.encode(errors="surrogateescape")[21:22] == b"\x80"
