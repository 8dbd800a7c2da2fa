"""The accelerated form of a `SentenceTransformer` or `CrossEncoder`: an object of its own class that runs elsewhere.

Whatever is not done directly is done by the class itself, whose forward pass is the accelerated model's.
"""

from __future__ import annotations

import copy
from functools import cache
from importlib import import_module
from typing import Any

import torch

from optimum_core.errors import UnavailableError
from optimum_core.models.sources.sentences.in_memory import (
    CROSS_ENCODER,
    PACKAGE,
    SENTENCE_TRANSFORMER,
    sentence_class_of,
)

_PREFIX = "Accelerated"
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_OUTPUTS = {"token_embeddings": "token_embeddings", "sentence_embedding": "sentence_embedding", "logits": "scores"}


class _WithoutWeights(torch.nn.Module):
    """A transformer without weights: its configuration alone."""

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.config = transformer.config
        self.name_or_path = getattr(transformer, "name_or_path", "")
        self.device = torch.device("cpu")
        self.dtype = torch.float32


class _Runs:
    """The first module: its texts become features as before, and the accelerated model makes all outputs of them."""

    accelerated: Any

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        taken = {spec.name for spec in self.accelerated.manifest.inputs}
        inputs = {name: features[name] for name in _INPUTS if name in features and name in taken}
        if "pooling_mask" in taken and features.get("prompt_length"):
            inputs["pooling_mask"] = _behind(features["attention_mask"], int(features["prompt_length"]))
        found = self.accelerated(**inputs)
        return {**features, **{_OUTPUTS[name]: found[name] for name in _OUTPUTS if name in found}}


def _behind(mask: torch.Tensor, length: int) -> torch.Tensor:
    """Return the mask of the tokens behind a prompt, also where a row begins with padding."""
    return mask * (mask.cumsum(dim=1) > length)


class _Accelerated:
    """The members of both classes that differ from the original's."""

    accelerated: Any
    prompts: dict[str, str]
    default_prompt_name: str | None
    tokenizer: Any
    _modules: Any

    def forward(self, input: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Return the features with the outputs of the accelerated model."""
        first = next(iter(self._modules.values()))
        made: dict[str, Any] = first(input)
        return made

    @property
    def report(self) -> Any:
        """The candidates tried, their times and fidelity, and the reason for the choice."""
        return self.accelerated.report

    def save_pretrained(self, path: str, *_: Any, **further: Any) -> None:
        """Write a deployable artifact for `optimum_core.load`."""
        self.accelerated.save_pretrained(path, overwrite=bool(further.get("overwrite", False)))

    def save(self, path: str, *_: Any, **further: Any) -> None:
        """Write what `save_pretrained` does."""
        self.save_pretrained(path, **further)

    def set_pooling_include_prompt(self, include_prompt: bool) -> None:
        """Raise `UnavailableError`: the pooling is part of the accelerated model."""
        raise UnavailableError("accelerated model", "its pooling is fixed", "set it on the original, and accelerate it")

    def __reduce__(self) -> tuple[Any, ...]:
        original, first = _base(type(self), _Accelerated), next(iter(self._modules.values()))
        kinds = (original, _base(type(first), _Runs))
        parts = {name: module.__dict__ if module is first else module for name, module in self._modules.items()}
        rest = {name: value for name, value in self.__dict__.items() if name != "_modules"}
        return _restored, (kinds, rest, parts)

    def __deepcopy__(self, memo: Any) -> Any:
        remake, arguments = self.__reduce__()
        return remake(*copy.deepcopy(arguments, memo))

    def __repr__(self) -> str:
        return repr(self.accelerated)

    def _resolved(self, prompt: str | None, name: str | None) -> tuple[bool, str | None]:
        """Return whether a prompt is known, and the prompt; an unknown one is for the class itself to refuse."""
        if prompt is not None:
            return True, prompt
        name = self.default_prompt_name if name is None else name
        return name is None or name in self.prompts, self.prompts.get(name or "")


class _Encodes(_Accelerated):
    """A `SentenceTransformer` whose `encode` is the accelerated model's."""

    truncate_dim: int | None

    def encode(
        self, sentences: Any = None, prompt_name: str | None = None, prompt: str | None = None, *args: Any, **given: Any
    ) -> Any:
        """Return what the original does; the arguments are the same."""
        texts = given.pop("inputs", None) if sentences is None else sentences
        named = dict(zip(_ENCODE, args, strict=False)) | given
        known, text = self._resolved(prompt, prompt_name)
        if not known or not _is_text(texts) or any(named[name] not in plain for name, plain in _plain(named)):
            return super().encode(texts, prompt_name, prompt, *args, **given)  # type: ignore[misc]
        cut = named.get("truncate_dim")
        return self.accelerated.encode(
            texts,
            prompt=text or "",
            batch_size=named.get("batch_size", 32),
            show_progress_bar=named.get("show_progress_bar"),
            convert_to_numpy=named.get("convert_to_numpy", True),
            convert_to_tensor=named.get("convert_to_tensor", False),
            normalize_embeddings=named.get("normalize_embeddings", False),
            truncate_dim=self.truncate_dim if cut is None else cut,
            tokenizer=self.tokenizer,
        )


_ENCODE = (
    "batch_size", "show_progress_bar", "output_value", "precision", "convert_to_numpy", "convert_to_tensor", "device",
    "normalize_embeddings", "truncate_dim", "pool", "chunk_size",
)  # fmt: skip
_PREDICT = (
    "batch_size", "show_progress_bar", "activation_fn", "apply_softmax", "convert_to_numpy", "convert_to_tensor",
)  # fmt: skip
#: Arguments of which the accelerated model takes any value, and those that it takes with these values alone.
_ANY = frozenset(
    {"batch_size", "show_progress_bar", "convert_to_numpy", "convert_to_tensor", "normalize_embeddings"}
    | {"truncate_dim", "activation_fn", "apply_softmax", "chunk_size"}
)
_SOME: dict[str, tuple[Any, ...]] = {
    "output_value": ("sentence_embedding",),
    "precision": ("float32", None),
    "device": (None, "cpu"),
    "pool": (None,),
    "task": ("query", "document", None),
}


def _plain(named: dict[str, Any]) -> list[tuple[str, tuple[Any, ...]]]:
    """Return the arguments of a call that must have certain values, and these."""
    return [(name, _SOME.get(name, ())) for name in named if name not in _ANY]


def _is_text(texts: Any) -> bool:
    """Whether a text or a list of texts came, and nothing that needs the class itself."""
    return isinstance(texts, str) or (
        isinstance(texts, list) and bool(texts) and all(isinstance(text, str) for text in texts)
    )


class _Scores(_Accelerated):
    """A `CrossEncoder` whose `predict`, and with it `rank`, is the accelerated model's."""

    activation_fn: Any

    def predict(
        self, sentences: Any = None, *args: Any, prompt_name: str | None = None, prompt: str | None = None, **given: Any
    ) -> Any:
        """Return what the original does; the arguments are the same."""
        pairs = given.pop("inputs", None) if sentences is None else sentences
        known, text = self._resolved(prompt, prompt_name)
        if args or not known or not _are_pairs(pairs) or any(given[n] not in plain for n, plain in _plain(given)):
            rest = {"prompt_name": prompt_name, "prompt": prompt} if prompt_name or prompt else {}
            return super().predict(pairs, *args, **rest, **given)  # type: ignore[misc]
        return self.accelerated.predict(
            pairs,
            prompt=text or "",
            batch_size=given.get("batch_size", 32),
            show_progress_bar=given.get("show_progress_bar"),
            activation_fn=given.get("activation_fn") or self.activation_fn,
            apply_softmax=bool(given.get("apply_softmax")),
            convert_to_numpy=given.get("convert_to_numpy", True),
            convert_to_tensor=given.get("convert_to_tensor", False),
            tokenizer=self.tokenizer,
        )


def _are_pairs(pairs: Any) -> bool:
    def is_pair(item: Any) -> bool:
        return isinstance(item, tuple | list) and len(item) == 2 and all(isinstance(text, str) for text in item)

    return is_pair(pairs) or (isinstance(pairs, list) and bool(pairs) and all(map(is_pair, pairs)))


def accelerated_object(model: Any, fast: Any) -> Any:
    """Return an object of the model's class that runs the accelerated model; the model itself is not changed."""
    modules = dict(model.named_children())
    name, first = next(iter(modules.items()))
    shell = {**vars(first), "_modules": {part: _WithoutWeights(item) for part, item in first.named_children()}}
    rest = {key: value for key, value in vars(model).items() if key != "_modules"}
    rest |= {"prompts": dict(model.prompts or {}), "accelerated": fast}
    return _restored((type(model), type(first)), rest, {**modules, name: shell})


def _restored(kinds: tuple[type, type], rest: dict[str, Any], parts: dict[str, Any]) -> Any:
    """Return an object of these kinds, of the model and of its first module, that runs `rest["accelerated"]`."""
    own = _Scores if sentence_class_of(kinds[0]) == CROSS_ENCODER else _Encodes
    made = _empty(own, kinds[0])
    first = _empty(_Runs, kinds[1])
    modules = dict(parts)
    name = next(iter(parts))
    vars(first).update(parts[name])
    vars(first)["accelerated"] = rest["accelerated"]
    modules[name] = first
    vars(made).update({**rest, "_modules": modules})
    return made


def _empty(own: type, original: type) -> Any:
    cls: Any = _class_of(own, original)
    return cls.__new__(cls)


@cache
def _class_of(own: type, original: type) -> type:
    return type(f"{_PREFIX}{original.__name__}", (own, original), {"__module__": __name__})


def __getattr__(name: str) -> Any:
    """Return the class that another process has pickled by its name."""
    if name in (f"{_PREFIX}{SENTENCE_TRANSFORMER}", f"{_PREFIX}{CROSS_ENCODER}"):
        original = getattr(import_module(PACKAGE), name.removeprefix(_PREFIX))
        return _class_of(_Scores if name.endswith(CROSS_ENCODER) else _Encodes, original)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _base(cls: type, own: type) -> type:
    """Return the original's class of one that was made by `_empty`."""
    return next(base for base in cls.__bases__ if not issubclass(base, own))
