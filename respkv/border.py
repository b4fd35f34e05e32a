"""The border of a node: what a message of another node must look like before any state sees it.

A peer that knows the cluster's secret is trusted not to lie, but not to be free of faults: a message with the wrong
fields would otherwise surface as an exception in the middle of a state change, which is fatal, and one faulty node
would stop all the others. Each part of respkv that takes messages declares the shape of each kind (a `Shape`) and
calls `require` first. `BadMessage` ends the link that the message came over, with one log line, and nothing else.

Shapes say types, counts and ranges. They cost about a microsecond for a message, of which there are a few in a loop
turn, and less than 0.1 us for an entry in it. That a message is *true* is not checked here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
"""An index, a term, a number of things: far above all that is real, far below what the journal's fields hold."""
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
"""A node's own clock; neither infinite nor a NaN."""

_BYTES: Final = (bytes,)


class BadMessage(ValueError):
    """Another node said something that no node in order says. Its link is to be broken."""


class Shape(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """The fields that every message begins with; a subclass for each kind adds the others, in their order."""

    kind: int
    shard: Count


def require(message: Any, shapes: Mapping[int, type[Shape]]) -> None:
    """Raises BadMessage unless `message` (a list that begins with an int) has the shape of its kind."""
    shape = shapes.get(message[0])
    if shape is None:
        raise BadMessage(f"unknown kind {message[0]}")
    try:
        msgspec.convert(message, shape, builtin_types=_BYTES)
    except (msgspec.ValidationError, RecursionError) as error:
        raise BadMessage(f"{shape.__name__}: {error}") from None
