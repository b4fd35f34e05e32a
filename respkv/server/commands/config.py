"""CONFIG: what the configuration of this node is, and those options that may change while it runs.

A change holds for this node until it stops, or, after CONFIG REWRITE, for good. What Redis has and respkv has not is
shown and taken where it promises nothing: see `respkv.config.redis`.
"""

from __future__ import annotations

import dataclasses

import structlog

from respkv import errors
from respkv.commands.glob import matches
from respkv.commands.table import command
from respkv.config import ConfigError
from respkv.config.rewrite import rewrite
from respkv.reply import OK, Reply, RespError
from respkv.server.commands.helping import help_reply
from respkv.server.dispatch import Call

log = structlog.get_logger()


@command("CONFIG", kind="server", arity=-2, group="server", since="2.0.0", complexity="Depends on subcommand.",
         summary="A container for server configuration commands")
def config(call: Call) -> Reply:
    raise errors.unknown_subcommand(call.args[0], call.args[1])


@command("CONFIG|GET", kind="server", arity=-3, flags="admin loading stale noscript", group="server", since="2.0.0",
         summary="Get the values of configuration parameters",
         complexity="O(N) when N is the number of configuration parameters provided",
         syntax="(parameter: parameter)...",
         history=("7.0.0 Added the ability to pass multiple pattern parameters in one call",))
def config_get(call: Call) -> Reply:
    known = call.server.config.parameters()
    if call.session.cluster_view:
        known["cluster-enabled"] = dataclasses.replace(known["cluster-enabled"], value="yes")
    found: dict[bytes, bytes] = {}
    seen: set[str] = set()
    for pattern in call.args[2:]:
        for name, parameter in known.items():
            if name not in seen and matches(pattern, name.encode(), ignore_case=True):
                seen.add(name)
                exact = pattern.lower() == name.encode()  # a name is answered in the spelling that was asked
                found[pattern if exact else name.encode()] = _bytes(parameter.value)
    return dict(found)


@command("CONFIG|SET", kind="server", arity=-4, flags="admin loading stale noscript", group="server", since="2.0.0",
         summary="Set configuration parameters to the given values",
         complexity="O(N) when N is the number of configuration parameters provided",
         tips="request_policy:all_nodes response_policy:all_succeeded", syntax="(parameter_value: parameter value)...",
         history=("7.0.0 Added the ability to set multiple parameters in one call.",))
def config_set(call: Call) -> Reply:
    args = call.args
    if len(args) % 2:
        raise errors.syntax()
    known = call.server.config.parameters()
    pairs: dict[str, str] = {}
    for option, value in zip(args[2::2], args[3::2], strict=True):
        name = _text(option).lower()
        if name not in known:
            shown = errors.quoted(option)
            raise errors.generic(f"Unknown option or number of arguments for CONFIG SET - '{shown}'")
        if name in pairs:
            raise _failed(option, "duplicate parameter")
        if not known[name].takes(_text(value)):
            raise _failed(option, "can't set immutable config")
        pairs[name] = _text(value)
    try:
        call.server.config.set(pairs)
    except ConfigError as error:
        raise _failed(error.option.encode(), error.reason) from None
    return OK


def _failed(option: bytes, reason: str) -> RespError:
    return errors.generic(f"CONFIG SET failed (possibly related to argument '{errors.quoted(option)}') - {reason}")


def _text(value: bytes) -> str:
    """Bytes that are not UTF-8 are kept as surrogate escapes: a password may be any bytes."""
    return value.decode(errors="surrogateescape")


def _bytes(value: str) -> bytes:
    return value.encode(errors="surrogateescape")


@command("CONFIG|RESETSTAT", kind="server", arity=2, flags="admin loading stale noscript", group="server",
         since="2.0.0", summary="Reset the stats returned by INFO")
def config_resetstat(call: Call) -> Reply:
    call.server.reset_stats()
    return OK


@command("CONFIG|REWRITE", kind="server", arity=2, flags="admin loading stale noscript", group="server", since="2.8.0",
         summary="Rewrite the configuration file with the in memory configuration")
def config_rewrite(call: Call) -> Reply:
    """Writes what CONFIG SET has changed into the TOML file; comments and all else in it stay."""
    live = call.server.config
    try:
        rewrite(live.config, live.changed)
    except ConfigError as error:
        raise errors.generic(error.reason) from None
    except OSError as error:
        log.warning("config_not_rewritten", file=str(live.config.file), error=str(error))
        raise errors.generic(f"Rewriting config file: {error.strerror or error}") from None
    log.info("config_rewritten", file=str(live.config.file))
    return OK


@command("CONFIG|HELP", kind="server", arity=2, flags="loading stale", group="server", since="5.0.0",
         summary="Show helpful text about the different subcommands")
def config_help(call: Call) -> Reply:
    return help_reply(
        "CONFIG",
        ("GET <pattern>", "Return parameters matching the glob-like <pattern> and their values."),
        ("SET <directive> <value>", "Set the configuration <directive> to <value>."),
        ("RESETSTAT", "Reset statistics reported by the INFO command."),
        ("REWRITE", "Rewrite the configuration file."),
    )
