"""The library is the one that the core was written against, and nobody else reaches into it."""

import re
from pathlib import Path

import pysyncobj.syncobj as library
import pytest
from pysyncobj import SyncObj
from pysyncobj.transport import Transport

import respkv
from respkv.disk import Disk
from respkv.raft import core
from respkv.raft.clock import Timing
from respkv.raft.core import Core
from respkv.raft.journal import Journal

PRIVATE = re.compile(r"\b_SyncObj__\w+|\b_poller\b|\b_onTick\b|\b_onMessageReceived\b|\b_onNode\w+|\b_RAFT_STATE\b")


def test_any_other_release_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "VERSION", "0.3.18")
    with pytest.raises(RuntimeError, match=r"needs pysyncobj 0\.3\.17, found 0\.3\.18"):
        core.check_library()


@pytest.mark.parametrize(
    ("where", "name"),
    [(library, name) for name in core.MODULE_NAMES]
    + [(SyncObj, name) for name in core.METHODS]
    + [(Transport, name) for name in core.TRANSPORT_METHODS],
)
def test_a_library_that_lacks_a_name_we_use_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, where: object, name: str
) -> None:
    core.check_library()
    monkeypatch.delattr(where, name)
    with pytest.raises(RuntimeError, match=f"lacks {name}"):
        core.check_library()


def test_an_object_of_the_library_that_lacks_a_field_we_use_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal.open(tmp_path, [0], segment_bytes=1 << 16, disk=Disk())
    monkeypatch.setattr(core, "FIELDS", (*core.FIELDS, "_SyncObj__renamed"))
    with pytest.raises(RuntimeError, match="lacks _SyncObj__renamed"):
        Core("a", [], journal.logs[0], 0, Timing(), 0.0)
    journal.close()


def test_only_the_core_touches_private_names_of_the_library_and_it_lists_all_of_them() -> None:
    assert respkv.__file__ is not None
    root = Path(respkv.__file__).parent
    for path in root.rglob("*.py"):
        used = set(PRIVATE.findall(path.read_text()))
        if path == Path(core.__file__):
            assert used == {*core.METHODS, *core.TRANSPORT_METHODS, *core.FIELDS, "_RAFT_STATE"}
        else:
            assert not used, path
