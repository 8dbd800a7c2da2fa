"""Static quantization: 8-bit integer arithmetic, with ranges of activations found by calibration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from optimum_core.types import Array, Hardware, QuantizeConfig
from optimum_openvino.devices import rounds_activations

#: Batches of calibration that are read, at most: more hardly move the ranges.
MOST_BATCHES = 300
#: Per cent of the values that "percentile" keeps where nobody says.
PERCENTILE = 99.99

Batches = Iterable[Mapping[str, Array]]

_X86 = ("x86_64", "amd64")
_ATTENTION = frozenset({"ScaledDotProductAttention", "Softmax"})


class Feed:
    """Calibration as NNCF iterates over it: one batch at a time, as arrays that OpenVINO takes."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self._batches:
            yield {name: _host(value) for name, value in batch.items()}

    def count(self) -> int:
        """How many batches there are, at most `MOST_BATCHES`."""
        return sum(1 for _ in islice(self._batches, MOST_BATCHES))


def _host(value: Array) -> Any:
    return np.ascontiguousarray(value if isinstance(value, np.ndarray) else np.from_dlpack(value))


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """What `config` leaves open, decided. `smooth` None: NNCF's own strength."""

    calibration: str
    percentile: float | None
    reduce_range: bool
    smooth: float | None
    transformer: bool
    batches: int


def _overflows(hardware: Hardware) -> bool:
    """Whether two products of 8 bits are added in 16, as x86 does without instructions made for it."""
    return hardware.cpu.architecture.lower() in _X86 and not rounds_activations(hardware.cpu)


def choose(model: Any, config: QuantizeConfig, hardware: Hardware, batches: int) -> Choices:
    """Fill in what `config` leaves to us, for this model on this processor."""
    calibration = config.calibration or "minmax"
    percentile = (config.percentile or PERCENTILE) if calibration == "percentile" else None
    kinds = {operation.get_type_name() for operation in model.get_ops()}
    return Choices(
        calibration=calibration,
        percentile=percentile,
        reduce_range=_overflows(hardware) if config.reduce_range is None else config.reduce_range,
        smooth=config.smooth,
        transformer=bool(kinds & _ATTENTION),
        batches=batches,
    )


def quantize_static(
    nncf: Any, model: Any, config: QuantizeConfig, choices: Choices, kept: list[str], feed: Feed
) -> Any:
    """An `openvino.Model` with FakeQuantize around what becomes integer."""
    signed = config.activations == "int8"
    return nncf.quantize(
        model,
        nncf.Dataset(feed),
        preset=nncf.QuantizationPreset.PERFORMANCE if signed else None,
        target_device=nncf.TargetDevice.CPU,
        subset_size=choices.batches,
        model_type=nncf.ModelType.TRANSFORMER if choices.transformer else None,
        ignored_scope=nncf.IgnoredScope(names=kept, validate=False),
        advanced_parameters=_advanced(nncf, config, choices),
    )


def _advanced(nncf: Any, config: QuantizeConfig, choices: Choices) -> Any:
    from nncf.quantization.advanced_parameters import QuantizationParameters

    overflow = nncf.OverflowFix
    parameters = {
        "overflow_fix": overflow.ENABLE if choices.reduce_range else overflow.DISABLE,
        "activations_range_estimator_params": _estimator(choices),
    }
    if choices.smooth is not None:
        strength = choices.smooth or -1  # negative: off
        parameters["smooth_quant_alphas"] = nncf.AdvancedSmoothQuantParameters(matmul=strength)
    if config.per_channel is not None:
        parameters["weights_quantization_params"] = QuantizationParameters(per_channel=config.per_channel)
    return nncf.AdvancedQuantizationParameters(**parameters)


def _estimator(choices: Choices) -> Any:
    import copy

    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    found = {
        "minmax": RangeEstimatorParametersSet.MINMAX,
        "moving-average": RangeEstimatorParametersSet.MEAN_MINMAX,
        "percentile": RangeEstimatorParametersSet.MEAN_QUANTILE,
    }
    estimator = copy.deepcopy(found[choices.calibration])
    if choices.percentile is not None:
        # What is left out is shared by both ends.
        tail = (100 - choices.percentile) / 200
        estimator.min.quantile_outlier_prob = estimator.max.quantile_outlier_prob = tail
    return estimator
