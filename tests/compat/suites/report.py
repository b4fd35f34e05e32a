"""What the runs of other projects' test suites come to: one outcome per test, a table per file, and the reasons.

A test counts for or against respkv when it sends only commands that respkv has. Of the others it is told which commands
they miss.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

# What a failure tells by its text to be about what respkv does not want to be.
_ASIDE = (
    (r"'(zset|hash|list|set|stream|hll)-[a-z-]+'", "needs settings of collections"),
    (r"Command '\w+' not found|Invalid command specified", "needs other commands in its tables"),
    (r"unknown command '\w+'|\w+ command doesn't exist in Redis commands", "needs other commands"),
    (r"movablekeys|\[lsearch .*(eval|function.list)", "needs other commands in its tables"),
    (r"replication_stream", "needs Redis's replication"),
    (r"Try (FUNCTION|SCRIPT) HELP|'lua-time-limit'|'busy-reply-threshold'", "needs scripts"),
    (r"(?i)'appendonly'|loadaof|debug reload|'repl-[a-z-]+'|bgsave|bgrewriteaof|slaveof", "needs Redis's files"),
    (r'key "\w+" not known in dictionary|\.manifest', "needs Redis's files"),
)


_LIST = Path(__file__).parents[3] / "docs" / "compatibility.toml"
REDIS_COMMANDS = frozenset(
    name for names in tomllib.loads(_LIST.read_text())["commands"].values() for name in names.split()
)


def missing(sent: Iterable[str], known: Iterable[str]) -> tuple[str, ...]:
    """Which commands of Redis were sent to a server that knows others; names that tests make up are none."""
    return tuple(sorted((set(sent) & REDIS_COMMANDS) - set(known)))


@dataclass(frozen=True)
class Outcome:
    """One test: `status` is passed, failed or skipped; `missing` are the commands it sent that respkv has not."""

    file: str
    name: str
    status: str
    message: str = ""
    missing: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """Why it failed, in a word or two."""
        if self.missing:
            return "needs " + ", ".join(sorted(self.missing)).upper()
        if "CROSSSLOT" in self.message or "don't hash to the same slot" in self.message:
            return "keys in several slots"
        for pattern, reason in _ASIDE:
            if re.search(pattern, self.message):
                return reason
        return "differs"


def table(outcomes: Sequence[Outcome], title: str) -> Table:
    """A row per file."""
    shown = Table(title=title)
    shown.add_column("file")
    for column in ("passed", "differs", "several slots", "needs others", "skipped", "passed, %"):
        shown.add_column(column, justify="right")
    for file in [*dict.fromkeys(outcome.file for outcome in outcomes), "all"]:
        shown.add_row(file, *_row([o for o in outcomes if file in (o.file, "all")]))
    return shown


def _row(outcomes: Iterable[Outcome]) -> list[str]:
    count: Counter[str] = Counter()
    for outcome in outcomes:
        if outcome.status == "failed":
            count[outcome.reason.split()[0]] += 1
        elif outcome.status == "passed" and outcome.missing:
            count["needs"] += 1
        else:
            count[outcome.status] += 1
    asked = count["passed"] + count["differs"] + count["keys"]
    share = f"{100 * count['passed'] / asked:.1f}" if asked else ""
    return [str(count[kind]) for kind in ("passed", "differs", "keys", "needs", "skipped")] + [share]


def show(outcomes: Sequence[Outcome], title: str, messages: bool) -> None:
    """The table, and below it every failure that is not for want of a command."""
    console = Console(width=120, highlight=False)
    console.print(table(outcomes, title))
    lacking = Counter(name for outcome in outcomes for name in outcome.missing)
    if lacking:
        console.print("commands that tests miss: " + ", ".join(f"{n.upper()} ({k})" for n, k in lacking.most_common()))
    for outcome in outcomes:
        if outcome.status == "failed" and not outcome.reason.startswith("needs"):
            console.print(f"\n{outcome.file}: {outcome.name} [{outcome.reason}]", style="bold", markup=False)
            if messages:
                console.print(outcome.message[:1500], markup=False)


def save(outcomes: Sequence[Outcome], path: Path) -> None:
    rows: list[dict[str, Any]] = [asdict(outcome) for outcome in outcomes]
    path.write_text(json.dumps(rows, indent=1))
