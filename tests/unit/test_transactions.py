"""Transactions at the machine: one state for all commands, and watched keys that cannot have been written unnoticed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import respkv.commands  # noqa: F401  (fills the table)
from respkv.cluster.slots import SLOTS, slot_of
from respkv.keyspace.digest import digest
from respkv.raft.group import Clock
from respkv.reply import NULL_ARRAY, OK, RespError
from respkv.shard import watches
from respkv.shard.batch import Entry, Guarded, Ops, Puts, decode_entry, encode_entry
from respkv.shard.long import LongEntry, LongPut
from respkv.shard.machine import EXPIRE_OP, InDoubt, Machine
from respkv.shard.transaction import EXEC_OP, WATCH_OP, Transaction, Watched, exec_args
from respkv.storage import Bitcask
from respkv.storage.record import encode_puts

T = 1_700_000_000_000


class Leader:
    """A machine that applies what it is given at once, with a clock that a test moves."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now_ms = T
        self.entries: list[bytes] = []
        self.machine = self.open()

    def open(self) -> Machine:
        cask = Bitcask(self.path, buckets=SLOTS, bucket_of=slot_of)
        return Machine(cask, clock_ms=lambda: self.now_ms)

    def apply(self, *runs: Any) -> list[Any]:
        command = encode_entry(Entry(self.now_ms, 1, [], list(runs)))
        self.entries.append(command)
        return self.machine.apply(self.machine.applied + 1, 1, decode_entry(command))

    def __call__(self, *lines: str) -> list[Any]:
        """One entry with these commands."""
        return self.apply(Ops([line.encode().split() for line in lines]))

    def put(self, key: bytes, value: bytes) -> None:
        self.apply(puts(key, value))

    def read(self, args: list[bytes]) -> Any:
        """Now, or by an entry if that is in doubt."""
        try:
            return self.machine.read(args)
        except InDoubt:
            return self.apply(Ops([args]))[0]

    def watch(self, *keys: bytes) -> list[Watched]:
        found = self.read([WATCH_OP, *keys])
        return [Watched(key, *found[2 * i : 2 * i + 2]) for i, key in enumerate(keys)]

    def proposed(self, watched: list[Watched], *lines: str) -> Guarded:
        """The run as it goes into the log."""
        run = Guarded([exec_args(watched, [line.encode().split() for line in lines])])
        self.machine.watches.judge([run], ())
        return run

    def may_go(self, watched: list[Watched], *under_way: Any) -> bool:
        return self.machine.watches.judge([Guarded([exec_args(watched, [])])], under_way)

    def exec(self, watched: list[Watched], *lines: str) -> Any:
        return self.apply(self.proposed(watched, *lines))[0]


def puts(key: bytes, value: bytes) -> Puts:
    return Puts([slot_of(key)], [key], *encode_puts([key], [value]))


def is_refused(run: Guarded) -> bool:
    return run.commands == [[EXEC_OP]]


@pytest.fixture
def leader(tmp_path: Path) -> Iterator[Leader]:
    leader = Leader(tmp_path / "leader")
    yield leader
    leader.machine.cask.close()


# --- what an EXEC does ---


def test_commands_see_each_other_and_errors_are_elements(leader: Leader) -> None:
    leader("SET n 1", "SET s x")
    reply = leader.exec([], "INCR n", "INCR s", "APPEND n 0", "GET n", "EXPIRE n nonsense", "DBSIZE")
    assert reply == [2, RespError("ERR value is not an integer or out of range"), 2, b"20",
                     RespError("ERR value is not an integer or out of range"), 2]  # fmt: skip
    assert leader("GET n") == [b"20"]


def test_a_transaction_is_one_frame_of_the_log(leader: Leader) -> None:
    applied = leader.machine.applied
    leader.exec([], "SET a 1", "DEL a", "SET b 2", "FLUSHALL", "SET c 3")
    assert leader.machine.applied == applied + 1
    assert leader("KEYS *") == [[b"c"]]


def test_what_changed_since_it_was_watched_stops_it_on_every_replica(leader: Leader) -> None:
    leader.put(b"k", b"1")
    watched = leader.watch(b"k", b"absent")
    run = leader.proposed(watched, "SET done 1")
    assert not is_refused(run)
    leader.put(b"k", b"2")  # between propose and apply, as if it had been under way unknown
    assert leader.apply(run) == [NULL_ARRAY]
    assert leader("GET done") == [None]


def test_what_did_not_change_lets_it_run(leader: Leader) -> None:
    leader.put(b"k", b"1")
    watched = leader.watch(b"k", b"absent")
    leader.put(b"other", b"1")
    leader("DEL absent", "GET k", "PERSIST k", "EXPIRE absent 5", "SETNX k 2", "GETEX k", "SET k 2 NX")
    assert leader.exec(watched, "SET done 1") == [OK]


@pytest.mark.parametrize(
    "change",
    ["SET k 1", "SET k 2", "DEL k", "APPEND k 1", "EXPIRE k 100", "GETEX k EX 9", "SET absent 1", "RENAME k k2",
     "COPY k absent", "FLUSHALL", "SETBIT k 1 1"],
)  # fmt: skip
def test_each_write_stops_it(leader: Leader, change: str) -> None:
    leader.put(b"k", b"1")
    watched = leader.watch(b"k", b"absent")
    leader(change)
    assert leader.exec(watched, "SET done 1") is NULL_ARRAY
    assert leader("GET done") == [None]


@pytest.mark.parametrize(
    "changes",
    [
        [["SET k 2"], ["SET k 1"]],
        [["DEL k"], ["SET k 1"]],
        [["FLUSHALL"], ["SET k 1"]],
        [["FLUSHALL", "SET k 1"]],
        [["SET absent 1"], ["DEL absent"]],
        [["SET absent 1", "DEL absent"]],
        [["SET absent 1", "FLUSHALL", "SET k 1"]],
        [["EXPIRE k 9"], ["PERSIST k"]],
    ],
    ids=str,
)
def test_a_change_that_was_taken_back_stops_it_too(leader: Leader, changes: list[list[str]]) -> None:
    leader.put(b"k", b"1")
    watched = leader.watch(b"k", b"absent")
    for lines in changes:
        leader(*lines)
    now = leader.watch(b"k", b"absent")
    assert [each.fingerprint for each in now] == [each.fingerprint for each in watched]
    assert leader.exec(watched, "SET done 1") is NULL_ARRAY


def test_plain_puts_are_noticed_when_they_bring_the_same_value(leader: Leader) -> None:
    leader.put(b"k", b"1")
    watched = leader.watch(b"k")
    leader.put(b"k", b"1")
    assert leader.exec(watched, "SET done 1") is NULL_ARRAY


def test_a_key_that_expires_stops_it_and_one_that_had_expired_does_not(leader: Leader) -> None:
    leader("SET soon 1 PX 10", "SET gone 1 PX 1")
    leader.now_ms += 5
    gone, soon = leader.watch(b"gone"), leader.watch(b"soon")
    assert leader.exec(gone) == []
    leader.apply(Ops([[EXPIRE_OP, b"gone"]]))
    assert leader.exec(gone) == []
    leader.now_ms += 10
    assert leader.exec(soon) is NULL_ARRAY


def test_deleting_a_key_that_had_expired_is_no_write(leader: Leader) -> None:
    leader("SET gone 1 PX 1")
    leader.now_ms += 5
    watched = leader.watch(b"gone")
    leader("DEL gone")
    assert leader.exec(watched) == []


def test_flushing_does_not_touch_absent_keys(leader: Leader) -> None:
    watched = leader.watch(b"absent")
    leader("FLUSHALL")
    assert leader.exec(watched) == []


def test_what_is_watched_behind_a_write_of_the_same_entry_is_what_that_has_written(leader: Leader) -> None:
    leader.put(b"k", b"1")
    before = leader.watch(b"k", b"other")
    words = [line.split() for line in (b"SET k 2", b"SET k 1", b"SET other 1")]
    found = leader.apply(Ops([*words[:2], [WATCH_OP, b"k"], words[2]]))[2]
    assert found[0] == before[0].fingerprint
    assert leader.exec(before[:1], "GET k") is NULL_ARRAY
    assert leader.exec(before[1:], "GET k") is NULL_ARRAY
    assert leader.exec([Watched(b"k", *found)], "GET k") == [b"1"]
    late = leader.apply(Ops([[WATCH_OP, b"k"], words[0], words[1]]))[0]
    assert leader.exec([Watched(b"k", *late)], "GET k") is NULL_ARRAY


def test_two_clients_that_watch_the_same_key(leader: Leader) -> None:
    first, second = leader.watch(b"n"), leader.watch(b"n")
    assert leader.exec(first, "INCR n") == [1]
    assert leader.exec(second, "INCR n") is NULL_ARRAY
    assert leader.exec(leader.watch(b"n"), "INCR n") == [2]


# --- what the leader refuses before it proposes ---


@pytest.mark.parametrize(
    ("run", "writes"),
    [
        (puts(b"k", b"1"), True),
        (puts(b"other", b"1"), False),
        (LongPut(slot_of(b"k"), b"k", 1 << 20), True),
        (Ops([[b"INCR", b"k"]]), True),
        (Ops([[b"INCR", b"other"], [b"GET", b"k"]]), False),
        (Ops([[b"RENAME", b"other", b"k"]]), True),
        (Ops([[b"FLUSHALL"]]), True),
        (Ops([[EXPIRE_OP, b"k"]]), False),
        (Ops([exec_args([], [[b"GET", b"k"], [b"SET", b"k", b"1"]])]), True),
        (Ops([exec_args([Watched(b"k", b"", 0)], [[b"SET", b"other", b"1"]])]), False),
        (Ops([[EXEC_OP]]), False),
    ],
    ids=str,
)
def test_it_waits_for_what_is_under_way_and_may_write(leader: Leader, run: Any, writes: bool) -> None:
    watched = leader.watch(b"k")
    assert leader.may_go(watched, run) is not writes
    assert leader.may_go([], run)


def test_it_waits_for_what_is_not_known(leader: Leader) -> None:
    guarded = Guarded([exec_args(leader.watch(b"k"), [])])
    assert not leader.machine.watches.judge([guarded], None)
    assert leader.machine.watches.judge([Ops([[b"SET", b"k", b"1"]])], None)


@pytest.mark.parametrize(
    ("before", "stops"),
    [
        ("SET k 1", True),
        ("DEL k", True),
        ("DEL absent", False),
        ("SET k 2 NX", False),
        ("GET k", False),
        ("FLUSHALL", True),
    ],
)
def test_what_stands_before_it_in_its_entry_is_judged_when_it_is_applied(
    leader: Leader, before: str, stops: bool
) -> None:
    leader.put(b"k", b"1")
    runs = [Ops([before.encode().split()]), leader.proposed(leader.watch(b"k", b"absent"), "SET done 1")]
    assert leader.apply(*runs)[1] == (NULL_ARRAY if stops else [OK])


def test_taken_back_in_the_same_entry_stops_it_too(leader: Leader) -> None:
    leader.put(b"k", b"1")
    for lines in (["SET k 2", "SET k 1"], ["SET absent 1", "DEL absent"], ["SET absent 1", "FLUSHALL", "SET k 1"]):
        watched = leader.watch(b"k", b"absent")
        commands = Ops([line.encode().split() for line in lines])
        assert leader.apply(commands, leader.proposed(watched, "SET done 1"))[-1] is NULL_ARRAY


def test_of_two_in_one_entry_only_the_first_may_write_what_both_watch(leader: Leader) -> None:
    first, second = leader.watch(b"n"), leader.watch(b"n")
    runs = [Guarded([exec_args(watched, [[b"INCR", b"n"]])]) for watched in (first, second)]
    leader.machine.watches.judge(runs, ())
    assert leader.apply(*runs) == [[1], NULL_ARRAY]


def test_another_leader_vouches_for_nothing(leader: Leader, tmp_path: Path) -> None:
    watched = leader.watch(b"k")
    other = Leader(tmp_path / "other")
    other.watch(b"k")
    assert is_refused(other.proposed(watched))
    other.machine.cask.close()
    leader.machine.watches.clear()
    assert is_refused(leader.proposed(watched))


def test_stamps_are_kept_for_a_time_and_for_so_many_keys(leader: Leader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "STAMPS_MAX", 3)
    first = leader.watch(b"0")
    others = [leader.watch(b"%d" % number) for number in range(1, 4)]
    assert is_refused(leader.proposed(first))
    assert not any(is_refused(leader.proposed(watched)) for watched in others)
    later = Clock.now() + watches.WATCH_S + 1
    monkeypatch.setattr(Clock, "now", lambda: later)
    leader("SET other 1")
    assert leader.machine.watches.stamps == {}


# --- long values, replicas, other nodes ---


def test_long_values_stop_it_and_go_through_it(leader: Leader) -> None:
    value = bytes(3 << 20)
    assert leader.exec([], "SET k 1") == [OK]
    watched = leader.watch(b"k")
    head = LongEntry(T, 1, [], [LongPut(slot_of(b"k"), b"k", len(value)), Ops([exec_args(watched, [[b"GET", b"k"]])])])
    slices = leader.machine.apply_in_slices(leader.machine.applied + 1, 1, head, [memoryview(value)])
    replies = None
    while replies is None:
        try:
            next(slices)()
        except StopIteration as end:
            replies = end.value
    assert replies == [NULL_ARRAY]  # the value before it in the entry is another one
    assert is_refused(leader.proposed(watched))
    again = leader.watch(b"k")
    assert leader.apply(Guarded([exec_args(again, [[b"GET", b"k"], [b"SET", b"copy", value]])])) == [[value, OK]]
    assert leader("STRLEN copy") == [len(value)]


def test_replicas_agree_whenever_they_were_restarted(leader: Leader, tmp_path: Path) -> None:
    other = Leader(tmp_path / "other")
    for step in range(30):
        watched = leader.watch(b"n", b"m")
        if step % 3 == 0:
            leader(f"SET m {step}")
        leader.exec(watched, "INCR n", f"SET at {step} PX {step}", "APPEND log x")
        leader.now_ms += 7
        for entry in leader.entries[other.machine.applied :]:
            other.machine.apply(other.machine.applied + 1, 1, decode_entry(entry))
        if step % 4 == 0:
            other.machine.cask.close()
            other.machine = other.open()
    assert leader("GET n", "STRLEN log")[0] == b"20"
    other.machine.apply(other.machine.applied + 1, 1, decode_entry(leader.entries[-1]))
    digests = []
    for each in (leader, other):
        each.machine.db.now_ms = leader.now_ms
        slices = digest(each.machine.db)
        try:
            while True:
                next(slices)
        except StopIteration as end:
            digests.append((end.value.value, end.value.keys))
    assert digests[0] == digests[1]
    other.machine.cask.close()


def exec_of(*commands: list[bytes], watched: tuple[Watched, ...] = ()) -> list[bytes]:
    return exec_args(watched, list(commands))


@pytest.mark.parametrize(
    "args",
    [exec_of(), exec_of([b"GET", b"k"]), exec_of([b"SET", b"k", b"v"]), [EXEC_OP], [WATCH_OP, b"k"], [EXPIRE_OP, b"k"],
     exec_of(watched=(Watched(b"k", b"", 1),))],
)  # fmt: skip
def test_what_an_entry_may_hold(args: list[bytes]) -> None:
    assert Machine.can_apply(args)


@pytest.mark.parametrize(
    "args",
    [
        [EXEC_OP, b""],
        [EXEC_OP, b"\xc1"],
        [EXEC_OP, exec_of()[1], b"more"],
        exec_of([]),
        exec_of([b"GET"]),
        exec_of([b"PING"]),
        exec_of([b"NO"]),
        exec_of(exec_of()),
        exec_of([WATCH_OP, b"k"]),
        exec_of([EXPIRE_OP, b"k"]),
        [b"\0other"],
    ],
)
def test_what_no_entry_may_hold(args: list[bytes]) -> None:
    assert not Machine.can_apply(args)


def test_only_transactions_of_reads_that_watch_nothing_are_reads() -> None:
    assert Machine.can_read(exec_of([b"GET", b"k"], [b"DBSIZE"]))
    assert Machine.can_read([WATCH_OP, b"k"])
    assert not Machine.can_read(exec_of([b"GET", b"k"], [b"SET", b"k", b"v"]))
    assert not Machine.can_read(exec_of([b"GET", b"k"], watched=(Watched(b"k", b"", 1),)))
    assert not Machine.can_read([EXEC_OP])
    assert not Machine.can_read([EXEC_OP, b"\xc1"])


def test_a_read_sees_one_state_and_an_expired_key_is_absent(leader: Leader) -> None:
    leader("SET a 1 PX 5", "SET b 2")
    leader.now_ms += 10
    assert leader.read(exec_of([b"GET", b"a"], [b"GET", b"b"], [b"DBSIZE"])) == [None, b"2", 1]


def test_fields_of_a_transaction_that_are_no_strings_are_refused() -> None:
    assert Transaction([], []).watched == []
    assert not Machine.can_apply([EXEC_OP, b"\x92\x90\x91\x91\x01"])  # [[], [[1]]]
