"""The checker of histories: what it must accept, what it must not, and that it agrees with trying every order."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sim import model
from tests.sim.linearizable import FOREVER, History, Operation, check
from tests.sim.model import Failure


def op(text: str, invoked: float, completed: float = FOREVER, reply: Any = None, session: Any = None) -> Operation:
    """`op("SET k v", 1, 2, "OK")`; without a completion its outcome is unknown."""
    operation = Operation(0, tuple(text.encode().split()), invoked, session)
    if completed != FOREVER:
        operation.complete(completed, reply)
    return operation


FINE = {
    "nothing": [],
    "one after the other": [op("SET k a", 1, 2, "OK"), op("GET k", 3, 4, b"a"), op("DEL k", 5, 6, 1)],
    "a read beside a write may see either": [
        op("SET k a", 1, 2, "OK"), op("SET k b", 3, 9, "OK"), op("GET k", 4, 5, b"a"), op("GET k", 6, 7, b"b"),
    ],
    "counters": [op("INCR k", 1, 9, 2), op("INCR k", 1, 9, 3), op("INCR k", 2, 8, 1), op("GET k", 9, 10, b"3")],
    "unknown, never applied": [op("SET k a", 1), op("GET k", 2, 3, None), op("GET k", 8, 9, None)],
    "unknown, applied late": [op("SET k a", 1), op("GET k", 2, 3, None), op("GET k", 8, 9, b"a")],
    "alike unknown ones": [*(op("INCR k", 1) for _ in range(40)), op("GET k", 2, 3, b"7"), op("INCR k", 4, 5, 41)],
    "not applied": [op("SET k a", 1, 2, Failure("CLUSTERDOWN")), op("GET k", 3, 4, None)],
    "an expired key": [op("SET k a PX 5", 1, 2, "OK"), op("GET k", 3, 4, b"a"), op("GET k", 5, 6, None)],
    "several keys": [op("MSET a 1 b 1", 1, 9, "OK"), op("MGET a b", 2, 3, [None, None]), op("GET b", 4, 5, b"1")],
    "wrong type of value": [op("SET k a", 1, 2, "OK"), op("INCR k", 3, 4, Failure("ERR")), op("GET k", 5, 6, b"a")],
    "a clear": [op("SET k a", 1, 2, "OK"), op("FLUSHALL", 3, 4, "OK"), op("GET k", 5, 6, None)],
    "a pipeline": [op("SET k a", 1, 9, "OK", 1), op("SET k b", 1, 9, "OK", 1), op("GET k", 10, 11, b"b")],
    "a pipeline over several keys": [
        op("MGET a b", 1, 9, [None, None], 1), op("SET b 2", 1, 9, "OK", 1), op("FLUSHALL", 1, 9, "OK", 1),
        op("GET a", 1, 9, None, 1), op("SET a 1", 1, 9, "OK", 1), op("MGET a b", 1, 9, [b"1", None], 1),
    ],
    "time to live": [
        op("SET k a PX 5", 1, 2, "OK"), op("PTTL k", 3, 4, 5), op("PERSIST k", 5, 6, 1), op("TTL k", 7, 8, -1),
    ],
}  # fmt: skip

BROKEN = {
    "a stale read": [op("SET k a", 1, 2, "OK"), op("SET k b", 3, 4, "OK"), op("GET k", 5, 6, b"a")],
    "a lost write": [op("SET k a", 1, 2, "OK"), op("GET k", 3, 4, None)],
    "a value from nowhere": [op("GET k", 1, 2, b"x")],
    "a read that goes back": [
        op("SET k a", 1, 2, "OK"), op("SET k b", 3, 9, "OK"), op("GET k", 4, 5, b"b"), op("GET k", 6, 7, b"a"),
    ],
    "applied twice": [op("INCR k", 1, 2, 1), op("INCR k", 3, 4, 3)],
    "an unknown one applied twice": [op("INCR k", 1), op("GET k", 3, 4, b"2")],
    "an unknown one taken back": [op("SET k a", 1), op("GET k", 2, 3, b"a"), op("GET k", 4, 5, None)],
    "unknown, before it was asked for": [op("GET k", 1, 2, b"a"), op("SET k a", 3)],
    "not applied but seen": [op("SET k a", 1, 2, Failure("CLUSTERDOWN")), op("GET k", 3, 4, b"a")],
    "two locks": [op("SET k a NX", 1, 9, "OK"), op("SET k b NX", 1, 9, "OK")],
    "half of several keys": [op("MSET a 1 b 1", 1, 9, "OK"), op("MGET a b", 2, 3, [b"1", None])],
    "an expired key that comes back": [
        op("SET k a PX 5", 1, 2, "OK"), op("GET k", 3, 4, None), op("GET k", 5, 6, b"a"),
    ],
    "a pipeline out of order": [op("SET k a", 1, 9, "OK", 1), op("SET k b", 1, 9, "OK", 1), op("GET k", 10, 11, b"a")],
    "a pipeline's own write unseen": [op("SET k a", 1, 9, "OK", 1), op("GET k", 1, 9, None, 1)],
    "a read of a write behind it in its pipeline": [op("GET k", 1, 9, b"a", 1), op("SET k a", 1, 9, "OK", 1)],
}  # fmt: skip


@pytest.mark.parametrize("name", FINE)
def test_a_linearizable_history_is_accepted(name: str) -> None:
    verdict = check(FINE[name])
    assert verdict.fine, str(verdict)


def test_a_key_that_expires_in_the_far_future_must_be_there() -> None:
    history = [op("SET k a EX 10000000", 1, 2, "OK"), op("GET k", 3, 4, None)]
    assert check(history).fine
    assert check(history, expiry=False).violations
    assert check([*history[:1], op("TTL k", 3, 4, 9_000_000), op("GET k", 5, 6, b"a")], expiry=False).fine


@pytest.mark.parametrize("name", BROKEN)
def test_a_history_that_no_order_explains_is_refused(name: str) -> None:
    verdict = check(BROKEN[name])
    assert len(verdict.violations) == 1


def test_an_explanation_names_the_key_the_states_before_and_the_operations_that_matter() -> None:
    history = [op("SET k a", 1, 2, "OK"), op("SET other a", 1, 2, "OK")]
    history += [op("GET k", 3 + n, 3.5 + n, b"a") for n in range(50)]
    history += [op("SET k b", 100, 101, "OK"), op("GET k", 100, 102, b"a"), op("GET k", 103, 104, b"a")]
    (violation,) = check(history).violations
    assert violation.operation is history[-1]
    assert str(violation).splitlines() == [
        "not linearizable: key k; no order of these operations explains the one marked:",
        "  before them: k = b",
        ">        103 - 104        client 0    GET k  ->  a",
    ]


def test_a_group_that_needs_too_many_steps_is_undecided_and_never_fine() -> None:
    history = [op(f"SET k {n}", 1, 9, "OK") for n in range(30)] + [op("GET k", 10, 11, b"none of these")]
    verdict = check(history, steps_max=1000)
    assert verdict.undecided == [(b"k",)]
    assert not verdict.fine


def test_long_histories_of_many_clients_are_checked_in_little_work() -> None:
    history, log = History(), dict.fromkeys(range(50), b"")
    for n in range(20_000):
        key = n % 50
        write = history.invoke(n % 20, [b"SET", b"%d" % key, b"%d" % n], n)
        read = history.invoke(n % 20 + 20, [b"GET", b"%d" % key], n)
        log[key] = b"%d" % n
        write.complete(n + 60, "OK")
        read.complete(n + 70, log[key])
    assert check(history.operations, steps_max=20_000).fine


# --- against every order ---


def every_order(operations: list[Operation]) -> bool:
    """Wing and Gong's definition, word for word."""
    counted = [operation for operation in operations if operation.outcome != "not applied"]
    keys = tuple(sorted({key for operation in counted for key in model.keys_of(operation.args)}))
    must = {operation for operation in counted if operation.outcome == "applied"}

    def explains(order: tuple[Operation, ...]) -> bool:
        states: set[model.State] = {(None,) * len(keys)}
        for operation in order:
            states = {
                after
                for state in states
                for after, reply in model.outcomes(keys, state, operation.args)
                if operation not in must or reply == operation.reply
            }
        return bool(states)

    def is_in_time(order: tuple[Operation, ...]) -> bool:
        return all(
            not (later.completed < earlier.invoked)
            and not (later.session is not None and later.session == earlier.session
                     and later.invoked < earlier.invoked and {earlier, later} <= must)
            for position, earlier in enumerate(order)
            for later in order[position + 1 :]
        )  # fmt: skip

    return any(
        must <= set(order) and is_in_time(order) and explains(order)
        for size in range(len(must), len(counted) + 1)
        for order in permutations(counted, size)
    )


commands = st.sampled_from([
    ("SET k a", ("OK",)), ("SET k b", ("OK",)), ("SET k a NX", ("OK", None)), ("SET k b XX GET", (None, b"a", b"b")),
    ("GET k", (None, b"a", b"b", b"1")), ("INCR k", (1, 2, Failure("ERR"))), ("APPEND k a", (1, 2)),
    ("DEL k", (0, 1)), ("SETNX k a", (0, 1)), ("SET k a PX 9", ("OK",)), ("GETDEL k", (None, b"a", b"b")),
    ("MSETNX k a l a", (0, 1)), ("MGET k l", ([None, None], [b"a", b"a"], [b"b", b"a"])), ("EXISTS k l", (0, 1, 2)),
])  # fmt: skip


@st.composite
def histories(draw: st.DrawFn) -> list[Operation]:
    operations = []
    for number in range(draw(st.integers(1, 5))):
        text, replies = draw(commands)
        invoked = draw(st.integers(0, 8)) + number / 100
        operation = op(text, invoked, session=draw(st.sampled_from((None, None, 1))))
        fate = draw(st.sampled_from(("applied",) * 6 + ("unknown", "not applied")))
        if fate != "unknown":
            reply = draw(st.sampled_from(replies)) if fate == "applied" else Failure("BUSY")
            operation.complete(invoked + draw(st.integers(0, 6)) + 0.5, reply)
        operations.append(operation)
    return operations


@settings(max_examples=1500, deadline=None)
@given(histories())
def test_the_checker_agrees_with_trying_every_order(operations: list[Operation]) -> None:
    verdict = check(operations)
    assert not verdict.undecided
    assert (not verdict.violations) is every_order(operations)
