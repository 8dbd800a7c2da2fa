"""Static quantization: 8-bit integer arithmetic, with ranges of activations found by calibration."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from optimum_core.backend import overflows
from optimum_core.errors import OptionError, PromiseError
from optimum_core.types import Array, Hardware, QuantizeConfig, TensorSpec

#: The largest number of calibration batches that are read: more hardly move the ranges.
MOST_BATCHES = 300
#: Percent of the values that "percentile" keeps by default.
PERCENTILE = 99.99

Batches = Iterable[Mapping[str, Array]]

_ATTENTION = frozenset({"ScaledDotProductAttention", "Softmax"})


class Feed:
    """Calibration data in the form that NNCF iterates over: one batch at a time, as arrays that OpenVINO takes.

    Iteration raises `OptionError` where a batch has two lengths for an axis: not every kernel of OpenVINO checks it.

    Args:
        inputs: the model's input specs.
        seconds: the time after which iteration raises `PromiseError`; None: never.
        rows: a further input for the numbers of the rows, where the model keeps a state.
    """

    def __init__(
        self,
        batches: Batches,
        inputs: Sequence[TensorSpec],
        who: str,
        *,
        seconds: float | None = None,
        rows: str | None = None,
    ) -> None:
        self._batches, self._inputs, self._who, self._rows = batches, inputs, who, rows
        self._end = None if seconds is None else time.monotonic() + seconds
        self._most: int | None = None

    def first(self, most: int) -> Feed:
        """Return the same data, limited to its first batches."""
        cut = copy.copy(self)
        cut._most = most
        return cut

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in islice(self._batches, self._most):
            if self._end is not None and time.monotonic() > self._end:
                raise PromiseError(self._who, "the time for accuracy control is over", "pass a larger budget")
            arrays = {name: _host(value) for name, value in batch.items()}
            self._require_one_length(arrays)
            if self._rows is not None:
                arrays[self._rows] = np.arange(len(next(iter(arrays.values()))), dtype=np.int32)
            yield arrays

    def _require_one_length(self, arrays: Mapping[str, Any]) -> None:
        lengths: dict[str, tuple[int, str]] = {}
        for spec in self._inputs:
            for place, axis in spec.dynamic_axes.items():
                length = arrays[spec.name].shape[place]
                known, name = lengths.setdefault(axis, (length, spec.name))
                if length != known:
                    why = f"calibration has {axis} {known} in {name!r} and {length} in {spec.name!r} of one batch"
                    raise OptionError(self._who, why, "give every input of a batch the same lengths")

    def count(self) -> int:
        """Return the number of batches, at most `MOST_BATCHES`."""
        return sum(1 for _ in islice(self._batches, MOST_BATCHES))


def _host(value: Array) -> Any:
    return np.ascontiguousarray(value if isinstance(value, np.ndarray) else np.from_dlpack(value))


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """The choices that `config` leaves open, made. `smooth` None: NNCF's own strength."""

    calibration: str
    percentile: float | None
    reduce_range: bool
    smooth: float | None
    transformer: bool
    batches: int


def choose(model: Any, config: QuantizeConfig, hardware: Hardware, batches: int) -> Choices:
    """Fill in the choices that `config` leaves to this backend, for this model on this processor."""
    calibration = config.calibration or "minmax"
    percentile = (config.percentile or PERCENTILE) if calibration == "percentile" else None
    kinds = {operation.get_type_name() for operation in model.get_ops()}
    return Choices(
        calibration=calibration,
        percentile=percentile,
        reduce_range=overflows(hardware.cpu) if config.reduce_range is None else config.reduce_range,
        smooth=0.0 if config.accuracy_control else config.smooth,  # see optimum_openvino.control
        transformer=bool(kinds & _ATTENTION),
        batches=batches,
    )


def quantize_static(
    nncf: Any, model: Any, config: QuantizeConfig, choices: Choices, kept: list[str], feed: Feed
) -> Any:
    """Return an `openvino.Model` with FakeQuantize around integer operations."""
    wanted = settings(nncf, config, choices, kept)
    return nncf.quantize(model, nncf.Dataset(feed), **wanted, advanced_parameters=advanced(nncf, config, choices))


def settings(nncf: Any, config: QuantizeConfig, choices: Choices, kept: list[str]) -> dict[str, Any]:
    """Return the arguments that every kind of NNCF's static quantization takes."""
    signed = config.activations == "int8"
    return {
        "preset": nncf.QuantizationPreset.PERFORMANCE if signed else None,
        "target_device": nncf.TargetDevice.CPU,
        "subset_size": choices.batches,
        "model_type": nncf.ModelType.TRANSFORMER if choices.transformer else None,
        "ignored_scope": nncf.IgnoredScope(names=kept, validate=False),
    }


def advanced(nncf: Any, config: QuantizeConfig, choices: Choices) -> Any:
    """Return NNCF's advanced parameters."""
    from nncf.quantization.advanced_parameters import QuantizationParameters

    overflow = nncf.OverflowFix
    parameters = {
        "overflow_fix": overflow.ENABLE if choices.reduce_range else overflow.DISABLE,
        "activations_range_estimator_params": _estimator(choices),
    }
    if choices.smooth is not None:
        strength = choices.smooth or -1  # negative: disabled
        parameters["smooth_quant_alphas"] = nncf.AdvancedSmoothQuantParameters(matmul=strength)
    if config.per_channel is not None:
        parameters["weights_quantization_params"] = QuantizationParameters(per_channel=config.per_channel)
    return nncf.AdvancedQuantizationParameters(**parameters)


def _estimator(choices: Choices) -> Any:
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    found = {
        "minmax": RangeEstimatorParametersSet.MINMAX,
        "moving-average": RangeEstimatorParametersSet.MEAN_MINMAX,
        "percentile": RangeEstimatorParametersSet.MEAN_QUANTILE,
    }
    estimator = copy.deepcopy(found[choices.calibration])
    if choices.percentile is not None:
        # The share left out is split between both ends.
        tail = (100 - choices.percentile) / 200
        estimator.min.quantile_outlier_prob = estimator.max.quantile_outlier_prob = tail
    return estimator
