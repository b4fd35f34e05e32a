"""Server processes of the benchmark: start, wait until ready, stop; and loopback ports that are free for them.

A server runs in a session of its own, so that Ctrl-C reaches the harness alone, which stops the servers in order.
"""

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.bench.wire import HOST, ServerError

STOP_S = 15.0
POLL_S = 0.05
# Below Linux's ephemeral ports (32768 and up), so that no client connection takes one meanwhile.
FIRST_PORT, LAST_PORT = 15_000, 22_000
# A node may open further ports next to the client's: the cluster view and the node links.
NEIGHBOURS = (0, 1000, 2000, 10_000)


class PeerError(Exception):
    """A server did not start, did not become ready, or is not what the row needs."""


def free_ports(count: int) -> int:
    """The first of `count` adjoining ports that are free, as are their neighbours. Raises PeerError."""
    for _ in range(200):
        first = random.randrange(FIRST_PORT, LAST_PORT - count)
        wanted = [first + i + neighbour for i in range(count) for neighbour in NEIGHBOURS]
        if all(map(_is_free, wanted)):
            return first
    raise PeerError("no free ports on loopback")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


@contextmanager
def running(
    command: list[str], cwd: Path, log: Path, stop: signal.Signals, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """The process, stopped at the end with the signal `stop`, and by force after STOP_S."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        process.send_signal(stop)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        # What is left of the session: the process if it ignored the signal, or children that it left behind.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until_ready(
    process: subprocess.Popen[bytes], log: Path, why_not: Callable[[], str | None], timeout_s: float = 40.0
) -> None:
    """Polls until `why_not` gives None. Raises PeerError with its last reason, or with the log if the process ended."""
    deadline = time.monotonic() + timeout_s
    while True:
        if process.poll() is not None:
            raise PeerError(f"ended with status {process.returncode}: {_last_line(log)}")
        try:
            reason = why_not()
        except ServerError as error:
            reason = str(error)
        if reason is None:
            return
        if time.monotonic() > deadline:
            raise PeerError(f"not ready after {timeout_s:.0f} s: {reason}; its log ends: {_last_line(log)}")
        time.sleep(POLL_S)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "(nothing)"
