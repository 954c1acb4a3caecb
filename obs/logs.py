"""Structured logs: `log.info("volume.published", volume=…, ms=…)`, JSON lines in pods, readable text on a terminal.

Event names are dotted and in the past tense. Never pass a secret as a value; types that hold one have a redacting repr.
"""

import logging
import os
import sys
from typing import cast

import structlog

Logger = structlog.typing.FilteringBoundLogger


def configure(level: str = "info") -> None:
    """Set up logging for this process; call once from a main function. Logs go to stderr."""
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    if sys.stderr.isatty() or os.environ.get("HEADRACE_LOG_FORMAT") == "text":
        processors.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()))
    else:
        processors.append(structlog.processors.JSONRenderer())
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def get(part: str) -> Logger:
    """A logger whose lines carry `part=<room>`."""
    return cast(Logger, structlog.get_logger(part=part))
