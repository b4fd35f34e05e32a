"""All fuzz targets by name. Each takes a `Random`, draws one case from it, runs it and raises if something is wrong."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

from tests.fuzz import clients, files, peers

Target = Callable[[Random], None]

TARGETS: Final[dict[str, Target]] = {
    target.__name__: target
    for target in (
        clients.resp,
        clients.inline,
        clients.glob,
        clients.data_commands,
        clients.dumps,
        clients.configuration,
        peers.before_the_handshake,
        peers.the_handshake,
        peers.frames_after_the_handshake,
        peers.messages_of_a_peer,
        files.records_and_frames,
        files.data_files,
        files.journals,
        files.identities,
    )
}

# Cases of each in `make test`: one to four seconds of CPU for a target.
CASES: Final = {"messages_of_a_peer": 150, "data_files": 250, "journals": 250, "identities": 250}
CASES_OTHERWISE: Final = 600
MEMORY_BYTES_MAX: Final = 24 << 20  # one case, on top of what the process had
HANG_S: Final = 60
