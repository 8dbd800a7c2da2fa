"""Vectors of texts from a graph that is the transformer of a sentence encoder alone: its pooling, in numpy.

A model that another package converted has its modules in files beside the graph; they are applied to the token vectors
of each text, which come without padding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from optimum_core.artifact import Manifest
from optimum_core.artifact.embedding import MODULES, SENTENCE, TOKENS
from optimum_core.errors import InputError, SourceError
from optimum_core.models.data.texts import Item
from optimum_core.models.sources.sentences.pooling import ORIGINAL, TokenPooling, read_pooling
from optimum_core.runtime.call_outputs import Answer
from optimum_core.runtime.mapping import Mapper
from optimum_core.runtime.vectors import Array, normalized, widened

HIDDEN_STATE = "last_hidden_state"
_IDS, _PADDED_AXIS = "input_ids", "sequence"
#: Batches whose token vectors are in memory at once.
_BATCHES = 4
#: Modes that are a sum over tokens, of which a text without tokens has none.
_SUMS = frozenset({"mean", "mean_sqrt_len_tokens", "weightedmean"})


def _weighted_mean(tokens: Array) -> Array:
    weights = np.arange(1, 1 + len(tokens), dtype=tokens.dtype)
    return np.asarray(weights @ tokens / weights.sum())


#: Each takes the token vectors of one text.
_MODES: Mapping[str, Callable[[Array], Array]] = {
    "cls": lambda tokens: tokens[0],
    "max": lambda tokens: tokens.max(axis=0),
    "mean": lambda tokens: tokens.mean(axis=0),
    "mean_sqrt_len_tokens": lambda tokens: tokens.sum(axis=0) / np.sqrt(len(tokens)),
    "weightedmean": _weighted_mean,
    "lasttoken": lambda tokens: tokens[-1],
}


def pooling_behind(manifest: Manifest, directory: Path) -> TokenPooling | None:
    """Return the pooling that lies behind a model's graph; None: its graph has one, or nothing states one.

    Raises:
        SourceError: modules are stated that are not applied here, or the graph does not give a vector for each token.
    """
    outputs = {spec.name: spec for spec in manifest.outputs}
    is_encoder = HIDDEN_STATE in outputs and any(spec.name == _IDS for spec in manifest.inputs)
    if MODULES not in manifest.files or SENTENCE in outputs or not is_encoder:
        return None
    shape, who = outputs[HIDDEN_STATE].shape, f"model {manifest.model.name!r}"
    if len(shape) != 3 or shape[1] != _PADDED_AXIS:
        why = f"its {HIDDEN_STATE} is {list(shape)}, and pooling takes a vector for each token"
        raise SourceError(who, why, ORIGINAL)
    found = read_pooling(directory, manifest.model.name)
    if not found.include_prompt:
        why = "its pooling leaves the tokens of prompts out, for which its graph has no input"
        raise SourceError(who, why, ORIGINAL)
    return found


def width_of(pooling: TokenPooling, manifest: Manifest) -> int | None:
    """Return the number of dimensions of the vectors; None: the graph does not tell."""
    sizes = [spec.shape[-1] for spec in manifest.outputs if spec.name == HIDDEN_STATE]
    return sizes[0] * len(pooling.modes) if isinstance(sizes[0], int) else None


class PooledMapper:
    """Runner of a transformer over many texts, which gives the vector of each, or also those of its tokens.

    Args:
        mapper: gives the last hidden state.
        names: of the outputs: "sentence_embedding", "token_embeddings".
        width: dimensions of a vector.
    """

    def __init__(self, mapper: Mapper, pooling: TokenPooling, names: Sequence[str], width: int | None) -> None:
        self._mapper = mapper
        self._pooling = pooling
        self._names = names
        self._width = width or 0

    def map(self, items: Sequence[Item], batch_size: int, advance: Callable[[int], None]) -> Answer:
        """Run all items, as `Mapper.map`."""
        tokens: list[Array] = []
        pooled: list[Array] = []
        for start in range(0, len(items), step := _BATCHES * batch_size):
            rows = self._mapper.map(items[start : start + step], batch_size, advance)[HIDDEN_STATE]
            pooled += [self._vector(row) for row in rows]
            tokens += rows if TOKENS in self._names else []
        made: dict[str, Any] = {TOKENS: tokens}
        made[SENTENCE] = np.stack(pooled) if pooled else np.empty((0, self._width), np.float32)
        return Answer({name: made[name] for name in self._names})

    def _vector(self, row: Array) -> Array:
        """Return the vector of a text, in 32 bits of a graph in fewer: its sums over tokens leave the range of 16.

        Raises:
            InputError: the text has no token, and the pooling takes one of them.
        """
        tokens, modes = widened(row), self._pooling.modes
        if len(tokens):
            found = np.concatenate([_MODES[mode](tokens) for mode in modes]).astype(tokens.dtype, copy=False)
        elif _SUMS.issuperset(modes):
            found = np.zeros(len(modes) * tokens.shape[-1], tokens.dtype)
        else:
            why = f"a text has no token, and its pooling ({', '.join(modes)}) takes the values of one"
            raise InputError("encode", why, "leave texts without tokens out, such as empty ones")
        return normalized(found) if self._pooling.normalizes else found
