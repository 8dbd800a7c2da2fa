"""The watch over one model: it is told of calls and answers, and keeps shapes, distributions and samples of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from optimum_core import AcceleratedModel
from optimum_core.types import TensorSpec
from optimum_core.types.arrays import NDArray
from optimum_serve.monitoring.drift import BINS, Drift
from optimum_serve.monitoring.eager import Begin
from optimum_serve.monitoring.figures import MonitoringFigures
from optimum_serve.monitoring.traffic import TrafficRecorder
from optimum_serve.monitoring.truth import TruthSampler, precision_of
from optimum_serve.settings import ModelSettings, Settings

log = logging.getLogger(__name__)
_IDS, _LOGITS = "input_ids", "logits"
_NEW = "new"
#: Classes beyond which the likeliest one says little.
_CLASSES = 64


class ModelWatch:
    """The watch over one model.

    Args:
        baseline: of drift, of an earlier run.
    """

    def __init__(
        self,
        stated: ModelSettings,
        settings: Settings,
        model: AcceleratedModel,
        figures: MonitoringFigures,
        baseline: Mapping[str, Sequence[int]],
    ) -> None:
        self.name, manifest = stated.label, model.manifest
        self._figures = figures
        self.traffic = TrafficRecorder(self.name, manifest.model.fingerprint)
        self.inputs = manifest.inputs
        self.axes = tuple(dict.fromkeys(axis for spec in manifest.inputs for axis in spec.dynamic_axes.values()))
        self._compared = {spec.name for spec in manifest.outputs if len(spec.dynamic_axes) <= 1}
        self._of_rows = {spec.name for spec in manifest.outputs if [*spec.dynamic_axes.items()] == [(0, "batch")]}
        self._has_classes = any(
            spec.name == _LOGITS and len(spec.shape) == 2 and isinstance(spec.shape[-1], int) and spec.shape[-1] > 1
            for spec in manifest.outputs
        )
        self.drift = Drift(settings.drift_window, baseline) if settings.drift_window else None
        self._unknown = _unknown_id(model.directory) if self.drift is not None else None
        self._histograms = {}
        if self.drift is not None:
            self._histograms = {name: one.labels(self.name) for name, one in figures.observed.items()}
            for name in BINS:
                figures.drift.labels(self.name, name).set_function(partial(self.drift.index, name))
        self.truth: TruthSampler | None = None
        if settings.truth_sample and not model.can_generate():
            begin = Begin(stated.original_source, manifest.model.fingerprint, precision_of(manifest))
            self.truth = TruthSampler(self.name, begin, settings.truth_sample, figures)

    # Told in threads of the batcher.

    def batch(self, items: Sequence[Any]) -> None:
        """Take note of a call of the model with these inputs."""
        self.traffic.call(self._lengths(items))

    def arrays(self, inputs: Mapping[str, Any]) -> None:
        """Take note of a call with a client's own batch."""
        self.traffic.call(_lengths_of(self.inputs, inputs))

    # Told in the event loop.

    def answered(self, items: Sequence[Any], output: str, values: Sequence[Any]) -> None:
        """Take note of a request and its answers: an output of the model for each input."""
        if not items:
            return
        self.traffic.request(self._lengths(items))
        if self.drift is not None:
            self._observe_inputs(items)
            if output == _LOGITS and self._has_classes:
                self._observe_scores(np.asarray(values))
        if self.truth is not None and output in self._compared:
            for item, value in zip(items, values, strict=True):
                self.truth.offer(item, {output: value})

    def called(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Take note of a request with a batch of its own, and its answer."""
        self.traffic.request(_lengths_of(self.inputs, inputs))
        if self.truth is None:
            return
        kept = {name: value[0] for name, value in outputs.items() if name in self._of_rows}
        if kept and all(spec.shape[:1] == ("batch",) for spec in self.inputs if spec.name in inputs):
            self.truth.offer({name: value[0] for name, value in inputs.items()}, kept)

    def wrote(self, tokens: int, new: int) -> None:
        """Take note of a text that was written."""
        lengths = {"batch": 1, "sequence": max(tokens, 1), _NEW: max(new, 1)}
        self.traffic.call(lengths)
        self.traffic.request(lengths)

    def close(self) -> None:
        """End the process that compares."""
        if self.truth is not None:
            self.truth.close()

    def _lengths(self, items: Sequence[Any]) -> dict[str, int]:
        """Return the lengths of a call: of items without the batch axis; of pictures and sounds, their number alone."""
        lengths = {axis: len(items) for axis in self.axes if axis == "batch"}
        if not isinstance(items[0], Mapping):
            return lengths
        for spec in self.inputs:
            for place, axis in spec.dynamic_axes.items():
                if axis not in lengths and spec.name in items[0] and place > 0:
                    lengths[axis] = max(_length(item[spec.name], place - 1) for item in items)
        return lengths

    def _observe_inputs(self, items: Sequence[Any]) -> None:
        ids = [np.asarray(item[_IDS]) for item in items if isinstance(item, Mapping) and _IDS in item]
        self._observe("length", [float(one.size) for one in ids])
        if self._unknown is not None:
            self._observe("unknown", [float(np.mean(one == self._unknown)) if one.size else 0.0 for one in ids])

    def _observe_scores(self, logits: NDArray) -> None:
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
        self._observe("score", (1 / powers.sum(axis=-1)).tolist())  # the greatest power is 1
        if logits.shape[-1] <= _CLASSES:
            self._observe("class", logits.argmax(axis=-1).tolist())

    def _observe(self, name: str, values: Sequence[float]) -> None:
        assert self.drift is not None
        self.drift.add(name, values)
        histogram = self._histograms.get(name)
        for value in values:
            if histogram is not None:
                histogram.observe(value)
            else:
                self._figures.classes.labels(self.name, str(value)).inc()


def _length(value: Any, place: int) -> int:
    return len(value) if place == 0 else int(np.shape(value)[place])


def _lengths_of(specs: Sequence[TensorSpec], arrays: Mapping[str, Any]) -> dict[str, int]:
    """Return the lengths of named axes of the inputs of a call."""
    return {
        axis: max(int(arrays[spec.name].shape[place]), 1)
        for spec in specs
        if spec.name in arrays
        for place, axis in spec.dynamic_axes.items()
    }


def _unknown_id(directory: Path) -> int | None:
    """Return the id of the token for unknown words; None: the tokenizer has none, or says it in another file."""
    try:
        model = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))["model"]
        if isinstance(model.get("unk_id"), int):
            return int(model["unk_id"])
        return int(model["vocab"][model["unk_token"]])
    except (OSError, ValueError, KeyError, TypeError):
        return None
