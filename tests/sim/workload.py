"""What simulated clients ask for: commands of every kind on few keys, with values that tell who wrote them."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.sim.model import NEXT
from tests.sim.scenario import Scenario

Value = Callable[[], bytes]
Generator = Callable[[int, Value, random.Random], list[bytes]]


def _string(number: int, value: Value, rng: random.Random) -> list[bytes]:
    key = b"s%d" % number
    match rng.randrange(20):
        case 0 | 1 | 2 | 3 | 4:
            return [b"SET", key, value()]
        case 5:
            return [b"SET", key, value(), rng.choice((b"NX", b"XX", b"GET"))]
        case 6:
            return [b"SETNX", key, value()]
        case 7:
            return [b"GETSET", key, value()]
        case 8:
            return [b"GETDEL", key]
        case 9:
            return [rng.choice((b"DEL", b"UNLINK")), key]
        case 10:
            return [rng.choice((b"EXISTS", b"STRLEN", b"TYPE", b"TOUCH")), key]
        case _:
            return [b"GET", key]


def _counter(number: int, value: Value, rng: random.Random) -> list[bytes]:
    key = b"c%d" % number
    match rng.randrange(8):
        case 0 | 1 | 2:
            return [rng.choice((b"INCR", b"INCR", b"DECR")), key]
        case 3:
            return [rng.choice((b"INCRBY", b"DECRBY")), key, b"%d" % rng.randint(2, 100)]
        case 4 if rng.random() < 0.3:
            return [b"GETDEL", key]
        case _:
            return [b"GET", key]


def _append(number: int, value: Value, rng: random.Random) -> list[bytes]:
    key = b"a%d" % number
    match rng.randrange(8):
        case 0 | 1 | 2:
            return [b"APPEND", key, value()]
        case 3:
            return [b"STRLEN", key]
        case 4:
            return [rng.choice((b"DEL", b"GETDEL")), key]
        case _:
            return [b"GET", key]


def _group(number: int, value: Value, rng: random.Random) -> list[bytes]:
    first, second = b"{g%d}1" % number, b"{g%d}2" % number
    match rng.randrange(12):
        case 0 | 1:
            return [b"MSET", first, value(), second, value()]
        case 10:
            return [rng.choice((b"RENAME", b"RENAMENX")), *rng.sample((first, second), 2)]
        case 11:
            return [b"COPY", *rng.sample((first, second), 2), *rng.choice(([], [b"REPLACE"]))]
        case 2:
            return [b"MSETNX", first, value(), second, value()]
        case 3:
            return [b"DEL", first, second]
        case 4:
            return [b"SET", rng.choice((first, second)), value()]
        case 5:
            return [b"EXISTS", first, second]
        case _:
            return [b"MGET", first, second]


def _expiring(number: int, value: Value, rng: random.Random) -> list[bytes]:
    key = b"e%d" % number
    time = b"%d" % rng.choice((20, 100, 300, 1000, 5000))
    match rng.randrange(16):
        case 0 | 1 | 2:
            return [b"SET", key, value(), b"PX", time]
        case 3:
            return [b"PSETEX", key, time, value()]
        case 4:
            return [b"SET", key, value()]
        case 5:
            return [b"SET", key, value(), rng.choice((b"KEEPTTL", b"NX", b"XX"))]
        case 6 | 7:
            return [b"PEXPIRE", key, time]
        case 8:
            return [b"PERSIST", key]
        case 9:
            return [b"GETEX", key, *rng.choice(([b"PX", time], [b"PERSIST"], []))]
        case 10:
            return [rng.choice((b"TTL", b"PTTL", b"PEXPIRETIME")), key]
        case 11:
            return [b"APPEND", key, b"+"]
        case 12:
            return [b"EXPIRE", key, b"1"]
        case _:
            return [b"GET", key]


def _bits(number: int, value: Value, rng: random.Random) -> list[bytes]:
    key, position = b"b%d" % number, b"%d" % rng.randrange(24)
    match rng.randrange(8):
        case 0 | 1:
            return [b"SETBIT", key, position, b"%d" % rng.randrange(2)]
        case 2 | 3:
            return [b"SETRANGE", key, b"%d" % rng.randrange(3), rng.choice((b"a", b"bc"))]
        case 4:
            return [b"GETBIT", key, position]
        case 5:
            return [rng.choice((b"BITCOUNT", b"STRLEN", b"DEL")), key]
        case _:
            return [b"GETRANGE", key, b"0", b"9"]


def _transaction(number: int, value: Value, rng: random.Random) -> list[bytes]:
    """Several commands on keys that are together; half of them watch one."""
    generate, keys = rng.choice((
        (_string, [b"s%d" % number]), (_counter, [b"c%d" % number]), (_group, [b"{g%d}1" % number, b"{g%d}2" % number]),
    ))  # fmt: skip
    if rng.random() < 0.4:
        return generate(number, value, rng)
    commands = [generate(number, value, rng) for _ in range(rng.randint(1, 4))]
    flat = [word for words in commands if words[0] != b"MGET" for word in (NEXT, *words)]
    watched = rng.choice((b"", keys[0])) if any(keys[0] in words for words in commands) else b""
    return [b"TRANSACTION", watched, *(flat or [NEXT, b"GET", keys[0]])]


def _flush(number: int, value: Value, rng: random.Random) -> list[bytes]:
    return [b"FLUSHALL"] if rng.random() < 0.1 else _string(number, value, rng)


_GENERATORS: dict[str, Generator] = {
    "string": _string,
    "counter": _counter,
    "append": _append,
    "group": _group,
    "expiring": _expiring,
    "bits": _bits,
    "transaction": _transaction,
    "flush": _flush,
}


class Workload:
    """The commands of one world's clients."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._written = 0

    def _value(self, rng: random.Random) -> bytes:
        self._written += 1
        return (b"v%d." % self._written).ljust(rng.choice(self._scenario.value_bytes), b".")

    def command(self, rng: random.Random) -> list[bytes]:
        generate = _GENERATORS[rng.choice(self._scenario.kinds)]
        return generate(rng.randrange(self._scenario.keys), lambda: self._value(rng), rng)
