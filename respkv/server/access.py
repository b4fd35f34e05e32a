"""Who may do what on this node: the users, and what each connection is because of them.

Users come from the configuration (`requirepass`, `user`, `aclfile`) until somebody changes one with ACL; from then on
from the cluster's record of users (`respkv.server.roll`), which every node takes over as soon as it hears of it.
`default` is in that record only once it was changed by ACL: until then `requirepass` of each node says what it is
there.

A node that does not know yet whether there is a record (`known`) lets nobody in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from respkv import errors
from respkv.acl.denials import AUTH, Denials, Entry
from respkv.acl.selector import CHANNEL, COMMAND, KEY, Denial
from respkv.acl.user import DEFAULT, User, default_user
from respkv.acl.users import Users, UsersError
from respkv.commands.table import Spec
from respkv.config import Config
from respkv.config.live import Live
from respkv.keyspace.system import NONE, SystemRecord
from respkv.reply import RespError

if TYPE_CHECKING:
    from respkv.server.connection import Connection

log = structlog.get_logger()

TOPLEVEL: Final = b"toplevel"
MULTI: Final = b"multi"

Subscriptions = Iterable[tuple[bytes, bool]]  # channels, and patterns (True)


class Access:
    """The users of this node and the log of what they were refused.

    Args:
        config: of the running server; `acl-pubsub-default`, `acllog-max-len` and `requirepass` are looked at as they
        are. clients: the connections, by id.

    Raises UsersError for users in the configuration that cannot be.
    """

    def __init__(self, config: Live, clients: Mapping[int, Connection]) -> None:
        self.denials = Denials()
        self.known = True
        self.record: SystemRecord = NONE
        self.subscriptions_of: Callable[[Connection], Subscriptions] = lambda _connection: ()
        self._live = config
        self._clients = clients
        self._password = config.config.requirepass
        self._own_default = default_user(self._password)
        self.users = self._from_config(config.config)
        config.watch(self._configure)

    # -- where users come from

    @property
    def every_channel(self) -> bool:
        """Whether new users may use all channels until a rule says otherwise."""
        return self._live.config.acl_pubsub_default == "allchannels"

    def _from_config(self, config: Config) -> Users:
        if config.aclfile is not None:
            if config.user:
                raise UsersError("there may be users in the configuration or an ACL file, but not both")
            return self.read_file(config.aclfile)
        text = "".join(f"user {line}\n" for line in config.user).encode("utf-8", "surrogateescape")
        return Users.from_text(text, "line", self._own_default, every_channel=self.every_channel)

    def read_file(self, path: Path) -> Users:
        """The users in an ACL file. Raises UsersError."""
        try:
            text = path.read_bytes()
        except OSError as error:
            raise UsersError(f"Error loading ACLs, opening file '{path}': {error.strerror}") from None
        return Users.from_text(text, str(path), self._own_default, every_channel=self.every_channel)

    def _configure(self, config: Config) -> None:
        """CONFIG SET requirepass: the password of `default` on this node."""
        if config.requirepass == self._password:
            return
        self._password = config.requirepass
        default, own = self.users[DEFAULT], self._own_default
        self._own_default = default_user(config.requirepass)
        is_own = default is own
        self._use(self.users.with_user(self._own_default if is_own else default.with_password(config.requirepass)))

    # -- the record

    def take(self, record: SystemRecord) -> bool:
        """Takes over a record of all users if it is newer than what is known here; whether it was.

        Of two with the same version, as there are where one was lost, all nodes take the same. Raises UsersError for
        one that no node makes.
        """
        if record <= self.record:
            return False
        users = Users.from_text(record.content, "users", self._own_default, lenient=True)
        self.record = record
        log.info("users_changed", version=record.version, users=len(users))
        self._use(users)
        return True

    def record_of(self, users: Users) -> bytes:
        """What the record of `users` is to hold: all of them but a `default` that nobody has changed."""
        return users.except_for(self._own_default).to_text()

    def know(self) -> None:
        """Whatever record there is has come: from now on users are let in."""
        if not self.known:
            self.known = True
            self._use(self.users)

    def forget(self) -> None:
        """It has to be found out first whether there is a record."""
        self.known = False

    def _use(self, users: Users) -> None:
        """From now on `users` are who they are, also for connections that are open."""
        self.users = users
        for connection in list(self._clients.values()):
            session = connection.session
            user = users.get(session.user.name)
            if user is None:
                self._end(connection)
                continue
            if user is not session.user:
                old, session.user = session.user, user
                if self._must_stop_listening(connection, old, user):
                    self._end(connection)
            connection.permissions_changed()

    def _must_stop_listening(self, connection: Connection, old: User, new: User) -> bool:
        """Whether it is subscribed to what it may not be any more. As in Redis nothing ends as long as all rules about
        channels that there were are still there."""
        if any(selector.every_channel for selector in new.selectors):
            return False
        kept = {channel for selector in new.selectors for channel in selector.channels}
        had = {channel for selector in old.selectors for channel in selector.channels}
        if had <= kept and not any(selector.every_channel for selector in old.selectors):
            return False
        return not all(new.allows_channel(*subscription) for subscription in self.subscriptions_of(connection))

    def end_clients(self, names: Iterable[bytes]) -> None:
        """Closes the connections of these users."""
        wanted = frozenset(names)
        for connection in list(self._clients.values()):
            if connection.session.user.name in wanted:
                self._end(connection)

    @staticmethod
    def _end(connection: Connection) -> None:
        """What waits for its reply (who asked for the change may be among them) still gets it."""
        if connection.waiting:
            connection.close_after_replies()
        else:
            connection.abort()

    # -- connections

    def newcomer(self) -> User:
        """Whom a new connection belongs to."""
        return self.users[DEFAULT]

    @property
    def open(self) -> bool:
        """Whether one may do without logging in."""
        default = self.users[DEFAULT]
        return self.known and default.enabled and default.open

    @property
    def without_password(self) -> bool:
        """Whether anybody is `default`, which `protected-mode` keeps strangers from."""
        return self.users[DEFAULT].open

    def no_auth(self, *, hello: bool = False) -> RespError:
        """What a client is told that has to log in first."""
        if not self.known:
            return errors.users_unknown()
        return errors.hello_no_auth() if hello else errors.no_auth()

    def log_in(self, connection: Connection, name: bytes, password: bytes, command: bytes) -> None:
        """Raises RespError: WRONGPASS, or LOADING while users are not known."""
        if not self.known:
            raise errors.users_unknown()
        user = self.users.get(name)
        if user is None or not user.accepts(password):
            self._note(connection, Denial(AUTH, 0), TOPLEVEL, command.decode().lower(), command, name)
            raise errors.wrong_pass()
        connection.authenticated(user)

    def check(self, connection: Connection, spec: Spec, args: Sequence[bytes], context: bytes = TOPLEVEL) -> None:
        """Raises RespError (NOPERM) unless the connection's user may run this command, and writes it down.

        For a command that is run or, with `context` `MULTI`, queued. `args` are as many as `spec` takes.
        """
        user = connection.session.user
        denial = user.check(spec, args)
        if denial is not None:
            self._note(connection, denial, context, spec.name, _object(denial, spec, args), user.name)
            raise _refusal(denial, spec)

    def check_queued(self, connection: Connection, spec: Spec, args: Sequence[bytes]) -> None:
        """The same by EXEC for a command that might be run when it was queued."""
        user = connection.session.user
        denial = user.check(spec, args)
        if denial is not None:
            self._note(connection, denial, MULTI, spec.name, _object(denial, spec, args), user.name)
            raise errors.no_permission_any_more(_REASONS[denial.reason])

    def _note(
        self, connection: Connection, denial: Denial, context: bytes, command: str, object: bytes, user: bytes
    ) -> None:
        from respkv.server.commands.client import client_line  # which needs this module

        client = client_line(connection, command)
        entry = Entry(denial.reason, context, object, user, client, time.time())
        self.denials.add(entry, self._live.config.acllog_max_len)


_REASONS: Final = {
    COMMAND: "no permission to execute the command or subcommand",
    KEY: "no permission to touch the specified keys",
    CHANNEL: "no permission to access one of the channels used as arguments",
}


def _refusal(denial: Denial, spec: Spec) -> RespError:
    if denial.reason == COMMAND:
        return errors.no_permission(spec.name)
    return errors.no_permission_key() if denial.reason == KEY else errors.no_permission_channel()


def _object(denial: Denial, spec: Spec, args: Sequence[bytes]) -> bytes:
    return spec.name.encode() if denial.reason == COMMAND else args[denial.position]
