"""CONFIG REWRITE: writes what CONFIG SET has changed into the TOML file; comments and all else stay as they are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import tomlkit

from respkv.config.load import ConfigError
from respkv.config.redis import as_text
from respkv.config.tree import Config, options


def rewrite(config: Config, changed: set[str]) -> None:
    """Brings the file that `config` was read from up to date in the fields `changed`.

    The file is replaced as a whole or not at all. Raises ConfigError if there is none or it cannot be parsed any more,
    and OSError.
    """
    if config.file is None:
        raise ConfigError("config", "The server is running without a config file")
    path = config.file.resolve()
    try:
        document = tomlkit.parse(path.read_text(encoding="utf-8"))
    except (tomlkit.exceptions.ParseError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"not valid TOML: {error}") from None
    for name, option in options().items():
        if option.field in changed and "." not in name:
            document[name] = _toml(getattr(config, option.field))
    _replace(path, tomlkit.dumps(document).encode())


def _toml(value: Any) -> Any:
    return value if isinstance(value, bool | int | float) else as_text(value)


def _replace(path: Path, data: bytes) -> None:
    new = path.with_name(path.name + ".new")
    with new.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    new.chmod(path.stat().st_mode & 0o777)
    new.replace(path)
