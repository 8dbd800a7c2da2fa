"""Stateful export of a decoder (iOS18): the key-value cache is state of the program, and a call takes new tokens only.

The program's inputs: `input_ids` (1 x query), and `causal_mask` (1 x 1 x query x end), which is added to the scores: 0
where a query may attend, a large negative number where not. The position of the first new token follows from the two
lengths: end - query. A call with end = query begins a new text; leftovers of an earlier text are never read.

The artifact still has the model's own inputs: a session (`optimum_coreml.texts`) translates its calls into these.

The state is in 16 bits, because Core ML has no other.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache, StaticLayer

from optimum_core.backend import foreign_errors
from optimum_core.backend.tracing import quiet as quiet_transformers
from optimum_core.errors import ExportError, OptionError
from optimum_core.types import Artifact, ExportRequest
from optimum_coreml import metadata
from optimum_coreml.export import REMEDY, convert, converting, layer_names, target_of, trace, who_exports, written
from optimum_coreml.interface import feature_name, problems
from optimum_coreml.options import CoreMlOptions
from optimum_coreml.shapes import longest_sequence
from optimum_coreml.storage import LAYERS, save
from optimum_coreml.texts import LOGITS, TEXT_INPUTS, causal_mask, program_specs

STATES = ("key_cache", "value_cache")
_QUERY, _END = 3, 8


class _Layer(StaticLayer):  # type: ignore[misc]  # transformers has no types
    """One layer's slice of the buffers, written from `begin` to `end`, read up to `end`."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, layer: int, begin: Any, end: Any) -> None:
        super().__init__(max_cache_len=keys.shape[3])
        self._buffers, self._layer, self._begin, self._end = (keys, values), layer, begin, end
        self.keys, self.values = keys[layer], values[layer]
        self.is_initialized = True

    def update(self, key: Any, value: Any, *rest: Any, **more: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new keys and values, and return all of them up to the last."""
        for buffer, new in zip(self._buffers, (key, value), strict=True):
            buffer[self._layer, :, :, self._begin : self._end, :] = new
        keys, values = (buffer[self._layer, :, :, : self._end, :] for buffer in self._buffers)
        return keys, values

    def get_seq_length(self) -> Any:
        """Return the number of tokens that were there before."""
        return self._begin


class StatefulDecoder(torch.nn.Module):
    """A module that returns the `logits` of new tokens, and keeps keys and values in two buffers: layer, batch, head,
    position, channel.
    """

    def __init__(self, module: Any, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.module = module
        for name in STATES:
            self.register_buffer(name, torch.zeros(shape))

    def forward(self, input_ids: torch.Tensor, causal_mask: torch.Tensor) -> torch.Tensor:
        query, end = input_ids.shape[1], causal_mask.shape[-1]
        begin = end - query
        keys, values = self.key_cache, self.value_cache
        assert isinstance(keys, torch.Tensor) and isinstance(values, torch.Tensor)
        layers = [_Layer(keys, values, index, begin, end) for index in range(keys.shape[0])]
        places = (torch.arange(query) + begin).unsqueeze(0)
        found: torch.Tensor = self.module(
            input_ids=input_ids,
            attention_mask=causal_mask,
            position_ids=places,
            past_key_values=Cache(layers=layers),
            use_cache=True,
        ).logits
        return found


def export_stateful(request: ExportRequest, options: CoreMlOptions) -> Artifact:
    """Write a decoder with its cache as state. Its program's inputs are those described above, not the request's.

    Raises:
        OptionError: the target cannot hold state, shapes are enumerated, or there is no room for the traced text.
        ExportError: the model takes more than texts or returns more than logits, has no cache of equal layers, or
            cannot be converted; or the route does not support state.
    """
    who = who_exports(request, request.route or "trace")
    _check(request, options, who)
    module = request.source.module()
    shape = _cache_shape(module, options, who)
    _check_room(request, shape[3], who)
    inputs, outputs = program_specs(request.outputs)
    metadata.check_descriptions(options, inputs, outputs)
    with converting(who) as ct:
        flat = StatefulDecoder(module, shape).eval()
        samples = {
            "input_ids": torch.ones(1, _QUERY, dtype=torch.int64),
            "causal_mask": torch.from_numpy(causal_mask(_END - _QUERY, np.ones(_END))),
        }
        with quiet_transformers(), torch.no_grad():
            program = trace(flat, samples, request)
        named = dataclasses.replace(request, inputs=inputs, outputs=outputs)
        model = convert(ct, program, _types(ct, shape[3]), named, options, states=_states(ct, shape))
        metadata.describe(model, options, inputs, outputs, name=request.source.name, task=request.task)
        notes = {LAYERS: json.dumps(layer_names(model, module))}
        files = save(model, request.output, notes)
    found = problems(model.get_spec(), inputs, outputs)
    if found:
        raise ExportError(who, "; ".join(found), REMEDY)
    return written(request, files, options, "trace")


def _check(request: ExportRequest, options: CoreMlOptions, who: str) -> None:
    if target_of(options) != "iOS18":
        why = f"state needs iOS18, and the minimum target is {target_of(options)}"
        raise OptionError(who, why, "use minimum_deployment_target='iOS18'")
    if options.enumerated_shapes:
        raise OptionError(who, "a program with state takes ranges of lengths", "leave 'enumerated_shapes' out")
    if request.route not in (None, "trace"):
        raise ExportError(who, "a program with state is written by route 'trace' alone", "use route 'trace'")
    further = [spec.name for spec in request.inputs if spec.name not in TEXT_INPUTS]
    further += [spec.name for spec in request.outputs if spec.name != LOGITS]
    if further or [spec.name for spec in request.inputs][:1] != ["input_ids"]:
        why = f"a program with state takes {' and '.join(TEXT_INPUTS)} and gives {LOGITS}; further: {further}"
        raise ExportError(who, why, "leave 'stateful' out")


def _check_room(request: ExportRequest, positions: int, who: str) -> None:
    traced = int(request.samples["input_ids"].shape[1])
    if positions < traced:
        why = f"option 'context_length' is {positions}, and the model is tried with {traced} tokens"
        raise OptionError(who, why, f"give at least {traced}")


def _cache_shape(module: Any, options: CoreMlOptions, who: str) -> tuple[int, ...]:
    """Return layers, batch 1, heads, positions, channels: read from a cache that the eager model fills."""
    failing = foreign_errors(who, ExportError, "leave 'stateful' out", doing="it keeps no cache of keys and values")
    with failing, torch.no_grad():
        cache = module(input_ids=torch.ones(1, 2, dtype=torch.int64), use_cache=True).past_key_values
        shapes = {tuple(tensor.shape) for layer in cache.layers for tensor in (layer.keys, layer.values)}
    if len(shapes) != 1:
        raise ExportError(who, "its layers keep caches of several shapes", "leave 'stateful' out")
    ((_, heads, _, channels),) = shapes
    positions = options.context_length or longest_sequence(module.config)
    return len(cache.layers), 1, heads, positions, channels


def _types(ct: Any, positions: int) -> list[Any]:
    query = ct.RangeDim(lower_bound=1, upper_bound=positions, default=_QUERY)
    end = ct.RangeDim(lower_bound=1, upper_bound=positions, default=_END)
    return [
        ct.TensorType(name=feature_name("input_ids"), shape=(1, query), dtype=np.int32),
        ct.TensorType(name=feature_name("causal_mask"), shape=(1, 1, query, end), dtype=np.float32),
    ]


def _states(ct: Any, shape: tuple[int, ...]) -> list[Any]:
    wrapped = ct.TensorType(shape=shape, dtype=np.float16)
    return [ct.StateType(wrapped_type=wrapped, name=name) for name in STATES]
