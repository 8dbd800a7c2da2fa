"""Quantization-aware training: a model trained with the rounding of its integer form.

    model = qat.prepare(model, calibration=batches)
    Trainer(model, ...).train()                      # or any other loop
    artifact = qat.to_artifact(model, Path("out"))

`prepare` changes the linear layers of a model in place and leaves everything else: class, configuration, names of
weights. Each layer rounds its weights, int8 with one scale for each output (7 bits where products of 8 overflow), and
its inputs, uint8 with one range that follows a moving average in training. Gradients pass straight through the rounding
(Jacob et al. 2018, arXiv:1712.05877). In evaluation mode the ranges are frozen, and the model computes the results of
its integer form, up to the order of sums. Neural Compressor 3.10 has a `prepare_qat` of its own, which supports
micro-scaling formats only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from optimum_core.backend import detect, export_request, manager, matching_layers, overflows
from optimum_core.errors import OptionError
from optimum_core.types import Artifact, QuantizeConfig, QuantizeRequest
from optimum_inc.devices import BACKEND, PROGRAM
from optimum_inc.programs import register_operators

_WHO = f"backend '{BACKEND}', training"
_MOMENTUM = 0.01
_LEAST = 1e-8
# Ranges of the integers for activations, and for weights: full, and reduced so that sums never overflow.
_LEVELS = 255
_FULL, _REDUCED = (-128, 127), (-64, 63)


class RoundedLinear(torch.nn.Linear):
    """A linear layer with rounding. `prepare` makes it from an `nn.Linear`; do not construct it directly."""

    input_low: torch.Tensor
    input_high: torch.Tensor
    input_scale: torch.Tensor
    input_zero: torch.Tensor
    weight_scale: torch.Tensor
    weight_zero: torch.Tensor
    bounds: tuple[int, int]
    observes: bool
    settled: tuple[float, int]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.observes:
            self._widen(x.detach())
            return torch.nn.functional.linear(x, self.weight, self.bias)
        if torch.compiler.is_exporting():
            return self._exported(x)
        if self.training:
            self._follow(x.detach())
            self._scale_weights()
        x = torch.fake_quantize_per_tensor_affine(x, self.input_scale, self.input_zero, 0, _LEVELS)
        weight = torch.fake_quantize_per_channel_affine(
            self.weight, self.weight_scale, self.weight_zero, 0, *self.bounds
        )
        return torch.nn.functional.linear(x, weight, self.bias)

    def _exported(self, x: torch.Tensor) -> torch.Tensor:
        """Return `forward`'s result, by operators that a graph keeps: `torch.export` does not support those above."""
        register_operators()
        ops = torch.ops.quantized_decomposed
        settings = (*self.settled, 0, _LEVELS, torch.uint8)
        x = ops.dequantize_per_tensor(ops.quantize_per_tensor(x, *settings), *settings)
        channels = (self.weight_scale, self.weight_zero, 0, *self.bounds, torch.int8)
        weight = ops.dequantize_per_channel(ops.quantize_per_channel(self.weight, *channels), *channels)
        return torch.nn.functional.linear(x, weight, self.bias)

    def train(self, mode: bool = True) -> RoundedLinear:
        if not mode:
            self._scale_weights()  # the optimizer's last step comes after the last call
            self.settled = (float(self.input_scale), int(self.input_zero))
        super().train(mode)
        return self

    def _widen(self, x: torch.Tensor) -> None:
        self.input_low.copy_(torch.minimum(self.input_low, x.amin()))
        self.input_high.copy_(torch.maximum(self.input_high, x.amax()))
        self.scale_inputs()

    def _follow(self, x: torch.Tensor) -> None:
        if not bool(self.input_high > self.input_low):
            self._widen(x)
            return
        self.input_low.lerp_(x.amin().clamp(max=0), _MOMENTUM)
        self.input_high.lerp_(x.amax().clamp(min=0), _MOMENTUM)
        self.scale_inputs()

    def scale_inputs(self) -> None:
        self.input_scale.copy_(((self.input_high - self.input_low) / _LEVELS).clamp(min=_LEAST))
        self.input_zero.copy_((-self.input_low / self.input_scale).round().clamp(0, _LEVELS))

    def _scale_weights(self) -> None:
        with torch.no_grad():
            low, high = self.bounds
            self.weight_scale.copy_((self.weight.abs().amax(1) / ((high - low) / 2)).clamp(min=_LEAST))


def prepare(
    model: Any,
    *,
    exclude: Iterable[str] = (),
    calibration: Iterable[Mapping[str, Any]] | None = None,
    reduce_range: bool | None = None,
) -> Any:
    """Make the linear layers of `model` round, in place, and return the same model.

    Args:
        exclude: layers that stay unchanged, by dotted names, each with its sublayers; * is a wildcard.
        calibration: batches of inputs by name, which set the initial ranges. None: the first batch of training sets
            them.
        reduce_range: 7-bit weights, for processors whose 8-bit products overflow in pairs; None: if this one's do.
            State it where the model will run on another.

    Raises:
        OptionError: a name in `exclude` matches no linear layer, the model has none, or it was prepared before.
    """
    linears = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    if any(isinstance(module, RoundedLinear) for module in linears.values()):
        raise OptionError(_WHO, "the model is prepared already", "train it")
    excluded = matching_layers(exclude, linears, _WHO)
    chosen = {name: module for name, module in linears.items() if name not in excluded}
    if not chosen:
        raise OptionError(_WHO, "the model has no linear layer to round", "exclude less, or train it as it is")
    reduced = overflows(detect().cpu) if reduce_range is None else reduce_range
    for module in chosen.values():
        _round(module, _REDUCED if reduced else _FULL)
    if calibration is not None:
        _calibrate(model, list(chosen.values()), calibration)
    return model


def _round(linear: torch.nn.Linear, bounds: tuple[int, int]) -> None:
    linear.__class__ = RoundedLinear
    linear.bounds = bounds  # type: ignore[assignment]
    linear.observes = False  # type: ignore[assignment]
    like = linear.weight
    for name in ("input_low", "input_high"):
        linear.register_buffer(name, torch.zeros((), device=like.device))
    linear.register_buffer("input_scale", torch.ones((), device=like.device))
    linear.register_buffer("input_zero", torch.zeros((), dtype=torch.int32, device=like.device))
    linear.register_buffer("weight_scale", torch.ones(like.shape[0], device=like.device))
    linear.register_buffer("weight_zero", torch.zeros(like.shape[0], dtype=torch.int32, device=like.device))
    linear.train(linear.training)


def _calibrate(model: Any, layers: list[Any], batches: Iterable[Mapping[str, Any]]) -> None:
    training = model.training
    model.eval()
    for layer in layers:
        layer.observes = True
    try:
        with torch.no_grad():
            for batch in batches:
                model(**{name: torch.as_tensor(value) for name, value in batch.items()})
    finally:
        for layer in layers:
            layer.observes = False
        model.eval()
        model.train(training)


def to_artifact(
    model: Any,
    output: Path,
    *,
    samples: Any = None,
    config: QuantizeConfig | None = None,
    format: str | None = None,
) -> Artifact:
    """Export a trained model and quantize it by the ranges that it learned, through the hooks of this backend.

    Args:
        output: an empty directory for the artifact.
        samples: inputs by name, for models whose inputs cannot be derived.
        config: a static configuration: layers to exclude, the form.
        format: "torch-inductor", or "onnx"; None: by the configuration's form.

    Raises:
        OptionError: the model was not prepared, or saw no data.
        ExportError: it cannot be exported, quantized or compiled.
    """
    from tempfile import TemporaryDirectory

    layers = [module for module in model.modules() if isinstance(module, RoundedLinear)]
    if not layers or not all(bool(layer.input_high > layer.input_low) for layer in layers):
        raise OptionError(_WHO, "the model has no ranges", "prepare it, then train it or give calibration data")
    with TemporaryDirectory(prefix=".export-", dir=output.parent) as folder:
        asked = export_request(model, BACKEND, PROGRAM, Path(folder), samples=samples)
        exported = manager().export(asked)
        return manager().quantize(
            QuantizeRequest(
                backend=BACKEND,
                artifact=exported,
                config=config or QuantizeConfig(),
                hardware=detect(),
                output=output,
                source=asked.source,
                format=format,
            )
        )
