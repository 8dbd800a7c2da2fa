"""A decoder as a pure function: its cache in and out as tensors, for exporters."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from optimum_core.models.decoders.kernels import exportable_kernels
from optimum_core.models.decoders.recurrent import StatesCache, cache_name, cache_of, filled_layer, kept_tensors
from optimum_core.types import StateSpec


class StatefulModule(torch.nn.Module):
    """The names of past and present of a decoder that is exported with its cache as tensors.

    Args:
        idle: the layers that keep nothing, by index: they read the keys and values of others, or attend to nothing.
    """

    def __init__(self, state: StateSpec, idle: Collection[int] = ()) -> None:
        super().__init__()
        self.idle, self.state = frozenset(idle), state
        self.past_names = tuple(spec.name for spec in state.past)
        self.present_names = tuple(spec.name for spec in state.present)

    def past(self, tensors: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """Return the past among a decoder's inputs, in order."""
        return [tensors[name] for name in self.past_names]

    def cache(self, tensors: Mapping[str, torch.Tensor]) -> Any:
        """Return a cache of transformers that holds the past among a decoder's inputs."""
        return StatesCache(self.state, self.past(tensors), self.idle)

    def exportable(self, module: Any, cache: Any) -> AbstractContextManager[None]:
        """Let a model's recurrences run in exportable form while the block runs."""
        recurrent = any(layer.has_fixed_states for layer in self.state.layers)
        return exportable_kernels(module, cache.next_state) if recurrent else nullcontext()

    def outputs(self, logits: torch.Tensor, cache: Any) -> dict[str, torch.Tensor]:
        """Return logits and present by name.

        Args:
            cache: transformers' own, after the call.
        """
        kept = kept_tensors(cache, self.idle)
        return {"logits": logits, **dict(zip(self.present_names, kept, strict=True))}


class DecoderModule(StatefulModule):
    """`forward(input_ids, attention_mask, [position_ids,] logits_to_keep, **past) -> dict` of logits and present.

    The names are those of `optimum_core.types.state`. Every layer keeps all positions, whatever its window: the mask
    leaves out what the window leaves out, so that one rule serves all layers, and the state can be cropped.

    Args:
        module: a causal language model of transformers.
    """

    def __init__(self, module: Any, state: StateSpec) -> None:
        super().__init__(state, idle_layers(module))
        self.module = module
        self.selects = "logits_to_keep" in inspect.signature(module.forward).parameters
        self.cache_name = cache_name(module)
        self.attends = any(layer.kind == "key-value" for layer in state.layers)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        **past: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        cache = self.cache(past)
        further: dict[str, Any] = {} if position_ids is None else {"position_ids": position_ids}
        if self.selects:
            further["logits_to_keep"] = logits_to_keep
        # A model without attention multiplies what is new by the mask.
        mask = attention_mask if self.attends else attention_mask[:, -input_ids.shape[1] :]
        with self.exportable(self.module, cache):
            answer = self.module(
                input_ids=input_ids,
                attention_mask=mask,
                use_cache=True,
                return_dict=True,
                **{self.cache_name: cache},
                **further,
            )
        logits = answer.logits if self.selects else answer.logits.index_select(1, logits_to_keep)
        return self.outputs(logits, cache_of(answer))


def filled_cache(tensors: Sequence[torch.Tensor]) -> Any:
    """Return a cache that holds keys and values, in turn, for every layer.

    Made by hand: `DynamicCache` joins what it is given to an empty tensor of one axis, which OpenVINO refuses.
    """
    from transformers.cache_utils import Cache

    pairs = zip(tensors[::2], tensors[1::2], strict=True)
    return Cache(layers=[filled_layer(keys, values) for keys, values in pairs])


def idle_layers(module: Any) -> frozenset[int]:
    """Return the layers of a model that keep nothing in its cache, by index."""
    from transformers.cache_utils import DummyLayer, DynamicCache

    layers = DynamicCache(config=module.config).layers
    return frozenset(index for index, layer in enumerate(layers) if isinstance(layer, DummyLayer))
