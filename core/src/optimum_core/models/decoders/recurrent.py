"""Layers whose state has a fixed size: what convolutions and recurrences keep, as tensors in and out of a graph.

transformers keeps both in `LinearAttentionLayer`, whatever the model (Mamba, LFM2, gated delta nets), and hybrid layers
have keys and values beside them.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers.cache_utils import (
    Cache,
    DummyLayer,
    DynamicLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionCacheLayerMixin,
    LinearAttentionLayer,
)

from optimum_core.types import LayerState, StateSpec

Tensors = Iterator[torch.Tensor]
Shapes = tuple[tuple[int, ...], ...]


class _FixedStates(LinearAttentionLayer):  # type: ignore[misc] # transformers states no types
    """The states of a layer without keys and values; an update replaces them, as a trace needs it."""

    def fill(self, layer: LayerState, tensors: Tensors) -> None:
        """Take the states from tensors."""
        self.conv_states = {index: next(tensors) for index in range(len(layer.convolutions))}
        self.recurrent_states = {index: next(tensors) for index in range(len(layer.recurrences))}
        self.widths = [shape[-1] for shape in layer.convolutions]
        self.has_previous_state = dict.fromkeys(range(self.number_of_states), True)

    def update_conv_state(self, conv_states: torch.Tensor, state_idx: int = 0, **_: Any) -> torch.Tensor:
        whole = torch.cat([self.conv_states[state_idx], conv_states], dim=-1)
        self.conv_states[state_idx] = whole[..., -self.widths[state_idx] :]
        return whole

    def update_recurrent_state(self, recurrent_states: torch.Tensor, state_idx: int = 0, **_: Any) -> torch.Tensor:
        self.recurrent_states[state_idx] = recurrent_states
        return recurrent_states

    def kept(self) -> list[torch.Tensor]:
        """Return the states, those of convolutions first."""
        return [*self.conv_states.values(), *self.recurrent_states.values()]


class _HybridLayer(_FixedStates, LinearAttentionAndFullAttentionLayer):  # type: ignore[misc]
    """A layer with keys and values beside its states."""


class StatesCache(Cache):  # type: ignore[misc] # transformers states no types
    """A cache that holds what a decoder's past has, in its order.

    Args:
        idle: the layers that keep nothing, by index.
    """

    def __init__(self, state: StateSpec, past: Sequence[torch.Tensor], idle: frozenset[int] = frozenset()) -> None:
        tensors, described = iter(past), iter(state.layers)
        number = len(state.layers) + len(idle)
        super().__init__(
            layers=[DummyLayer() if index in idle else _filled(next(described), tensors) for index in range(number)]
        )
        self._waiting: list[torch.Tensor] = []

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
        found: torch.Tensor | None = super().get_recurrent_state(layer_idx, state_idx)
        # Zamba has a state for each head of Mamba, [batch, heads, channels, size], and scans them one by one.
        self._waiting = [] if found is None else [found] if found.ndim == 3 else list(found.unbind(1))
        return found

    def next_state(self) -> torch.Tensor:
        """Return the state that was read last, for a kernel that is not handed it; of several heads the next one's."""
        return self._waiting.pop(0)


def kept_tensors(cache: Any, idle: frozenset[int]) -> list[torch.Tensor]:
    """Return what the layers of a cache hold after a call, in the order of `StateSpec.present`."""
    layers = [layer for index, layer in enumerate(cache.layers) if index not in idle]
    return [tensor for layer in layers for tensor in _tensors_of(layer)]


def _filled(layer: LayerState, tensors: Tensors) -> Any:
    if not layer.has_fixed_states:
        return filled_layer(next(tensors), next(tensors))
    states = max(len(layer.convolutions), len(layer.recurrences))
    if layer.kind == "recurrent":
        made = _FixedStates(number_of_states=states)
    else:
        made = filled_layer(next(tensors), next(tensors), _HybridLayer(number_of_states=states))
    made.fill(layer, tensors)
    return made


def filled_layer(keys: torch.Tensor, values: torch.Tensor, layer: Any = None) -> Any:
    """Return a layer of a cache, a new one by default, that holds these keys and values."""
    made: Any = DynamicLayer() if layer is None else layer
    made.keys, made.values, made.is_initialized = keys, values, True
    made.dtype, made.device = keys.dtype, values.device
    return made


def _tensors_of(layer: Any) -> list[torch.Tensor]:
    attention = [layer.keys, layer.values] if isinstance(layer, DynamicLayer) else []
    return [*attention, *(layer.kept() if isinstance(layer, _FixedStates) else [])]


def has_fixed_states(layer: Any) -> bool:
    """Whether a layer of a cache keeps states of a fixed size."""
    return isinstance(layer, LinearAttentionCacheLayerMixin)


def fixed_states(layer: Any) -> tuple[Shapes, Shapes]:
    """Return the shapes for one row of the states of convolutions and of recurrences in a layer, after a call.

    Raises:
        ValueError: they are in an order of their own.
    """
    return _shapes(layer.conv_states), _shapes(layer.recurrent_states)


def _shapes(states: Mapping[int, torch.Tensor | None]) -> Shapes:
    made = {index: state for index, state in states.items() if state is not None}
    if list(made) != list(range(len(made))):
        raise ValueError(f"states {sorted(made)} of a layer")
    return tuple(tuple(map(int, state.shape[1:])) for state in made.values())


def cache_name(module: Any) -> str:
    """Return the argument of a model's call for its cache: models without attention name it otherwise."""
    names = inspect.signature(getattr(module, "_orig_mod", module).forward).parameters
    return "cache_params" if "cache_params" in names and "past_key_values" not in names else "past_key_values"


def cache_of(answer: Any) -> Any:
    """Return the cache that a call gives back; None: it gives none."""
    return getattr(answer, "past_key_values", None) or getattr(answer, "cache_params", None)
