"""A pytest plugin for redis-py's own test suite: writes what became of each test, and which commands it sent, as a line
of JSON into the file that `SUITE_OUTCOMES` names. It runs in redis-py's environment and imports nothing of respkv.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis.connection

sent: set[str] = set()


def _recording(pack: Any) -> Any:
    def recorded(self: Any, *args: Any) -> Any:
        words = str(args[0]).split() if args else []
        if words:
            sent.add(words[0].lower())
        return pack(self, *args)

    return recorded


redis.connection.PythonRespSerializer.pack = _recording(redis.connection.PythonRespSerializer.pack)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    sent.clear()
    yield


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when != "call" and report.passed:
        return
    if report.when == "teardown" and not report.failed:
        return
    crash = getattr(report.longrepr, "reprcrash", None)
    row = {
        "name": report.nodeid,
        "status": report.outcome,
        "message": "" if report.passed else (crash.message if crash else str(report.longrepr))[-3000:],
        "sent": sorted(sent),
    }
    with Path(os.environ["SUITE_OUTCOMES"]).open("a") as file:
        file.write(json.dumps(row) + "\n")
