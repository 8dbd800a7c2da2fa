"""Silencing of libraries while they work for us."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from optimum_core.backend import silence


@contextlib.contextmanager
def quiet(*prefixes: str) -> Iterator[None]:
    """Make loggers named by a prefix report errors only, and drop prints and warnings, within the block.

    Loggers that already exist are muted: import the noisy library first. Levels are restored on the way out.
    """
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in prefixes]
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with silence():
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
