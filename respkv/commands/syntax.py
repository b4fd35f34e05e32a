"""The syntax of commands: one line of text in the command table, and the tree of arguments that COMMAND DOCS tells.

The notation is the synopsis of Redis's manual, with the names and types that its `arguments` have besides:

    text                            argument
    ------------------------------  ---------------------------------------------------------------------------
    value                           a string named `value`
    start:integer                   with its type: one of `TYPES`; a name that is a type (`key`, `pattern`) has it
    destination:key#1               a key, or pattern of keys, of the command's key spec 1; a key without it: of 0
    NX                              the word itself, named `nx`; `sorting=ALPHA` names it otherwise
    EX seconds:integer              an argument behind a word, its token
    (range: start end)              a block named `range`: all of these
    (unit: BYTE | BIT)              one of these, named `unit`; each alternative is one argument
    LIMIT (range: start end)        either of them behind a token
    [value]  [unit: BYTE | BIT]     the same, optional
    key...                          once or more
    [GET pattern]...                any number of times, each with its token (`[GET pattern...]`: after one token)
    GET@6.2.0  value@-2.8.12        since 6.2.0; deprecated since 2.8.12

A word directly before an argument is always its token: what the notation cannot say, and no command needs, is a word
that must be there and stands by itself before another argument that must.

    >>> [argument] = parse("[condition: NX | XX]@2.6.12")
    >>> argument.name, argument.type, argument.is_optional, [each.token for each in argument.arguments]
    ('condition', 'oneof', True, ['NX', 'XX'])

Texts are parsed when COMMAND DOCS asks first: at the start of a server nobody does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

TYPES: Final = frozenset(("string", "integer", "double", "key", "pattern", "unix-time"))

_LEXEME: Final = re.compile(r"\s*(\.\.\.|@[\d.-]+|#\d+|[][()|]|[^][()|\s@#.]+)")
_CLOSES: Final = {"[": "]", "(": ")"}


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument, in the terms of COMMAND DOCS; `arguments` are those of a block or the alternatives of a oneof."""

    name: str
    type: str
    key_spec: int | None = None
    token: str = ""
    since: str = ""
    deprecated_since: str = ""
    is_optional: bool = False
    is_multiple: bool = False
    is_multiple_token: bool = False
    arguments: tuple[Argument, ...] = ()


def parse(text: str) -> tuple[Argument, ...]:
    """The arguments that `text` declares. Raises ValueError, which quotes it, for what is not the notation."""
    parser = _Parser(text)
    found = parser.arguments()
    if parser.next:
        raise parser.error(f"{parser.next!r} closes nothing")
    return found


class _Parser:
    """Recursive descent over lexemes; `next` is the one not yet taken, empty at the end."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lexemes = [match[1] for match in _LEXEME.finditer(text)]
        if "".join(self.lexemes) != "".join(text.split()):
            raise self.error("unknown signs")
        self.at = 0

    @property
    def next(self) -> str:
        return self.lexemes[self.at] if self.at < len(self.lexemes) else ""

    def take(self) -> str:
        lexeme = self.next
        self.at += 1
        return lexeme

    def error(self, what: str) -> ValueError:
        return ValueError(f"{what} in {self.text!r}")

    def arguments(self) -> tuple[Argument, ...]:
        """All up to `|`, a closing bracket or the end."""
        found = []
        while self.next and self.next not in "|])":
            found.append(self.argument())
        return tuple(found)

    def argument(self) -> Argument:
        lexeme = self.take()
        if lexeme in _CLOSES:
            found = self.bracket(lexeme)
        elif _is_token(lexeme):
            if self.next == "(" or (self.next[:1].isalnum() and not _is_token(self.next)):
                return replace(self.argument(), token=lexeme)
            name, _, token = lexeme.rpartition("=")
            found = Argument(name or token.lower(), "pure-token", token=token)
        elif lexeme[:1].isalnum() and not lexeme.endswith(":"):
            found = _named(lexeme)
        else:
            raise self.error(f"{lexeme!r} is out of place")
        return self.suffixed(found)

    def bracket(self, opening: str) -> Argument:
        """What is between brackets: a block or oneof with its name, or one argument that is optional."""
        name = self.take()[:-1] if self.next.endswith(":") else ""
        alternatives = [self.arguments()]
        while self.next == "|":
            self.take()
            alternatives.append(self.arguments())
        if self.take() != _CLOSES[opening]:
            raise self.error(f"{opening!r} is not closed")
        if name and len(alternatives) == 1:
            found = Argument(name, "block", arguments=alternatives[0])
        elif any(len(each) != 1 for each in alternatives):
            raise self.error("an alternative, or what is in brackets without a name, is not one argument")
        elif name:
            found = Argument(name, "oneof", arguments=tuple(each for each, in alternatives))
        elif len(alternatives) == 1 and opening == "[":
            found = alternatives[0][0]
        else:
            raise self.error("alternatives and round brackets need a name")
        return replace(found, is_optional=True) if opening == "[" else found

    def suffixed(self, argument: Argument) -> Argument:
        """`argument` with what stands behind it: `#1`, `@7.0.0`, `...`."""
        while self.next[:1] in ("#", "@", "."):
            suffix = self.take()
            if suffix[0] == "#":
                argument = replace(argument, key_spec=int(suffix[1:]))
            elif suffix[0] == "@":
                since, _, deprecated_since = suffix[1:].partition("-")
                argument = replace(argument, since=since, deprecated_since=deprecated_since)
            else:
                has_token = argument.type != "pure-token" and bool(argument.token)
                argument = replace(argument, is_multiple=True, is_multiple_token=has_token)
        return argument


def _is_token(lexeme: str) -> bool:
    """Whether it is a word that clients send, not a name for one."""
    return lexeme.isupper() or "=" in lexeme


def _named(lexeme: str) -> Argument:
    """`name` or `name:type`; what is behind another colon belongs to the name, as in `ip:port`."""
    name, _, kind = lexeme.rpartition(":")
    if not name or kind not in TYPES:
        name, kind = lexeme, lexeme if lexeme in TYPES else "string"
    return Argument(name, kind, key_spec=0 if kind == "key" else None)
