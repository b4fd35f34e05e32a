"""The command table: what every command is, declared once next to the function that does it.

A *data* command is a pure function of the data of one shard, `fn(db, args, ctx) -> Reply`: no clock but `db.now_ms`, no
randomness but `ctx.rng`, no I/O; a deterministic refusal is a `RespError`, raised before the first write to `db`. A
*server* command (PING, CLIENT, INFO ...) is declared in the same table with `kind="server"` by the module that
implements it; the shape of its function is the server's business. `Spec` holds what Redis tells about a command in
COMMAND INFO and COMMAND DOCS (`respkv.commands.describe` renders it), so that clients find the keys as they do there.

Promises: names are unique; `COMMANDS` finds the all-upper and the all-lower spelling with one dict lookup. Leaves to
others: who may run what (server), where keys live (cluster), how a command spans shards (`spread`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

from respkv import errors
from respkv.commands.spread import Spread

Fn = TypeVar("Fn", bound=Callable[..., Any])
Kind = Literal["data", "server"]

# ACL categories and the flags that COMMAND INFO tells, each in Redis's order.
CATEGORIES: Final = (
    "keyspace", "read", "write", "set", "sortedset", "list", "hash", "string", "bitmap", "hyperloglog", "geo", "stream",
    "pubsub", "admin", "fast", "slow", "blocking", "dangerous", "connection", "transaction", "scripting",
)  # fmt: skip
FLAGS: Final = (
    "write", "readonly", "denyoom", "module", "admin", "pubsub", "noscript", "blocking", "loading", "stale",
    "skip_monitor", "skip_slowlog", "asking", "fast", "no_auth", "no_mandatory_keys", "no_async_loading", "no_multi",
    "movablekeys", "allow_busy",
)  # fmt: skip

# The ACL category that Redis's command files give the commands of a group.
_GROUP_CATEGORY: Final = {
    "bitmap": "bitmap",
    "connection": "connection",
    "generic": "keyspace",
    "geo": "geo",
    "hash": "hash",
    "hyperloglog": "hyperloglog",
    "list": "list",
    "pubsub": "pubsub",
    "scripting": "scripting",
    "set": "set",
    "sorted-set": "sortedset",
    "stream": "stream",
    "string": "string",
    "transactions": "transaction",
}


@dataclass(frozen=True, slots=True)
class KeySpec:
    """Where keys are, as COMMAND INFO tells it: `last` counts from `first`, or from the end if it is negative.

    `first` 0: at places that only the command itself can tell (`unknown` in Redis). `access` are Redis's key spec flags
    in their order, e.g. `("RW", "access", "update")`.
    """

    first: int
    last: int
    step: int
    access: tuple[str, ...]
    notes: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Spec:
    """One command or subcommand. Made by `@command`; compared by identity.

    name         lower-case full name: `"get"`, `"client|list"`
    arity        number of arguments with the name; `-n` means n or more
    first, last, step   positions of the keys (`last` < 0 counts from the end); first 0: no keys at fixed positions
    keys_of      finds the keys when not all of them are at fixed positions
    spread       how the standalone view spans shards with it; None: all keys must be in one slot
    categories   ACL categories without `@`
    syntax       its arguments, in the notation of `respkv.commands.syntax`
    history      what changed: (version, text)
    doc_flags    `deprecated`, `syscmd` (for Redis itself, not for its users)
    replaced_by  what to use instead of it since `deprecated_since`
    """

    name: str
    arity: int
    flags: frozenset[str]
    kind: Kind
    fn: Callable[..., Any] | None
    first: int
    last: int
    step: int
    key_specs: tuple[KeySpec, ...]
    group: str
    since: str
    summary: str
    complexity: str
    categories: frozenset[str]
    tips: tuple[str, ...]
    keys_of: Callable[[Sequence[bytes]], list[bytes]] | None
    spread: Spread | None
    is_write: bool
    is_readonly: bool
    syntax: str
    history: tuple[tuple[str, str], ...]
    doc_flags: tuple[str, ...]
    deprecated_since: str
    replaced_by: str
    subcommands: dict[bytes, Spec] = field(default_factory=dict)

    def arity_ok(self, count: int) -> bool:
        """Whether `count` arguments, the name included, are allowed."""
        arity = self.arity
        return count == arity if arity > 0 else count >= -arity


COMMANDS: Final[dict[bytes, Spec]] = {}


def command(
    name: str,
    *,
    arity: int,
    flags: str = "",
    kind: Kind = "data",
    keys: tuple[int, int, int] = (0, 0, 0),
    access: str = "",
    key_notes: str = "",
    key_specs: tuple[KeySpec, ...] = (),
    keys_of: Callable[[Sequence[bytes]], list[bytes]] | None = None,
    group: str,
    since: str,
    summary: str,
    complexity: str = "O(1)",
    categories: str = "",
    group_category: bool = True,
    tips: str = "",
    spread: Spread | None = None,
    syntax: str = "",
    history: tuple[str, ...] = (),
    deprecated: str = "",
    doc_flags: str = "",
) -> Callable[[Fn], Fn]:
    """Declares the decorated function as the command `name`; `"CLIENT|LIST"` declares a subcommand of CLIENT.

    `flags`, `access`, `categories` and `tips` are words separated by spaces. `keys` is (first, last, step) as in
    COMMAND INFO and makes one `KeySpec` with `access`; give `key_specs` where the command has several. ACL categories
    follow from group and flags as in Redis; `categories` adds those that do not, and `group_category=False` leaves out
    that of the group. `syntax` declares the arguments as `respkv.commands.syntax` reads them. `history` tells what
    changed, and `deprecated` what replaces the command, each text after its version: `"6.2.0 Added ..."`. A container
    (CLIENT) must be declared before its subcommands. Raises ValueError for a name declared twice.
    """
    full_name = name.lower()
    words = frozenset(flags.split())
    deprecated_since, _, replaced_by = deprecated.partition(" ")
    if not key_specs and keys[0]:
        first, last, step = keys
        key_specs = (KeySpec(first, last if last < 0 else last - first, step, tuple(access.split()), key_notes),)

    def declare(fn: Fn) -> Fn:
        spec = Spec(
            name=full_name,
            arity=arity,
            flags=words,
            kind=kind,
            fn=fn,
            first=keys[0],
            last=keys[1],
            step=keys[2],
            key_specs=key_specs,
            group=group,
            since=since,
            summary=summary,
            complexity=complexity,
            categories=_categories(group if group_category else "", words, categories),
            tips=tuple(tips.split()),
            keys_of=keys_of,
            spread=spread,
            is_write="write" in words,
            is_readonly="readonly" in words,
            syntax=syntax,
            history=tuple((since, text) for since, _, text in (entry.partition(" ") for entry in history)),
            doc_flags=("deprecated", *doc_flags.split()) if deprecated else tuple(doc_flags.split()),
            deprecated_since=deprecated_since,
            replaced_by=replaced_by,
        )
        _register(spec)
        return fn

    return declare


def _categories(group: str, flags: frozenset[str], extra: str) -> frozenset[str]:
    """Explicit categories and those implied by flags (Redis: setImplicitACLCategories)."""
    found = set(extra.split())
    if group in _GROUP_CATEGORY:
        found.add(_GROUP_CATEGORY[group])
    for flag in ("write", "pubsub", "fast", "blocking"):
        if flag in flags:
            found.add(flag)
    if "readonly" in flags and "scripting" not in found:
        found.add("read")
    if "admin" in flags:
        found.update(("admin", "dangerous"))
    if "fast" not in found:
        found.add("slow")
    return frozenset(found)


def _register(spec: Spec) -> None:
    parent, _, child = spec.name.encode().partition(b"|")
    table, name = (COMMANDS[parent].subcommands, child) if child else (COMMANDS, parent)
    if name in table:
        raise ValueError(f"command {spec.name} is declared twice")
    table[name] = spec
    table[name.upper()] = spec


def all_specs() -> list[Spec]:
    """Every command once, by name; subcommands are inside their containers."""
    return [spec for name, spec in sorted(COMMANDS.items()) if name.islower()]


def find(name: bytes) -> Spec | None:
    """The command in any spelling, or None. Also takes `client|list`, as COMMAND INFO does."""
    spec = COMMANDS.get(name) or COMMANDS.get(name.lower())
    if spec is None and b"|" in name:
        parent, _, child = name.lower().partition(b"|")
        container = COMMANDS.get(parent)
        return container.subcommands.get(child) if container else None
    return spec


def resolve(args: Sequence[bytes]) -> Spec:
    """The command or subcommand that `args` names, its arity checked.

    Raises RespError for an unknown command or subcommand and for a wrong number of arguments.
    """
    name = args[0]
    spec = COMMANDS.get(name) or COMMANDS.get(name.lower())
    if spec is None:
        raise errors.unknown_command(args)
    if spec.subcommands and len(args) > 1:
        child = spec.subcommands.get(args[1]) or spec.subcommands.get(args[1].lower())
        if child is None:
            raise errors.unknown_subcommand(name, args[1])
        spec = child
    arity, count = spec.arity, len(args)
    if count != arity if arity > 0 else count < -arity:
        raise errors.arity(spec.name)
    return spec


def run_subcommand(db: Any, args: list[bytes], ctx: Any) -> Any:
    """The function of a container whose subcommands are data commands: runs the one that `args` names."""
    fn = resolve(args).fn
    assert fn is not None
    return fn(db, args, ctx)


def spec_keys(spec: Spec, args: Sequence[bytes]) -> Sequence[bytes]:
    """The keys among `args`, in order, with repetitions."""
    if spec.keys_of is not None:
        return spec.keys_of(args)
    first = spec.first
    if first == 0:
        return []
    last = spec.last
    if last == first:
        return args[first : first + 1]
    end = len(args) + last + 1 if last < 0 else last + 1
    return args[first : end : spec.step]
