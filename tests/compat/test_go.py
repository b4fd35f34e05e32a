"""go-redis and redisc doing their job, as the program in `go/` says. `.ci/go` builds it; skipped where it could not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.cluster import TestCluster

PROGRAM = Path(__file__).with_name("go") / "go-redis"


@pytest.mark.skipif(not PROGRAM.exists(), reason="go, go-redis or redisc is not installed (.ci/go does that)")
def test_go_redis_and_redisc_do_their_job(cluster: TestCluster) -> None:
    ports = [cluster.nodes[-1].port, *(each.cluster_port for each in cluster.nodes)]
    done = subprocess.run([PROGRAM, *map(str, ports)], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stdout + done.stderr
