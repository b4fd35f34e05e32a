"""LATENCY: what `respkv.server.latency` has noted, and how long the calls of each command took."""

from __future__ import annotations

from respkv import errors
from respkv.commands.table import Spec, command, find
from respkv.reply import Reply, Verbatim
from respkv.server.commands.helping import help_reply
from respkv.server.dispatch import Call
from respkv.server.latency import graph, report

_FLAGS = "admin noscript loading stale"
_TIPS = "nondeterministic_output request_policy:all_nodes response_policy:special"


@command("LATENCY", kind="server", arity=-2, group="server", since="2.8.13", complexity="Depends on subcommand.",
         summary="A container for latency diagnostics commands")
def latency(call: Call) -> Reply:
    raise errors.unknown_subcommand(call.args[0], call.args[1])


@command("LATENCY|LATEST", kind="server", arity=2, flags=_FLAGS, group="server", since="2.8.13", tips=_TIPS,
         summary="Return the latest latency samples for all events.")
def latency_latest(call: Call) -> Reply:
    events = call.server.watch.latency.events.items()
    return [[name.encode(), e.samples[-1].at_s, e.samples[-1].millis, e.max_ms] for name, e in events]


@command("LATENCY|HISTORY", kind="server", arity=3, flags=_FLAGS, group="server", since="2.8.13", tips=_TIPS,
         summary="Return timestamp-latency samples for the event.", syntax="event")
def latency_history(call: Call) -> Reply:
    event = call.server.watch.latency.events.get(_text(call.args[2]))
    return [list(sample) for sample in event.samples] if event else []


@command("LATENCY|GRAPH", kind="server", arity=3, flags=_FLAGS, group="server", since="2.8.13", tips=_TIPS,
         summary="Return a latency graph for the event.", syntax="event")
def latency_graph(call: Call) -> Reply:
    name = _text(call.args[2])
    event = call.server.watch.latency.events.get(name)
    if event is None:
        raise errors.generic(f"No samples available for event '{errors.quoted(call.args[2])}'")
    return Verbatim(graph(name, event).encode())


@command("LATENCY|RESET", kind="server", arity=-2, flags=_FLAGS, group="server", since="2.8.13",
         tips="request_policy:all_nodes response_policy:all_succeeded",
         summary="Reset latency data for one or more events.", syntax="[event...]")
def latency_reset(call: Call) -> Reply:
    return call.server.watch.latency.reset(list(map(_text, call.args[2:])))


@command("LATENCY|DOCTOR", kind="server", arity=2, flags=_FLAGS, group="server", since="2.8.13", tips=_TIPS,
         summary="Return a human readable latency analysis report.")
def latency_doctor(call: Call) -> Reply:
    slower_than_us = call.server.config.config.slowlog_slower_than_us
    return Verbatim(report(call.server.watch.latency, slower_than_us).encode())


@command("LATENCY|HISTOGRAM", kind="server", arity=-2, flags=_FLAGS, group="server", since="7.0.0", tips=_TIPS,
         complexity="O(N) where N is the number of commands with latency information being retrieved.",
         summary="Return the cumulative distribution of latencies of a subset of commands or all.",
         syntax="[command...]")
def latency_histogram(call: Call) -> Reply:
    wanted = [find(name) for name in call.args[2:]]
    called = call.server.stats.commands_called()
    return {
        spec.name.encode(): {b"calls": stats.times.count, b"histogram_usec": stats.times.histogram()}
        for spec, stats in called.items()
        if stats.times.count and (not call.args[2:] or _is_one_of(spec, wanted))
    }


def _is_one_of(spec: Spec, wanted: list[Spec | None]) -> bool:
    """A container stands for its subcommands."""
    return any(each is not None and (spec is each or spec in each.subcommands.values()) for each in wanted)


@command("LATENCY|HELP", kind="server", arity=2, flags="loading stale", group="server", since="2.8.13",
         summary="Show helpful text about the different subcommands.")
def latency_help(call: Call) -> Reply:
    reset = ("Reset latency data of one or more <event> classes.\n"
             "(default: reset all data for all event classes)")  # fmt: skip
    histogram = (
        "Return a cumulative distribution of latencies in the format of a histogram for the specified command names.\n"
        "If no commands are specified then all histograms are replied."
    )
    return help_reply(
        "LATENCY",
        ("DOCTOR", "Return a human readable latency analysis report."),
        ("GRAPH <event>", "Return an ASCII latency graph for the <event> class."),
        ("HISTORY <event>", "Return time-latency samples for the <event> class."),
        ("LATEST", "Return the latest latency samples for all events."),
        ("RESET [<event> ...]", reset),
        ("HISTOGRAM [COMMAND ...]", histogram),
    )


def _text(name: bytes) -> str:
    return name.decode(errors="replace")
