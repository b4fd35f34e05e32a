"""JavaScript clients, each doing its ordinary job, as the programs in `node/` say.

They need node and what `.ci/node` installs; what is missing is named by the skipped tests.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cluster import TestCluster

PROGRAMS = Path(__file__).with_name("node")


@pytest.mark.parametrize("name", ["ioredis", "node-redis", "keyv", "connect-redis"])
def test_a_javascript_client_does_its_job(cluster: TestCluster, name: str) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip(f"node is not in PATH: {name} was not run")
    if not (PROGRAMS / "node_modules" / ".package-lock.json").exists():
        pytest.skip(f"the JavaScript clients are not installed (.ci/node does that): {name} was not run")
    ports = [cluster.nodes[-1].port, *(each.cluster_port for each in cluster.nodes)]
    done = subprocess.run(
        [node, str(PROGRAMS / f"{name}.mjs"), *map(str, ports)], capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stdout + done.stderr
