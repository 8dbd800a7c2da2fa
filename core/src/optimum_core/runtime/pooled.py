"""Vectors of texts from a graph that is the transformer of a sentence encoder alone: its modules, in numpy.

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
from optimum_core.models.sources.sentences.behind import (
    DenseLayer,
    LayerNormalization,
    Module,
    ModulesBehind,
    TokenPooling,
    read_behind,
)
from optimum_core.models.sources.sentences.module_settings import ORIGINAL
from optimum_core.runtime.call_outputs import Answer
from optimum_core.runtime.mapping import Mapper
from optimum_core.runtime.vectors import normalized, widened
from optimum_core.types.arrays import NDArray

HIDDEN_STATE = "last_hidden_state"
_IDS, _PADDED_AXIS = "input_ids", "sequence"
#: Added to the variance by `torch.nn.LayerNorm`.
_EPSILON = 1e-5
#: Batches whose token vectors are in memory at once.
_BATCHES = 4
#: Modes that are a sum over tokens, of which a text without tokens has none.
_SUMS = frozenset({"mean", "mean_sqrt_len_tokens", "weightedmean"})


def _weighted_mean(tokens: NDArray) -> NDArray:
    weights = np.arange(1, 1 + len(tokens), dtype=tokens.dtype)
    return np.asarray(weights @ tokens / weights.sum())


#: Each takes the token vectors of one text.
_MODES: Mapping[str, Callable[[NDArray], NDArray]] = {
    "cls": lambda tokens: tokens[0],
    "max": lambda tokens: tokens.max(axis=0),
    "mean": lambda tokens: tokens.mean(axis=0),
    "mean_sqrt_len_tokens": lambda tokens: tokens.sum(axis=0) / np.sqrt(len(tokens)),
    "weightedmean": _weighted_mean,
    "lasttoken": lambda tokens: tokens[-1],
}


def modules_behind(manifest: Manifest, directory: Path) -> ModulesBehind | None:
    """Return the modules that lie behind a model's graph; None: its graph has them, or nothing states any.

    Raises:
        SourceError: modules are stated that are not applied here, or the graph does not give a vector for each token.
        UnavailableError: torch computes one of their activations, and is not installed.
    """
    outputs = {spec.name: spec for spec in manifest.outputs}
    is_encoder = HIDDEN_STATE in outputs and any(spec.name == _IDS for spec in manifest.inputs)
    if MODULES not in manifest.files or SENTENCE in outputs or not is_encoder:
        return None
    shape, who = outputs[HIDDEN_STATE].shape, f"model {manifest.model.name!r}"
    if len(shape) != 3 or shape[1] != _PADDED_AXIS:
        why = f"its {HIDDEN_STATE} is {list(shape)}, and pooling takes a vector for each token"
        raise SourceError(who, why, ORIGINAL)
    found = read_behind(directory, manifest.model.name)
    if not found.include_prompt:
        why = "its pooling leaves the tokens of prompts out, for which its graph has no input"
        raise SourceError(who, why, ORIGINAL)
    _check_width(found, manifest, who)
    return found


def _check_width(behind: ModulesBehind, manifest: Manifest, who: str) -> None:
    try:
        width_of(behind, manifest)
    except ValueError as error:
        why = f"its modules do not fit the graph or each other: {error}"
        raise SourceError(who, why, "fetch or save it again") from error


def width_of(behind: ModulesBehind, manifest: Manifest) -> int | None:
    """Return the number of dimensions of the vectors; None: the graph does not tell.

    Raises:
        ValueError: a module takes vectors of another width.
    """
    sizes = [spec.shape[-1] for spec in manifest.outputs if spec.name == HIDDEN_STATE]
    if not isinstance(sizes[0], int):
        return None
    return int(applied(behind, np.zeros((1, sizes[0]), np.float32))[SENTENCE].shape[-1])


def applied(behind: ModulesBehind, tokens: NDArray) -> dict[str, NDArray]:
    """Return what the modules make of the token vectors of one text [tokens, width], by name.

    Raises:
        InputError: the text has no token, and the pooling takes one of them.
    """
    features = {TOKENS: tokens}
    for module in behind.modules:
        taken, given = _places(module)
        features[given] = _given(module, features[taken])
    return features


def _places(module: Module) -> tuple[str, str]:
    """Return the names of what a module takes and gives."""
    if isinstance(module, TokenPooling):
        return TOKENS, SENTENCE
    return (SENTENCE, SENTENCE) if isinstance(module, LayerNormalization) else (module.taken, module.given)


def _given(module: Module, values: NDArray) -> NDArray:
    if isinstance(module, TokenPooling):
        return _pooled(module.modes, values)
    if isinstance(module, DenseLayer):
        return _dense(module, values)
    if isinstance(module, LayerNormalization):
        around = values - values.mean()
        return np.asarray(around / np.sqrt(np.square(around).mean() + _EPSILON) * module.weight + module.bias)
    return normalized(values)


def _dense(layer: DenseLayer, values: NDArray) -> NDArray:
    made = values @ layer.weight.T
    made = layer.activation(made if layer.bias is None else made + layer.bias)
    if not layer.is_residual:
        return made
    return np.asarray(made + (values if layer.residual is None else values @ layer.residual.T))


def _pooled(modes: Sequence[str], tokens: NDArray) -> NDArray:
    if len(tokens):
        return np.concatenate([_MODES[mode](tokens) for mode in modes]).astype(tokens.dtype, copy=False)
    if _SUMS.issuperset(modes):
        return np.zeros(len(modes) * tokens.shape[-1], tokens.dtype)
    why = f"a text has no token, and its pooling ({', '.join(modes)}) takes the values of one"
    raise InputError("encode", why, "leave texts without tokens out, such as empty ones")


class PooledMapper:
    """Runner of a transformer over many texts, which gives the vector of each, or also those of its tokens.

    Args:
        mapper: gives the last hidden state.
        names: of the outputs: "sentence_embedding", "token_embeddings".
        width: dimensions of a vector.
    """

    def __init__(self, mapper: Mapper, behind: ModulesBehind, names: Sequence[str], width: int | None) -> None:
        self._mapper = mapper
        self._behind = behind
        self._names = names
        self._width = width or 0

    def map(self, items: Sequence[Item], batch_size: int, advance: Callable[[int], None]) -> Answer:
        """Run all items, as `Mapper.map`."""
        tokens: list[NDArray] = []
        vectors: list[NDArray] = []
        for start in range(0, len(items), step := _BATCHES * batch_size):
            rows = self._mapper.map(items[start : start + step], batch_size, advance)[HIDDEN_STATE]
            for row in rows:
                # In 32 bits, of a graph in fewer: its sums over tokens leave the range of 16.
                found = applied(self._behind, widened(row))
                vectors.append(found[SENTENCE])
                if TOKENS in self._names:
                    tokens.append(found[TOKENS] if self._behind.changes_tokens else row)
        made: dict[str, Any] = {TOKENS: tokens}
        made[SENTENCE] = np.stack(vectors) if vectors else np.empty((0, self._width), np.float32)
        return Answer({name: made[name] for name in self._names})
