"""INFO: what this node is, does and holds, in Redis's sections and two of its own, `raft` and `respkv`.

The figures are this node's. `keyspace` counts the keys of the shards that the node holds a replica of, each once: with
as many replicas as nodes that is the whole keyspace, otherwise ask DBSIZE, which spans the cluster. In the cluster view
a node that leads shards counts theirs alone, so that what masters tell adds up. The fields are in
`respkv.server.sections` and `sections_own`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from respkv.commands.table import command
from respkv.reply import Reply, Verbatim
from respkv.server import sections, sections_own
from respkv.server.dispatch import Call

Fields = dict[str, Any]

SECTIONS: dict[str, Callable[[Call], Fields]] = {
    "server": lambda call: sections.server(call.server, cluster_view=call.session.cluster_view),
    "clients": lambda call: sections.clients(call.server),
    "memory": lambda call: sections.memory(call.server),
    "persistence": lambda call: sections.persistence(call.server),
    "stats": lambda call: sections.stats(call.server),
    "replication": lambda call: sections.replication(call.server),
    "cpu": lambda call: sections.cpu(call.server),
    "modules": lambda call: {},
    "commandstats": lambda call: sections.commandstats(call.server),
    "errorstats": lambda call: sections.errorstats(call.server),
    "latencystats": lambda call: sections.latencystats(call.server),
    "cluster": lambda call: {"cluster_enabled": int(call.session.cluster_view)},
    "keyspace": lambda call: sections.keyspace(call.server, cluster_view=call.session.cluster_view),
    "raft": lambda call: sections_own.raft(call.server),
    "respkv": lambda call: sections_own.respkv(call.server),
}
_ONLY_WITH_ALL = frozenset(("commandstats", "latencystats"))


@command("INFO", kind="server", arity=-1, flags="loading stale", group="server", since="1.0.0", categories="dangerous",
         summary="Get information and statistics about the server",
         tips="nondeterministic_output request_policy:all_shards response_policy:special", syntax="[section...]",
         history=("7.0.0 Added support for taking multiple section arguments.",))
def info(call: Call) -> Reply:
    wanted = _wanted([arg.decode(errors="replace").lower() for arg in call.args[1:]])
    parts = []
    for name, section in SECTIONS.items():
        if name in wanted:
            lines = ["# " + ("CPU" if name == "cpu" else name.capitalize())]
            lines += [f"{field}:{value}" for field, value in section(call).items()]
            parts.append("\r\n".join(lines) + "\r\n")
    return Verbatim("\r\n".join(parts).encode(errors="surrogateescape"))


def _wanted(names: list[str]) -> set[str]:
    wanted = set(names or ["default"])
    if wanted & {"all", "everything"}:
        wanted |= SECTIONS.keys()
    if "default" in wanted:
        wanted |= SECTIONS.keys() - _ONLY_WITH_ALL
    return wanted
