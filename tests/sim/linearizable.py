"""Is a history of client operations linearizable? A checker after Wing and Gong, and Lowe's just-in-time variant.

"Testing and Verifying Concurrent Objects" (Wing, Gong, 1993); "Testing for linearizability" (Lowe, 2017). A history is
linearizable if every operation can be given one instant between its invocation and its completion such that, in the
order of these instants, every reply is what the specification (`tests.sim.model`) says. It is checked per group of keys
(keys that no command names together are independent), which is what makes long histories cheap.

The search goes through a group's completions. A *configuration* is a state, and which of the open operations have
taken effect already. When an operation completes and has not taken effect, the configuration is extended by open
operations until it has; where that cannot be, the search goes back. All that was seen is remembered. No way to the end:
a violation.

- An operation whose outcome is *unknown* may take effect at any time after its invocation, or never. Alike ones
  (same arguments) are interchangeable and only counted, and of two configurations that differ in these alone, the one
  that has used fewer of them is kept.
- One that was *not applied* must have no effect: it is left out, so an effect of it finds no explanation.
- Operations of one `session` that are open together (a pipeline) must take effect in their order.

What linearizability does not demand of single operations, but a user of Redis may expect, is demanded, too: that a
read does not see the writes behind it in its own pipeline, and that a key that was seen expired stays so.

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
NOT_APPLIED_CODES: Final = frozenset(("CLUSTERDOWN", "BUSY", "MISCONF", "EXECABORT"))
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


def check(operations: Sequence[Operation], *, steps_max: int = STEPS_MAX, expiry: bool = True) -> Verdict:
    """Checks a whole history. Every key is absent at first. `expiry`: a key that expires may be gone already."""
    verdict = Verdict()
    for keys, group in _groups(operations):
        verdict.checked += len(group)
        try:
            violation = _Search(keys, group, steps_max, expiry=expiry).run()
        except _TooMuch:
            verdict.undecided.append(keys)
        else:
            if violation is not None:
                verdict.violations.append(_smaller(violation, group, steps_max, expiry=expiry))
    return verdict


def _smaller(violation: Violation, group: list[Operation], steps_max: int, *, expiry: bool) -> Violation:
    """The same violation without the reads that it does not need."""
    for operation in list(violation.shown):
        if operation is violation.operation or not model.changes_nothing(operation.args, operation.reply):
            continue
        rest = [other for other in group if other is not operation]
        try:
            found = _Search(violation.keys, rest, steps_max, expiry=expiry).run()
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

    of_key: dict[bytes, list[tuple[int, Operation]]] = defaultdict(list)
    clears: list[tuple[int, Operation]] = []
    for number, operation in enumerate(operations):
        keys = model.keys_of(operation.args)
        if operation.outcome == "not applied":
            continue
        if operation.outcome == "unknown" and operation.args[0] in model.READS:
            continue
        for key in keys:
            parent[root(key)] = root(keys[0])
        (of_key[keys[0]] if keys else clears).append((number, operation))
    groups: dict[bytes, list[tuple[int, Operation]]] = defaultdict(list)
    members: dict[bytes, list[bytes]] = defaultdict(list)
    for key in parent:
        members[root(key)].append(key)
    for key, found in of_key.items():
        groups[root(key)] += found
    for key, group in groups.items():
        in_order = sorted(group + clears, key=lambda numbered: numbered[0])
        yield tuple(sorted(members[key])), [operation for _, operation in in_order]


class _TooMuch(Exception):
    """More steps than allowed."""


Used = tuple[int, ...]
Key = tuple[int, State, frozenset[int]]
Node = tuple[int, State, frozenset[int], Used]


def _at_most(one: Used, other: Used) -> bool:
    """Whether `one` uses no more of anything than `other` (what is missing at the end is 0)."""
    return len(one) <= len(other) and all(a <= b for a, b in zip(one, other, strict=False))


def _anonymous(operations: list[Operation]) -> dict[int, tuple[bytes, ...]]:
    """The arguments of operations, with every value that no reply shows replaced by one of its length.

    Nobody can tell such values apart, and a search that does not either has far fewer states. Where commands show parts
    of values, all stay as they are.
    """
    if any(operation.args[0] in model.PARTIAL for operation in operations):
        return {id(operation): operation.args for operation in operations}
    seen = b"\0".join(
        value
        for operation in operations
        for value in (operation.reply if isinstance(operation.reply, list) else [operation.reply])
        if isinstance(value, bytes)
    )
    names = {key for operation in operations for key in model.keys_of(operation.args)}

    def shown(arg: bytes) -> bytes:
        hidden = len(arg) > 1 and arg[:1].isalpha() and not arg.isalpha() and arg not in names and arg not in seen
        return b"?" * len(arg) if hidden else arg

    return {id(op): (op.args[0], *map(shown, op.args[1:])) for op in operations}


@dataclass(slots=True)
class _Return:
    """The completion of one operation, and what is open then: each session's operations in order, unknown ones."""

    number: int
    lines: list[list[int]]
    available: list[int]
    quiet: bool


class _Search:
    """One group of keys. Depth first: what is done is done as late and with as few unknown operations as possible."""

    def __init__(
        self, keys: tuple[bytes, ...], operations: list[Operation], steps_max: int, *, expiry: bool
    ) -> None:
        self._keys = keys
        self._expiry = expiry
        self._operations = sorted(operations, key=lambda operation: operation.invoked)
        anonymous = _anonymous(self._operations)
        self._args = [anonymous[id(operation)] for operation in self._operations]
        self._silent = [model.changes_nothing(operation.args, operation.reply) for operation in self._operations]
        self._steps_left = steps_max
        self._class_args: list[tuple[bytes, ...]] = []
        self._returns = list(self._list_returns())
        self._seen: dict[Key, list[Used]] = {}
        self._cache: dict[tuple[State, tuple[bytes, ...]], list[tuple[State, Any]]] = {}

    def _list_returns(self) -> Iterator[_Return]:
        events = [(operation.invoked, False, number) for number, operation in enumerate(self._operations)]
        events += [
            (operation.completed, True, number)
            for number, operation in enumerate(self._operations)
            if operation.outcome == "applied"
        ]
        lines: dict[Any, list[int]] = {}
        classes: dict[tuple[bytes, ...], int] = {}
        available: list[int] = []
        quiet = True
        for _, is_return, number in sorted(events):
            operation = self._operations[number]
            line = (operation.session,) if operation.session is not None else number
            if is_return:
                yield _Return(number, [list(open_) for open_ in lines.values()], list(available), quiet)
                lines[line].remove(number)
                if not lines[line]:
                    del lines[line]
                quiet = not lines
            elif operation.outcome == "applied":
                lines.setdefault(line, []).append(number)
            else:
                position = classes.setdefault(self._args[number], len(classes))
                if position == len(available):
                    available.append(0)
                    self._class_args.append(self._args[number])
                available[position] += 1

    def run(self) -> Violation | None:
        """None if the group is linearizable. Raises _TooMuch."""
        start: State = (None,) * len(self._keys)
        stack: list[Node] = [(0, start, frozenset(), ())]
        furthest = 0
        while stack:
            self._steps_left -= 1
            if self._steps_left < 0:
                raise _TooMuch
            position, state, done, used = stack.pop()
            if position == len(self._returns):
                return None
            furthest = max(furthest, position)
            done = self._take_reads(position, state, done)
            if not self._is_new((position, state, done), used):
                continue
            number = self._returns[position].number
            if number in done:
                stack.append((position + 1, state, done - {number}, used))
            else:
                stack += self._extensions(position, state, done, used)
        return self._explain(furthest) if self._returns else None

    def _is_new(self, key: Key, used: Used) -> bool:
        """False if the same was seen with as few uses of unknown operations."""
        known = self._seen.setdefault(key, [])
        if any(_at_most(other, used) for other in known):
            return False
        known.append(used)
        return True

    def _may_go(self, position: int, done: frozenset[int]) -> Iterator[int]:
        """The open operations that can be the next to take effect: of each line, the first that has not."""
        for line in self._returns[position].lines:
            first = next((number for number in line if number not in done), None)
            if first is not None:
                yield first

    def _take_reads(self, position: int, state: State, done: frozenset[int]) -> frozenset[int]:
        """What changes nothing and fits the state takes effect at once: waiting cannot help it."""
        while taken := [n for n in self._may_go(position, done) if self._silent[n] and self._fits(n, state)]:
            done = done.union(taken)
        return done

    def _fits(self, number: int, state: State) -> bool:
        wanted = self._operations[number].reply
        return any(after == state and reply == wanted for after, reply in self._step(state, self._args[number]))

    def _extensions(self, position: int, state: State, done: frozenset[int], used: Used) -> Iterator[Node]:
        """In the order of a stack: the most promising one last."""
        here = self._returns[position]
        for class_, available in enumerate(here.available):
            uses = used[class_] if class_ < len(used) else 0
            if uses < available:
                more = (*used, *[0] * (class_ + 1 - len(used)))
                more = (*more[:class_], uses + 1, *more[class_ + 1 :])
                for after, _ in self._step(state, self._class_args[class_]):
                    if after != state:
                        yield position, after, done, more
        last: list[Node] = []
        for number in self._may_go(position, done):
            for after, reply in self._step(state, self._args[number]):
                if reply == self._operations[number].reply:
                    node = (position, after, done | {number}, used)
                    if number == here.number:
                        last.append(node)
                    else:
                        yield node
        yield from last

    def _step(self, state: State, args: tuple[bytes, ...]) -> list[tuple[State, Any]]:
        key = (state, args)
        found = self._cache.get(key)
        if found is None:
            found = list(model.outcomes(self._keys, state, args, expiry=self._expiry))
            self._cache[key] = found
        return found

    def _explain(self, furthest: int) -> Violation:
        """The operations since the last moment at which none with a known outcome was open."""
        operation = self._operations[self._returns[furthest].number]
        quiet = max(position for position in range(furthest + 1) if self._returns[position].quiet)
        states = list({state for position, state, _ in self._seen if position == quiet})
        since = self._operations[self._returns[quiet - 1].number].completed if quiet else float("-inf")
        shown = [
            other
            for other in self._operations
            if (other.completed > since or other.outcome == "unknown") and other.invoked <= operation.completed
        ]
        return Violation(self._keys, operation, states, shown)
