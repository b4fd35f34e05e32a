"""What the value of an option may be: parsers that turn a TOML value or a text into the typed value, or refuse it.

A text comes from a flag, the environment or CONFIG SET; a TOML value is a str, int, float or bool. A parser raises
ValueError with the reason alone; who calls it knows the option's name. Where Redis has such a value, a text is read as
strictly, or as loosely, as there, and the reason is in Redis's words.

Sizes take Redis's units: 1k is 1000 bytes, 1kb is 1024, likewise m, mb, g, gb.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

Parser = Callable[[Any], Any]

INT_MAX: Final = (1 << 31) - 1
UINT_MAX: Final = (1 << 32) - 1
LONG_MAX: Final = (1 << 63) - 1
ULONG_MAX: Final = (1 << 64) - 1

_INTEGER: Final = re.compile(r"0|-?[1-9][0-9]{0,18}")
_DIGITS: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_SIZE: Final = re.compile(r"([0-9]{1,128})([a-z]{0,2})")
_UNITS: Final = {"": 1, "b": 1, "k": 1000, "kb": 1 << 10, "m": 10**6, "mb": 1 << 20, "g": 10**9, "gb": 1 << 30}
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_HOST: Final = re.compile(r"[A-Za-z0-9:][A-Za-z0-9_:.%-]{0,254}")


def integer(low: int, high: int) -> Parser:
    def parse(value: object) -> int:
        if isinstance(value, str) and _INTEGER.fullmatch(value):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not ~LONG_MAX <= value <= LONG_MAX:
            raise ValueError("argument couldn't be parsed into an integer")
        return _between(low, value, high)

    return parse


def size(low: int, high: int) -> Parser:
    """Bytes, as an integer or with a unit."""

    def parse(value: object) -> int:
        if isinstance(value, str) and (match := _SIZE.fullmatch(value.lower())) and match[2] in _UNITS:
            value = min(int(match[1]), ULONG_MAX) * _UNITS[match[2]]
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError("argument must be a memory value")
        return _between(low, value, high)

    return parse


def memory(low: int, high: int) -> Parser:
    """A size as Redis reads it: no digits are 0."""
    parse = size(low, high)
    return lambda value: parse(f"0{value}" if isinstance(value, str) else value)


def _between(low: int, value: int, high: int) -> int:
    if not low <= value <= high:
        raise ValueError(f"argument must be between {low} and {high} inclusive")
    return value


def ratio(low: float, high: float) -> Parser:
    def parse(value: object) -> float:
        try:
            number = float(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else -1.0
        except ValueError:
            number = -1.0
        if not low <= number <= high:
            raise ValueError(f"must be a number from {low} to {high}, not {shown(value)}")
        return number

    return parse


@dataclass(frozen=True)
class Choice:
    """A parser: one of `words`, in whatever case."""

    words: tuple[str, ...]

    def __call__(self, value: object) -> str:
        word = value.lower() if isinstance(value, str) else value
        if word not in self.words:
            raise ValueError(f"argument(s) must be one of the following: {', '.join(self.words)}")
        return str(word)


def choice(*words: str) -> Choice:
    return Choice(words)


def yes_no(value: object) -> bool:
    """`yes` or `no`, as Redis has it, or a TOML boolean."""
    if isinstance(value, bool):
        return value
    word = value.lower() if isinstance(value, str) else ""
    if word not in ("yes", "no"):
        raise ValueError("argument must be 'yes' or 'no'")
    return word == "yes"


def percentiles(value: object) -> tuple[float, ...]:
    """Numbers from 0 to 100, each behind a single space, or a TOML array of them."""
    words = split(value) if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    try:
        found = tuple(map(_number, words))
    except (TypeError, ValueError):
        raise ValueError("Invalid latency-tracking-info-percentiles parameters") from None
    if not all(0 <= number <= 100 for number in found):
        raise ValueError("latency-tracking-info-percentiles parameters should sit between [0.0,100.0]")
    return found


def _number(word: Any) -> float:
    if isinstance(word, str) and (word != word.strip() or "_" in word or not word.isascii()):
        raise ValueError(word)
    number = float(word)
    if math.isnan(number):
        raise ValueError(word)
    return number


def split(value: str) -> list[str]:
    """The words of a parameter that takes several: Redis parts them at each single space."""
    return value.split(" ") if value else []


def whole(word: str) -> int:
    """All of a word as C's strtoll reads it: with a plus or zeros in front, too; no digits are 0. Raises ValueError."""
    if not re.fullmatch(r"[ \t\n\v\f\r]*[+-]?[0-9]+|", word):
        raise ValueError(word)
    return int(word or 0)


def secret(value: object) -> str:
    """A password: any bytes."""
    if not isinstance(value, str):
        raise ValueError(f"must be a text, not {shown(value)}")
    return value


def text(pattern: re.Pattern[str] | None = None, what: str = "a text", *, empty: bool = True) -> Parser:
    def parse(value: object) -> str:
        if not isinstance(value, str) or "\0" in value or "\n" in value:
            raise ValueError(f"must be {what}, not {shown(value)}")
        if (not value and not empty) or (value and pattern and not pattern.fullmatch(value)):
            raise ValueError(f"must be {what}, not {shown(value)}")
        return value

    return parse


def lines(value: object) -> tuple[str, ...]:
    """Several texts: a list in TOML, one a line elsewhere."""
    found = value.splitlines() if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(line, str) and "\0" not in line for line in found):
        raise ValueError(f"must be a list of texts, not {shown(value)}")
    return tuple(stripped for line in found if (stripped := line.strip()))


def permissions(value: object) -> str:
    """The mode of a file, in octal digits."""
    if isinstance(value, bool) or not re.fullmatch(r"0?[0-7]{1,3}", str(value)):
        raise ValueError(f"must be octal digits such as 700, not {shown(value)}")
    return str(value)


def path(value: object) -> Path | None:
    if not isinstance(value, (str, Path)) or "\0" in str(value):
        raise ValueError(f"must be a path, not {shown(value)}")
    return Path(value) if str(value) else None


def tls_versions(value: object) -> str:
    """Versions of TLS that follow one another, separated by spaces."""
    words = value.split() if isinstance(value, str) else []
    if not words or not {word.lower() for word in words} <= {"tlsv1.2", "tlsv1.3"}:
        raise ValueError(f"must be TLSv1.2, TLSv1.3 or both, not {shown(value)}")
    return " ".join(words)


def directory(value: object) -> Path:
    found = path(value)
    if found is None:
        raise ValueError("must not be empty")
    return found


def addresses(value: object) -> str:
    """One or more IP addresses or host names, separated by spaces, as Redis's `bind` has them."""
    words = value.split() if isinstance(value, str) else []
    if not words or not all(_HOST.fullmatch(word) for word in words):
        raise ValueError(f"must be one or more addresses separated by spaces, not {shown(value)}")
    return " ".join(words)


def shown(value: object) -> str:
    """A value as error messages show it: short, on one line."""
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


class Share(NamedTuple):
    """Bytes, or a percentage of something; 0 is no limit."""

    amount: int
    percent: bool = False

    def of(self, whole: int) -> int:
        return whole * self.amount // 100 if self.percent else self.amount

    def __str__(self) -> str:
        return f"{self.amount}%" if self.percent else str(self.amount)


def share(value: object) -> Share:
    """A size, or `5%`."""
    digits = value[:-1] if isinstance(value, str) and value.endswith("%") else ""
    try:
        found = Share(int(digits), digits != "0") if _DIGITS.fullmatch(digits) else Share(memory(0, ULONG_MAX)(value))
    except ValueError:
        raise ValueError("argument must be a memory or percent value") from None
    if found.amount > (100 if found.percent else LONG_MAX):
        raise ValueError("percentage argument must be less or equal to 100")
    return found


def hostname(value: object) -> str:
    """A name that clients are told; may be empty."""
    if isinstance(value, str) and len(value) > 255:
        raise ValueError("Hostnames must be less than 256 characters")
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9.-]*", value):
        raise ValueError("Hostnames may only contain alphanumeric characters, hyphens or dots")
    return value


PORT: Final = integer(1, 65535)
PORT_OR_ZERO: Final = integer(0, 65535)
NODE_ID: Final = text(_NAME, "a name of letters, digits, '_', '.' and '-', at most 64", empty=False)
CLUSTER_ID: Final = text(_NAME, "a name of letters, digits, '_', '.' and '-', at most 64")
HOST: Final = text(_HOST, "a host name or address", empty=False)
