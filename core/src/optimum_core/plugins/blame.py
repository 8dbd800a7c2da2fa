"""Errors of a backend's hooks, each with the name of the backend and of the hook."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pluggy

from optimum_core.errors import OptimumError, PluginError, momentary, translated
from optimum_core.plugins.contract import implementations, wraps
from optimum_core.plugins.discovery import Record, show, tell


@contextmanager
def blamed(pm: pluggy.PluginManager, record: Record, hook: str) -> Iterator[None]:
    """Pass on errors of ours that a hook raises, and translate all others."""
    try:
        yield
    except OptimumError as error:
        if (fault := momentary(error)) is not error:
            raise fault from error
        raise
    except (Exception, SystemExit) as cause:
        raise foreign(pm, record, hook, cause) from cause


def foreign(pm: pluggy.PluginManager, record: Record, hook: str, cause: BaseException) -> OptimumError:
    """Return the error to raise where a hook raised another library's."""
    wrappers = {impl.plugin_name for impl in implementations(pm, hook) if wraps(impl)} - {record.name}
    through = f", called through wrappers of {', '.join(sorted(wrappers))}" if wrappers else ""
    remedy = f"report it to the authors of {record.distribution or record.name} with the error above"
    why = f"its hook {hook!r}{through} raised {tell(cause)}"
    return translated(cause, PluginError, record.label, why, remedy)


def wrong_result(record: Record, hook: str, result: object, expected: type) -> PluginError:
    """Return the error to raise where a hook returned a value of another type."""
    given = "nothing" if result is None else f"{show(result)} (a {type(result).__qualname__})"
    why = f"its hook {hook!r} returned {given} where {expected.__name__} is expected"
    return PluginError(record.label, why, f"report it to the authors of {record.distribution or record.name}")
