"""Who may do what on a running node: logging in, being refused, being thrown out; and doors that are closed."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.running import HOST, Wire, eventually, respkv


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with respkv(tmp_path_factory.mktemp("node")) as port:
        yield port


@pytest.fixture
def admin(port: int) -> Iterator[Wire]:
    with Wire(port) as wire:
        yield wire


def log_of(admin: Wire) -> list[dict[str, object]]:
    entries = admin("ACL LOG")
    assert isinstance(entries, list)
    return [
        {bytes(name).decode(): value for name, value in zip(entry[::2], entry[1::2], strict=True)} for entry in entries
    ]


def test_what_a_user_may_not_do_is_refused_and_written_down(port: int, admin: Wire) -> None:
    admin("ACL LOG RESET")
    admin("ACL SETUSER alice reset on >pw ~mine:* %R~shared:* +@all -flushall -config|set")
    with Wire(port) as alice:
        assert alice("AUTH alice pw") == b"OK"
        assert alice("ACL WHOAMI") == b"alice"
        assert alice("SET mine:1 v") == b"OK"
        assert alice("GET mine:1") == b"v"
        assert alice("GET shared:1") is None
        keys = "NOPERM this user has no permissions to access one of the keys used as arguments"
        for refused in ("SET shared:1 v", "GET other", "MGET mine:1 other", "COPY shared:1 other", "DEL other"):
            assert str(alice(refused)) == keys, refused
        for name in ("FLUSHALL", "CONFIG SET timeout 0"):
            words = "|".join(name.lower().split()[:2]) if "CONFIG" in name else name.lower()
            assert str(alice(name)) == f"NOPERM this user has no permissions to run the '{words}' command"
        assert isinstance(alice("CONFIG GET timeout"), list)
        # What follows in one packet with allowed commands is looked at, too.
        alice.send("GET mine:1", "GET other", "GET mine:1")
        assert alice.rest_of_line() + alice.rest_of_line() == b"$1\r\nv\r\n"
        assert alice.rest_of_line().startswith(b"-NOPERM")
        assert alice.rest_of_line() + alice.rest_of_line() == b"$1\r\nv\r\n"
    found = [(e["reason"], e["context"], e["object"], e["username"], e["count"]) for e in log_of(admin)]
    assert (b"key", b"toplevel", b"other", b"alice", 5) in found
    assert (b"command", b"toplevel", b"flushall", b"alice", 1) in found
    assert (b"command", b"toplevel", b"config|set", b"alice", 1) in found
    newest = log_of(admin)[0]
    assert b"cmd=get" in bytes(newest["client-info"])  # type: ignore[call-overload]
    assert b"user=alice" in bytes(newest["client-info"])  # type: ignore[call-overload]


def test_a_change_counts_at_once_for_who_is_connected(port: int, admin: Wire) -> None:
    admin("ACL SETUSER bob reset on nopass ~* +@all")
    with Wire(port) as bob:
        assert bob("AUTH bob whatever") == b"OK"
        assert bob("SET k v") == b"OK"
        admin("ACL SETUSER bob resetkeys")
        assert str(bob("GET k")).startswith("NOPERM")
        admin("ACL SETUSER bob off")  # as in Redis: nobody logs in any more, who has stays
        assert bob("PING") == b"PONG"
        assert str(bob("AUTH bob whatever")).startswith("WRONGPASS")
        assert admin("ACL DELUSER bob nobody") == 1
        assert bob.rest() == b""


def test_who_deletes_himself_still_gets_the_reply(port: int, admin: Wire) -> None:
    admin("ACL SETUSER carol reset on nopass +acl")
    with Wire(port) as carol:
        carol("AUTH carol x")
        carol.send("ACL DELUSER carol", "PING")
        assert carol.rest() == b":1\r\n"


def test_what_is_sent_behind_a_change_sees_it(port: int) -> None:
    with Wire(port) as wire:
        wire.send("ACL SETUSER dave on >pw +acl|whoami", "AUTH dave pw", "ACL WHOAMI", "ACL LIST")
        assert [wire.rest_of_line() for _ in range(4)] == [b"+OK\r\n", b"+OK\r\n", b"$4\r\n", b"dave\r\n"]
        assert wire.rest_of_line() == b"-NOPERM this user has no permissions to run the 'acl|list' command\r\n"


def test_a_refused_rule_changes_nothing(admin: Wire) -> None:
    admin("ACL SETUSER erin reset on >pw")
    before = admin("ACL LIST")
    reply = admin("ACL SETUSER erin off +@all nonsense")
    assert str(reply) == "ERR Error in ACL SETUSER modifier 'nonsense': Syntax error"
    assert admin("ACL LIST") == before


def test_clients_are_listed_and_killed_by_user(port: int, admin: Wire) -> None:
    admin("ACL SETUSER frank reset on nopass +@all")
    with Wire(port) as frank, Wire(port) as other:
        frank("AUTH frank x")
        listed = admin("CLIENT LIST")
        assert isinstance(listed, bytes)
        assert listed.count(b" user=frank ") == 1
        assert admin("CLIENT KILL USER frank") == 1
        assert frank.rest() == b""
        assert other("PING") == b"PONG"
    assert str(admin("CLIENT KILL USER ghost")) == "ERR No such user 'ghost'"


def test_without_the_default_user_one_has_to_log_in(port: int, admin: Wire) -> None:
    admin("ACL SETUSER grace reset on >pw +@all ~*")
    with Wire(port) as grace, Wire(port) as stays:
        grace("AUTH grace pw")
        try:
            assert grace("ACL SETUSER default off") == b"OK"
            with Wire(port) as new:
                assert str(new("PING")) == "NOAUTH Authentication required."
                assert str(new("GET k")) == "NOAUTH Authentication required."
                assert str(new("HELLO 3")).startswith("NOAUTH HELLO must be called")
                reply = new("HELLO 3 AUTH grace pw")
                assert isinstance(reply, (dict, list))
                assert new("PING") == b"PONG"
            assert stays("PING") == b"PONG"  # as in Redis: who was let in stays in
            with Wire(port) as waits:
                assert str(waits("PING")) == "NOAUTH Authentication required."
                grace("ACL SETUSER default on")
                assert waits("PING") == b"PONG"
        finally:
            grace("ACL SETUSER default on")


def test_a_failed_login_is_written_down(port: int, admin: Wire) -> None:
    admin("ACL LOG RESET")
    with Wire(port) as stranger:
        for command in ("AUTH heidi x", "AUTH heidi y", "HELLO 3 AUTH heidi z"):
            reply = str(stranger(command))
            assert reply == "WRONGPASS invalid username-password pair or user is disabled."
    found = [(e["reason"], e["object"], e["username"], e["count"]) for e in log_of(admin)]
    assert found == [(b"auth", b"HELLO", b"heidi", 1), (b"auth", b"AUTH", b"heidi", 2)]
    admin("CONFIG SET acllog-max-len 1")
    with Wire(port) as stranger:
        stranger("AUTH ivan x")
    assert [entry["username"] for entry in log_of(admin)] == [b"ivan"]
    admin("CONFIG SET acllog-max-len 128")


def test_a_transaction_is_looked_at_when_it_is_queued_and_when_it_is_run(port: int, admin: Wire) -> None:
    admin("ACL LOG RESET")
    admin("ACL SETUSER judy reset on nopass ~{mine}:* +multi +exec +incr +get +set +ping +acl|setuser")
    with Wire(port) as judy:
        judy("AUTH judy x")
        judy("MULTI")
        assert judy("SET {mine}:1 1") == b"QUEUED"
        assert str(judy("DEL {mine}:1")).startswith("NOPERM this user has no permissions to run the 'del' command")
        assert str(judy("EXEC")) == "EXECABORT Transaction discarded because of previous errors."
        judy("MULTI")
        assert judy("INCR {mine}:2") == b"QUEUED"
        assert judy("SET {mine}:3 3") == b"QUEUED"
        assert judy("PING") == b"QUEUED"
        admin("ACL SETUSER judy -incr -ping")
        refused, done, also = judy("EXEC")  # type: ignore[misc]
        assert str(refused) == str(also) == (
            "NOPERM ACLs rules changed between the moment the transaction was accumulated and the EXEC call. This "
            "command is no longer allowed for the following reason: no permission to execute the command or subcommand"
        )
        assert done == b"OK"
        judy("MULTI")
        assert judy("ACL SETUSER judy -get") == judy("GET {mine}:3") == judy("SET {mine}:3 4") == b"QUEUED"
        judy.send("EXEC", "GET {mine}:3", "SET {mine}:3 5")
        assert [judy.rest_of_line() for _ in range(2)] == [b"*3\r\n", b"+OK\r\n"]
        assert [judy.rest_of_line() for _ in range(3)] == [b"$1\r\n", b"3\r\n", b"+OK\r\n"]
        assert judy.rest_of_line().startswith(b"-NOPERM")
        assert judy.rest_of_line() == b"+OK\r\n"
    found = {(e["context"], e["reason"], e["object"]) for e in log_of(admin)}
    assert found >= {(b"multi", b"command", b"del"), (b"multi", b"command", b"incr"), (b"toplevel", b"command", b"get")}


def test_requirepass_is_the_password_of_default_on_this_node(port: int, admin: Wire) -> None:
    try:
        assert admin("CONFIG SET requirepass first") == b"OK"
        with Wire(port) as new:
            assert str(new("PING")).startswith("NOAUTH")
            assert new("AUTH first") == b"OK"
            assert new("AUTH default first") == b"OK"
        admin([b"CONFIG", b"SET", b"requirepass", b"with\0nul"])
        with Wire(port) as new:
            assert new([b"AUTH", b"with\0nul"]) == b"OK"
    finally:
        admin([b"CONFIG", b"SET", b"requirepass", b""])
    with Wire(port) as new:
        assert new("PING") == b"PONG"
        assert str(new("AUTH x")).startswith("ERR AUTH <password> called without any password")


def test_users_survive_a_restart_and_an_acl_file_is_loaded_and_saved(tmp_path: Path) -> None:
    file = tmp_path / "users.acl"
    file.write_text("user default on nopass ~* &* +@all\nuser alice on >pw +@read ~a*\n")
    options = ["--aclfile", str(file)]
    with respkv(tmp_path, *options) as port, Wire(port) as wire:
        assert wire("ACL USERS") == [b"alice", b"default"]
        assert wire("ACL SETUSER bob on nopass") == b"OK"
        assert wire("ACL SAVE") == b"OK"
        assert b"user bob on nopass resetchannels -@all\n" in file.read_bytes()
        file.write_bytes(file.read_bytes().replace(b"user bob", b"user carol"))
        with Wire(port) as alice:
            alice("AUTH alice pw")
            assert wire("ACL LOAD") == b"OK"
            assert alice.rest() == b""  # as in Redis
        assert wire("ACL USERS") == [b"alice", b"carol", b"default"]
        file.write_bytes(file.read_bytes() + b"user alice on\nnonsense\n")
        refusal = str(wire("ACL LOAD"))
        assert "Duplicate user 'alice' found on line 4." in refusal
        assert f"{file}:5 should start with user keyword followed by the username." in refusal
        assert refusal.endswith("no change to the previously active ACL rules was performed")
        assert wire("ACL USERS") == [b"alice", b"carol", b"default"]
    file.write_text("user default on nopass ~* &* +@all\n")
    with respkv(tmp_path, *options) as port, Wire(port) as wire:  # what was changed is the cluster's by now
        assert wire("ACL USERS") == [b"alice", b"carol", b"default"]
        assert wire("ACL LOAD") == b"OK"
        assert wire("ACL USERS") == [b"default"]


def test_users_in_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "respkv.toml"
    config.write_text('user = ["alice on >pw +ping", "default on nopass ~* &* +@all -flushall"]\n')
    with respkv(tmp_path, "--config", str(config)) as port, Wire(port) as wire:
        assert str(wire("FLUSHALL")).startswith("NOPERM")
        assert wire("AUTH alice pw") == b"OK"


def outside_address() -> str | None:
    """An address of this machine that is not a loopback one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        found = str(probe.getsockname()[0])
    return None if found.startswith("127.") else found


@pytest.mark.skipif(outside_address() is None, reason="this machine has loopback addresses only")
def test_protected_mode_keeps_strangers_out_as_long_as_there_is_no_password(tmp_path: Path) -> None:
    address = outside_address()
    assert address is not None
    with respkv(tmp_path, "--bind", f"{HOST} {address}") as port, Wire(port) as local:

        def stranger_gets() -> bytes:
            with socket.create_connection((address, port), 10) as stranger:
                stranger.sendall(b"PING\r\n")
                return stranger.recv(4096)

        def is_open() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex((address, port)) == 0

        eventually(is_open)  # addresses are opened one by one
        assert stranger_gets().startswith(b"-DENIED Redis is running in protected mode because protected mode is")
        assert local("CONFIG SET protected-mode no") == b"OK"
        assert stranger_gets() == b"+PONG\r\n"
        assert local("CONFIG SET protected-mode yes requirepass pw") == b"OK"
        assert stranger_gets() == b"-NOAUTH Authentication required.\r\n"


def test_a_unix_socket_is_a_door_like_others(tmp_path: Path) -> None:
    path = tmp_path / "respkv.sock"
    with respkv(tmp_path, "--unixsocket", str(path), "--unixsocketperm", "700") as port:
        eventually(path.exists)
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        with socket.socket(socket.AF_UNIX) as client, Wire(port) as wire:
            client.settimeout(10)
            client.connect(str(path))
            client.sendall(b"SET by socket\r\nCLIENT INFO\r\n")
            received = b""
            while b"lib-ver=" not in received:
                received += client.recv(4096)
            assert received.startswith(b"+OK\r\n")
            assert b" addr=%b:0 laddr=%b:0 " % (os.fsencode(path), os.fsencode(path)) in received
            assert b" flags=U " in received
            assert wire("GET by") == b"socket"
    eventually(lambda: not path.exists())


def assert_commands_are_told_as_redis_does(wire: Wire) -> None:
    """Asked for by the new name, told under the old one; one without a name is not there."""
    told = wire("COMMAND INFO read GET admin-config|get config|get flushall ping")
    assert isinstance(told, list)
    assert [entry and entry[0] for entry in told] == [b"get", None, b"config|get", None, None, b"ping"]
    docs = wire("COMMAND DOCS Read get flushall")
    assert isinstance(docs, list)
    assert docs[::2] == [b"get"]
    listed = wire("COMMAND LIST")
    assert isinstance(listed, list)
    assert b"flushall" not in listed
    assert {b"get", b"config", b"config|get", b"ping", b"flushdb"} <= set(listed)
    every = wire("COMMAND")
    assert isinstance(every, list)
    names = {entry[0] for entry in every}
    assert wire("COMMAND COUNT") == len(every) == len(names)
    assert names == {name for name in listed if b"|" not in name}
    assert wire("COMMAND GETKEYS read k") == [b"k"]
    assert str(wire("COMMAND GETKEYS get k")) == "ERR Invalid command specified"
    assert wire("ACL DRYRUN default read k") == b"OK"
    assert str(wire("ACL DRYRUN default get k")) == "ERR Command 'get' not found"


def test_commands_may_have_other_names_or_none(tmp_path: Path) -> None:
    config = tmp_path / "respkv.toml"
    config.write_text('rename-command = ["FLUSHALL \\"\\"", "config admin-config", "GET read", "ping ping"]\n')
    with respkv(tmp_path, "--config", str(config)) as port, Wire(port) as wire:
        wire("SET k v")
        assert str(wire("FLUSHALL")).startswith("ERR unknown command 'FLUSHALL'")
        assert str(wire("CONFIG GET port")).startswith("ERR unknown command 'CONFIG'")
        assert wire("Admin-Config GET port") == [b"port", b"%d" % port]
        assert str(wire("GET k")).startswith("ERR unknown command 'GET'")
        assert wire("read k") == b"v"
        assert wire("PING") == b"PONG"
        assert_commands_are_told_as_redis_does(wire)
        wire("ACL SETUSER alice on nopass ~* -@all +get")
        wire("AUTH alice x")
        assert wire("READ k") == b"v"
        assert str(wire("SET k w")).startswith("NOPERM")
