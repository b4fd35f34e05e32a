"""Rules about users against a real redis-server: the same errors, the same description, the same verdicts.

Skipped where `redis-server` is not in PATH.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import respkv.server.commands  # noqa: F401 - fills the table
from respkv.acl.catalog import catalog
from respkv.acl.selector import COMMAND, KEY
from respkv.acl.user import default_user
from respkv.acl.users import Users
from respkv.commands.table import CATEGORIES, all_specs, resolve
from respkv.reply import RespError
from tests.unit.running import Wire, redis

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not in PATH")

COMMANDS = ["get", "set", "mget", "del", "config", "config|get", "client", "client|kill", "debug", "sadd", "xinfo",
            "xinfo|help", "acl", "acl|setuser", "select", "ping", "multi", "publish", "eval", "memory|doctor",
            "object|freq", "function|list", "sort", "nonsense", "get|a|b", "config|nonsense", ""]  # fmt: skip
WORDS = ["on", "off", "OFF", "nopass", "resetpass", "reset", "resetkeys", "allkeys", "~*", "resetchannels", "&*",
         "allchannels", "+@all", "-@all", "allcommands", "nocommands", "clearselectors", "sanitize-payload",
         "skip-sanitize-payload", "+select|0", "+select|1", "+debug|object", "+DEBUG|Object", "-select|0", "+select|",
         "+config|get|appendonly", "nonsense", "", "~", "&", "%", "%R", "%X~a", "%RR~a", "()", "(", ")", "( )",
         "(+get ~a)", "(+get", "~b)", "(%R~a* -@all +@read)", "(&a &b resetchannels)", "(nonsense)", "(&* &x)",
         '("+get" \'~q\')', "+@nonsense", "-@", "+", "-", "#zz", "!zz", "#" + "a" * 64, "!" + "a" * 64, ">secret",
         "<secret", ">", "<"]  # fmt: skip
PATTERNS = ["a", "a*", "[bc]?", "x:*", "\\*", "{t}*"]
RULES = st.one_of(
    st.sampled_from(WORDS),
    st.builds("{}{}".format, st.sampled_from(["+", "-"]), st.sampled_from(COMMANDS)),
    st.builds("{}@{}".format, st.sampled_from(["+", "-"]), st.sampled_from(CATEGORIES)),
    st.builds("{}{}".format, st.sampled_from(["~", "%R~", "%W~", "%rw~", "&"]), st.sampled_from(PATTERNS)),
)
CALLS = ["GET a", "GET b", "GET x:1", "SET a 1", "SET a 1 GET", "SET abc 1 EX 10", "MGET a b", "MGET a abc x:2",
         "MSET a 1 zzz 2", "COPY a abc", "COPY x:1 a", "RENAME a b", "BITOP AND a b x:1", "BITFIELD a GET u4 0",
         "BITFIELD a SET u4 0 1", "BITFIELD a OVERFLOW SAT GET u4 0", "BITFIELD_RO a GET u4 0", "DEL a b", "EXISTS b",
         "TYPE zzz", "TTL a", "APPEND a 1", "GETDEL b", "GETSET c 1", "SORT a STORE b", "SORT a", "SORT_RO b",
         "OBJECT FREQ a", "MEMORY USAGE b", "LCS a b", "DUMP a", "RESTORE a 0 x", "PING", "ECHO a", "DBSIZE",
         "SELECT 0", "SELECT 1", "CONFIG GET x", "CONFIG SET x y", "CONFIG", "CLIENT ID", "CLIENT KILL a:1",
         "CLIENT LIST", "DEBUG OBJECT a", "DEBUG SLEEP 0", "AUTH x", "HELLO 3", "RESET", "QUIT", "SCAN 0", "KEYS *",
         "FLUSHALL", "ACL WHOAMI", "ACL LIST", "INFO", "TIME", "TOUCH a zzz", "UNLINK a", "nonsense a", "GET",
         "PEXPIRE b 1", "SUBSTR a 0 1", "STRLEN a", "INCR zzz", "EXPIRETIME a", "SWAPDB",
         "PUBLISH a m", "PUBLISH x:1 m", "SPUBLISH a m", "SPUBLISH zzz m", "SUBSCRIBE a abc", "SUBSCRIBE zzz",
         "SSUBSCRIBE a zzz", "SUNSUBSCRIBE", "SUNSUBSCRIBE zzz", "UNSUBSCRIBE zzz", "PSUBSCRIBE a*", "PSUBSCRIBE abc",
         "PSUBSCRIBE x:* zzz", "PUBSUB CHANNELS", "MULTI", "EXEC", "WATCH a", "WATCH a zzz"]  # fmt: skip


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    with redis(tmp_path_factory.mktemp("redis")) as port, Wire(port) as wire:
        yield wire


def described(line: bytes) -> list[list[bytes]]:
    """The words of a description, those of single commands in a fixed order: Redis tells these in no particular one."""
    selectors = [part.strip(b" ()").split(b" ") for part in line.split(b" (")]
    known = catalog().bits
    found = []
    for words in selectors:
        single = [word for word in words if word[1:].split(b"|")[0].decode() in known]
        found.append([word for word in words if word not in single] + sorted(single))
    return found


def test_commands_have_the_categories_of_redis(theirs: Wire) -> None:
    found: dict[str, set[str]] = {}

    def note(entries: object) -> None:
        assert isinstance(entries, list)
        for entry in entries:
            found[bytes(entry[0]).decode()] = {str(name).removeprefix("@") for name in map(_text, entry[6])}
            note(entry[9])

    note(theirs("COMMAND"))
    ours = {spec.name: set(spec.categories) for spec in all_specs() if spec.name in found}
    assert len(ours) > 100
    assert {name: found[name] for name in ours} == ours


def _text(word: object) -> str:
    return word.decode() if isinstance(word, bytes) else str(word)


def ours_after(users: Users, rules: list[str]) -> tuple[Users, str]:
    try:
        return users.with_rules(b"u", [rule.encode() for rule in rules], every_channel=False), "OK"
    except RespError as error:
        return users, error.text


def same(theirs: Wire, steps: list[list[str]]) -> Users:
    """Applies each step to user `u` on both sides and compares; returns the users."""
    users = Users({b"default": default_user()})
    theirs("ACL DELUSER u")
    for rules in steps:
        users, outcome = ours_after(users, rules)
        reply = theirs([b"ACL", b"SETUSER", b"u", *(rule.encode() for rule in rules)])
        assert outcome == (reply.decode() if isinstance(reply, bytes) else str(reply)), rules
        listed = theirs("ACL LIST")
        assert isinstance(listed, list)
        found = next((line for line in listed if line.startswith(b"user u ")), b"")
        own = next((line for line in users.lines() if line.startswith(b"user u ")), b"")
        assert described(own) == described(found), (rules, own, found)
    return users


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(RULES, max_size=6), min_size=1, max_size=4))
@example([["+client", "+select"]])  # respkv has subcommands that Redis 7.0 has not
@example([["+@all", "-@dangerous", "+keys"], ["-keys", "-@all", "+@read", "-get", "+config|get", "-config"]])
@example([["on", ">a", ">b", "#" + "b" * 64], ["<a", "!" + "b" * 64, "<zzz"], ["nopass"], [">c", "resetpass"]])
def test_rules_make_the_same_users(theirs: Wire, steps: list[list[str]]) -> None:
    same(theirs, steps)


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_category_is_described_as_itself(theirs: Wire, category: str) -> None:
    users = same(theirs, [["reset", "+@all", f"-@{category}"]])
    assert users[b"u"].selectors[0].describe_commands() == b"+@all -@" + category.encode()
    users = same(theirs, [["reset", f"+@{category}"]])
    assert users[b"u"].selectors[0].describe_commands() == b"-@all +@" + category.encode()


def verdict(users: Users, args: list[bytes]) -> str:
    """As ACL DRYRUN tells it."""
    try:
        spec = resolve(args)
    except RespError as error:
        return "not known" if "unknown" in error.text else error.text
    denial = users[b"u"].check(spec, args)
    if denial is None:
        return "OK"
    if denial.reason == COMMAND:
        return f"This user has no permissions to run the '{spec.name}' command"
    kind = "key" if denial.reason == KEY else "channel"
    return f"This user has no permissions to access the '{args[denial.position].decode()}' {kind}"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(RULES, max_size=10))
@example(["+@all", "~a"])
@example(["+@all", "%R~a*", "%W~b", "%W~x:*"])
@example(["+@all", "~zzz", "(+get ~a)", "(+mget ~a ~b)"])
@example(["+@all", "&a", "&x:*", "~a"])
@example(["+@pubsub", "&a*", "&abc", "(+publish allchannels)"])
@example(["+@read", "-mget", "+select|0", "+debug|object", "allkeys"])
def test_users_may_do_the_same(theirs: Wire, rules: list[str]) -> None:
    users, outcome = ours_after(Users({b"default": default_user()}), rules)
    theirs("ACL DELUSER u")
    theirs([b"ACL", b"SETUSER", b"u", *(rule.encode() for rule in rules)])
    if outcome != "OK":
        return
    different = []
    for call in CALLS:
        args = call.encode().split()
        reply = theirs([b"ACL", b"DRYRUN", b"u", *args])
        their = reply.decode() if isinstance(reply, bytes) else str(reply)
        own = verdict(users, args)
        if their.endswith("not found"):
            their = "not known"
        if own == "not known" and their != "not known":
            continue  # a command that respkv does not have
        if own != their:
            different.append((call, own, their))
    assert different == []


@pytest.mark.parametrize("text", ["", "\n\n", "user a on\nuser b", "user a on >x ~* (+get ~a)\n\n  user default off  "])
def test_text_and_back(text: str) -> None:
    users = Users.from_text(text.encode(), "file", default_user())
    again = Users.from_text(users.to_text(), "file", default_user())
    assert again.lines() == users.lines()
