"""Texts of a model of pictures or sound with text about drawn ones: eager's own greedy text, and a candidate's scores
of the same text, both through `generate` of transformers."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from optimum_core.models.eager.calls import as_tensor, fresh
from optimum_core.models.inputs.samples import Case
from optimum_core.models.pretrained import quiet
from optimum_core.models.signatures.signature import ModelSignature
from optimum_core.types.arrays import Arrays, NDArray

log = logging.getLogger(__name__)
_PADDING = 3  # tokens before the shorter row


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureText:
    """Eager's greedy text behind pictures.

    Attributes:
        tokens: int64 [rows, new].
        want: eager's logits, [new, rows, vocabulary].
    """

    name: str
    inputs: Mapping[str, NDArray]
    tokens: NDArray
    want: NDArray


class _Forced:
    """A logits processor that lets `generate` write given tokens."""

    def __init__(self, prompt: int, tokens: NDArray) -> None:
        self._prompt, self._tokens = prompt, tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        chosen = as_tensor(self._tokens[:, input_ids.shape[1] - self._prompt])
        return torch.full_like(scores, -torch.inf).scatter(1, chosen[:, None], 0.0)


def written(model: Any, inputs: Mapping[str, NDArray], new: int, seconds: float, forced: NDArray | None = None) -> Any:
    """Return a model's greedy tokens [rows, new] and logits [new, rows, vocabulary]; the scores of `forced` tokens.

    Args:
        model: a throwaway copy; its settings are changed, so that no token ends a row.
        seconds: after which no more are written, unless they are forced.
    """
    prompt = inputs["input_ids"].shape[1]
    model.generation_config = GenerationConfig(pad_token_id=0)
    with quiet(), torch.no_grad():
        made = model.generate(
            **{name: as_tensor(value.copy()) for name, value in inputs.items()},
            max_new_tokens=new,
            do_sample=False,
            max_time=seconds if forced is None else None,
            logits_processor=[_Forced(prompt, forced)] if forced is not None else [],
            output_logits=True,
            return_dict_in_generate=True,
        )
    return made.sequences[:, prompt:].numpy(), np.stack([step.float().numpy() for step in made.logits])


def picture_texts(module: Any, signature: ModelSignature, new: int, seconds: float) -> Iterator[PictureText]:
    """Yield eager's greedy texts; none of what eager refuses."""
    for name, inputs in _cases(module, signature):
        try:
            tokens, want = written(fresh(module), inputs, new, seconds)
        except Exception as error:  # noqa: BLE001 - eager refuses these rows, by an error of any type
            log.info("%s is left out: eager refuses it: %r", name, error)
            continue
        yield PictureText(name=name, inputs=inputs, tokens=tokens, want=want)


def _cases(module: Any, signature: ModelSignature) -> Iterator[tuple[str, Arrays]]:
    one, other = (signature.draw(Case(name="pictures", padding="none", seed=seed)) for seed in (31, 32))
    texts = _Texts(module, signature)
    yield "a text behind pictures", one
    yield "rows of pictures, padded on the left", texts.joined(one, other)
    yield "a row of pictures and one without", texts.beside_text(one, zeros=False)
    yield "a row of pictures and one of blank ones", texts.beside_text(one, zeros=True)


class _Texts:
    """Rows of a call, joined to calls of more rows."""

    def __init__(self, module: Any, signature: ModelSignature) -> None:
        assert signature.decoder is not None and signature.decoder.merge is not None
        every = np.arange(signature.decoder.greatest + 1)
        self._rng, self._tokens = np.random.default_rng(33), np.setdiff1d(every, signature.decoder.merge.placeholders)

    def joined(self, one: Arrays, other: Arrays) -> Arrays:
        """Return the rows of two calls, the first padded on the left, the second with a longer text."""
        made = {name: np.concatenate([array, other[name]]) for name, array in one.items() if not _is_text(one, name)}
        for name, array in one.items():
            if _is_text(one, name):
                rows = len(array), _PADDING
                before, after = np.zeros(rows, array.dtype), self._further(name, array, rows)
                made[name] = np.concatenate(
                    [np.concatenate([before, array], 1), np.concatenate([other[name], after], 1)]
                )
        made["input_ids"][: len(one["input_ids"]), :_PADDING] = self._tokens[0]
        return made

    def beside_text(self, one: Arrays, *, zeros: bool) -> Arrays:
        """Return the rows of a call and as many of text alone, with nothing or with zeros for their pictures."""
        made = {}
        for name, array in one.items():
            if _is_text(one, name):
                made[name] = np.concatenate([array, self._further(name, array, array.shape)])
            else:
                made[name] = np.concatenate([array, np.zeros_like(array)]) if zeros else array
        return made

    def _further(self, name: str, like: NDArray, shape: tuple[int, ...]) -> NDArray:
        """Return what goes with further text: tokens, ones for the mask, zeros for what tells pictures apart."""
        if name == "input_ids":
            return self._rng.choice(self._tokens, shape)
        return np.full(shape, int(name == "attention_mask"), like.dtype)


def _is_text(inputs: Arrays, name: str) -> bool:
    return bool(inputs[name].shape == inputs["input_ids"].shape)
