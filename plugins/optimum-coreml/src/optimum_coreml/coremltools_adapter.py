"""Adapter to coremltools: the one module that imports it, keeps it silent and wraps the calls that others need."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from optimum_core.backend import silence
from optimum_coreml.conversion_speed import faster_conversion

#: coremltools keeps its operators, passes and opset in globals of the module: one conversion at a time.
CONVERSION = threading.RLock()

_log = logging.getLogger(__name__)


class _Kept(logging.Handler):
    """A log handler that forwards coremltools' records to our own log."""

    def emit(self, record: logging.LogRecord) -> None:
        _log.debug("coremltools: %s", record.getMessage())


@cache
def coremltools() -> Any:
    """Return the package, imported without its warnings about untested versions."""
    logger = logging.getLogger("coremltools")
    with _diverted(logger), silence():
        import coremltools as ct
    return ct


@contextlib.contextmanager
def quiet() -> Iterator[Any]:
    """Yield the package `coremltools`, which prints nothing and warns of nothing within the block; its remarks go to
    our log. Conversions are faster within the block: see `faster_conversion`.
    """
    ct = coremltools()
    logger = logging.getLogger("coremltools")
    with CONVERSION, _diverted(logger), silence(), faster_conversion():
        yield ct


@contextlib.contextmanager
def _diverted(logger: logging.Logger) -> Iterator[None]:
    handlers, propagate = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [_Kept()], False
    try:
        yield
    finally:
        # The package adds a log handler of its own when it is first imported.
        added = [item for item in logger.handlers if not isinstance(item, _Kept)]
        logger.handlers, logger.propagate = [*handlers, *added], propagate


def open_package(ct: Any, package: Path) -> Any:
    """Return an `MLModel` that is read and not loaded into Core ML."""
    return ct.models.MLModel(str(package), skip_model_load=True)


def program_of(model: Any) -> Any:
    """Return the program of an `MLModel` as a coremltools program, for inspection."""
    from coremltools.converters.mil.frontend.milproto.load import load
    from coremltools.models.utils import _convert_model_spec_to_pymil_prog

    return _convert_model_spec_to_pymil_prog(model, model.get_spec().specificationVersion, load)


def change(ct: Any, model: Any, graph_pass: Any) -> Any:
    """Return the `MLModel` after one of our graph passes, for the target that it has."""
    from coremltools.models.utils import _apply_graph_pass

    version = model.get_spec().specificationVersion
    return _apply_graph_pass(model, graph_pass, spec_version=version, skip_model_load=True)
