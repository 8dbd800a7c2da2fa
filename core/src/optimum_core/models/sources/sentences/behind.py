"""Modules of a sentence encoder that lie behind a graph of its transformer alone, read without torch.

Packages that convert a sentence encoder keep its transformer in the graph, and its modules in files beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimum_core.artifact.embedding import SENTENCE, TOKENS, read_object
from optimum_core.errors import SourceError
from optimum_core.models.sources.sentences.activations import Activation, activation_at
from optimum_core.models.sources.sentences.directory import read_modules
from optimum_core.models.sources.sentences.module_settings import (
    ORIGINAL,
    SETTINGS_OF,
    SWITCHES,
    TANH,
    modes_of,
    names_of,
)
from optimum_core.models.sources.sentences.stored import read_stored
from optimum_core.types.arrays import NDArray

_AGAIN = "fetch or save it again"


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenPooling:
    """One vector of all token vectors.

    Attributes:
        modes: of the pooling, whose vectors lie side by side.
        include_prompt: whether the tokens of the prompt are pooled.
    """

    modes: tuple[str, ...]
    include_prompt: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class DenseLayer:
    """A linear layer with an activation.

    Attributes:
        weight, bias: [outputs, inputs] and [outputs]; None: there is no bias.
        residual: [outputs, inputs] of what is added to the result; None: nothing is, where it is not `is_residual`, or
            the input itself.
        taken, given: the names of what it takes and gives.
    """

    weight: NDArray
    bias: NDArray | None
    activation: Activation
    is_residual: bool
    residual: NDArray | None
    taken: str
    given: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Normalization:
    """Vectors of length 1."""

    taken: str
    given: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerNormalization:
    """Layer normalization of the sentence vector, with a weight and a bias for each dimension."""

    weight: NDArray
    bias: NDArray


Module = TokenPooling | DenseLayer | Normalization | LayerNormalization


@dataclass(frozen=True, kw_only=True, slots=True)
class ModulesBehind:
    """The modules behind a transformer that is a graph of its own, in order."""

    modules: tuple[Module, ...]

    @property
    def include_prompt(self) -> bool:
        """Whether the tokens of a prompt are pooled."""
        return all(module.include_prompt for module in self.modules if isinstance(module, TokenPooling))

    @property
    def changes_tokens(self) -> bool:
        """Whether the vectors of the tokens are others behind the modules."""
        return any(getattr(module, "given", SENTENCE) == TOKENS for module in self.modules)


def read_behind(directory: Path, name: str) -> ModulesBehind:
    """Return the modules that `modules.json` of a directory lists behind the transformer.

    Raises:
        SourceError: one is of an unknown kind, has unknown settings, or its settings or weights are not there.
        UnavailableError: torch computes an activation, and is not installed.
    """
    who = f"model {name!r}"
    heads = read_modules(directory, name).heads
    modules = tuple(_module(kind, place, who) for kind, place in heads)
    _check_names(modules, who)
    return ModulesBehind(modules=modules)


def _module(kind: str, place: Path, who: str) -> Module:
    if kind == "Pooling" and not (place / "config.json").is_file():  # every mode is another embedding
        raise SourceError(who, f"the settings of its module {kind} are not in {place}", _AGAIN)
    stated = _settings(place, who)
    unknown = [repr(key) for key in sorted(set(stated) - SETTINGS_OF[kind])]
    if kind == "Pooling":
        unknown += [repr(mode) for mode in modes_of(stated) if mode not in SWITCHES.values()]
    if unknown:
        raise SourceError(who, f"its module {kind} states {unknown[0]}, unknown here", ORIGINAL)
    if kind == "Pooling":
        return TokenPooling(modes=modes_of(stated), include_prompt=bool(stated.get("include_prompt", True)))
    if kind == "Normalize":
        taken, given = names_of(stated)
        return Normalization(taken=taken, given=given)
    weights = _Weights(kind, place, who)
    made: Module = _dense(stated, weights, who) if kind == "Dense" else _layer_norm(stated, weights)
    weights.require_all_read()
    return made


class _Weights:
    """The weights of one module, each read once by its name and shape."""

    def __init__(self, kind: str, place: Path, who: str) -> None:
        self._found, self._kind, self._who = read_stored(place, who), kind, who
        if not self._found:
            raise SourceError(who, f"the weights of its module {kind} are not in {place}", _AGAIN)

    def take(self, name: str, *shape: int) -> NDArray:
        """Return the weights of this name.

        Raises:
            SourceError: there are none, or they are of another shape.
        """
        found = self._found.pop(name, None)
        if found is None or found.shape != shape:
            stated = "missing" if found is None else f"of the shape {list(found.shape)}"
            why = f"the weights {name!r} of its module {self._kind} are {stated}, and have to be {list(shape)}"
            raise SourceError(self._who, why, _AGAIN)
        return found

    def require_all_read(self) -> None:
        """Raise `SourceError` where there are weights of which nothing tells what they do."""
        for name in self._found:
            raise SourceError(self._who, f"its module {self._kind} has weights {name!r}, unknown here", ORIGINAL)


def _dense(stated: Mapping[str, Any], weights: _Weights, who: str) -> DenseLayer:
    try:
        inputs, outputs = int(stated["in_features"]), int(stated["out_features"])
    except KeyError as error:
        raise SourceError(who, f"its module Dense lacks the setting {error}", _AGAIN) from error
    is_residual = bool(stated.get("use_residual", False))
    taken, given = names_of(stated)
    return DenseLayer(
        weight=weights.take("linear.weight", outputs, inputs),
        bias=weights.take("linear.bias", outputs) if stated.get("bias", True) else None,
        activation=activation_at(stated.get("activation_function", TANH), who),
        is_residual=is_residual,
        residual=weights.take("residual.weight", outputs, inputs) if is_residual and inputs != outputs else None,
        taken=taken,
        given=given,
    )


def _layer_norm(stated: Mapping[str, Any], weights: _Weights) -> LayerNormalization:
    size = int(stated.get("dimension", 0))
    return LayerNormalization(weight=weights.take("norm.weight", size), bias=weights.take("norm.bias", size))


def _check_names(modules: tuple[Module, ...], who: str) -> None:
    """Refuse a module that takes what none before it gives."""
    known = {TOKENS}
    for module in modules:
        taken = {TokenPooling: TOKENS, LayerNormalization: SENTENCE}.get(type(module)) or getattr(module, "taken", "")
        if taken not in known:
            raise SourceError(who, f"a module takes {taken!r}, which none before it gives", ORIGINAL)
        known.add(getattr(module, "given", SENTENCE))


def _settings(place: Path, who: str) -> Mapping[str, Any]:
    try:
        return read_object(place / "config.json")
    except ValueError as error:
        raise SourceError(who, f"{place / 'config.json'} cannot be read: {error}", _AGAIN) from error
