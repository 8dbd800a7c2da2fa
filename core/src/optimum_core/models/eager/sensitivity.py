"""Sensitivity of layers to quantization: each alone in 8 bits, on real inputs, everything else as it is.

A layer's weights are rounded by channel and its inputs by their extremes, as the simplest quantizer does: in a copy, so
that other threads may use the model meanwhile. The resulting error of the model's outputs ranks the layers, whichever
backend quantizes them later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from optimum_core.models.eager.calls import apart, call, fresh
from optimum_core.models.eager.outputs import flatten

_LINEAR_NAMES = ("Linear", "Conv1D", "Conv1d", "Conv2d", "Conv3d", "NonDynamicallyQuantizableLinear")
_CHANNELS_LAST = ("Conv1D",)  # transformers' Conv1D holds its weight as (in, out)


def layers_of(module: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Return the layers that quantizers round, by dotted name, including the token embedding."""
    table = _table(module)
    return {
        name: part
        for name, part in module.named_modules()
        if name and (part is table or type(part).__name__ in _LINEAR_NAMES)
    }


def _table(module: torch.nn.Module) -> torch.nn.Module | None:
    try:
        found = module.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):  # no model of transformers, or one without input embeddings
        return None
    return found if isinstance(found, torch.nn.Embedding) else None


def rank_layers(module: torch.nn.Module, batches: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the layers ranked by the error that rounding each alone causes, the worst first.

    Args:
        batches: typical inputs, by name.

    Returns:
        By dotted name, the norm of the outputs' change over the norm of the outputs.
    """
    original = fresh(module)
    want = [_floats(original, batch) for batch in batches]
    scale = sum(float(values.norm()) for values in want) or 1.0
    found: dict[str, float] = {}
    for name in layers_of(module):
        rounded = _rounded(module, name)
        have = [_floats(rounded, batch) for batch in batches]
        found[name] = sum(float((a - b).norm()) for a, b in zip(have, want, strict=True)) / scale
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _floats(module: torch.nn.Module, batch: Mapping[str, Any]) -> torch.Tensor:
    outputs = flatten(call(module, apart(batch))).values()
    return torch.cat([value.reshape(-1).float() for value in outputs if value.is_floating_point()])


def _rounded(module: torch.nn.Module, name: str) -> torch.nn.Module:
    """Return a copy of the model with weights and inputs of one layer in 8 bits; all other weights are shared."""
    made = fresh(module)
    layer = made.get_submodule(name)
    if layer is module.get_submodule(name):  # a layer that cannot be copied is the user's own
        return made
    kept = layer.weight
    assert isinstance(kept, torch.nn.Parameter)
    layer.register_forward_pre_hook(lambda _, inputs: (_by_extremes(inputs[0]), *inputs[1:]))
    axis = -1 if type(layer).__name__ in _CHANNELS_LAST else 0
    weight = torch.nn.Parameter(_by_channel(kept.detach(), axis), requires_grad=False)
    for part in made.modules():
        tied = [key for key, parameter in part._parameters.items() if parameter is kept]
        part._parameters.update(dict.fromkeys(tied, weight))
    return made


def _by_channel(weight: torch.Tensor, axis: int) -> torch.Tensor:
    """Return a weight rounded to symmetric int8 with a scale for each slice of `axis`."""
    others = [index for index in range(weight.dim()) if index != axis % weight.dim()]
    scale = weight.abs().amax(dim=others, keepdim=True).clamp(min=1e-12) / 127
    return (weight / scale).round().clamp(-127, 127) * scale


def _by_extremes(values: torch.Tensor) -> torch.Tensor:
    """Return values rounded to unsigned 8 bits between their extremes, zero included."""
    if not values.is_floating_point():
        return values
    low, high = values.min().clamp(max=0.0), values.max().clamp(min=0.0)
    scale = ((high - low) / 255).clamp(min=1e-12)
    return ((values - low) / scale).round() * scale + low
