"""Keep libraries silent while they work for us."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def quiet(*prefixes: str) -> Iterator[None]:
    """Within, loggers named by a prefix report errors only, printed lines go to our debug log, warnings are dropped.

    Loggers that already exist are muted: import the noisy library first. Levels are restored on the way out.
    """
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in prefixes]
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    printed = io.StringIO()
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(printed):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if printed.getvalue():
            _log.debug("printed by %s: %s", ", ".join(prefixes), printed.getvalue())
