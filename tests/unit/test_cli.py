"""The command line: what it prints, how it ends, and that it says in one line what it cannot do."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from respkv import __version__
from respkv.cli import main, status
from respkv.cli.status import NodeStatus
from respkv.config import load, options
from respkv.raft.journal import Journal
from respkv.storage import Bitcask
from tests.unit import fake_node

FAKE = str(Path(fake_node.__file__))


@pytest.fixture(autouse=True)
def _processes_find_respkv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


def free_ports(count: int) -> int:
    """The first of `count` ports in a row that nobody uses (nor those 1000 and 10000 higher)."""
    for first in range(21000 + os.getpid() % 1000 * 10, 45000, 10):
        try:
            for port in (first + step + i for step in (0, 1000, 10000) for i in range(count)):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise AssertionError("no free ports")


def eventually(holds: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "took too long"
        time.sleep(0.05)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"respkv {__version__}"


@pytest.mark.parametrize("command", ["server", "cluster", "status", "check", "keyslot"])
def test_help_teaches_by_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"    respkv {command}" in shown
    assert main(["--help"]) == 0
    assert command in capsys.readouterr().out


def test_help_of_server_lists_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    main(["server", "--help"])
    shown = capsys.readouterr().out
    assert all(option.flag + " " in shown for option in options().values())


def test_help_of_server_shows_choices_and_defaults_as_they_are_written() -> None:
    command = [sys.executable, "-m", "respkv", "server", "--help"]
    shown = subprocess.check_output(command, env=os.environ | {"COLUMNS": "300"}, text=True)
    assert "Least level that is logged. [choices: debug, info, warning, error] [default: info]" in shown
    for name, option in options().items():
        line = next(line for line in shown.splitlines() if f" {option.flag} " in line)
        for default in re.findall(r"\[default: (.*)\]", line):
            assert load(environ={}, flags={option.flag[2:]: default}) == load(environ={}), name


@pytest.mark.parametrize(
    ("argv", "names"),
    [
        (["server", "--prot", "1"], "--prot"),
        (["server", "--port"], "--port"),
        (["server", "--port", "x"], "--port: argument couldn't be parsed into an integer"),
        (["server", "--port", "1", "--port", "2"], "--port"),
        (["server", "--config", "/does/not/exist"], "/does/not/exist: no such file or directory"),
        (["server", "extra"], "unexpected argument 'extra'"),
        (["server", "--log-file", "/does/not/exist"], "log-file: /does/not/exist: No such file or directory"),
        (["serve"], "serve"),
        (["cluster"], "DIR"),
        (["cluster", "DIR", "--nodes", "x"], "--nodes"),
        (["cluster", "DIR", "--nodes", "0"], "--nodes: must be an integer from 1 to 100, not 0"),
        (["cluster", "DIR", "--replicas", "4"], "--replicas: 4 replicas need as many nodes, not 3"),
        (["cluster", "DIR", "--port", "60000"], "--port: must be an integer from 1 to 55533, not 60000"),
        (
            ["cluster", "DIR", "--hosts", "a,b"],
            "--hosts: must be one address or one for each of the 3 nodes, not 'a,b'",
        ),
        (["cluster", "DIR", "--hosts", ""], "--hosts: must be one address or one for each of the 3 nodes, not ''"),
        (["cluster", "", "--init-only"], "DIR: must not be empty"),
        (["check", ""], "DIR: must not be empty"),
        (["cluster", "DIR", "--hosts", "a b"], "--hosts: must be a host name or address, not 'a b'"),
        (["status", "--url", "http://x"], "--url: must look like redis://"),
        (["status", "--url", "redis://x:99999"], "--url: must look like redis://"),
        (["keyslot"], "KEY"),
        (["check", "DIR"], "DIR: no such directory"),
        (["check", "."], "not a node's directory"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_status_2(
    argv: list[str], names: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert shown.err.startswith("respkv: ")
    assert names in shown.err
    assert list(tmp_path.rglob("*.toml")) == []


def test_python_m_respkv_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "respkv", "keyslot", "foo"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "slot 12182\n", "")


def test_keyslot_heeds_hash_tags(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keyslot", "{foo}.bar"]) == 0
    assert capsys.readouterr().out == "slot 12182\n"


def test_nobody_there_is_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    port = free_ports(1)
    assert main(["keyslot", "foo", "--url", f"localhost:{port}"]) == 1
    line = f"respkv: cannot connect to localhost:{port}: Connection refused\n"
    assert capsys.readouterr() == ("", line)
    assert main(["status", "--url", f"localhost:{port}"]) == 1
    assert capsys.readouterr() == ("", line)


def test_status_shows_addresses_whole_and_why_a_node_cannot_be_reached(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = NodeStatus("[fe80::1]:7001", "n1", info={"connected_clients": "1"}, shards={0: {"role": "leader"}})
    name = f"{'x' * 60}.example.org:7002"
    away = NodeStatus(name, name, f"cannot connect to {name}: Connection refused")
    shut = NodeStatus("10.0.0.3:7003", "n3", "NOAUTH Authentication required.", refuses=True)
    monkeypatch.setattr(status, "gather", lambda _first: [here, away, shut])
    assert main(["status"]) == 1
    rows = [[cell.strip() for cell in line.split("│")[1:4]] for line in capsys.readouterr().out.splitlines()]
    assert ["n1", "[fe80::1]:7001", "up"] in rows
    assert [name, name, "down"] in rows
    assert ["n3", "10.0.0.3:7003", "refuses"] in rows


def test_check_refuses_the_directory_of_a_running_node(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "journal").mkdir()
    argv = [sys.executable, "-c", "print(flush=True); input() # respkv"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as node:
        assert node.stdout is not None
        node.stdout.readline()  # before that, the process may still be turning into it
        (tmp_path / "respkv.pid").write_text(f"{node.pid}\n")
        assert main(["check", str(tmp_path)]) == 2
        node.communicate()
    assert f"in use by process {node.pid}" in capsys.readouterr().err


def test_check_of_a_clusters_directory_points_to_its_nodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "node-1").mkdir()
    assert main(["check", str(tmp_path)]) == 2
    assert f"check {tmp_path / 'node-1'}" in capsys.readouterr().err


def test_the_first_run_writes_a_file_for_each_node_that_only_its_owner_may_read(tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert main(["cluster", str(data), "--init-only", "--port", "7101", "--shards", "5"]) == 0
    files = sorted(data.rglob("*"))
    assert [str(file.relative_to(data)) for file in files if file.is_file()] == [
        f"node-{i}/respkv.toml" for i in (1, 2, 3)
    ]
    configs = [load(data / f"node-{i}" / "respkv.toml", {}) for i in (1, 2, 3)]
    assert all((data / f"node-{i}" / "respkv.toml").stat().st_mode & 0o777 == 0o600 for i in (1, 2, 3))
    assert [(c.node, c.port, c.cluster_port, c.peer_port) for c in configs] == [
        (f"n{i}", 7100 + i, 8100 + i, 17100 + i) for i in (1, 2, 3)
    ]
    assert [config.dir for config in configs] == [data / f"node-{i}" for i in (1, 2, 3)]
    assert len({config.cluster for config in configs}) == 1
    assert (configs[0].cluster.shards, configs[0].cluster.replicas) == (5, 3)
    assert len(configs[0].cluster.secret) == 64


@pytest.mark.parametrize(("flags", "told"), [
    (["--hosts", "10.0.0.1"], True), (["--hosts", "127.0.0.1,10.0.0.1,10.0.0.2"], True), ([], False),
    (["--hosts", "127.0.0.2"], False),
])  # fmt: skip
def test_who_runs_a_cluster_for_others_is_told_that_it_needs_a_password(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, flags: list[str], told: bool
) -> None:
    assert main(["cluster", str(tmp_path / "data"), "--init-only", *flags]) == 0
    assert ("set requirepass" in capsys.readouterr().err) == told
    monkeypatch.setenv("RESPKV_REQUIREPASS", "secret")
    assert main(["cluster", str(tmp_path / "data"), "--init-only"]) == 0
    assert "set requirepass" not in capsys.readouterr().err


def test_later_runs_use_what_is_there_and_say_what_they_ignore(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["cluster", str(tmp_path), "--init-only"]
    assert main(argv) == 0
    before = [file.read_bytes() for file in sorted(tmp_path.rglob("*.toml"))]
    hosts, others = ",".join(["127.0.0.1"] * 3), ",".join(["127.0.0.2"] * 3)
    assert main([*argv, "--nodes", "5", "--port", "7001", "--hosts", "127.0.0.2"]) == 0
    assert [file.read_bytes() for file in sorted(tmp_path.rglob("*.toml"))] == before
    assert capsys.readouterr().err.splitlines() == [
        "respkv: --nodes is ignored: this directory holds a cluster with 3, not 5",
        f"respkv: --hosts is ignored: this directory holds a cluster with {hosts}, not {others}",
    ]


def test_a_nodes_file_that_was_lost_is_written_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["cluster", str(tmp_path), "--init-only"]
    main(argv)
    file = tmp_path / "node-2" / "respkv.toml"
    before = file.read_bytes()
    file.unlink()
    assert main(argv) == 0
    assert file.read_bytes() == before
    assert f"{file} was missing" in capsys.readouterr().out


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `respkv cluster` with fake nodes as a process of its own; its output goes to tmp_path/out."""
    started: list[subprocess.Popen[str]] = []
    code = (
        "import sys; from respkv.cli import main, supervisor\n"
        f"supervisor.node_command = lambda d: [sys.executable, {FAKE!r}, str(d / 'respkv.toml')]\n"
        "sys.exit(main(sys.argv[1:]))"
    )

    def run(*argv: str) -> subprocess.Popen[str]:
        with (tmp_path / "out").open("w") as out:
            process = subprocess.Popen([sys.executable, "-c", code, *argv], stdout=out, stderr=out, text=True)
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.wait(30)


def test_a_cluster_runs_tells_what_happens_and_stops(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_ports(3)
    data = tmp_path / "data"

    def says(text: str) -> None:
        eventually(lambda: text in (tmp_path / "out").read_text())

    process = start("cluster", str(data), "--port", str(port))
    says("Ctrl-C stops the nodes")
    for text in (
        f"redis-cli -p {port} ",
        f"redis-cli -c -p {port + 1000} ",
        f"port={port}, decode",
        "3 nodes, 3 shards",
    ):
        says(text)

    url = f"redis://localhost:{port + 1}"
    assert main(["status", "--url", url]) == 0
    assert "leader" in capsys.readouterr().out
    assert main(["status", "--url", url, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert sorted(node["node"] for node in told["nodes"]) == ["n1", "n2", "n3"]
    assert told["leaders"] == {"0": "n1", "1": "n2", "2": "n3"}
    assert main(["keyslot", "foo", "--url", url]) == 0
    assert capsys.readouterr().out == f"slot 12182, shard 0, leader 127.0.0.1:{port}\n"

    (data / "leaders").write_text("1 n3\n")
    says("shard 1: leader n2 -> n3")
    os.kill(int((data / "node-2" / "respkv.pid").read_text()), signal.SIGKILL)
    says("n2 down: killed by SIGKILL")
    assert main(["status", "--url", f"redis://localhost:{port}"]) == 1
    shown = capsys.readouterr().out
    assert re.search(rf"n2 +│ 127.0.0.1:{port + 1} +│ down ", shown)
    assert shown.count(f"\nn2: cannot connect to 127.0.0.1:{port + 1}: Connection refused\n") == 1

    by_hand = subprocess.Popen([sys.executable, FAKE, str(data / "node-2" / "respkv.toml")])
    try:
        says(f"n2 up at 127.0.0.1:{port + 1} (process {by_hand.pid}, not started here)")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        says("n2 was not started here: left running")
        says("stopped")
        assert by_hand.poll() is None
    finally:
        by_hand.terminate()
        by_hand.wait(10)
    assert not (data / "node-1" / "respkv.pid").exists()
    assert (data / "node-1" / "respkv.log").exists()


def test_a_node_that_runs_already_is_left_alone(tmp_path: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    port = free_ports(2)
    data = tmp_path / "data"
    argv = ("cluster", str(data), "--nodes", "2", "--replicas", "1", "--port", str(port))
    assert main([*argv, "--init-only"]) == 0
    with subprocess.Popen([sys.executable, FAKE, str(data / "node-1" / "respkv.toml")]) as by_hand:
        eventually((data / "node-1" / "respkv.pid").exists)
        process = start(*argv)
        eventually(lambda: "Ctrl-C stops" in (tmp_path / "out").read_text())
        assert "n1 already runs" in (tmp_path / "out").read_text() or "already in use" in (tmp_path / "out").read_text()
        process.terminate()
        assert process.wait(30) == 0
        assert by_hand.poll() is None
        by_hand.terminate()


@pytest.mark.parametrize("who", ["another cluster", "another cluster with a password", "not a node"])
def test_what_else_answers_at_a_nodes_address_is_not_taken_for_the_node(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]], who: str
) -> None:
    port = free_ports(1)
    flags = ("--nodes", "1", "--port", str(port))
    ours, other = tmp_path / "ours", tmp_path / "other"
    assert main(["cluster", str(ours), "--init-only", *flags]) == 0
    assert main(["cluster", str(other), "--init-only", *flags]) == 0
    file, told = other / "node-1" / "respkv.toml", "node n1 of another cluster"
    if "password" in who:
        file.write_text(f'requirepass = "secret"\n{file.read_text()}')
        told = "NOAUTH is all that it tells"
    if who == "not a node":
        (other / "node-1" / "plain").touch()
        told = "not a node of respkv"
    with subprocess.Popen([sys.executable, FAKE, str(file)]) as stranger:
        try:
            eventually((other / "node-1" / "respkv.pid").exists)
            assert start("cluster", str(ours), *flags).wait(30) == 1
        finally:
            stranger.terminate()
    out = (tmp_path / "out").read_text()
    assert f"n1: something else answers at 127.0.0.1:{port}: {told}\n" in out
    assert "no node is running" in out
    assert "n1 up" not in out
    assert "ready" not in out.replace("already", "")


def test_a_node_that_does_not_stop_is_killed_at_the_second_signal(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    data = tmp_path / "data"
    process = start("cluster", str(data), "--nodes", "1", "--port", str(free_ports(1)))
    eventually(lambda: "Ctrl-C stops" in (tmp_path / "out").read_text())
    (data / "node-1" / "stubborn").touch()
    process.terminate()
    eventually(lambda: "stopping n1" in (tmp_path / "out").read_text())
    process.terminate()
    assert process.wait(30) == 1
    assert "n1 did not stop in time: killed" in (tmp_path / "out").read_text()


def test_a_cluster_whose_nodes_all_fail_says_why_and_ends(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    data = tmp_path / "data"
    argv = ("cluster", str(data), "--nodes", "1", "--port", str(free_ports(1)))
    assert main([*argv, "--init-only"]) == 0
    (data / "node-1" / "broken").touch()
    assert start(*argv).wait(30) == 1
    out = (tmp_path / "out").read_text()
    assert "n1 down: exit status 1" in out
    assert "n1 said last: it is broken" in out


def test_check_finds_a_flipped_bit_and_names_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Journal.open(tmp_path / "journal", [0]).close()
    shard = tmp_path / "shard-0"
    with Bitcask(shard) as cask:
        for i in range(100):
            cask.put(b"key%d" % i, b"value" * 10)
        cask.flush()
    assert main(["check", str(tmp_path)]) == 0
    assert "no damage in 1 shard and the journal" in capsys.readouterr().out
    file = max(shard.iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[content.index(b"key3value") + 5] ^= 1
    file.write_bytes(content)
    assert main(["check", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert out.startswith(f"{file} at ")
    assert f"{tmp_path}: 1 damaged place in 1 shard and" in out


def test_check_refuses_data_that_is_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Bitcask(tmp_path / "shard-0"):
        assert main(["check", str(tmp_path)]) == 2
    assert "in use" in capsys.readouterr().err


def test_check_calls_what_a_crash_leaves_behind_no_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Journal.open(tmp_path / "journal", [0]).close()
    with Bitcask(tmp_path / "shard-0") as cask:
        cask.put(b"key", b"value")
    (tmp_path / "shard-0" / "000009.0.data.tmp").write_bytes(b"begun")
    (tmp_path / "shard-0.incoming").mkdir()
    assert main(["check", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "leftover" in out
    assert "no damage in 1 shard and the journal" in out


def test_check_tells_a_torn_write_from_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of two frames the last is cut short: torn if nothing says that it was synced."""
    Journal.open(tmp_path / "journal", [0]).close()
    shard = tmp_path / "shard-0"
    for synced in (False, True):
        with Bitcask(shard) as cask:
            cask.put(b"first", b"value")
            end = cask.files[-1].length
            cask.put(b"second", b"value")
            if synced:
                cask.flush()
                cask.put(b"third", b"value")
            else:
                cask.failed = True  # it ends without saying that all is synced
        file = max(shard.glob("*.data"))
        content = bytearray(file.read_bytes())
        content[end + 60] ^= 1
        file.write_bytes(content)
        assert main(["check", str(tmp_path)]) == int(synced)
        kind = "damage" if synced else "torn"
        assert f": {kind}: " in capsys.readouterr().out
        if not synced:
            with Bitcask(shard) as cask:
                assert (b"first" in cask, b"second" in cask) == (True, False)


def test_check_sees_that_a_journal_or_a_shard_is_gone_or_too_old(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = Journal.open(tmp_path / "journal", [0])
    for index in range(2, 10):
        journal.logs[0].add(b"\0", index, 1)
    journal.logs[0].trim(6)
    journal.close()
    with Bitcask(tmp_path / "shard-0") as cask:
        cask.append_puts(6, 1, 1, [], [], [], b"")
    assert main(["check", str(tmp_path)]) == 0
    shutil.rmtree(tmp_path / "shard-0")
    assert main(["check", str(tmp_path)]) == 1
    assert "holds entries up to 0, the journal begins behind 6" in capsys.readouterr().out
    Bitcask(tmp_path / "shard-0").close()
    shutil.rmtree(tmp_path / "journal")
    assert main(["check", str(tmp_path)]) == 1
    assert "the journal's segments are missing" in capsys.readouterr().out
