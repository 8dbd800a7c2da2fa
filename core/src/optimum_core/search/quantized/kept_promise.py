"""The promise of a cached model, asked of the user's evaluation function again: its values cannot be cached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from optimum_core.measure.stopwatch import Emit, watched
from optimum_core.types import Promise, Report
from optimum_core.verify.promise import Called, keeps

#: Part of the allowed loss by which the function may differ from its value then, where the chosen model is quantized.
_SAME = 0.05
#: The same where it is not, as a share of the eager model's value, which is the one that is known.
_NEAR_EAGER = 1e-3


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
    if report is None or promise is None or function is None:
        return True
    with watched(emit, "evaluate", "what was accelerated before") as stage:
        value = Called(function=function).value(_Opened(model))
        if promise.kept and not keeps(promise, value):
            stage.problem = f"{promise.metric} is {value:.4g} now, and the promise is broken: it is done again"
        elif abs(value - (before := _value_of(report, promise))) > _slack(promise):
            stage.problem = f"{promise.metric} is {value:.4g} now, and was {before:.4g}: it is done again"
        else:
            return True
    return False


def _value_of(report: Report, promise: Promise) -> float:
    """Return the chosen model's value then; the eager model's, if it is not quantized."""
    values = (item.value for item in report.walk if item.outcome == "kept" and item.value is not None)
    return next(values, promise.baseline) if promise.kept else promise.baseline


def _slack(promise: Promise) -> float:
    scale = max(1.0, abs(promise.baseline))
    same = _SAME * abs(promise.limit) if promise.kept else _NEAR_EAGER * scale
    return (promise.noise or 0.0) + same + 1e-9 * scale
