"""The language model of a model that takes pictures or sound beside text, as a pure function of embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from optimum_core.models.decoders.module import StatefulModule, idle_layers
from optimum_core.types import StateSpec
from optimum_core.types.state import ADDED, VISIBLE


class LanguageModule(StatefulModule):
    """`forward(inputs_embeds, attention_mask, …, logits_to_keep, **visible, **past) -> dict` of logits and present.

    The logits are those of the output layer. What the original does with them then (soft capping), it does itself.

    Args:
        module: the whole model, of transformers.
    """

    def __init__(self, module: Any, state: StateSpec) -> None:
        super().__init__(state, idle_layers(module))
        self.language_model, self.head = module.get_decoder(), module.get_output_embeddings()

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        **tensors: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        cache = self.cache(tensors)
        with self.exportable(self.language_model, cache):
            logits, answer = _called(
                self, tensors, logits_to_keep, inputs_embeds=inputs_embeds, attention_mask=attention_mask,
                position_ids=position_ids, past_key_values=cache, use_cache=True, return_dict=True,
            )  # fmt: skip
        return self.outputs(logits, answer.past_key_values)


class LanguageCaller(torch.nn.Module):
    """The eager language model with its own cache, called with a decoder's inputs.

    Args:
        module: the whole model, of transformers.
        keeps_all: the cache keeps positions beyond a window: masks of pairs are of all positions.
    """

    def __init__(self, module: Any, *, keeps_all: bool) -> None:
        super().__init__()
        self.language_model, self.head = module.get_decoder(), module.get_output_embeddings()
        self.config, self.keeps_all = module.config, keeps_all

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: torch.Tensor,
        past_key_values: Any,
        position_ids: torch.Tensor | None = None,
        use_cache: bool = True,
        return_dict: bool = True,
        **tensors: torch.Tensor,
    ) -> Any:
        logits, answer = _called(
            self, tensors, logits_to_keep, inputs_embeds=inputs_embeds, attention_mask=attention_mask,
            position_ids=position_ids, past_key_values=past_key_values, use_cache=use_cache, return_dict=return_dict,
        )  # fmt: skip
        answer.logits = logits
        return answer


def _called(
    model: LanguageModule | LanguageCaller,
    tensors: Mapping[str, torch.Tensor],
    logits_to_keep: torch.Tensor,
    *,
    attention_mask: torch.Tensor,
    position_ids: torch.Tensor | None,
    **settings: Any,
) -> tuple[torch.Tensor, Any]:
    """Call the language model; return the logits of the positions to keep, and its answer.

    Args:
        tensors: the inputs of a decoder that the language model takes in a form of its own.
    """
    answer = model.language_model(
        attention_mask=mask_of(model.language_model, attention_mask, tensors),
        **({} if position_ids is None else {"position_ids": position_ids}),
        **features_of(tensors),
        **settings,
    )
    return model.head(answer.last_hidden_state.index_select(1, logits_to_keep)), answer


def mask_of(language_model: Any, attention_mask: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Return the mask as the language model takes it: of positions, or of pairs of them, by kind of layer."""
    found = {
        name.removeprefix(VISIBLE): _of_pairs(language_model, tensor * attention_mask[:, None, :])
        for name, tensor in tensors.items()
        if name.startswith(VISIBLE)
    }
    if not found:
        return attention_mask
    return found.get(ONE_KIND, found)


def _of_pairs(language_model: Any, seen: torch.Tensor) -> torch.Tensor:
    """Return a mask of booleans; where the model adds it to scores, of numbers."""
    seen = seen[:, None].bool()
    if language_model.config._attn_implementation != "eager":
        return seen
    hidden = torch.finfo(torch.float32).min
    return torch.where(seen, 0.0, hidden)


class _Everywhere:
    """A mask of places that selects all of them: an index, and no tensor that a trace would search for ones."""

    def to(self, *_: Any) -> Any:
        return Ellipsis


def features_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Return the arguments of a language model for features that its layers add, from inputs of a decoder."""
    added = [tensors[name] for name in sorted(tensors) if name.startswith(ADDED)]
    return {PLACES: _Everywhere(), FEATURES: added} if added else {}


#: The arguments of a language model for the places of features, and for the features of its first layers.
PLACES, FEATURES = "visual_pos_masks", "deepstack_visual_embeds"
#: The kind of all layers, where the language model takes one mask for them.
ONE_KIND = "all"
