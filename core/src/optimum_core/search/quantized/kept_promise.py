"""The promise of a cached model, asked of the user's evaluation function again: its values cannot be cached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from optimum_core.measure.stopwatch import Emit, watched
from optimum_core.types import Promise, Report
from optimum_core.verify.promise import Called, keeps

#: Part of the allowed loss by which the function may differ from its value then: where it was called twice then, to see
#: whether it always gives the same, and where it was too slow for that. A multiple of that difference is allowed too.
_SAME, _UNSURE, _NOISES = 0.05, 0.5, 3.0


@dataclass(frozen=True, slots=True)
class _Opened:
    """A cached model, as metrics take it."""

    opened: Any
    run: Any = None

    def model(self) -> Any:
        return self.opened


def still_kept(model: Any, function: Callable[[Any], Any] | None, emit: Emit) -> bool:
    """Whether an evaluation function gives a cached model the value that it gave when the model was chosen.

    If it gives another, it is another function or reads other data, and nothing is known of the eager model's value:
    the search has to be done again.

    Args:
        model: the cached `AcceleratedModel`.
        function: the user's; None: there is none, and what decided is part of the cache's key.

    Raises:
        EvaluationError: the function fails.
    """
    report: Report | None = model.report
    promise = report.promise if report is not None else None
    if promise is None or function is None:
        return True
    with watched(emit, "evaluate", "what was accelerated before") as stage:
        value = Called(function=function).value(_Opened(model))
        if promise.kept and not keeps(promise, value):
            stage.problem = f"{promise.metric} is {value:.4g} now, and the promise is broken: it is done again"
        elif promise.value is not None and abs(value - promise.value) > _slack(promise):
            stage.problem = f"{promise.metric} is {value:.4g} now, and was {promise.value:.4g}: it is done again"
        else:
            return True
    return False


def _slack(promise: Promise) -> float:
    limit, rounding = abs(promise.limit), 1e-6 * max(1.0, abs(promise.baseline))
    if promise.noise is None:
        return _UNSURE * limit + rounding
    return _NOISES * promise.noise + _SAME * limit + rounding
