"""With which Python `make` makes its environment."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def said(*command: str) -> str:
    """What `command` prints, run as from a shell: the flags of a `make` that runs this test are not its."""
    outer = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "PYTHON"}
    env = {name: value for name, value in os.environ.items() if name not in outer}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout.strip()


def test_it_is_new_enough_and_the_systems_own_where_that_will_do() -> None:
    python = said(".ci/python")
    assert said(python, "-c", "import sys; print(sys.version_info >= (3, 11))") == "True"
    own = Path("/usr/bin/python3")
    will_do = [own, "-c", "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))"]
    if own.exists() and subprocess.run(will_do, check=False).returncode == 0:
        assert python == str(own)
    assert said("make", "-nB", ".venv/.stamp").startswith(f".ci/venv {python} .")


def test_another_can_be_chosen() -> None:
    assert said("make", "-nB", "PYTHON=mine", ".venv/.stamp").startswith(".ci/venv mine .")
