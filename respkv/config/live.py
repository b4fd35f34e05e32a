"""The configuration of a running server: what CONFIG GET shows and CONFIG SET may change."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from respkv.config.limits import OutputLimits, output_limits
from respkv.config.load import ConfigError
from respkv.config.redis import as_text, without_effect
from respkv.config.tree import Config, options
from respkv.config.values import Parser, choice, lines

# Settings of Redis that clients ask for and that have one possible answer here.
_FIXED: Final = {
    "cluster-enabled": "no", "daemonize": "no", "databases": "1", "io-threads": "1", "rdbchecksum": "yes",
    "replicaof": "", "slaveof": "", "supervised": "no",
}  # fmt: skip

# Redis's name and words for `log-level`.
_LOG_LEVELS: Final = {"debug": "debug", "verbose": "info", "notice": "info", "warning": "warning"}
_LOGLEVELS: Final = {"debug": "debug", "info": "notice", "warning": "warning", "error": "warning"}


@dataclass(frozen=True)
class Parameter:
    """One line of CONFIG GET. `live`: CONFIG SET may change it; `parse` (text to value) raises ValueError."""

    value: str
    live: bool
    field: str | None  # of Config; None for what has no effect
    parse: Parser | None


def _log_level(value: object) -> str:
    return _LOG_LEVELS[choice(*_LOG_LEVELS)(value)]


def parameters(config: Config, remembered: Mapping[str, str] | None = None) -> dict[str, Parameter]:
    """Every parameter that CONFIG GET knows, by name; the `[cluster]` table is not among them.

    `remembered` are the values that were set of those without effect.
    """
    found = {name: Parameter(value, live=False, field=None, parse=None) for name, value in _FIXED.items()}
    for name, (default, parse) in without_effect().items():
        found[name] = Parameter((remembered or {}).get(name, default), live=True, field=None, parse=parse)
    found["loglevel"] = Parameter(_LOGLEVELS[config.log_level], live=True, field="log_level", parse=_log_level)
    for name, option in options().items():
        if "." in name:
            continue
        current = getattr(config, option.field)
        if option.parse is not lines:  # such lists have no place on one line, as in Redis
            # A text may name some of several values, for a value that is to replace them.
            parser = output_limits(current) if isinstance(current, OutputLimits) else option.parse
            found[name] = Parameter(as_text(current), option.live, option.field, parser)
    return found


class Live:
    """Holds the current `config`. Who keeps a copy of a value that may change registers with `watch`."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.changed: set[str] = set()  # fields of `Config` that were set since the start
        self._remembered: dict[str, str] = {}
        self._watchers: list[Callable[[Config], None]] = []
        self._guards: list[Callable[[Config], None]] = []

    def watch(self, watcher: Callable[[Config], None]) -> None:
        """Calls `watcher` with the configuration now and after each change."""
        self._watchers.append(watcher)
        watcher(self.config)

    def parameters(self) -> dict[str, Parameter]:
        return parameters(self.config, self._remembered)
    def guard(self, check: Callable[[Config], None]) -> None:
        """Has `check` look at each configuration to be; it raises ConfigError to refuse it."""
        self._guards.append(check)

    def set(self, pairs: Mapping[str, str]) -> None:
        """Changes all of `pairs` (name to text) or nothing.

        Raises KeyError(name) for a name nobody knows and ConfigError for one that is fixed or a value that is refused.
        """
        known = self.parameters()
        changes: dict[str, Any] = {}
        remembered: dict[str, str] = {}
        for name, text in pairs.items():
            parameter = known[name]
            if text == parameter.value:
                continue  # even what is fixed may be set to what it is
            if not parameter.live or parameter.parse is None:
                raise ConfigError(name, "can't set immutable config")
            try:
                value = parameter.parse(text)
            except ValueError as error:
                raise ConfigError(name, str(error)) from None
            if parameter.field is None:
                remembered[name] = as_text(value)
            else:
                changes[parameter.field] = value
        config = dataclasses.replace(self.config, **changes)
        for check in self._guards:
            check(config)
        self.config = config
        self.changed |= changes.keys()
        self._remembered |= remembered
        for watcher in self._watchers:
            watcher(self.config)
