"""Pages generated from the code say what the code says. `python -m tests.unit.test_docs` writes them anew."""

from pathlib import Path

import respkv.server.commands  # noqa: F401 - fills the table
from respkv.commands.table import Spec, all_specs

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"


def commands_page() -> str:
    """docs/commands.md from the command table."""
    lines = [
        "# Commands",
        "",
        "Every command that respkv knows, from its command table; syntax, replies and errors are those of Redis 7.",
        "*Several shards* tells what the standalone view does when the keys are on several shards.",
        "",
        "| command | since Redis | several shards | |",
        "| --- | --- | --- | --- |",
    ]
    for spec in all_specs():
        lines += [_row(spec), *(_row(child) for name, child in sorted(spec.subcommands.items()) if name.islower())]
    return "\n".join(lines) + "\n"


def _row(spec: Spec) -> str:
    if spec.kind == "server":
        spread = "this node"
    elif spec.spread is not None:
        spread = "each does its part"
    else:
        spread = "`-CROSSSLOT`" if spec.last != spec.first else ""
    return f"| {spec.name.replace('|', ' ').upper()} | {spec.since} | {spread} | {spec.summary} |"


def test_the_page_of_commands_is_what_the_command_table_says() -> None:
    assert PAGE.read_text() == commands_page(), "run: python -m tests.unit.test_docs"


if __name__ == "__main__":
    PAGE.write_text(commands_page())
