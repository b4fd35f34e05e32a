"""The configuration of a running server: what CONFIG GET shows and CONFIG SET may change."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from respkv.config.limits import OutputLimits, output_limits
from respkv.config.load import ConfigError
from respkv.config.tree import Config, options
from respkv.config.values import Parser

# Settings of Redis that clients ask for and that have one possible answer here.
_FIXED: Final = {"appendonly": "yes", "databases": "1", "maxmemory": "0", "maxmemory-policy": "noeviction", "save": ""}


@dataclass(frozen=True)
class Parameter:
    """One line of CONFIG GET. `live`: CONFIG SET may change it; `parse` (text to value) raises ValueError."""

    value: str
    live: bool
    field: str | None  # of Config; None for what cannot be changed at all
    parse: Parser | None


def parameters(config: Config) -> dict[str, Parameter]:
    """Every parameter that CONFIG GET knows, by name; the `[cluster]` table is not among them."""
    found = {name: Parameter(value, live=False, field=None, parse=None) for name, value in _FIXED.items()}
    for name, option in options().items():
        if "." not in name and not isinstance(option.default, tuple):  # lists have no place on one line, as in Redis
            value = _as_text(getattr(config, option.field))
            found[name] = Parameter(value, option.live, option.field, option.parse)
    return found


def _as_text(value: str | float | Path | None) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


class Live:
    """Holds the current `config`. Who keeps a copy of a value that may change registers with `watch`."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._watchers: list[Callable[[Config], None]] = []
        self._guards: list[Callable[[Config], None]] = []

    def watch(self, watcher: Callable[[Config], None]) -> None:
        """Calls `watcher` with the configuration now and after each change."""
        self._watchers.append(watcher)
        watcher(self.config)

    def guard(self, check: Callable[[Config], None]) -> None:
        """Has `check` look at each configuration to be; it raises ConfigError to refuse it."""
        self._guards.append(check)

    def set(self, pairs: Mapping[str, str]) -> None:
        """Changes all of `pairs` (name to text) or nothing.

        Raises KeyError(name) for a name nobody knows and ConfigError for one that is fixed or a value that is refused.
        """
        known = parameters(self.config)
        changes: dict[str, Any] = {}
        for name, value in pairs.items():
            parameter = known[name]
            if not parameter.live or parameter.parse is None or parameter.field is None:
                raise ConfigError(name, "can't set immutable config")
            try:
                changes[parameter.field] = self._parser(parameter.parse, parameter.field)(value)
            except ValueError as error:
                raise ConfigError(name, str(error)) from None
        config = dataclasses.replace(self.config, **changes)
        for check in self._guards:
            check(config)
        self.config = config
        for watcher in self._watchers:
            watcher(self.config)

    def _parser(self, parse: Parser, field: str) -> Parser:
        """`parse`, or what takes a text that names some of several values for the value that is to replace them."""
        current = getattr(self.config, field)
        return output_limits(current) if isinstance(current, OutputLimits) else parse
