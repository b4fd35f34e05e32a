"""What the HELP subcommands answer."""

from __future__ import annotations

from respkv.reply import Simple


def help_reply(container: str, *entries: tuple[str, str]) -> list[Simple]:
    """`entries` are pairs of a subcommand with its arguments and a text of one or more lines about it."""
    lines = [f"{container} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"]
    for usage, about in (*entries, ("HELP", "Prints this help.")):
        lines += usage.splitlines()
        lines += ["    " + line for line in about.splitlines()]
    return [Simple(line.encode()) for line in lines]
