"""redis-py's own test suite against respkv.

    python -m tests.compat.suites.redis_py --checkout DIRECTORY --python FILE [--protocol 2] [--cluster]

Nothing of redis-py is in this repository: DIRECTORY holds its source, and FILE is the Python of an environment with
what its tests need (pytest, pytest-asyncio, pytest-timeout, numpy, pybreaker, aiohttp, xxhash, opentelemetry-sdk ...).
Plain tests talk to the standalone view of a node. Those for clusters find what redis-py's own runs have, as some of
them count on it: six nodes from port 16379 on, three of which lead a shard and three follow.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

from tests.cluster import CLUSTER_PORT_OFFSET, running_cluster, running_redis
from tests.compat.suites.report import Outcome, missing, save, show
from tests.compat.suites.tcl import FAST, known_commands

FILES = [
    "test_commands.py", "test_pipeline.py", "test_pubsub.py", "test_lock.py", "test_monitor.py", "test_encoding.py",
    "test_connection.py", "test_connection_pool.py", "test_cache.py", "test_command_parser.py", "test_helpers.py",
    "test_multiprocessing.py", "test_keyspace_notifications.py", "test_credentials.py", "test_retry.py",
    "test_asyncio/test_commands.py", "test_asyncio/test_pipeline.py", "test_asyncio/test_pubsub.py",
    "test_asyncio/test_lock.py", "test_asyncio/test_monitor.py", "test_asyncio/test_encoding.py",
    "test_asyncio/test_connection_pool.py", "test_asyncio/test_connection.py", "test_asyncio/test_connect.py",
    "test_asyncio/test_cwe_404.py", "test_asyncio/test_retry.py", "test_connect.py",
]  # fmt: skip
CLUSTER_FILES = [
    "test_commands.py", "test_cluster.py", "test_cluster_transaction.py", "test_pipeline.py", "test_pubsub.py",
    "test_cache.py", "test_asyncio/test_cluster.py", "test_asyncio/test_cluster_transaction.py",
    "test_asyncio/test_commands.py",
]  # fmt: skip
CLUSTER = {"nodes": 6, "replicas": 6, "port": 16379 - CLUSTER_PORT_OFFSET}
# Tests of modules and of TLS need servers of their own; those of Redis's replicas need replicas that refuse writes.
MARKS = "not redismod and not ssl and not replica and not cp_integration and not multidb_integration and not {}"


def run(asked: argparse.Namespace, port: int, nodes: int, log: Path) -> list[Outcome]:
    """All files in one pytest; what it writes goes to `log`."""
    checkout = asked.checkout.resolve()
    rows = log.with_suffix(".jsonl")
    rows.unlink(missing_ok=True)
    command = [asked.python, "-m", "pytest", "-q", "-p", "redis_py_plugin", "-p", "no:cacheprovider", "--tb=line"]
    command += ["--timeout", "300", "--redis-url", f"redis://127.0.0.1:{port}/0", "--protocol", asked.protocol]
    command += ["--redis-cluster-nodes", str(nodes)]
    command += ["-m", MARKS.format("onlynoncluster" if asked.cluster else "onlycluster")]
    command += ["--continue-on-collection-errors", *asked.pytest]
    files = asked.files or (CLUSTER_FILES if asked.cluster else FILES)
    command += [f"tests/{file}" for file in files if (checkout / "tests" / file).exists()]
    path = os.pathsep.join([str(checkout), str(Path(__file__).parent)])
    with log.open("wb") as output:
        subprocess.run(
            command, cwd=checkout, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            env=os.environ | {"PYTHONPATH": path, "SUITE_OUTCOMES": str(rows)},
        )  # fmt: skip
    known = known_commands(port)
    found: dict[str, Outcome] = {}
    for row in map(json.loads, rows.read_text().splitlines()):
        file, _, name = row["name"].partition("::")
        found[row["name"]] = Outcome(file, name, row["status"], row["message"], missing(row["sent"], known))
    return list(found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--checkout", type=Path, required=True, help="redis-py's source")
    parser.add_argument("--python", required=True, help="the Python to run its tests with")
    parser.add_argument("--protocol", choices=["2", "3"], default="3")
    parser.add_argument("--cluster", action="store_true", help="the tests for clusters, on six nodes")
    parser.add_argument("--redis", action="store_true", help="against a real redis-server, to compare with")
    parser.add_argument("--shards", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="option of respkv")
    parser.add_argument("--pytest", action="append", default=[], help="a further argument for pytest")
    parser.add_argument("--output", type=Path, default=Path("redis-py.json"), help="a file for all outcomes")
    parser.add_argument("files", nargs="*", metavar="FILE", help="such as test_commands.py")
    asked = parser.parse_args()
    log = asked.output.with_suffix(".log")
    with tempfile.TemporaryDirectory(prefix="respkv-suite-") as name:
        if asked.redis:
            with running_redis(Path(name)) as port:
                outcomes = run(asked, port, 1, log)
        else:
            options = FAST | dict(option.split("=", 1) for option in asked.set)
            shape = CLUSTER if asked.cluster else {"nodes": 1}
            with running_cluster(Path(name), shards=asked.shards, **shape, **options) as cluster:
                cluster.wait_home()
                node = cluster.nodes[0]
                outcomes = run(asked, node.cluster_port if asked.cluster else node.port, shape["nodes"], log)
                for each in cluster.nodes:
                    if "Traceback" in each.log():
                        outcomes.append(Outcome("respkv", f"log of {each.name}", "failed", each.log()[-3000:]))
    save(outcomes, asked.output)
    view = "cluster" if asked.cluster else "plain"
    show(outcomes, f"redis-py's suite, {view}, RESP{asked.protocol}", messages=False)
    print(f"\nwhat pytest wrote: {log}; messages: {asked.output}")


if __name__ == "__main__":
    main()
