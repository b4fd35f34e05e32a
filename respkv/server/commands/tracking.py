"""CLIENT TRACKING and what belongs to it: server-assisted client-side caching (`respkv.server.tracking`)."""

from __future__ import annotations

from collections.abc import Iterable

from respkv import errors
from respkv.commands.args import integer
from respkv.commands.table import command
from respkv.reply import OK, OrderedSet, Reply
from respkv.server.dispatch import LATER, Call, Later
from respkv.server.tracking import Tracker

_FLAGS = "loading stale noscript"


@command("CLIENT|TRACKING", kind="server", arity=-3, flags=_FLAGS, group="connection", since="6.0.0",
         summary="Enable or disable server assisted client side caching support",
         complexity="O(1). Some options may introduce additional complexity.",
         syntax="(status: ON | OFF) [REDIRECT client-id:integer] [PREFIX prefix]... [BCAST] [OPTIN] [OPTOUT] [NOLOOP]")
def client_tracking(call: Call) -> Reply | Later:
    """Turning it on is answered when this node hears of all changes, so that nothing is in doubt at once."""
    tracker, prefixes = _options(call)
    switch = call.args[2].upper()
    if switch == b"OFF":
        call.server.tracking.turn_off(call.connection)
        call.connection.hinder_by_session()
        return OK
    if switch != b"ON":
        raise errors.syntax()
    known = call.session.tracker
    _check(tracker, known, prefixes)
    if tracker.bcast and not prefixes:
        prefixes = [b""]
    if known is not None:
        prefixes = [*known.prefixes, *prefixes]
        tracker.holds, tracker.caching = known.holds, known.caching
    ready = call.server.feed.begin()
    call.server.tracking.turn_on(tracker, prefixes)  # at once: more commands may be under way
    call.connection.hinder_by_session()
    if call.in_transaction:
        call.server.tracking.distrust(call.connection)
    if ready:
        return OK
    answer = call.later()
    call.server.feed.when_ready(lambda: answer(OK))
    return LATER


def _options(call: Call) -> tuple[Tracker, list[bytes]]:
    """What is asked for, and the prefixes. Raises RespError."""
    tracker = Tracker(call.connection, call.server.tracking.mark_of(call.session.id))
    prefixes: list[bytes] = []
    words = iter(call.args[3:])
    for word in words:
        option = word.upper()
        if option in _SWITCHES:
            setattr(tracker, _SWITCHES[option], True)
            continue
        value = next(words, None)
        if value is None or option not in (b"REDIRECT", b"PREFIX"):
            raise errors.syntax()
        if option == b"PREFIX":
            prefixes.append(value)
        elif tracker.redirect:
            raise errors.generic("A client can only redirect to a single other client")
        else:
            tracker.redirect = integer(value)
            if tracker.redirect not in call.server.clients:
                raise errors.generic("The client ID you want redirect to does not exist")
    return tracker, prefixes


_SWITCHES = {b"BCAST": "bcast", b"OPTIN": "optin", b"OPTOUT": "optout", b"NOLOOP": "noloop"}


def _check(tracker: Tracker, known: Tracker | None, prefixes: list[bytes]) -> None:
    """Raises RespError for options that do not go together, or not with what the client has asked for before."""
    if prefixes and not tracker.bcast:
        raise errors.generic("PREFIX option requires BCAST mode to be enabled")
    again = "before disabling tracking for this client, and then re-enabling it with a different mode."
    if known is not None and known.bcast != tracker.bcast:
        raise errors.generic("You can't switch BCAST mode on/off " + again)
    if tracker.bcast and (tracker.optin or tracker.optout):
        raise errors.generic("OPTIN and OPTOUT are not compatible with BCAST")
    if tracker.optin and tracker.optout:
        raise errors.generic("You can't specify both OPTIN mode and OPTOUT mode")
    if known is not None and ((tracker.optin and known.optout) or (tracker.optout and known.optin)):
        raise errors.generic("You can't switch OPTIN/OPTOUT mode " + again)
    for at, prefix in enumerate(prefixes):
        _check_overlap(prefix, known.prefixes if known is not None else (), "an existing prefix")
        _check_overlap(prefix, prefixes[at + 1 :], "another provided prefix")


def _check_overlap(prefix: bytes, others: Iterable[bytes], what: str) -> None:
    for other in others:
        if prefix.startswith(other) or other.startswith(prefix):
            shown, also = errors.quoted(prefix, len(prefix)), errors.quoted(other, len(other))
            raise errors.generic(
                f"Prefix '{shown}' overlaps with {what} '{also}'. Prefixes for a single client must not overlap."
            )


@command("CLIENT|CACHING", kind="server", arity=3, flags=_FLAGS, group="connection", since="6.0.0",
         summary="Instruct the server about tracking or not keys in the next request", syntax="(mode: YES | NO)")
def client_caching(call: Call) -> Reply:
    tracker, word = call.session.tracker, call.args[2].upper()
    if tracker is None:
        raise errors.generic(
            "CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled"
        )
    if word == b"YES":
        if not tracker.optin:
            raise errors.generic("CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.")
    elif word == b"NO":
        if not tracker.optout:
            raise errors.generic("CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.")
    else:
        raise errors.syntax()
    tracker.caching = True
    return OK


@command("CLIENT|GETREDIR", kind="server", arity=2, flags=_FLAGS, group="connection", since="6.0.0",
         summary="Get tracking notifications redirection client ID if any")
def client_getredir(call: Call) -> Reply:
    tracker = call.session.tracker
    return -1 if tracker is None else tracker.redirect


@command("CLIENT|TRACKINGINFO", kind="server", arity=2, flags=_FLAGS, group="connection", since="6.2.0",
         summary="Return information about server assisted client side caching for the current connection")
def client_trackinginfo(call: Call) -> Reply:
    tracker = call.session.tracker
    if tracker is None:
        return {b"flags": {b"off"}, b"redirect": -1, b"prefixes": []}
    return {b"flags": _flags(tracker), b"redirect": tracker.redirect, b"prefixes": list(tracker.prefixes)}


def _flags(tracker: Tracker) -> OrderedSet:
    """In Redis's order."""
    flags = {
        b"on": True,
        b"bcast": tracker.bcast,
        b"optin": tracker.optin,
        b"caching-yes": tracker.optin and tracker.caching,
        b"optout": tracker.optout,
        b"caching-no": tracker.optout and tracker.caching,
        b"noloop": tracker.noloop,
        b"broken_redirect": tracker.broken,
    }
    return OrderedSet(name for name, holds in flags.items() if holds)
