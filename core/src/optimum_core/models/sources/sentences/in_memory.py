"""A `SentenceTransformer` or a `CrossEncoder` in memory as a source, recognized without importing its package."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_core.artifact.embedding import EmbeddingSettings
from optimum_core.errors import SourceError
from optimum_core.models.sources import forms
from optimum_core.models.sources.sentences.directory import INSTEAD
from optimum_core.models.sources.source import MemorySource

if TYPE_CHECKING:
    from optimum_core.models.signatures.signature import ModelSignature

PACKAGE = "sentence_transformers"
SENTENCE_TRANSFORMER, CROSS_ENCODER = "SentenceTransformer", "CrossEncoder"
_IDLE = frozenset({"Dropout"})
_REMEDY = "pass its transformer alone: model[0].auto_model, with processor=model.tokenizer"


def sentence_class(model: Any) -> str | None:
    """Return "SentenceTransformer" or "CrossEncoder" for an object of such a class; None for any other."""
    return sentence_class_of(type(model))


def sentence_class_of(cls: type) -> str | None:
    """Return "SentenceTransformer" or "CrossEncoder" for such a class; None for any other."""
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] == PACKAGE and base.__name__ in (SENTENCE_TRANSFORMER, CROSS_ENCODER):
            return base.__name__
    return None


class ObjectSource(MemorySource):
    """A model of sentence-transformers in memory, with its settings and its tokenizer as they are.

    Args:
        given: the object.
        module: what is exported of it.
        settings: its prompts, its greatest length, and the like.
    """

    def __init__(self, given: Any, module: Any, settings: EmbeddingSettings, processor: Any) -> None:
        super().__init__(module, processor=processor if processor is not None else given.tokenizer)
        self._object = given
        self.settings = settings

    @cached_property
    def fingerprint(self) -> str:
        weights = super().fingerprint
        return hashlib.sha256(repr((weights, self.settings)).encode()).hexdigest()

    def companions(self) -> dict[str, Path]:
        """Return no files: all come from the object itself."""
        return {}

    def save_companions(self, directory: Path) -> None:
        """Write configuration, tokenizer and settings as they are in memory."""
        super().save_companions(directory)
        self.settings.write(directory)


class SentenceObjectSource(ObjectSource):
    """A `SentenceTransformer` in memory."""

    def save_companions(self, directory: Path) -> None:
        """Write configuration, tokenizer, settings and the modules."""
        super().save_companions(directory)
        self._given.save_modules(directory)

    def compare_with_original(self, signature: ModelSignature | None = None) -> None:
        """Compare the embeddings of some texts with those of the object, and note that it was done."""
        from optimum_core.models.data.texts import reader_of
        from optimum_core.models.eager.copies import holds_16_bits, widened
        from optimum_core.models.sources.sentences.check import compared, encoder_of_object
        from optimum_core.models.sources.sentences.source import greatest_length

        reader = reader_of(self.passed_processor, greatest_length(self.config))
        original = encoder_of_object(widened(self._object) if holds_16_bits(self._object) else self._object)
        note = compared(self.module(), reader, self.settings, original, f"model {self.name!r}")
        self.notes = (*self.notes, note)


def open_object(model: Any, processor: Any = None) -> ObjectSource:
    """Return the source of a `SentenceTransformer` or a `CrossEncoder`.

    Raises:
        SourceError: one of its modules cannot be accelerated.
    """
    who = f"model {type(model).__name__}"
    if hasattr(model, "accelerated"):
        raise SourceError(who, "it is accelerated already", "use it as it is")
    if not list(model.children()):
        raise SourceError(who, "it has no modules", _REMEDY)
    first, *behind = model.children()
    transformer = getattr(first, "auto_model", None)
    if not forms.is_module(transformer) or not _gives_hidden_state(first, sentence_class(model)):
        kind = type(first).__name__
        raise SourceError(who, f"its first module is a {kind}, and no plain transformer", INSTEAD.get(kind, _REMEDY))
    forms.check_module(transformer)
    if sentence_class(model) == CROSS_ENCODER:
        if behind:
            why = f"a {type(behind[0]).__name__} follows its transformer, which is unknown here"
            raise SourceError(who, why, _REMEDY)
        return ObjectSource(model, transformer, _settings(model), processor)
    from optimum_core.models.sources.sentences.encoder import encoder_of

    return SentenceObjectSource(model, encoder_of(transformer, list(_heads(behind, who))), _settings(model), processor)


def _gives_hidden_state(first: Any, kind: str | None) -> bool:
    """Whether the transformer is called in the usual way; older versions know no other."""
    text = (getattr(first, "modality_config", None) or {}).get("text")
    if text is None:
        return not getattr(first, "modality_config", None)
    output = text.get("method_output_name")
    wanted = "logits" if kind == CROSS_ENCODER else "last_hidden_state"
    return text.get("method") == "forward" and output in (wanted, (wanted,), [wanted])


def _heads(modules: list[Any], who: str) -> Iterator[Any]:
    from optimum_core.models.sources.sentences.heads import HEADS, check_activation, head_of

    for module in modules:
        kind = type(module).__name__
        if kind in _IDLE:
            continue
        if kind not in HEADS or not type(module).__module__.startswith(f"{PACKAGE}."):
            raise SourceError(who, f"its module {kind} is unknown here", f"known are {', '.join(HEADS)}; {_REMEDY}")
        stated = _stated(module)
        if (activation := getattr(module, "activation_function", None)) is not None:
            check_activation(activation, str(stated.get("activation_function")), who)
        yield head_of(kind, stated, dict(module.state_dict()), who)


def _stated(module: Any) -> Mapping[str, Any]:
    stated: Mapping[str, Any] = module.get_config_dict() if hasattr(module, "get_config_dict") else {}
    return stated


def _settings(model: Any) -> EmbeddingSettings:
    activation = getattr(model, "activation_fn", None)
    return EmbeddingSettings(
        prompts={name: text or "" for name, text in (model.prompts or {}).items()},
        default_prompt_name=model.default_prompt_name,
        max_seq_length=model.max_seq_length,
        do_lower_case=bool(getattr(model[0], "do_lower_case", False)),
        similarity_fn_name=getattr(model, "_similarity_fn_name", None) or "cosine",
        truncate_dim=getattr(model, "truncate_dim", None),
        activation_fn=_named(activation) if activation else None,
    )


def _named(activation: Any) -> str:
    """Return the path of an activation of torch; of a function of one's own, or of one with settings, what it is: no
    file keeps it, so that a saved model asks for it."""
    from optimum_core.models.sources.sentences.heads import check_activation

    path = f"{type(activation).__module__}.{type(activation).__name__}"
    try:
        check_activation(activation, path, path)
    except SourceError:
        return repr(activation)
    return path
