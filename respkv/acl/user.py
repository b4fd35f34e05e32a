"""One user: whether it may log in, with which passwords, and what it may do then.

A `User` in use is never changed: `changed` gives another one, so that a rule that is refused leaves nothing half done,
and connections can be asked about the old and the new one. Rules and texts are those of Redis 7.0 (`ACLSetUser`).
"""

from __future__ import annotations

import hmac
import string
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final

from respkv.acl.selector import COMMAND, SYNTAX, Denial, RuleError, Selector
from respkv.commands.table import Spec

DEFAULT: Final = b"default"

NOTHING_TO_REMOVE: Final = "The password you are trying to remove from the user does not exist"
BAD_HASH: Final = (
    "The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters"
)
_HEX: Final = frozenset((string.digits + "abcdef").encode())
_HASH_CHARACTERS: Final = 64


class UnmatchedParenthesis(ValueError):
    """A selector that is opened by `rule` and never closed."""

    def __init__(self, rule: bytes) -> None:
        super().__init__(rule)
        self.rule = rule


class RefusedRule(RuleError):
    """The rule that was refused, and why."""

    def __init__(self, rule: bytes, reason: str) -> None:
        super().__init__(reason)
        self.rule = rule


class User:
    """passwords   SHA-256 of each, in hexadecimal digits
    open        every password will do (`nopass`)
    sanitize    None until a rule says which; respkv always checks what RESTORE is given
    selectors   what is allowed; the first one is the user's own, the others stand in parentheses
    """

    __slots__ = ("enabled", "everything", "name", "open", "passwords", "sanitize", "selectors")

    def __init__(self, name: bytes, every_channel: bool = False) -> None:
        self.name = name
        self.sanitize: bool | None = None
        self.everything = False
        """Nothing that this user sends needs a look."""
        self._reset(every_channel)

    def _reset(self, every_channel: bool) -> None:
        self.enabled = False
        self.open = False
        self.passwords: list[bytes] = []
        self.selectors = [Selector(every_channel)]

    def changed(self, rules: Iterable[bytes], every_channel: bool = False) -> User:
        """This user after `rules`. `every_channel`: new selectors may use all channels (`acl-pubsub-default`).

        Raises RefusedRule, UnmatchedParenthesis.
        """
        other = self.copy()
        for rule in merged(rules):
            try:
                other.apply(rule, every_channel)
            except RuleError as error:
                raise RefusedRule(rule, error.reason) from None
        other.settle()
        return other

    def with_password(self, password: str) -> User:
        """This user with that one password alone, as CONFIG SET requirepass makes it; an empty one is none."""
        secret = b">" + password.encode("utf-8", "surrogateescape") if password else b"nopass"
        return self.changed([b"resetpass", secret])

    def copy(self) -> User:
        other = User(self.name)
        other.enabled, other.open, other.sanitize = self.enabled, self.open, self.sanitize
        other.passwords = list(self.passwords)
        other.selectors = [selector.copy() for selector in self.selectors]
        other.settle()
        return other

    def settle(self) -> None:
        """Works out what is asked for each command."""
        self.everything = any(s.every_command and s.every_key and s.every_channel for s in self.selectors)

    def apply(self, rule: bytes, every_channel: bool) -> None:
        """One rule, on a user that nobody uses yet. Raises RuleError, and then nothing has changed."""
        word, first = rule.lower(), rule[:1]
        if not rule:
            return
        if word in _FLAGS:
            attribute, value = _FLAGS[word]
            setattr(self, attribute, value)
            if attribute == "open":
                self.passwords.clear()
        elif first in (b">", b"#"):
            self._add_password(_hash(rule))
        elif first in (b"<", b"!"):
            try:
                self.passwords.remove(_hash(rule))
            except ValueError as error:
                raise error if isinstance(error, RuleError) else RuleError(NOTHING_TO_REMOVE) from None
        elif first == b"(" and rule.endswith(b")"):
            self.selectors.append(Selector.parse(rule[1:-1], every_channel))
        elif word == b"clearselectors":
            del self.selectors[1:]
        elif word == b"reset":
            self._reset(every_channel)
            self.sanitize = True
        else:
            self.selectors[0].apply(rule)

    def _add_password(self, hashed: bytes) -> None:
        if hashed not in self.passwords:
            self.passwords.append(hashed)
        self.open = False

    # -- questions

    def accepts(self, password: bytes) -> bool:
        """Whether one can log in with it. The time it takes tells nothing about passwords."""
        if not self.enabled:
            return False
        given = sha256(password).hexdigest().encode()
        found = [hmac.compare_digest(given, known) for known in self.passwords]
        return self.open or any(found)

    def check(self, spec: Spec, args: Sequence[bytes]) -> Denial | None:
        """Why this user may not run the command; None if it may."""
        told = Denial(COMMAND, 0)
        for selector in self.selectors:
            denial = selector.check(spec, args)
            if denial is None:
                return None
            told = max(told, denial)
        return told

    def allows_channel(self, channel: bytes, is_pattern: bool) -> bool:
        return any(selector.allows_channel(channel, is_pattern) for selector in self.selectors)

    # -- back to words

    @property
    def flags(self) -> list[bytes]:
        """In the order in which Redis tells them."""
        found = [b"on" if self.enabled else b"off"]
        if self.open:
            found.append(b"nopass")
        if self.sanitize is not None:
            found.append(b"sanitize-payload" if self.sanitize else b"skip-sanitize-payload")
        return found

    def describe(self) -> bytes:
        """The rules that make this user of a new one, as ACL LIST shows them."""
        own, *others = self.selectors
        words = [*self.flags, *(b"#" + hashed for hashed in self.passwords), own.describe()]
        return b" ".join([*words, *(b"(%b)" % selector.describe() for selector in others)])


_FLAGS: Final[dict[bytes, tuple[str, bool]]] = {
    b"on": ("enabled", True),
    b"off": ("enabled", False),
    b"nopass": ("open", True),
    b"resetpass": ("open", False),
    b"sanitize-payload": ("sanitize", True),
    b"skip-sanitize-payload": ("sanitize", False),
}


def default_user(password: str = "") -> User:
    """The user `default` as it is when nobody has changed it: may do everything. `requirepass` is its password."""
    return User(DEFAULT).changed([b"on", b"+@all", b"~*", b"&*"]).with_password(password)


def _hash(rule: bytes) -> bytes:
    """The hash in a rule about a password. Raises RuleError."""
    if rule[:1] in (b">", b"<"):
        return sha256(rule[1:]).hexdigest().encode()
    if len(rule) != 1 + _HASH_CHARACTERS or not _HEX.issuperset(rule[1:]):
        raise RuleError(BAD_HASH)
    return rule[1:]


def merged(rules: Iterable[bytes]) -> list[bytes]:
    """Rules with those selectors put together that were cut at their spaces. Raises UnmatchedParenthesis."""
    found: list[bytes] = []
    opened: list[bytes] = []
    for rule in rules:
        if rule.startswith(b"(") and not rule.endswith(b")"):
            opened = [rule]  # even within one that is open, which is forgotten, as in Redis
        elif opened:
            opened.append(rule)
        else:
            found.append(rule)
            continue
        if len(opened) > 1 and rule.endswith(b")"):
            found.append(b" ".join(opened))
            opened = []
    if opened:
        raise UnmatchedParenthesis(opened[0])
    return found


__all__ = ["DEFAULT", "SYNTAX", "RefusedRule", "UnmatchedParenthesis", "User", "default_user", "merged"]
