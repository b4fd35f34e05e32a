"""What a server cannot be started with: each is one line that names the option and what was asked for."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from respkv.config import ConfigError, load
from respkv.server import preflight
from tests.unit.running import HOST, ROOT, free_ports


def refusal(flags: dict[str, str]) -> str:
    with pytest.raises(ConfigError) as refused:
        preflight.check(load(environ={}, flags=flags))
    return str(refused.value)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (
            {"rename-command": "a b c"},
            "rename-command: must be a command and its new name (or \"\"), not 'a b c'",
        ),
        ({"rename-command": "NOSUCH x"}, "rename-command: no such command: NOSUCH"),
        ({"user": "foo bar"}, "user: line:1: Syntax error."),
        ({"user": "a on\nfoo +nosuch"}, "user: line:2: Error in applying operation '+nosuch': Unknown command or"),
        ({"aclfile": "none"}, "aclfile: Error loading ACLs, opening file 'none': No such file or directory"),
        ({"user": "foo on", "aclfile": "none"}, "aclfile: there may be users in the configuration or an ACL file"),
        ({"tls-port": "7000"}, "tls-cert-file: must be given for TLS"),
        ({"tls-port": "7000", "tls-cert-file": "none"}, "tls-cert-file: none: No such file or directory"),
        (
            {"tls-port": "7000", "tls-cert-file": "junk", "tls-key-file": "none"},
            "tls-key-file: none: No such file or directory",
        ),
        ({"tls-port": "7000", "tls-cert-file": "junk"}, "tls-cert-file: junk cannot be used: "),
        (
            {"tls-port": "7000", "tls-cert-file": "junk", "tls-ciphers": "x"},
            "tls-ciphers: x cannot be used: No cipher can be selected.",
        ),
        ({"unixsocket": "none/socket"}, "unixsocket: none/socket: no such directory"),
        ({"dir": "junk"}, "dir: junk: not a directory"),
        ({"dir": "junk/data"}, "dir: junk/data: Not a directory"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_opened(
    flags: dict[str, str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("junk").write_text("junk")
    found = refusal(flags)
    assert found.startswith(line)
    assert "no change to" not in found
    assert [path.name for path in tmp_path.iterdir()] == ["junk"]


def test_directories_of_authorities_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSSL takes any name for one."""
    monkeypatch.setattr("ssl.SSLContext.load_cert_chain", lambda *_: None)
    flags = {"tls-port": "7000", "tls-cert-file": __file__, "tls-ca-cert-dir": str(tmp_path / "none")}
    assert refusal(flags) == f"tls-ca-cert-dir: {tmp_path / 'none'}: no such directory"


def test_what_can_be_is_not_refused(tmp_path: Path) -> None:
    flags = {"dir": str(tmp_path / "new" / "data"), "user": "foo on +get", "rename-command": 'FLUSHALL ""'}
    preflight.check(load(environ={}, flags=flags | {"unixsocket": str(tmp_path / "socket")}))
    assert (tmp_path / "new" / "data").is_dir()


def server(directory: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """What `respkv server` says that does not start."""
    command = [sys.executable, "-m", "respkv", "server", "--dir", str(directory / "data"), *flags]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=directory, env=environ, check=False)


def test_a_server_that_cannot_be_ends_with_status_2_and_one_line(tmp_path: Path) -> None:
    done = server(tmp_path, "--rename-command", "NOSUCH x")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "respkv: rename-command: no such command: NOSUCH\n"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--port {free} --bind 300.1.1.1", "bind: 300.1.1.1, port {free}: "),
        ("--port {taken}", "bind: 127.0.0.1, port {taken}: Address already in use"),
        ("--port {free} --metrics-port {taken}", "metrics-port: {taken} at 127.0.0.1: Address already in use"),
        ("--port {free} --unixsocket data", "unixsocket: data: Address already in use"),
    ],
)
def test_what_only_opening_shows_is_an_event_that_names_the_option_and_status_1(
    flags: str, told: str, tmp_path: Path
) -> None:
    free = free_ports(1)
    with socket.create_server((HOST, 0)) as other:
        taken = other.getsockname()[1]
        ports = ["--cluster-port", str(free + 1000), "--peer-port", str(free + 10_000)]
        done = server(tmp_path, *ports, *flags.format(free=free, taken=taken).split())
    assert done.returncode == 1
    assert "node_cannot_start" in done.stderr
    assert told.format(free=free, taken=taken) in done.stderr
    assert "Traceback" not in done.stderr
