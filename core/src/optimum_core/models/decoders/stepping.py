"""Whether a model goes on from its states of a fixed size by several tokens at once, found out by trying.

transformers' Mamba and Jamba begin their recurrences anew where more than one token comes, and most others go on; some
leave the mask of padding out where a single token comes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

from optimum_core.errors import SessionError
from optimum_core.types.state import ADDED, EMBEDS, ENCODER_HIDDEN, ENCODER_MASK, VISIBLE

if TYPE_CHECKING:
    from optimum_core.models.decoders.eager_state import EagerState

Tensors = Mapping[str, torch.Tensor]

#: New tokens of a trial, and the part of the largest number by which two ways of rounding may be apart.
_TRIED, _APART = 3, 0.02

_GOES_ON: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def main_input(tensors: Mapping[str, Any]) -> str:
    """Return the name of the input for what is new."""
    return EMBEDS if EMBEDS in tensors else "input_ids"


def new_tokens(tensors: Tensors) -> int:
    """Return the number of new tokens of a call."""
    return int(tensors[main_input(tensors)].shape[1])


def has_padding(tensors: Tensors) -> bool:
    """Whether some new token is padding."""
    return not bool(tensors["attention_mask"][:, -new_tokens(tensors) :].all())


def single(tensors: Tensors) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the inputs of calls with one of the new tokens each."""
    return (piece(tensors, index, index + 1) for index in range(new_tokens(tensors)))


def piece(tensors: Tensors, start: int, end: int) -> dict[str, torch.Tensor]:
    """Return the inputs of a call with some of the new tokens.

    >>> ids, mask = torch.arange(4)[None], torch.ones(1, 6)
    >>> {name: list(part.shape) for name, part in piece({"input_ids": ids, "attention_mask": mask}, 1, 3).items()}
    {'input_ids': [1, 2], 'attention_mask': [1, 5]}
    """
    seen = tensors["attention_mask"].shape[1] - new_tokens(tensors) + end
    made = {}
    for name, tensor in tensors.items():
        if name in (ENCODER_HIDDEN, ENCODER_MASK):
            made[name] = tensor
        elif name == "attention_mask":
            made[name] = tensor[:, :seen]
        elif name.startswith(VISIBLE):
            made[name] = tensor[:, start:end, :seen]
        elif name == EMBEDS or name.startswith(ADDED):
            made[name] = tensor[:, start:end]
        else:  # position ids of several axes have those first
            made[name] = tensor[..., start:end]
    return made


def goes_on(state: EagerState, tensors: Tensors) -> bool:
    """Whether the state's model computes by several tokens at once what it does one by one; tried once a model.

    Args:
        tensors: the inputs of the first call that needs to know.
    """
    if not any(layer.recurrences for layer in state.session.state.layers):
        return True
    module = getattr(state.module, "_orig_mod", state.module)
    if module not in _GOES_ON:
        _GOES_ON[module] = _tried(state, tensors)
    return _GOES_ON[module]


def _tried(state: EagerState, tensors: Tensors) -> bool:
    """Try it from random states, which no model can forget without a difference."""
    few = piece(_without_padding(tensors), 0, min(new_tokens(tensors), _TRIED))
    before = state.trial()
    generator = torch.Generator().manual_seed(0)
    for tensor in _fixed(before):
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    at_once, by_one = before.fork(), before.fork()
    kept = torch.arange(new_tokens(few))
    try:
        answers = at_once.called(few, kept), torch.cat([by_one.called(one, kept[:1]) for one in single(few)], dim=1)
    except SessionError:
        return False
    return all(map(_close, (answers[0], *_fixed(at_once)), (answers[1], *_fixed(by_one))))


def masks_one(state: EagerState, tensors: Tensors) -> bool:
    """Whether a single new token that is padding leaves the same states whatever it is: its mask is read."""
    one = piece(tensors, 0, 1)
    padding = one["attention_mask"].clone()
    padding[:, -1] = 0
    main = main_input(one)
    another = -one[main] if main == EMBEDS else torch.where(one[main] > 0, one[main] - 1, 1)
    made = state.trial(), state.trial()
    for trial, token in zip(made, (one[main], another), strict=True):
        trial.called({**one, main: token, "attention_mask": padding}, torch.tensor([0]))
    return all(map(torch.equal, _fixed(made[0]), _fixed(made[1])))


def _without_padding(tensors: Tensors) -> dict[str, torch.Tensor]:
    mask = tensors["attention_mask"].clone()
    mask[:, -new_tokens(tensors) :] = 1
    return {**tensors, "attention_mask": mask}


def _fixed(state: EagerState) -> list[torch.Tensor]:
    """Return the states of convolutions and recurrences in a cache."""
    layers = [layer for layer in state.cache.layers if hasattr(layer, "recurrent_states")]
    kinds = [kind for layer in layers for kind in (layer.conv_states, layer.recurrent_states)]
    return [tensor for kind in kinds for tensor in kind.values() if tensor is not None]


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    bound = _APART * float(other.abs().max())
    return bool((one - other).abs().max() <= bound)
