"""Integer products: Neural Compressor's PT2E flow, static or dynamic.

The quantizer that Neural Compressor uses for TorchInductor on x86 (`X86InductorQuantizer`) decides which operators are
quantized: matrix products with constant weights and convolutions. This module decides how ranges are found and which
layers stay in float.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from optimum_core.backend import overflows
from optimum_core.errors import OptionError
from optimum_core.types import Array, Hardware, QuantizeConfig, TensorSpec
from optimum_inc.arrays import tensor_of

#: Percent of the values that "percentile" keeps by default.
PERCENTILE = 99.99

Batches = Iterable[Mapping[str, Array]]
_ANNOTATION = "quantization_annotation"


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """A configuration with every choice made."""

    dynamic: bool
    activations: str
    calibration: str | None
    percentile: float | None
    reduce_range: bool


def choose(config: QuantizeConfig, hardware: Hardware) -> Choices:
    """Fill in the choices that `config` leaves to this backend."""
    dynamic = config.scheme == "dynamic"
    calibration = None if dynamic else config.calibration or "minmax"
    return Choices(
        dynamic=dynamic,
        activations=config.activations or "uint8",
        calibration=calibration,
        percentile=(config.percentile or PERCENTILE) if calibration == "percentile" else None,
        reduce_range=overflows(hardware.cpu) if config.reduce_range is None else config.reduce_range,
    )


def quantize_products(
    program: Any,
    choices: Choices,
    kept: frozenset[str],
    batches: Batches,
    inputs: tuple[TensorSpec, ...],
    who: str,
) -> Any:
    """Return a `torch.fx.GraphModule` with quantize and dequantize around its products, weights stored as int8.

    Raises:
        OptionError: there is no product to quantize.
    """
    quantizer = _compressor(choices, kept)
    graph = program.module(check_guards=False)
    graph._exported = True
    graph.graph.eliminate_dead_code()  # torchao's quantizer asks every product for what it gives on
    graph.recompile()
    prepared = quantizer.prepare(graph)
    if not any(node.meta.get(_ANNOTATION) is not None for node in prepared.graph.nodes):
        raise OptionError(who, "there is no product to quantize", "leave it in float, or exclude less")
    with torch.no_grad():
        if choices.dynamic:
            prepared(*program.example_inputs[0])  # ranges of weights are measured in a call, too
        for batch in batches:
            prepared(*(tensor_of(spec.name, batch[spec.name], who) for spec in inputs))
    return quantizer.convert(prepared, fold_quantize=True)


def _compressor(choices: Choices, kept: frozenset[str]) -> Any:
    """Return Neural Compressor's quantizer with its recipe from `choices` instead of its own configuration, which has
    no minimum and maximum over all batches, no percentile, no reduced range, and no layers by the names of PT2E.
    """
    from neural_compressor.torch.algorithms.pt2e_quant import W8A8PT2EQuantizer

    class Compressor(W8A8PT2EQuantizer):  # type: ignore[misc]
        is_dynamic = choices.dynamic

        @staticmethod
        def update_quantizer_based_on_quant_config(quant_config: Any = None) -> Any:
            return _recipe(choices, kept)

    return Compressor()


def _recipe(choices: Choices, kept: frozenset[str]) -> Any:
    from neural_compressor.torch.algorithms.pt2e_quant.pt2e_compat import QuantizationConfig, X86InductorQuantizer

    class Recipe(X86InductorQuantizer):  # type: ignore[misc]
        def annotate(self, model: Any) -> Any:
            annotated = super().annotate(model)
            for node in annotated.graph.nodes:
                if node.name in kept:
                    node.meta.pop(_ANNOTATION, None)
            return annotated

    activations = _activations(choices)
    recipe = Recipe()
    recipe.set_global(QuantizationConfig(activations, activations, _weights(choices), None, is_qat=False))
    return recipe


def _weights(choices: Choices) -> Any:
    from torchao.quantization.pt2e.observer import PerChannelMinMaxObserver
    from torchao.quantization.pt2e.quantizer import QuantizationSpec

    low, high = (-64, 63) if choices.reduce_range else (-128, 127)
    return QuantizationSpec(
        dtype=torch.int8,
        quant_min=low,
        quant_max=high,
        qscheme=torch.per_channel_symmetric,
        ch_axis=0,
        observer_or_fake_quant_ctr=PerChannelMinMaxObserver,
    )


def _activations(choices: Choices) -> Any:
    from torchao.quantization.pt2e.quantizer import QuantizationSpec

    signed = choices.activations == "int8"
    return QuantizationSpec(
        dtype=torch.int8 if signed else torch.uint8,
        quant_min=-128 if signed else 0,
        quant_max=127 if signed else 255,
        qscheme=torch.per_tensor_symmetric if signed else torch.per_tensor_affine,
        is_dynamic=choices.dynamic,
        observer_or_fake_quant_ctr=_observer(choices),
    )


def _observer(choices: Choices) -> Any:
    from torchao.quantization.pt2e import observer

    if choices.dynamic:
        return observer.PlaceholderObserver
    if choices.calibration == "percentile":
        return _percentile_observer(choices.percentile or PERCENTILE)
    return {
        "minmax": observer.MinMaxObserver,
        "moving-average": observer.MovingAverageMinMaxObserver,
        "entropy": observer.HistogramObserver,
    }[str(choices.calibration)]


def _percentile_observer(percentile: float) -> Any:
    """Return an observer with a histogram of the values, from which the tails are cut: half of the share at each."""
    from torchao.quantization.pt2e.observer import HistogramObserver

    tail = (100 - percentile) / 200

    class PercentileObserver(HistogramObserver):  # type: ignore[misc]
        def _non_linear_param_search(self) -> tuple[torch.Tensor, torch.Tensor]:
            share = torch.cumsum(self.histogram, 0) / self.histogram.sum()
            width = (self.max_val - self.min_val) / self.bins
            first = int(torch.searchsorted(share, torch.tensor(tail)))
            last = int(torch.searchsorted(share, torch.tensor(1 - tail)))
            return self.min_val + width * first, self.min_val + width * min(last + 1, self.bins)

    return PercentileObserver
