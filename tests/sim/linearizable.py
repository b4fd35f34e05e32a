"""Is a history of client operations linearizable? A checker after Wing and Gong, and Lowe's just-in-time variant.

"Testing and Verifying Concurrent Objects" (Wing, Gong, 1993); "Testing for linearizability" (Lowe, 2017). A history is
linearizable if every operation can be given one instant between its invocation and its completion such that, in the
order of these instants, every reply is what the specification (`tests.sim.model`) says. It is checked per group of keys
(keys that no command names together are independent), which is what makes long histories cheap.

What is kept while going through a group's events is the set of *configurations*: a state, and which of the open
operations have taken effect already. When an operation completes, configurations in which it has not taken effect are
extended until it has; those that cannot be are dropped. No configuration left: a violation.

- An operation whose outcome is *unknown* may take effect at any time after its invocation, or never. Alike ones
  (same arguments) are interchangeable and only counted, and of two configurations that differ in these alone, the one
  that has used fewer of them is kept.
- One that was *not applied* must have no effect: it is left out, so an effect of it finds no explanation.
- Operations of one `session` that are open together (a pipeline) must take effect in their order.

The work is bounded: a group that needs more than `steps_max` steps is reported as undecided, never as fine.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from tests.sim import model
from tests.sim.model import Failure, State

FOREVER: Final = float("inf")
STEPS_MAX: Final = 200_000
SHOWN_MAX: Final = 40

Outcome = Literal["applied", "unknown", "not applied"]
NOT_APPLIED_CODES: Final = frozenset(("CLUSTERDOWN", "BUSY", "MISCONF"))
UNKNOWN_CODES: Final = frozenset(("TIMEOUT",))


@dataclass(slots=True, eq=False)
class Operation:
    """One command of one client. Times are any numbers that grow; an open operation has completed at `FOREVER`."""

    client: Any
    args: tuple[bytes, ...]
    invoked: float
    session: Any = None
    completed: float = FOREVER
    reply: Any = None
    outcome: Outcome = "unknown"

    def complete(self, at: float, reply: Any) -> None:
        """The client has its reply: a value as `model` says them, or a `Failure`, whose code tells the outcome."""
        if isinstance(reply, Failure) and reply.code in UNKNOWN_CODES:
            return
        self.completed = at
        self.reply = reply
        failed = isinstance(reply, Failure) and reply.code in NOT_APPLIED_CODES
        self.outcome = "not applied" if failed else "applied"

    def __str__(self) -> str:
        words = " ".join(_short(arg) for arg in self.args)
        reply = {"unknown": "?", "not applied": "not applied"}.get(self.outcome) or _short(self.reply)
        end = "..." if self.completed == FOREVER else f"{self.completed:<10.6g}"
        return f"{self.invoked:>10.6g} - {end:<10} client {self.client!s:<4} {words}  ->  {reply}"


def _short(value: Any) -> str:
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    return text if len(text) <= 30 else f"{text[:12]}..({len(text)})..{text[-8:]}"


class History:
    """Records what clients do. `invoke` when a command is sent, `Operation.complete` when its reply has come."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []

    def invoke(self, client: Any, args: Iterable[bytes], at: float, session: Any = None) -> Operation:
        operation = Operation(client, tuple(args), at, session)
        self.operations.append(operation)
        return operation


@dataclass
class Violation:
    """`operation` got a reply that no order explains. `states` are those that were possible before `shown`."""

    keys: tuple[bytes, ...]
    operation: Operation
    states: list[State]
    shown: list[Operation]

    def __str__(self) -> str:
        names = ", ".join(key.decode("latin-1") for key in self.keys)
        lines = [f"not linearizable: key {names}; no order of these operations explains the one marked:"]
        lines += ["  before them: " + " or ".join(_state(self.keys, state) for state in self.states[:8])]
        for operation in self.shown[-SHOWN_MAX:]:
            lines.append(("> " if operation is self.operation else "  ") + str(operation))
        return "\n".join(lines)


def _state(keys: tuple[bytes, ...], state: State) -> str:
    return ", ".join(
        f"{key.decode('latin-1')} = {'absent' if value is None else _short(value[0]) + ' (expires)' * value[1]}"
        for key, value in zip(keys, state, strict=True)
    )


@dataclass
class Verdict:
    """What was found. A history is fine if there are no violations and nothing is undecided."""

    violations: list[Violation] = field(default_factory=list)
    undecided: list[tuple[bytes, ...]] = field(default_factory=list)
    checked: int = 0

    @property
    def fine(self) -> bool:
        return not self.violations and not self.undecided

    def __str__(self) -> str:
        parts = [str(violation) for violation in self.violations]
        parts += [f"undecided after too many steps: {keys}" for keys in self.undecided]
        return "\n\n".join(parts) or f"{self.checked} operations, linearizable"


def check(operations: Sequence[Operation], *, steps_max: int = STEPS_MAX) -> Verdict:
    """Checks a whole history. Every key is absent at first."""
    verdict = Verdict()
    for keys, group in _groups(operations):
        verdict.checked += len(group)
        try:
            violation = _Search(keys, group, steps_max).run()
        except _TooMuch:
            verdict.undecided.append(keys)
        else:
            if violation is not None:
                verdict.violations.append(_smaller(violation, group, steps_max))
    return verdict


def _smaller(violation: Violation, group: list[Operation], steps_max: int) -> Violation:
    """The same violation without the reads that it does not need."""
    for operation in list(violation.shown):
        if operation is violation.operation or not model.changes_nothing(operation.args, operation.reply):
            continue
        rest = [other for other in group if other is not operation]
        try:
            found = _Search(violation.keys, rest, steps_max).run()
        except _TooMuch:
            continue
        if found is not None and found.operation is violation.operation:
            violation, group = found, rest
    return violation


def _groups(operations: Sequence[Operation]) -> Iterator[tuple[tuple[bytes, ...], list[Operation]]]:
    """Keys that are named together, directly or not, with the operations on them."""
    parent: dict[bytes, bytes] = {}

    def root(key: bytes) -> bytes:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = key = parent[parent[key]]
        return key

    of_key: dict[bytes, list[Operation]] = defaultdict(list)
    clears: list[Operation] = []
    for operation in operations:
        keys = model.keys_of(operation.args)
        if operation.outcome == "not applied":
            continue
        if operation.outcome == "unknown" and operation.args[0] in model.READS:
            continue
        for key in keys:
            parent[root(key)] = root(keys[0])
        (of_key[keys[0]] if keys else clears).append(operation)
    groups: dict[bytes, list[Operation]] = defaultdict(list)
    members: dict[bytes, list[bytes]] = defaultdict(list)
    for key in parent:
        members[root(key)].append(key)
    for key, found in of_key.items():
        groups[root(key)] += found
    for key, group in groups.items():
        yield tuple(sorted(members[key])), group + clears


class _TooMuch(Exception):
    """More steps than allowed."""


Used = tuple[int, ...]
Node = tuple[State, frozenset[int], Used]


class _Configurations:
    """(state, taken effect) to the least uses of unknown operations that lead there."""

    def __init__(self) -> None:
        self._least: dict[tuple[State, frozenset[int]], list[Used]] = {}

    def add(self, node: Node) -> bool:
        """False if it is there already, or a better one."""
        state, done, used = node
        known = self._least.setdefault((state, done), [])
        if any(_at_most(other, used) for other in known):
            return False
        known[:] = [other for other in known if not _at_most(used, other)]
        known.append(used)
        return True

    def __iter__(self) -> Iterator[Node]:
        for (state, done), uses in self._least.items():
            for used in uses:
                yield state, done, used

    def __bool__(self) -> bool:
        return bool(self._least)


def _at_most(one: Used, other: Used) -> bool:
    """Whether `one` uses no more of anything than `other` (what is missing at the end is 0)."""
    return len(one) <= len(other) and all(a <= b for a, b in zip(one, other, strict=False))


class _Search:
    """One group of keys."""

    def __init__(self, keys: tuple[bytes, ...], operations: list[Operation], steps_max: int) -> None:
        self._keys = keys
        self._operations = sorted(operations, key=lambda operation: operation.invoked)
        self._steps_left = steps_max
        self._open: dict[int, Operation] = {}
        self._before: dict[int, int] = {}  # a pipelined operation, and the one that must take effect before it
        self._last_of_session: dict[Any, int] = {}
        self._classes: dict[tuple[bytes, ...], int] = {}
        self._available: list[int] = []
        self._class_args: list[tuple[bytes, ...]] = []
        self._cache: dict[tuple[State, tuple[bytes, ...]], list[tuple[State, Any]]] = {}

    def run(self) -> Violation | None:
        """None if the group is linearizable. Raises _TooMuch."""
        start: State = (None,) * len(self._keys)
        configurations = _Configurations()
        configurations.add((start, frozenset(), ()))
        quiet, quiet_since = [start], 0.0
        for at, number, is_return in self._events():
            operation = self._operations[number]
            if not is_return:
                if not self._open:
                    quiet, quiet_since = list({state for state, _, _ in configurations}), at
                self._invoke(number, operation)
                continue
            extended = self._return(configurations, number)
            if not extended:
                return self._explain(operation, quiet, quiet_since)
            configurations = extended
            del self._open[number]
        return None

    def _events(self) -> list[tuple[float, int, bool]]:
        events = [(operation.invoked, False, number) for number, operation in enumerate(self._operations)]
        events += [
            (operation.completed, True, number)
            for number, operation in enumerate(self._operations)
            if operation.outcome == "applied"
        ]
        return [(at, number, is_return) for at, is_return, number in sorted(events)]

    def _invoke(self, number: int, operation: Operation) -> None:
        if operation.outcome == "applied":
            self._open[number] = operation
            if operation.session is not None:
                earlier = self._last_of_session.get(operation.session)
                if earlier in self._open:
                    self._before[number] = earlier
                self._last_of_session[operation.session] = number
            return
        position = self._classes.setdefault(operation.args, len(self._classes))
        if position == len(self._available):
            self._available.append(0)
            self._class_args.append(operation.args)
        self._available[position] += 1

    def _return(self, configurations: _Configurations, number: int) -> _Configurations:
        """The configurations in which the operation has taken effect."""
        result, seen = _Configurations(), _Configurations()
        stack = list(configurations)
        while stack:
            self._steps_left -= 1
            if self._steps_left < 0:
                raise _TooMuch
            node = self._take_reads(stack.pop())
            if number in node[1]:
                result.add((node[0], node[1] - {number}, node[2]))
            elif seen.add(node):
                stack += self._extensions(node)
        return result

    def _may_go(self, number: int, done: frozenset[int]) -> bool:
        earlier = self._before.get(number)
        return number not in done and (earlier is None or earlier in done or earlier not in self._open)

    def _take_reads(self, node: Node) -> Node:
        """What changes nothing and fits the state takes effect at once: waiting cannot help it."""
        state, done, used = node
        again = True
        while again:
            again = False
            for number, operation in self._open.items():
                if self._may_go(number, done) and model.changes_nothing(operation.args, operation.reply):
                    steps = self._step(state, operation.args)
                    if any(after == state and reply == operation.reply for after, reply in steps):
                        done |= {number}
                        again = True
        return state, done, used

    def _extensions(self, node: Node) -> Iterator[Node]:
        state, done, used = node
        for number, operation in self._open.items():
            if self._may_go(number, done):
                for after, reply in self._step(state, operation.args):
                    if reply == operation.reply:
                        yield after, done | {number}, used
        for position, available in enumerate(self._available):
            uses = used[position] if position < len(used) else 0
            if uses < available:
                more = (*used, *[0] * (position + 1 - len(used)))
                more = (*more[:position], uses + 1, *more[position + 1 :])
                for after, _ in self._step(state, self._class_args[position]):
                    if after != state:
                        yield after, done, more

    def _step(self, state: State, args: tuple[bytes, ...]) -> list[tuple[State, Any]]:
        key = (state, args)
        found = self._cache.get(key)
        if found is None:
            found = self._cache[key] = list(model.outcomes(self._keys, state, args))
        return found

    def _explain(self, operation: Operation, states: list[State], since: float) -> Violation:
        """The operations since the last moment at which none with a known outcome was open."""
        shown = [
            other
            for other in self._operations
            if (other.completed >= since or other.outcome == "unknown") and other.invoked <= operation.completed
        ]
        return Violation(self._keys, operation, states, shown)
