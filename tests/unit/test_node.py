"""What a node takes of the machine before it serves."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest

from respkv.node import Node

LIMITS = """
import resource, sys
from respkv import node
soft, hard, wanted = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
node._allow_descriptors(wanted)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(("soft", "wanted", "warned"), [(100, 150, False), (100, 5000, True), (300, 300, False)])
def test_as_many_files_are_allowed_as_can_be_because_data_files_need_them_too(
    soft: int, wanted: int, warned: bool
) -> None:
    hard = min(300, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    command = [sys.executable, "-c", LIMITS, str(soft), str(hard), str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == str(hard)
    assert ("few_file_descriptors" in done.stdout + done.stderr) == warned


def test_a_node_that_waits_for_its_end_gives_away_what_comes_back_to_it() -> None:
    stopping: Any = MagicMock()
    stopping._busy.side_effect = [True, True, False]
    stopping.peers.stop = AsyncMock()
    asyncio.run(Node._shut_down(stopping))
    assert stopping._step_aside.call_count == 3
