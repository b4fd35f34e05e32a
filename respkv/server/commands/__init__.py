"""The commands about the server itself: connections, configuration, information, the cluster's map.

Importing the package fills the command table with them. Each is a function `fn(call) -> Reply | Later`
(`respkv.server.dispatch.Call`), declared with `kind="server"`; replies and error texts are those of Redis 7.0 where
Redis has the case, and where respkv differs the docstring says how.
"""

from respkv.server.commands import (
    absent,
    acl,
    admin,
    client,
    clients,
    cluster,
    config,
    connection,
    debug,
    describe,
    info,
    keys,
    latency,
    memory,
    pubsub,
    saving,
    slowlog,
    tracking,
    transactions,
    wait,
)

__all__ = ["absent", "acl", "admin", "client", "clients", "cluster", "config", "connection", "debug", "describe",
           "info", "keys", "latency", "memory", "pubsub", "saving", "slowlog", "tracking", "transactions",
           "wait"]  # fmt: skip
