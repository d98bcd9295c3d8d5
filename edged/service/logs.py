"""Logs: structured, on standard error; for a person on a terminal, as JSON elsewhere."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog

from edged.results import printable


def configure(log_format: Literal["auto", "console", "json"] = "auto") -> None:
    """Sets up structlog, and sends what libraries log through it."""
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        if console
        else structlog.processors.JSONRenderer()
    )
    last = [_escape, renderer] if console else [structlog.processors.format_exc_info, renderer]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for library in ("uvicorn", "watchdog", "asyncio", "httpx"):
        logging.getLogger(library).setLevel(logging.ERROR)
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)  # what a client says wrong it logs with tracebacks


def _escape(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    # JSON escapes by itself; a terminal would act on what a file name contains.
    return {key: printable(value) if isinstance(value, str) else value for key, value in event.items()}
