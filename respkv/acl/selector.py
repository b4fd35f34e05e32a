"""One set of rules: which commands, on which keys, on which channels. A command needs one selector that allows all of
it.

Rules, their order and their errors are those of Redis 7.0 (`ACLSetSelector`); `describe` writes them back in the words
that Redis finds (`ACLDescribeSelectorCommandRules`): categories first, as long as they explain more than they get
wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Final, NamedTuple

from respkv.acl.catalog import catalog
from respkv.commands.access import Access, channels_of, keys_and_access
from respkv.commands.glob import Matcher, matcher, matches
from respkv.commands.table import CATEGORIES, Spec
from respkv.resp.inline import UnbalancedQuotesError, split_words

READ, WRITE = 1, 2
_MARKS: Final = {READ: b"%R~", WRITE: b"%W~", READ | WRITE: b"~"}
_NEEDS: Final = {"access": READ, "insert": WRITE, "delete": WRITE, "update": WRITE}
_SPACE: Final = frozenset(b" \t\n\v\f\r\0")

UNKNOWN: Final = "Unknown command or category name in ACL"
SYNTAX: Final = "Syntax error"
KEYS_AFTER_ALL: Final = (
    "Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not have any effect. "
    "Try 'resetkeys' to start with an empty list of patterns"
)
CHANNELS_AFTER_ALL: Final = (
    "Adding a pattern after the * pattern (or the 'allchannels' flag) is not valid and does not have any effect. "
    "Try 'resetchannels' to start with an empty list of channels"
)
SUBCOMMAND_ARGUMENT: Final = "Allowing first-arg of a subcommand is not supported"


@cache
def _needs(access: Access) -> int:
    """What a user must be allowed who does that with a key."""
    needs = 0
    for flag in access:
        needs |= _NEEDS.get(flag, 0)
    return needs


class RuleError(ValueError):
    """A rule that cannot be. `reason` is one of the texts above, in Redis's words."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Denial(NamedTuple):
    """Why a command may not be run. `reason` orders what to tell when several selectors refuse: the larger one.

    `position` is that of the key or channel among the arguments.
    """

    reason: int
    position: int


COMMAND, KEY, CHANNEL = 1, 2, 4


def has_space(text: bytes) -> bool:
    """Whether `text` holds white space or a NUL, which names and patterns may not."""
    return not _SPACE.isdisjoint(text)


class Selector:
    """commands     mask of what may be run; `every_command` says that it needs no look
    first_words  for a command that is not allowed as such: the first arguments with which it is
    keys         for each pattern, what may be done with keys that match (`READ | WRITE`)
    channels     patterns of channels
    """

    __slots__ = (
        "_allowed",
        "_matchers",
        "channels",
        "commands",
        "every_channel",
        "every_command",
        "every_key",
        "first_words",
        "keys",
    )

    def __init__(self, every_channel: bool = False) -> None:
        self.commands = 0
        self.every_command = False
        self.every_key = False
        self.every_channel = every_channel
        self.first_words: dict[str, list[str]] = {}
        self.keys: dict[bytes, int] = {}
        self.channels: list[bytes] = []
        self._forget()

    def _forget(self) -> None:
        """What was worked out of the rules, when it was asked for."""
        self._allowed: dict[Spec, bool] = {}
        self._matchers: list[tuple[int, Matcher]] | None = None

    def copy(self) -> Selector:
        other = Selector(self.every_channel)
        other.commands, other.every_command, other.every_key = self.commands, self.every_command, self.every_key
        other.first_words = {name: list(words) for name, words in self.first_words.items()}
        other.keys, other.channels = dict(self.keys), list(self.channels)
        return other

    @classmethod
    def parse(cls, text: bytes, every_channel: bool) -> Selector:
        """A selector from rules separated by spaces, as they stand between parentheses. Raises RuleError."""
        selector = cls(every_channel)
        try:
            rules = split_words(text)
        except UnbalancedQuotesError:  # Redis finds no rules then
            rules = []
        for rule in rules:
            selector.apply(rule)
        return selector

    # -- rules

    def apply(self, rule: bytes) -> None:
        """Changes the selector as `rule` says. Raises RuleError, and then nothing has changed."""
        word = rule.lower()
        self._forget()
        if word in _WHOLE:
            _WHOLE[word](self)
        elif rule[:1] in (b"~", b"%"):
            self._add_keys(rule)
        elif rule[:1] == b"&":
            self._add_channels(rule[1:])
        elif word[:2] in (b"+@", b"-@"):
            self._change_category(word[2:].decode(errors="replace"), word[:1] == b"+")
        elif word[:1] == b"-":
            self._change(self._known(word[1:].decode(errors="replace")), allow=False)
        elif word[:1] == b"+":
            self._allow(rule[1:].decode("utf-8", "surrogateescape"))
        else:
            raise RuleError(SYNTAX)

    def all_keys(self) -> None:
        self.every_key = True
        self.keys.clear()

    def reset_keys(self) -> None:
        self.every_key = False
        self.keys.clear()

    def all_channels(self) -> None:
        self.every_channel = True
        self.channels.clear()

    def reset_channels(self) -> None:
        self.every_channel = False
        self.channels.clear()

    def all_commands(self) -> None:
        self.commands = catalog().every
        self.every_command = True
        self.first_words.clear()

    def no_commands(self) -> None:
        self.commands = 0
        self.every_command = False
        self.first_words.clear()

    def _add_keys(self, rule: bytes) -> None:
        if self.every_key:
            raise RuleError(KEYS_AFTER_ALL)
        may, pattern = READ | WRITE, rule[1:]
        if rule[:1] == b"%":
            letters, _, pattern = rule[1:].partition(b"~")
            may = 0
            for letter in letters.upper():
                bit = {ord("R"): READ, ord("W"): WRITE}.get(letter, 0)
                if not bit or may & bit:
                    raise RuleError(SYNTAX)
                may |= bit
            if not may:
                raise RuleError(SYNTAX)
        if has_space(pattern):
            raise RuleError(SYNTAX)
        self.keys[pattern] = self.keys.get(pattern, 0) | may

    def _add_channels(self, pattern: bytes) -> None:
        if self.every_channel:
            raise RuleError(CHANNELS_AFTER_ALL)
        if has_space(pattern):
            raise RuleError(SYNTAX)
        if pattern not in self.channels:
            self.channels.append(pattern)

    def _known(self, name: str) -> str:
        if name not in catalog().bits:
            raise RuleError(UNKNOWN)
        return name

    def _change(self, name: str, *, allow: bool) -> None:
        """Allows or refuses a command with all its subcommands."""
        self._set(catalog().mask(name), allow)
        self.first_words.pop(name, None)

    def _set(self, mask: int, allow: bool) -> None:
        if allow:
            self.commands |= mask
        else:
            self.commands &= ~mask
            self.every_command = False

    def _allow(self, name: str) -> None:
        """`command`, `container|subcommand`, or `command|argument` for a command without subcommands."""
        command, bar, argument = name.rpartition("|")
        if not bar:
            self._change(self._known(name.lower()), allow=True)
            return
        command = self._known(command.lower())
        if "|" in command:
            raise RuleError(SUBCOMMAND_ARGUMENT)
        if not argument:
            raise RuleError(SYNTAX)
        if catalog().is_container(command):
            self._change(self._known(name.lower()), allow=True)
            return
        words = self.first_words.setdefault(command, [])
        if argument.lower() not in map(str.lower, words):
            words.append(argument)

    def _change_category(self, category: str, allow: bool) -> None:
        if category not in CATEGORIES:
            raise RuleError(UNKNOWN)
        reach = catalog().reach[category]
        self._set(reach, allow)
        for name in [name for name in self.first_words if reach >> catalog().bits[name] & 1]:
            del self.first_words[name]

    # -- back to words

    def describe(self) -> bytes:
        """The rules that make this selector of an empty one."""
        parts = [self.describe_keys()] if self.every_key or self.keys else []
        if self.every_channel:
            parts.append(b"&*")
        else:
            parts += [b"resetchannels", *(b"&" + channel for channel in self.channels)]
        return b" ".join([*parts, self.describe_commands()])

    def describe_keys(self) -> bytes:
        if self.every_key:
            return b"~*"
        return b" ".join(_MARKS[may] + pattern for pattern, may in self.keys.items())

    def describe_channels(self) -> bytes:
        return b"&*" if self.every_channel else b" ".join(b"&" + channel for channel in self.channels)

    def describe_commands(self) -> bytes:
        known = catalog()
        add = not self.commands & known.future
        rules = ["-@all" if add else "+@all"]
        reached, left = (0, self.commands) if add else (known.every, self.commands)
        for category in self._fitting_categories(left, add):
            rules.append(("+@" if add else "-@") + category)
            reached = reached | known.reach[category] if add else reached & ~known.reach[category]
        for name, bit in known.bits.items():
            allowed = self.commands >> bit & 1
            if allowed != reached >> bit & 1:
                rules.append(("+" if allowed else "-") + name)
                reached = reached | known.mask(name) if allowed else reached & ~known.mask(name)
            if not allowed:
                rules += [f"+{name}|{word}" for word in self.first_words.get(name, ())]
        return " ".join(rules).encode("utf-8", "surrogateescape")

    @staticmethod
    def _fitting_categories(left: int, add: bool) -> list[str]:
        """Categories that say most of what the mask `left` says, the best fit first, each about what then is left."""
        known, chosen = catalog(), list[str]()
        while True:
            best, fewest, most = "", 1 << 30, 0
            for category in CATEGORIES:
                members = known.members[category] & known.weighed
                on = (left & members).bit_count()
                off = members.bit_count() - on
                same, different = (on, off) if add else (off, on)
                better = different < fewest or (different == fewest and same > most)
                if category not in chosen and same > different and better:
                    best, fewest, most = category, different, same
            if not best:
                return chosen
            chosen.append(best)
            left = left & ~known.reach[best] if add else left | known.reach[best]

    # -- questions

    def check(self, spec: Spec, args: Sequence[bytes]) -> Denial | None:
        """Why this selector does not allow the command, or None if it does. Arguments are those that `spec` takes."""
        if not (self.every_command or "no_auth" in spec.flags or self._allows(spec, args)):
            return Denial(COMMAND, 0)
        if not self.every_key:
            for position, access in keys_and_access(spec, args):
                if not self.allows_key(args[position], access):
                    return Denial(KEY, position)
        if not self.every_channel:
            for position, is_pattern in channels_of(spec, args):
                if not self.allows_channel(args[position], is_pattern):
                    return Denial(CHANNEL, position)
        return None

    def _allows(self, spec: Spec, args: Sequence[bytes]) -> bool:
        allowed = self._allowed.get(spec)
        if allowed is None:
            allowed = self._allowed[spec] = bool(self.commands >> catalog().bits[spec.name] & 1)
        if allowed:
            return True
        words = self.first_words.get(spec.name)
        if words is None or len(args) < 2:
            return False
        return args[1].decode("utf-8", "surrogateescape").lower() in map(str.lower, words)

    def allows_key(self, key: bytes, access: Access) -> bool:
        """Whether what `access` (flags of a key spec) says may be done with `key`."""
        if self.every_key:
            return True
        if self._matchers is None:
            self._matchers = [(may, matcher(pattern)) for pattern, may in self.keys.items()]
        needs = _needs(access)
        for may, matches_pattern in self._matchers:  # noqa: SIM110 - for every key, and `any` costs three times as much
            if may & needs == needs and matches_pattern(key):
                return True
        return False

    def allows_channel(self, channel: bytes, is_pattern: bool) -> bool:
        """A pattern to subscribe to must be one of those allowed, letter by letter; a channel must match one."""
        if self.every_channel:
            return True
        if is_pattern:
            return channel in self.channels
        return any(matches(pattern, channel) for pattern in self.channels)


_WHOLE: Final = {
    b"allkeys": Selector.all_keys,
    b"~*": Selector.all_keys,
    b"resetkeys": Selector.reset_keys,
    b"allchannels": Selector.all_channels,
    b"&*": Selector.all_channels,
    b"resetchannels": Selector.reset_channels,
    b"allcommands": Selector.all_commands,
    b"+@all": Selector.all_commands,
    b"nocommands": Selector.no_commands,
    b"-@all": Selector.no_commands,
}
