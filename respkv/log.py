"""Logging: structlog events with bound values, rendered for people or as JSON.

Every event goes through the standard library's root logger, so that what libraries log comes out the same way, and the
level can be changed while the server runs (`set_level`). Colours only on a terminal. The hot path logs nothing.
"""

from __future__ import annotations

import logging
import sys
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any, cast

import structlog


def setup(level: str = "info", format: str = "console", file: Path | None = None) -> None:
    """Sends events of at least `level` (debug, info, warning, error) to `file`, else to standard error.

    `format` is `console` or `json`. The file is opened anew when something has renamed it (log rotation). May be called
    again. Raises OSError if the file cannot be opened.
    """
    handler: logging.Handler = WatchedFileHandler(file, encoding="utf-8") if file else logging.StreamHandler(sys.stderr)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    colours = file is None and sys.stderr.isatty()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(format, colours)],
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    set_level(level)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _renderers(format: str, colours: bool) -> list[structlog.typing.Processor]:
    if format == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    return [structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=structlog.dev.plain_traceback)]


def set_level(level: str) -> None:
    """Changes the least level that is logged, at once and for every logger."""
    logging.getLogger().setLevel(level.upper())


def get_logger(**values: Any) -> structlog.stdlib.BoundLogger:
    """A logger with `values` bound to every event: `get_logger(shard=2).info("leader_elected", term=7)`."""
    return cast("structlog.stdlib.BoundLogger", structlog.get_logger(**values))
