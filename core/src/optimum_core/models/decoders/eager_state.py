"""The eager decoder's session and state: the model with its own cache. The reference for all other backends."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from optimum_core.errors import SessionError
from optimum_core.models.decoders.encoder_decoder_module import encoded
from optimum_core.models.decoders.recurrent import cache_name, has_fixed_states
from optimum_core.models.eager.calls import as_tensor
from optimum_core.types import Array, StateSpec, TensorSpec
from optimum_core.types.state import EMBEDS, ENCODER_HIDDEN, ENCODER_MASK

_BACKEND = "torch"


@dataclass(kw_only=True, slots=True)
class EagerDecoderSession:
    """A session on a causal language model of transformers, or on the decoder of an encoder-decoder."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    state: StateSpec
    module: Any
    precision: str = "fp32"
    device: str = "cpu"
    backend: str = field(default=_BACKEND, init=False)

    def begin(self, rows: int) -> EagerState:
        """Return an empty state."""
        if self.module is None:
            raise closed()
        return EagerState(session=self, cache=self.new_cache(), rows=rows)

    @property
    def is_behind_encoder(self) -> bool:
        """Whether it takes the output of an encoder."""
        return any(spec.name == ENCODER_HIDDEN for spec in self.inputs)

    @property
    def one_by_one(self) -> bool:
        """Whether a call takes one token after the first: transformers' Mamba forgets its state where more come."""
        return any(layer.recurrences for layer in self.state.layers)

    @property
    def attends(self) -> bool:
        """Whether some layer looks back at positions; a model of none multiplies what is new by the mask."""
        return any(layer.kind == "key-value" for layer in self.state.layers)

    def new_cache(self, module: Any = None) -> Any:
        """Return an empty cache of the model, or of the one that a state goes on with after it was released."""
        return _new_cache(module or self.module, behind_encoder=self.is_behind_encoder)

    def close(self) -> None:
        """Release the model; states that were begun go on."""
        self.module = None


@dataclass(kw_only=True, slots=True)
class EagerState:
    """The model's own cache, and the number of positions in it."""

    session: EagerDecoderSession
    cache: Any
    rows: int
    length: int = 0
    module: Any = None

    def __post_init__(self) -> None:
        self.module = self.module or self.session.module

    @property
    def backend(self) -> str:
        return self.session.backend

    @property
    def device(self) -> str:
        return self.session.device

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self.session.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self.session.outputs

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Any]:
        """Run the model on new tokens, which the cache then holds too."""
        if self.cache is None:
            raise closed()
        tensors = {name: as_tensor(value) for name, value in inputs.items()}
        kept, new = tensors.pop("logits_to_keep"), tensors[_main(tensors)].shape[1]
        if self.session.one_by_one and self.length and new > 1:
            logits = torch.cat([self._called(one, torch.tensor([0])) for one in _single(tensors, new)], dim=1)
            return {"logits": logits.index_select(1, kept).numpy()}
        return {"logits": self._called(tensors, kept).numpy()}

    def _called(self, tensors: dict[str, torch.Tensor], kept: torch.Tensor) -> torch.Tensor:
        """Return the logits of one call of the model."""
        selects, new = _selects(self.module), tensors[_main(tensors)].shape[1]
        if self.session.is_behind_encoder:
            tensors = renamed(tensors)
        if not self.session.attends:
            tensors["attention_mask"] = tensors["attention_mask"][:, -new:]
        try:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=self.session.precision == "bf16"):
                answer = self.module(
                    **tensors,
                    **({"logits_to_keep": kept} if selects else {}),
                    **{cache_name(self.module): self.cache},
                    use_cache=True,
                    return_dict=True,
                )
        except Exception as error:  # models raise errors of any type
            why = f"the run failed: {type(error).__name__}: {error}"
            raise SessionError(f"backend {_BACKEND!r}", why, "check the ids, and begin a new state") from error
        self.length += new
        logits: torch.Tensor = answer.logits if selects else answer.logits.index_select(1, kept)
        return logits.float()

    def crop(self, length: int) -> None:
        """Remove all positions from this one on."""
        if length == 0:
            self.cache = self.session.new_cache(self.module)
        elif length < self.length:
            self.cache.crop(length - self.length)
        self.length = min(length, self.length)

    def reorder(self, rows: Sequence[int]) -> None:
        """Replace the rows by those with these indices."""
        if self.length:
            chosen = torch.as_tensor(list(rows))
            if self.session.state.crop:
                self.cache.batch_select_indices(chosen)
            else:  # states of a fixed size have the method for beams alone
                self.cache.reorder_cache(chosen)
        self.rows = len(rows)

    def fork(self) -> EagerState:
        """Return an independent copy."""
        return EagerState(
            session=self.session,
            cache=copy.deepcopy(self.cache),
            rows=self.rows,
            length=self.length,
            module=self.module,
        )

    def close(self) -> None:
        """Free the cache."""
        self.cache = None


def closed() -> SessionError:
    """Return the error for a session or state that was closed."""
    return SessionError(f"backend {_BACKEND!r}", "it is closed", "load the model again, or begin a new state")


#: Inputs of a decoder behind an encoder, by the names that the whole model has for them.
_NAMES = {
    "input_ids": "decoder_input_ids", "attention_mask": "decoder_attention_mask",
    "position_ids": "decoder_position_ids", ENCODER_MASK: "attention_mask",
}  # fmt: skip


def renamed(tensors: dict[str, Any]) -> dict[str, Any]:
    """Return the inputs of a decoder behind an encoder as those of the whole model."""
    output = encoded(tensors.pop(ENCODER_HIDDEN), tensors.get(ENCODER_MASK))
    return {**{_NAMES[name]: tensor for name, tensor in tensors.items()}, "encoder_outputs": output}


def _single(tensors: Mapping[str, torch.Tensor], new: int) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the inputs of calls with one of the new tokens each."""
    for index in range(new):
        one = {name: tensor[..., index : index + 1] for name, tensor in tensors.items() if name != "attention_mask"}
        if EMBEDS in tensors:
            one[EMBEDS] = tensors[EMBEDS][:, index : index + 1]
        seen = tensors["attention_mask"]
        yield {**one, "attention_mask": seen[:, : seen.shape[1] - new + index + 1]}


def _main(tensors: Mapping[str, Any]) -> str:
    return EMBEDS if EMBEDS in tensors else "input_ids"


def _new_cache(module: Any, *, behind_encoder: bool) -> Any:
    from transformers import DynamicCache, EncoderDecoderCache

    if getattr(module, "keeps_all", False):
        return DynamicCache()
    cache = DynamicCache(config=module.config)
    if any(cache.is_sliding) and not any(map(has_fixed_states, cache.layers)):
        cache.activate_past_recording()  # without it, a window that was overrun cannot be cropped
    if behind_encoder:
        return EncoderDecoderCache(cache, DynamicCache())
    return cache


def _selects(module: Any) -> bool:
    import inspect

    forward = getattr(module, "_orig_mod", module).forward
    return "logits_to_keep" in inspect.signature(forward).parameters
