"""Errors of a backend's hooks, each with the name of the backend and of the hook."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from traceback import walk_tb

import pluggy

from optimum_core.errors import OptimumError, PluginError, momentary, translated
from optimum_core.plugins.compatibility import too_new
from optimum_core.plugins.contract import implementations, wraps
from optimum_core.plugins.discovery import Record, show, tell

Find = Callable[[str], Record | None]


@contextmanager
def blamed(pm: pluggy.PluginManager, record: Record, hook: str, find: Find) -> Iterator[None]:
    """Pass on errors of ours that a hook raises, and translate all others."""
    try:
        yield
    except OptimumError as error:
        if (fault := momentary(error)) is not error:
            raise fault from error
        raise
    except (Exception, SystemExit) as cause:
        raise foreign(pm, record, hook, cause, find) from cause


def foreign(pm: pluggy.PluginManager, record: Record, hook: str, cause: BaseException, find: Find) -> OptimumError:
    """Return the error to raise where a hook, or another plugin's wrapper of it, raised another library's.

    Args:
        find: returns the record of a plugin by its name.
    """
    if (culprit := raising_wrapper(pm, hook, cause, find)) is not None:
        why = f"its wrapper of {hook!r}, around backend {record.name!r}, raised {tell(cause)}"
        return translated(cause, PluginError, culprit.label, why, culprit.remedy())
    remedy = too_new(cause) or f"report it to the authors of {record.distribution or record.name} with the error above"
    return translated(cause, PluginError, record.label, f"its hook {hook!r} raised {tell(cause)}", remedy)


def raising_wrapper(pm: pluggy.PluginManager, hook: str, cause: BaseException, find: Find) -> Record | None:
    """Return the plugin whose wrapper of `hook` raised an exception; None: the hook itself did.

    An exception that passes through wrappers has their frames too, but before those of the function that raised it.
    """
    functions = {getattr(impl.function, "__code__", None): impl for impl in implementations(pm, hook)}
    known = [impl for frame, _ in walk_tb(cause.__traceback__) if (impl := functions.get(frame.f_code)) is not None]
    return find(known[-1].plugin_name) if known and wraps(known[-1]) else None


def wrong_result(record: Record, hook: str, result: object, expected: type) -> PluginError:
    """Return the error to raise where a hook returned a value of another type."""
    given = "nothing" if result is None else f"{show(result)} (a {type(result).__qualname__})"
    why = f"its hook {hook!r} returned {given} where {expected.__name__} is expected"
    return PluginError(record.label, why, f"report it to the authors of {record.distribution or record.name}")
