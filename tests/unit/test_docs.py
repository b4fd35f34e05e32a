"""docs/compatibility.md says what the command table and the configuration say. `python -m tests.unit.test_docs` writes
it anew.
"""

from __future__ import annotations

import shutil
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import respkv.server.commands  # noqa: F401 - fills the table
from respkv.client import Address, Client
from respkv.commands.table import Spec, all_specs, find
from respkv.config import Config, parameters
from respkv.config.redis import ALIASES, FIXED, WITHOUT_EFFECT
from tests.cluster import running_redis

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "compatibility.md"
REMARKS: dict[str, dict[str, str]] = tomllib.loads((DOCS / "compatibility.toml").read_text())
ABSENT_PARAMETERS = REMARKS["absent-parameters"]
COMMANDS, PARAMETERS = "<!-- generated from the command table: -->\n", "<!-- generated from the configuration: -->\n"
END = "<!-- end of what is generated -->\n"
REFUSED = "Refused: "  # how the summary of a command begins that is there only to say why it is not


def groups() -> dict[str, list[str]]:
    """Every command of Redis 7.0 by its group."""
    return {group: names.split() for group, names in REMARKS["commands"].items()}


def verdict(name: str, group: str) -> tuple[str, str]:
    """Yes, differs, refused or no; and a remark."""
    spec = find(name.encode())
    if spec is None:
        absent = REMARKS["absent"]
        return "no", absent.get(name) or absent.get(name.partition("|")[0]) or REMARKS["absent-groups"].get(group, "")
    if spec.summary.startswith(REFUSED):
        return "refused", spec.summary.removeprefix(REFUSED)
    remark = "; ".join(filter(None, [REMARKS["differs"].get(name, ""), over_shards(spec)]))
    return ("differs" if remark else "yes"), remark


def over_shards(spec: Spec) -> str:
    """What is said of a command with several keys."""
    if spec.kind == "server" or not spec.first or (spec.first == spec.last and spec.keys_of is None):
        return ""
    if spec.spread is not None:
        return "keys on several shards: each shard does its part, on its own"
    return "keys on several shards: `-CROSSSLOT`"


def command_tables() -> Iterator[str]:
    every = [verdict(name, group)[0] for group, names in groups().items() for name in names]
    counts = ", ".join(f"{every.count(kind)} {kind}" for kind in ("yes", "differs", "refused", "no"))
    yield f"\nOf {len(every)} commands and subcommands of Redis 7.0: {counts}.\n"
    for group, names in groups().items():
        yield f"\n### {group}\n\n| command | | |\n| --- | --- | --- |\n"
        for name in names:
            yield "| {} | {} | {} |\n".format(name.replace("|", " ").upper(), *verdict(name, group))
    yield "\n### Of later versions\n\n| command | since |\n| --- | --- |\n"
    known = {name for names in groups().values() for name in names}
    for spec in every_spec():
        if spec.name not in known:
            yield f"| {spec.name.replace('|', ' ').upper()} | {spec.since} |\n"
    yield "\n"


def every_spec() -> list[Spec]:
    return [
        spec
        for container in all_specs()
        for spec in (container, *(child for name, child in sorted(container.subcommands.items()) if name.islower()))
    ]


def parameter_tables() -> Iterator[str]:
    def listed(found: Iterator[str]) -> str:
        return textwrap.fill(", ".join(found), 120, break_long_words=False, break_on_hyphens=False) + "\n"

    yield "\n| parameter | |\n| --- | --- |\n"
    for name, remark in sorted((REMARKS["parameters"] | ABSENT_PARAMETERS).items()):
        yield f"| {name} | {'not there: ' if name in ABSENT_PARAMETERS else ''}{remark} |\n"
    yield "\n**Fixed:**\n" + listed(f"{name} `{value}`" if value else name for name, value in sorted(FIXED.items()))
    yield "\n**Without effect:**\n" + listed(iter(sorted(WITHOUT_EFFECT)))
    yield "\n**Other names:**\n" + listed(f"{alias} is {name}" for alias, name in sorted(ALIASES.items()))
    yield "\n"


def with_generated(page: str) -> str:
    """A page with the parts between the marks made anew."""
    for begin, tables in ((COMMANDS, command_tables()), (PARAMETERS, parameter_tables())):
        head, _, rest = page.partition(begin)
        _, _, tail = rest.partition(END)
        page = head + begin + "".join(tables) + END + tail
    return page


def test_the_page_of_compatibility_is_what_the_command_table_and_the_configuration_say() -> None:
    page = PAGE.read_text()
    assert (page.count(COMMANDS), page.count(PARAMETERS), page.count(END)) == (1, 1, 2)
    assert page == with_generated(page), "run: python -m tests.unit.test_docs"


def test_remarks_are_about_commands_that_are_there_or_not_there_as_they_say() -> None:
    known = {spec.name for spec in every_spec()}
    assert set(REMARKS["differs"]) <= known
    names = {name for names in groups().values() for name in names}
    assert set(REMARKS["absent"]) <= names - known
    assert set(REMARKS["absent-groups"]) <= set(groups())
    shown = set(parameters(Config()))
    assert set(REMARKS["parameters"]) <= shown - set(FIXED) - set(WITHOUT_EFFECT)
    assert not set(ABSENT_PARAMETERS) & shown


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not in PATH")
def test_the_list_of_commands_is_that_of_redis(tmp_path: Path) -> None:
    def walk(docs: list[Any], group: str = "") -> Iterator[tuple[str, str]]:
        for name, flat in zip(docs[::2], docs[1::2], strict=True):
            entry = dict(zip(flat[::2], flat[1::2], strict=True))
            own = group or entry[b"group"].decode()
            yield own, name.decode()
            yield from walk(entry.get(b"subcommands", []), own)

    with running_redis(tmp_path) as port, Client(Address("127.0.0.1", port)) as client:
        theirs = sorted(walk(client.call("COMMAND", "DOCS")))
        version = client.call("INFO", "server").split(b"redis_version:")[1].split(b"\r\n")[0].decode()
    if not version.startswith("7.0."):
        pytest.skip(f"redis-server is {version}, not 7.0")
    assert theirs == sorted((group, name) for group, names in groups().items() for name in names)


if __name__ == "__main__":
    PAGE.write_text(with_generated(PAGE.read_text()))
