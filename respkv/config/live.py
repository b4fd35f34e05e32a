"""The configuration of a running server: what CONFIG GET shows and CONFIG SET may change."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from respkv.config.limits import OutputLimits, output_limits
from respkv.config.load import ConfigError
from respkv.config.redis import ALIASES, FIXED, IMMUTABLE, WITHOUT_EFFECT, as_text
from respkv.config.tree import Config, options
from respkv.config.values import Parser, choice, lines

# Redis's name and words for `log-level`.
_LOG_LEVELS: Final = {"debug": "debug", "verbose": "info", "notice": "info", "warning": "warning"}
_LOGLEVELS: Final = {"debug": "debug", "info": "notice", "warning": "warning", "error": "warning"}


@dataclass(frozen=True)
class Parameter:
    """One line of CONFIG GET. `live`: CONFIG SET may change it; `parse` (text to value) raises ValueError."""

    value: str
    live: bool
    field: str | None = None  # of Config; None for what has no effect
    parse: Parser | None = None
    immutable: bool = False  # as in Redis

    def takes(self, text: str) -> bool:
        """Whether CONFIG SET may set it to `text`: what is merely fixed here may be set to what it is."""
        return self.live or (text == self.value and not self.immutable)


def _log_level(value: object) -> str:
    return _LOG_LEVELS[choice(*_LOG_LEVELS)(value)]


def parameters(config: Config, remembered: Mapping[str, str] | None = None) -> dict[str, Parameter]:
    """Every parameter that CONFIG GET knows, by name; the `[cluster]` table is not among them.

    `remembered` are the values that were set of those without effect.
    """
    found = {name: Parameter(value, live=False, immutable=name in IMMUTABLE) for name, value in FIXED.items()}
    for name, (default, parse) in WITHOUT_EFFECT.items():
        found[name] = Parameter((remembered or {}).get(name, default), live=True, parse=parse)
    for alias, name in ALIASES.items():
        found[alias] = found[name]
    found["logfile"] = Parameter(as_text(config.log_file), live=False, immutable=True)
    found["loglevel"] = Parameter(_LOGLEVELS[config.log_level], live=True, field="log_level", parse=_log_level)
    for name, option in options().items():
        if "." in name:
            continue
        current = getattr(config, option.field)
        if option.parse is not lines:  # such lists have no place on one line, as in Redis
            # A text may name some of several values, for a value that is to replace them.
            parser = output_limits(current) if isinstance(current, OutputLimits) else option.parse
            found[name] = Parameter(as_text(current), option.live, option.field, parser, name in IMMUTABLE)
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
            if not parameter.takes(text):
                raise ConfigError(name, "can't set immutable config")
            if not parameter.live or parameter.parse is None:
                continue  # it is what it is to be
            try:
                value = parameter.parse(text)
            except ValueError as error:
                raise ConfigError(name, str(error)) from None
            if parameter.field is None:
                remembered[ALIASES.get(name, name)] = as_text(value)
            else:
                changes[parameter.field] = value
        config = dataclasses.replace(self.config, **changes)
        for check in self._guards:
            check(config)
        self.changed |= {field for field in changes if getattr(config, field) != getattr(self.config, field)}
        self.config = config
        self._remembered |= remembered
        for watcher in self._watchers:
            watcher(self.config)
