"""The eager decoder's session and state: the model with its own cache. The reference for all other backends."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from optimum_core.errors import SessionError, UnavailableError
from optimum_core.models.decoders.encoder_decoder_module import encoded
from optimum_core.models.decoders.recurrent import cache_name, has_fixed_states
from optimum_core.models.decoders.stepping import goes_on, has_padding, masks_one, new_tokens, single
from optimum_core.models.eager.calls import as_tensor
from optimum_core.types import Array, StateSpec, TensorSpec
from optimum_core.types.state import ENCODER_HIDDEN, ENCODER_MASK

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
    cache_name: str = field(init=False)
    selects: bool = field(init=False)

    def __post_init__(self) -> None:
        self.cache_name, self.selects = cache_name(self.module), _selects(self.module)

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
        kept = tensors.pop("logits_to_keep")
        if self.length and new_tokens(tensors) > 1 and not goes_on(self, tensors):
            return {"logits": self._stepped(tensors).index_select(1, kept).numpy()}
        return {"logits": self.called(tensors, kept).numpy()}

    def _stepped(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the logits of calls with one new token each."""
        if has_padding(tensors) and not masks_one(self, tensors):
            why = "this model reads further texts token by token, and then reads no padding: it would read it as text"
            raise UnavailableError(f"backend {_BACKEND!r}", why, "pass texts of one length, or the whole texts anew")
        return torch.cat([self.called(one, torch.tensor([0])) for one in single(tensors)], dim=1)

    def called(self, given: Mapping[str, torch.Tensor], kept: torch.Tensor) -> torch.Tensor:
        """Return the logits of one call of the model."""
        tensors, selects, new = dict(given), self.session.selects, new_tokens(given)
        if self.session.is_behind_encoder:
            tensors = renamed(tensors)
        if not self.session.attends:
            tensors["attention_mask"] = tensors["attention_mask"][:, -new:]
        try:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=self.session.precision == "bf16"):
                answer = self.module(
                    **tensors,
                    **({"logits_to_keep": kept} if selects else {}),
                    **{self.session.cache_name: self.cache},
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
        """Remove all positions from this one on.

        Raises:
            UnavailableError: positions cannot be taken out of states of a fixed size.
        """
        self.session.state.check_crop(f"backend {_BACKEND!r}", self.length, length)
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

    def trial(self) -> EagerState:
        """Return a copy that computes in the weights' own precision and is not compiled."""
        module = getattr(self.module, "_orig_mod", self.module)
        session = replace(self.session, module=module, precision="fp32")
        return EagerState(session=session, cache=copy.deepcopy(self.cache), rows=self.rows, length=self.length)

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
