"""All users of a server: an immutable set, as text in the form of Redis's ACL files and back.

One line for each user, `user <name> <rules>`; blank lines are allowed, nothing else is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from respkv import errors
from respkv.acl.selector import UNKNOWN, RuleError, has_space
from respkv.acl.user import DEFAULT, RefusedRule, UnmatchedParenthesis, User, merged

_NOTHING_CHANGED = "WARNING: ACL errors detected, no change to the previously active ACL rules was performed"


class UsersError(ValueError):
    """Lines that do not describe users; str() tells what is wrong with which, on one line, in Redis's words. `reason`
    is that without what Redis says of the users that there were."""

    def __init__(self, reason: str, remark: str = "") -> None:
        super().__init__(f"{reason} {remark}" if remark else reason)
        self.reason = reason


class Users(Mapping[bytes, User]):
    """Users by name, in the order of their names. One is called `default` wherever users may log in."""

    def __init__(self, users: Mapping[bytes, User]) -> None:
        self._users = dict(sorted(users.items()))

    def __getitem__(self, name: bytes) -> User:
        return self._users[name]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._users)

    def __len__(self) -> int:
        return len(self._users)

    def with_rules(self, name: bytes, rules: Sequence[bytes], every_channel: bool) -> Users:
        """These users after ACL SETUSER. Raises RespError."""
        if has_space(name):
            raise errors.generic("Usernames can't contain spaces or null characters")
        user = self.get(name) or User(name, every_channel)
        try:
            return self.with_user(user.changed(rules, every_channel))
        except UnmatchedParenthesis as error:
            shown = errors.quoted(error.rule, len(error.rule))
            raise errors.generic(f"Unmatched parenthesis in acl selector starting at '{shown}'.") from None
        except RefusedRule as error:
            raise errors.acl_modifier(error.rule, error.reason) from None

    def with_user(self, user: User) -> Users:
        return Users({**self._users, user.name: user})

    def without(self, names: Sequence[bytes]) -> Users:
        """These users after ACL DELUSER. Raises RespError."""
        if DEFAULT in names:
            raise errors.generic("The 'default' user cannot be removed")
        return Users({name: user for name, user in self._users.items() if name not in names})

    def lines(self) -> list[bytes]:
        """As ACL LIST shows them."""
        return [b"user %b %b" % (name, user.describe()) for name, user in self.items()]

    def except_for(self, user: User) -> Users:
        """Without this very object."""
        return Users({name: each for name, each in self._users.items() if each is not user})

    def to_text(self) -> bytes:
        return b"".join(line + b"\n" for line in self.lines())

    @classmethod
    def from_text(
        cls, text: bytes, source: str, default: User, *, every_channel: bool = False, lenient: bool = False
    ) -> Users:
        """The inverse of `to_text`; `source` is the text's name for errors. Raises UsersError.

        `default` is the user of this name if the text has none. With `lenient`, rules about commands that are not known
        here are left out: there is nothing here that they could allow or forbid.
        """
        users: dict[bytes, User] = {}
        problems: list[str] = []
        for number, line in enumerate(text.split(b"\n"), 1):
            line = line.strip(b" \t\r\n")
            if line:
                _read_line(users, problems, line.split(b" "), f"{source}:{number}", number, every_channel)
        if lenient:
            problems = [problem for problem in problems if UNKNOWN not in problem]
        if problems:
            raise UsersError(" ".join(problems), _NOTHING_CHANGED)
        for user in users.values():
            user.settle()
        return cls({DEFAULT: default, **users})


def _read_line(
    users: dict[bytes, User], problems: list[str], words: list[bytes], place: str, number: int, every_channel: bool
) -> None:
    """Adds the user of one line to `users`, or what is wrong with it to `problems`."""
    if words[0] != b"user" or len(words) < 2:
        problems.append(f"{place} should start with user keyword followed by the username.")
        return
    name, rules = words[1], words[2:]
    if has_space(name):
        problems.append(f"'{place}: username '{errors.quoted(name)}' contains invalid characters.")
        return
    if name in users:
        problems.append(f"WARNING: Duplicate user '{errors.quoted(name)}' found on line {number}.")
        return
    user = users[name] = User(name, every_channel)
    try:
        rules = merged(rules)
    except UnmatchedParenthesis:
        problems.append(f"{place}: Unmatched parenthesis in selector definition.")
        return
    told = False
    for rule in rules:
        try:
            user.apply(rule.strip(b"\t\r\n"), every_channel)
        except RuleError as error:
            if error.reason == UNKNOWN:  # holds no secret, so it can be shown
                shown = errors.quoted(rule, len(rule))
                problems.append(f"{place}: Error in applying operation '{shown}': {error.reason}.")
            elif not told:
                problems.append(f"{place}: {error.reason}.")
                told = True
