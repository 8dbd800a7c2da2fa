"""The modules behind the transformer of a sentence encoder: pooling, dense layers and norms, read from a directory.

They compute what those of sentence-transformers compute, which need not be installed, from its own files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.nn import functional

from optimum_core.artifact.embedding import POOLING_MASK, SENTENCE, TOKENS, read_object, write_object
from optimum_core.errors import SourceError
from optimum_core.models.sources.files import refuse_pointers
from optimum_core.models.sources.sentences.module_settings import SETTINGS_OF, SWITCHES, TANH, modes_of, names_of
from optimum_core.models.sources.sentences.stored import PICKLE, SAFETENSORS

Features = dict[str, torch.Tensor]
#: The mask of the tokens, among the features that the modules pass on.
MASK = "attention_mask"
_LEAST = 1e-9
_WEIGHTS = SAFETENSORS, PICKLE


class Head(torch.nn.Module):
    """A module behind the transformer.

    Attributes:
        kind: the name of its class in sentence-transformers.
        path: that class, as `modules.json` names it.
        known: the settings that it has.
    """

    kind: ClassVar[str]
    path: ClassVar[str]
    known: ClassVar[frozenset[str]]

    def forward(self, features: Features) -> Features:
        """Return the features with what this module adds or replaces."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """Return the settings as `config.json` holds them."""
        raise NotImplementedError

    def save(self, directory: Path) -> None:
        """Write the settings and the weights."""
        write_object(directory / "config.json", self.settings())
        if held := self.state_dict():
            from safetensors.torch import save_file

            save_file({name: tensor.contiguous() for name, tensor in held.items()}, directory / _WEIGHTS[0])


class Pooling(Head):
    """One vector of all token vectors, in one or several modes side by side.

    Args:
        modes: of "cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean" and "lasttoken".
        width: the size of a token vector.
        include_prompt: whether the tokens of the prompt are pooled; if not, `POOLING_MASK` leaves them out.
    """

    kind = "Pooling"
    path = "sentence_transformers.models.Pooling"
    known = SETTINGS_OF[kind]

    def __init__(self, modes: tuple[str, ...], width: int, *, include_prompt: bool = True) -> None:
        super().__init__()
        self.modes = modes
        self.width = width
        self.include_prompt = include_prompt

    @classmethod
    def of(cls, stated: Mapping[str, Any], who: str) -> Pooling:
        """Return the module with these settings."""
        modes = modes_of(stated)
        unknown = [mode for mode in modes if mode not in _MODES]
        if unknown:
            why = f"its pooling mode {unknown[0]!r} is unknown"
            raise SourceError(who, why, f"known are {', '.join(_MODES)}; {_BARE}")
        width = stated.get("embedding_dimension", stated.get("word_embedding_dimension", 0))
        return cls(modes, int(width), include_prompt=bool(stated.get("include_prompt", True)))

    def forward(self, features: Features) -> Features:
        tokens, mask = features[TOKENS], features[MASK]
        pooled = mask * features[POOLING_MASK] if POOLING_MASK in features else mask
        vectors = [_MODES[mode](tokens, pooled, mask) for mode in self.modes]
        return {**features, SENTENCE: torch.cat(vectors, dim=-1)}

    def settings(self) -> dict[str, Any]:
        older = {key: mode in self.modes for key, mode in SWITCHES.items()}
        return {
            "word_embedding_dimension": self.width,
            **(older if list(self.modes) == [mode for mode in SWITCHES.values() if mode in self.modes] else {}),
            "pooling_mode": self.modes[0] if len(self.modes) == 1 else list(self.modes),
            "include_prompt": self.include_prompt,
        }


def _first(tokens: torch.Tensor, pooled: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return _at(tokens, pooled.to(torch.int32).argmax(dim=1))


def _last(tokens: torch.Tensor, pooled: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    places = torch.arange(tokens.shape[1], device=tokens.device)
    return _at(tokens * pooled.unsqueeze(-1).to(tokens.dtype), (places * pooled).amax(dim=1))


def _at(tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return the token vector at one place of each row."""
    wide = places.to(torch.int64).reshape(-1, 1, 1).expand(-1, 1, tokens.shape[-1])
    return torch.gather(tokens, 1, wide).squeeze(1)


def _max(tokens: torch.Tensor, pooled: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return tokens.masked_fill(pooled.unsqueeze(-1) == 0, float("-inf")).amax(dim=1)


def _sums(tokens: torch.Tensor, pooled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    weights = pooled.unsqueeze(-1).to(tokens.dtype)
    return (tokens * weights).sum(dim=1), weights.sum(dim=1).clamp(min=_LEAST)


def _mean(tokens: torch.Tensor, pooled: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    total, count = _sums(tokens, pooled)
    return total / count


def _mean_sqrt(tokens: torch.Tensor, pooled: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    total, count = _sums(tokens, pooled)
    return total / count.sqrt()


def _weighted_mean(tokens: torch.Tensor, pooled: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean with weights that count from 1 at the first token that is no padding."""
    begins = mask.to(torch.int32).argmax(dim=1, keepdim=True)
    weights = torch.arange(1, tokens.shape[1] + 1, device=tokens.device).unsqueeze(0) - begins
    return _mean(tokens, pooled * weights, mask)


_Pool = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
_MODES: Mapping[str, _Pool] = {
    "cls": _first,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}


class Dense(Head):
    """A linear layer with an activation, and with its input added where it is residual."""

    kind = "Dense"
    path = "sentence_transformers.models.Dense"
    known = SETTINGS_OF[kind]

    def __init__(self, stated: Mapping[str, Any], activation: torch.nn.Module) -> None:
        super().__init__()
        self.stated = dict(stated)
        size = int(stated["in_features"]), int(stated["out_features"])
        self.linear = torch.nn.Linear(*size, bias=bool(stated.get("bias", True)))
        self.activation = activation
        self.is_residual = bool(stated.get("use_residual", False))
        if self.is_residual and size[0] != size[1]:
            self.residual = torch.nn.Linear(*size, bias=False)
        self.taken, self.given = names_of(stated)

    @classmethod
    def of(cls, stated: Mapping[str, Any], who: str) -> Dense:
        """Return the module with these settings."""
        path = stated.get("activation_function", TANH)
        return cls({**stated, "activation_function": path}, activation_of(path, who))

    def forward(self, features: Features) -> Features:
        taken = features[self.taken]
        given = self.activation(self.linear(taken))
        if self.is_residual:
            given = given + (self.residual(taken) if hasattr(self, "residual") else taken)
        return {**features, self.given: given}

    def settings(self) -> dict[str, Any]:
        return self.stated


class Normalize(Head):
    """Vectors of length 1."""

    kind = "Normalize"
    path = "sentence_transformers.models.Normalize"
    known = SETTINGS_OF[kind]

    def __init__(self, stated: Mapping[str, Any]) -> None:
        super().__init__()
        self.taken, self.given = names_of(stated)

    @classmethod
    def of(cls, stated: Mapping[str, Any], who: str) -> Normalize:
        """Return the module with these settings."""
        return cls(stated)

    def forward(self, features: Features) -> Features:
        return {**features, self.given: functional.normalize(features[self.taken], p=2, dim=-1)}

    def settings(self) -> dict[str, Any]:
        return {"module_input_name": self.taken, "module_output_name": self.given}


class LayerNorm(Head):
    """Layer normalization of the sentence vector."""

    kind = "LayerNorm"
    path = "sentence_transformers.models.LayerNorm"
    known = SETTINGS_OF[kind]

    def __init__(self, stated: Mapping[str, Any]) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(int(stated["dimension"]))

    @classmethod
    def of(cls, stated: Mapping[str, Any], who: str) -> LayerNorm:
        """Return the module with these settings."""
        return cls(stated)

    def forward(self, features: Features) -> Features:
        return {**features, SENTENCE: self.norm(features[SENTENCE])}

    def settings(self) -> dict[str, Any]:
        return {"dimension": self.norm.normalized_shape[0]}


HEADS: Mapping[str, type[Pooling | Dense | Normalize | LayerNorm]] = {
    head.kind: head for head in (Pooling, Dense, Normalize, LayerNorm)
}
_BARE = "task='feature-extraction' accelerates the transformer alone"


def activation_of(path: str, who: str) -> torch.nn.Module:
    """Return a new activation of torch by the path of its class.

    Raises:
        SourceError: it is of no class of `torch.nn`, whose code would have to be run.
    """
    found = getattr(torch.nn, path.rpartition(".")[2], None) if path.startswith("torch.nn.") else None
    if not (isinstance(found, type) and issubclass(found, torch.nn.Module)):
        why = f"its activation {path!r} is none of torch.nn, and code of a directory is not run"
        raise SourceError(who, why, "save it with an activation of torch.nn")
    try:
        made: torch.nn.Module = found()
    except TypeError as error:
        why = f"its activation {path!r} has settings, which no file states: {error}"
        raise SourceError(who, why, "save it with an activation that needs none") from error
    return made


def check_activation(given: torch.nn.Module, path: str, who: str) -> None:
    """Refuse an activation that is not the one of its path: one with settings or weights of its own.

    Raises:
        SourceError: it is another, so that what is read from its path would compute something else.
    """
    made = activation_of(path, who)
    if repr(given) != repr(made) or given.state_dict():
        why = f"its activation {given!r} has settings of its own, which no file of sentence-transformers keeps"
        raise SourceError(who, why, f"train and save it with {made!r}")


def head_of(kind: str, stated: Mapping[str, Any], weights: Mapping[str, torch.Tensor], who: str) -> Head:
    """Return a module of a kind with its settings and weights.

    Raises:
        SourceError: a setting is unknown or missing, or the weights do not fit.
    """
    cls = HEADS[kind]
    unknown = sorted(set(stated) - cls.known)
    if unknown:
        raise SourceError(who, f"its module {kind} has the unknown setting {unknown[0]!r}", _BARE)
    try:
        made: Head = cls.of(stated, who)
    except KeyError as error:
        raise SourceError(who, f"its module {kind} lacks the setting {error}", "fetch or save it again") from error
    try:
        made.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    except RuntimeError as error:
        raise SourceError(who, f"the weights of its module {kind} do not fit: {error}", "save it again") from error
    return made


def read_head(kind: str, directory: Path, who: str) -> Head:
    """Return a module from its own directory, which may be absent where it has no settings.

    Raises:
        SourceError: as `head_of`, or a file cannot be read.
    """
    if kind == Pooling.kind and not (directory / "config.json").is_file():  # every mode is another embedding
        raise SourceError(who, f"the settings of its module {kind} are not in {directory}", "fetch or save it again")
    refuse_pointers(directory, who)
    try:
        stated = read_object(directory / "config.json")
        weights = _read_weights(directory)
    except Exception as error:
        raise SourceError(who, f"{directory} cannot be read: {error}", "fetch or save it again") from error
    return head_of(kind, stated, weights, who)


def _read_weights(directory: Path) -> dict[str, torch.Tensor]:
    if (directory / _WEIGHTS[0]).is_file():
        from safetensors.torch import load_file

        return dict(load_file(directory / _WEIGHTS[0]))
    if (directory / _WEIGHTS[1]).is_file():
        found: dict[str, torch.Tensor] = torch.load(directory / _WEIGHTS[1], map_location="cpu", weights_only=True)
        return found
    return {}
