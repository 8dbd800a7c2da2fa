"""Refusals of quantization are raised before anything is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.classifier import CALIBRATION, HELD

from optimum_core import AcceleratedModel
from optimum_core.cache import Cache
from optimum_core.errors import EvaluationError, OptimumError, OptionError, UnavailableError
from optimum_core.types import Event, QuantizeConfig


def _nan(model: AcceleratedModel) -> float:
    return float("nan")


def _raises(model: AcceleratedModel) -> float:
    raise KeyError("no such column")


def _words(model: AcceleratedModel) -> Any:
    return "good"


@pytest.mark.parametrize(
    ("evaluate", "said"),
    [
        (_raises, r"evaluate \(_raises\): it raised KeyError(.|\n)*no such column"),
        (_nan, "it gave nan"),
        (_words, "it gave a str, no number"),
    ],
)
def test_an_evaluate_that_gives_no_number_ends_it_before_anything_is_built(
    evaluate: Any, said: str, quickest: Any, tmp_path: Path
) -> None:
    events: list[Event] = []
    with pytest.raises(EvaluationError, match=said):
        quickest(quantize="int8", evaluate=evaluate, progress=events.append, cache_dir=tmp_path)
    assert not {event.stage for event in events} & {"export", "quantize", "optimize"}
    assert not Cache(tmp_path).list()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]


BAD_ROW: list[Any] = [*({"input_ids": [2, 3]} for _ in range(5)), {"input_ids": [2.5, 3]}]


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (
            {"quantize": QuantizeConfig(accuracy_control=True), "calibration": CALIBRATION},
            OptionError,
            r"evaluate: accuracy control goes by a metric",
        ),
        ({"quantize": "static-int8"}, OptionError, r"calibration: static-int8 finds ranges(.|\n)*dynamic-int8"),
        ({"quantize": "int8", "calibration": BAD_ROW}, OptionError, "calibration, row 6: (.|\n)*float64"),
        ({"quantize": "int8", "calibration": [{"x": 3}] * 9}, OptionError, "row 1: none of its columns"),
        ({"quantize": "int8", "calibration": HELD[:3]}, OptionError, "3 rows remain"),
        ({"quantize": "static-int8", "evaluate": [("w1", 0), ("w2", 1)]}, OptionError, "so few labelled rows"),
        ({"quantize": "int8", "evaluate": [("w1", "sour")]}, OptionError, "label 'sour' is unknown"),
        ({"quantize": "fp8", "target": "ort"}, UnavailableError, r"nothing on target 'ort' runs it; what runs there"),
        ({"quantize": "int9"}, OptionError, "'int9' is unknown"),
        ({"quantize": {"scheme": "dynamic", "cache": "int8"}}, OptionError, "cache: (.|\n)*keeps no cache in it"),
        ({"calibration": CALIBRATION}, OptionError, "it is for quantization, and none was asked for"),
        ({"evaluate": _nan}, OptionError, "it is for quantization"),
        ({"max_drop": 0.1}, OptionError, "it is for quantization"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_built(
    arguments: dict[str, Any], error: type[OptimumError], said: str, quickest: Any, tmp_path: Path
) -> None:
    events: list[Event] = []
    with pytest.raises(error, match=said):
        quickest(progress=events.append, cache_dir=tmp_path, **arguments)
    assert not {event.stage for event in events} & {"export", "quantize", "optimize"}
    assert not Cache(tmp_path).list()
