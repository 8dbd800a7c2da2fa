"""A cached model is asked by the user's function again: another value than then means that nothing is known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from optimum_core.search.quantized.kept_promise import still_kept
from optimum_core.types import Event, Promise


class Cached:
    """A cached model whose report has a promise."""

    def __init__(self, **fields: Any) -> None:
        usual: dict[str, Any] = {
            "metric": "accuracy",
            "baseline": 0.9,
            "max_drop": "0.01",
            "limit": 0.01,
            "data": "its own",
        }
        self.report = SimpleNamespace(promise=Promise(**{**usual, **fields}))

    def __call__(self, **arrays: Any) -> Any:
        assert self.report.promise is not None
        return arrays


@pytest.mark.parametrize(
    ("fields", "now", "kept"),
    [
        ({"kept": True, "value": 0.893, "noise": 0.0}, 0.893, True),
        ({"kept": True, "value": 0.893, "noise": 0.0}, 0.897, False),  # better, and another function's
        ({"kept": True, "value": 0.893, "noise": 0.003}, 0.8966, True),
        ({"kept": True, "value": 0.893, "noise": None}, 0.8936, True),  # called once: whether it is steady is unknown
        ({"kept": True, "value": 0.893, "noise": None}, 0.88, False),
        ({"kept": False, "value": 0.894, "noise": 0.0}, 0.894, True),  # unquantized in 16 bits
        ({"kept": False, "value": 0.894, "noise": 0.0}, 0.5, False),
        ({"kept": False, "value": None}, 0.5, True),  # nothing was known of it
    ],
)
def test_the_value_decides(fields: Any, now: float, kept: bool) -> None:
    events: list[Event] = []
    assert still_kept(Cached(**fields), lambda model: float(model(x=now)["x"]), events.append) is kept
    assert (events[-1].problem == "") is kept


def test_without_a_function_nothing_is_asked() -> None:
    assert still_kept(Cached(kept=True), None, lambda event: None)
    assert np.isfinite(Cached(kept=True).report.promise.limit)
