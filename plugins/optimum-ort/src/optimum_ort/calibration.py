"""Ranges of activations, found with onnxruntime's calibrators in bounded memory.

The entropy and percentile calibrators keep every activation of every batch until all are there. Here a histogram is
filled batch by batch. A first pass finds the extremes, so that the bins equal those of a single pass over everything.

Those of entropy and percentile keep every activation of every batch until all are there. Here a histogram is filled
batch by batch. For the bins to be those that one look at everything would give, a first pass finds the extremes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from optimum_core.backend import silence
from optimum_core.types import Array, QuantizeConfig
from optimum_ort.quantization_tools import quantization

#: Percent of the values that "percentile" keeps by default.
PERCENTILE = 99.999

# Onnxruntime's default of 128 leaves the search for the best range a single candidate: the extremes.
_ENTROPY_BINS = 1024
_ENTROPY_LEVELS = 128
_PERCENTILE_BINS = 2048

Batches = Iterable[Mapping[str, Array]]


class Reader:
    """Source of calibration data for onnxruntime. A batch is released before the next is read, because the calibrators
    hold on to theirs until then.
    """

    def __init__(self, batches: Batches) -> None:
        self._batches: Iterator[Mapping[str, Array]] = iter(batches)
        self._given: dict[str, Array] = {}

    def get_next(self) -> dict[str, Array] | None:
        self._given.clear()
        batch = next(self._batches, None)
        if batch is None:
            return None
        self._given = dict(batch)
        return self._given


def find_ranges(
    model: Path, config: QuantizeConfig, batches: Batches, operators: list[str], scratch: Path, *, external: bool
) -> Any:
    """Return `onnxruntime.quantization`'s `TensorsData` for the inputs and outputs of `operators`.

    "moving-average" is the mean of the batches' extremes. One batch's activations are held at a time.
    """
    method = config.calibration or "minmax"
    extremes = _extremes(model, batches, operators, scratch, average=method == "moving-average", external=external)
    if method in ("minmax", "moving-average"):
        return extremes
    calibrator = _histograms(model, config, operators, scratch, external)
    _seed(calibrator, extremes)
    with silence("onnxruntime"):
        for batch in batches:
            calibrator.collect_data(Reader([batch]))
            del batch  # before the next one is read
        return calibrator.compute_data()


def _extremes(
    model: Path, batches: Batches, operators: list[str], scratch: Path, *, average: bool, external: bool
) -> Any:
    methods = quantization().CalibrationMethod
    options = {"moving_average": average}
    with silence("onnxruntime"):
        calibrator = _calibrator(model, methods.MinMax, options, operators, scratch / "extremes.onnx", external)
        # Two numbers for each tensor and batch are kept: batches need no grouping.
        calibrator.collect_data(Reader(batches))
        return calibrator.compute_data()


def _histograms(model: Path, config: QuantizeConfig, operators: list[str], scratch: Path, external: bool) -> Any:
    methods = quantization().CalibrationMethod
    # Asymmetric, whatever the activations' format: the quantizer makes a range symmetric where necessary.
    if config.calibration == "entropy":
        method = methods.Entropy
        options: dict[str, Any] = {"num_bins": _ENTROPY_BINS, "num_quantized_bins": _ENTROPY_LEVELS, "symmetric": False}
    else:
        method = methods.Percentile
        percentile = PERCENTILE if config.percentile is None else config.percentile
        options = {"num_bins": _PERCENTILE_BINS, "percentile": percentile, "symmetric": False}
    with silence("onnxruntime"):
        return _calibrator(model, method, options, operators, scratch / "histograms.onnx", external)


def _calibrator(
    model: Path, method: Any, options: Mapping[str, Any], operators: list[str], augmented: Path, external: bool
) -> Any:
    from onnxruntime.quantization.calibrate import create_calibrator

    return create_calibrator(
        model,
        operators,
        augmented_model_path=str(augmented),
        calibrate_method=method,
        use_external_data_format=external,
        extra_options=options,
    )


def _seed(calibrator: Any, extremes: Any) -> None:
    """Give each tensor an empty histogram over its whole range, to which batches are then added."""
    import numpy as np
    from onnxruntime.quantization.calibrate import HistogramCollector

    collector = HistogramCollector(
        method=calibrator.method,
        symmetric=calibrator.symmetric,
        num_bins=calibrator.num_bins,
        num_quantized_bins=calibrator.num_quantized_bins,
        percentile=calibrator.percentile,
        scenario=calibrator.scenario,
    )
    for name, data in extremes.items():
        lowest, highest = (np.asarray(value).reshape(()) for value in data.range_value)
        threshold = np.maximum(np.abs(lowest), np.abs(highest))
        empty = np.empty(0, lowest.dtype)
        counts, edges = np.histogram(empty, calibrator.num_bins, range=(-threshold, threshold))
        collector.histogram_dict[name] = (counts, edges.astype(lowest.dtype), lowest, highest, threshold)
    calibrator.collector = collector
