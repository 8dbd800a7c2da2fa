"""Silencing of NNCF, suppression of its network reports, and the logging of a process as it was before a conversion."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

from optimum_core.backend import silence

_log = logging.getLogger(__name__)


class _Remarks(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextlib.contextmanager
def quiet_nncf() -> Iterator[tuple[Any, list[str]]]:
    """Yield the package `nncf`, and the list of its log messages within the block. It prints nothing, warns of nothing
    and reports no use of it; everything is restored afterwards.
    """
    nncf = _imported()
    from nncf.common.logging import nncf_logger
    from nncf.telemetry import decorator

    remarks = _Remarks()
    handlers, level, telemetry = nncf_logger.handlers, nncf_logger.level, decorator.telemetry
    try:
        nncf_logger.handlers = [remarks]
        nncf_logger.setLevel(logging.INFO)
        decorator.telemetry = _NoTelemetry()
        with silence():
            yield nncf, remarks.lines
    finally:
        nncf_logger.handlers, decorator.telemetry = handlers, telemetry
        nncf_logger.setLevel(level)
        for line in remarks.lines:
            _log.debug("nncf: %s", line)


@contextlib.contextmanager
def kept_logging() -> Iterator[None]:
    """Restore level, filters and handlers of the root logger after the block: a conversion by OpenVINO that fails
    leaves it at ERROR, and no warning of the program would be seen any more."""
    root = logging.getLogger()
    level, filters, handlers = root.level, root.filters[:], root.handlers[:]
    try:
        yield
    finally:
        root.setLevel(level)
        root.filters[:], root.handlers[:] = filters, handlers


class _NoTelemetry:
    def start_session(self, *arguments: Any, **options: Any) -> None: ...

    def send_event(self, *arguments: Any, **options: Any) -> None: ...

    def end_session(self, *arguments: Any, **options: Any) -> None: ...


def _imported() -> Any:
    """Import nncf and undo its change of the class of all future loggers."""
    before = logging.getLoggerClass()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import nncf
    finally:
        logging.setLoggerClass(before)
    return nncf
