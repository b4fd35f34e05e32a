"""What of a configuration cannot be, found before a node opens anything: where it takes the command table or a look at
files. Addresses and ports are left to those who listen.
"""

from __future__ import annotations

import os

import respkv.server.commands  # noqa: F401 - fills the command table
from respkv import tls
from respkv.acl.users import UsersError
from respkv.config import Config, ConfigError
from respkv.config.live import Live
from respkv.server.access import Access
from respkv.server.renaming import renamed


def check(config: Config) -> None:
    """Makes the node's directory, as it is to be there. Raises ConfigError."""
    renamed(config.rename_command)
    _check_users(config)
    tls.check(config)
    if config.unixsocket is not None and not config.unixsocket.parent.is_dir():
        raise ConfigError("unixsocket", f"{config.unixsocket}: no such directory")
    _check_directory(config)


def _check_users(config: Config) -> None:
    try:
        Access(Live(config), {})
    except UsersError as error:
        raise ConfigError("user" if config.aclfile is None else "aclfile", error.reason) from None


def _check_directory(config: Config) -> None:
    try:
        config.dir.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ConfigError("dir", f"{config.dir}: not a directory") from None
    except OSError as error:
        raise ConfigError("dir", f"{config.dir}: {error.strerror}") from None
    if not os.access(config.dir, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigError("dir", f"{config.dir}: may not be read and written")
