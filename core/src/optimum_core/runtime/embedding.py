"""Encoding of texts as vectors by a sentence encoder, in the manner of sentence-transformers, without its package."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from optimum_core.artifact import Manifest
from optimum_core.artifact.embedding import POOLING_MASK, SENTENCE, TOKENS, EmbeddingSettings
from optimum_core.errors import InputError
from optimum_core.models.data.texts import Item, Text, TextReader
from optimum_core.runtime.call_outputs import Answer, tensor_of
from optimum_core.runtime.items import check_rows, is_pair, listed_items, tokenized
from optimum_core.runtime.mapping import progress_bar
from optimum_core.runtime.streaming import Maps, streamed
from optimum_core.runtime.vectors import check_precision, normalized, quantized
from optimum_core.types import Cut
from optimum_core.types.arrays import NDArray

_VALUES = (SENTENCE, TOKENS, None)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodeRequest:
    """The arguments of one `encode`, checked, apart from the texts.

    Attributes:
        prompt: the text before every text; None: none.
        output_value: "sentence_embedding", "token_embeddings", or None for both, by name and text.
        truncate_dim: the number of dimensions to keep; None: all.
        as_tensor: whether tensors are returned.
        stacked: whether the vectors of all texts are one array or tensor.
    """

    prompt: str | None = None
    batch_size: int = 32
    progress: bool = False
    output_value: str | None = SENTENCE
    precision: str = "float32"
    normalize: bool = False
    truncate_dim: int | None = None
    as_tensor: bool = False
    stacked: bool = True

    def check(self, who: str) -> None:
        """Raise `InputError` for a value that is not allowed."""
        if not hasattr(self.batch_size, "__index__") or self.batch_size < 1:
            raise InputError(who, f"batch_size is {self.batch_size!r}", "pass 1 or more")
        if self.output_value not in _VALUES:
            known = ", ".join(map(repr, _VALUES))
            raise InputError(who, f"output_value {self.output_value!r} is unknown", f"pass one of {known}")
        if self.truncate_dim is not None and self.truncate_dim < 1:
            raise InputError(who, f"truncate_dim is {self.truncate_dim!r}", "pass 1 or more, or None")
        check_precision(self.precision, who)


@dataclass(frozen=True, kw_only=True, slots=True)
class TextModel:
    """A model of texts and what is needed to run it over many of them.

    Attributes:
        mapper: makes a mapper that keeps these outputs.
        reader: encodes texts.
    """

    who: str
    manifest: Manifest
    mapper: Callable[[Sequence[str]], Maps]
    reader: TextReader

    def run(
        self, texts: Iterable[Text], names: Sequence[str], *, batch_size: int, progress: bool, prompt: str | None = None
    ) -> Answer:
        """Return these outputs of all texts, in order."""
        total = len(texts) if isinstance(texts, Sequence) else None
        prepare = _Prepare(self.reader, self.manifest, prompt or "", self.who)
        with progress_bar(total, shown=progress) as advance:
            return streamed(self.mapper(names), texts, prepare, batch_size, advance)

    def prepared(self, texts: list[Any], prompt: str, *, truncate: Cut) -> list[Item]:
        """Return the inputs of every text."""
        return list(_Prepare(self.reader, self.manifest, prompt, self.who, truncate=truncate)(texts))


class _Prepare:
    """Makes the inputs of a window of texts, each behind the prompt."""

    def __init__(self, reader: TextReader, manifest: Manifest, prompt: str, who: str, *, truncate: Cut = True) -> None:
        self._reader = reader
        self._manifest = manifest
        self._prompt = prompt
        self._who = who
        self._truncate = truncate
        excludes = bool(prompt) and any(spec.name == POOLING_MASK for spec in manifest.inputs)
        self._left_out = reader.prompt_length(prompt) if excludes else 0
        if truncate == "left" and excludes:
            why = "texts are to be cut at their beginning, and the pooling leaves out the prompt that is there"
            raise InputError(who, why, 'cut them on the "right", or pass no prompt')

    def __call__(self, window: list[Any]) -> Sequence[Item]:
        for text in window:
            if not (isinstance(text, str) or is_pair(text)):
                why = f"one of the texts is {type(text).__name__}"
                raise InputError(self._who, why, "pass texts, or pairs of texts")
        behind = [self._behind_prompt(text) for text in window]
        items = tokenized(behind, self._reader, self._manifest, truncate=self._truncate)
        return [self._masked(item) for item in items] if self._left_out else items

    def _behind_prompt(self, text: Text) -> Text:
        if isinstance(text, str):
            return self._prompt + text
        return self._prompt + text[0], text[1]

    def _masked(self, item: Item) -> Item:
        length = len(item["input_ids"])
        mask = (np.arange(length) >= self._left_out).astype(np.int64)
        return {**item, "attention_mask": np.ones(length, np.int64), POOLING_MASK: mask}


def is_single(given: Any) -> bool:
    """Whether one text came, and not many; an array without axes is one."""
    return isinstance(given, str) or (isinstance(given, np.ndarray) and given.ndim == 0)


def as_texts(given: Any, who: str) -> Iterable[Text]:
    """Return the texts of a list, an array, a column of a data set or an iterator.

    Raises:
        InputError: it holds no texts.
    """
    if isinstance(given, np.ndarray):
        return list(given.tolist()) if given.ndim else [given.item()]
    if isinstance(given, str):
        return [given]
    check_rows(who, given)
    if isinstance(given, bytes | Mapping) or not hasattr(given, "__iter__"):
        raise InputError(who, f"{type(given).__name__} came for texts", "pass a text, or a list of texts")
    return listed_items(given) if hasattr(given, "__len__") and not isinstance(given, list) else given


def encode(model: TextModel, given: Any, request: EncodeRequest) -> Any:
    """Return the embeddings of a text, or of many texts, in order.

    Raises:
        InputError: it is no text, or an argument is not allowed.
    """
    request.check(model.who)
    names = (SENTENCE, TOKENS) if request.output_value is None else (request.output_value,)
    answer = model.run(
        as_texts(given, model.who), names, batch_size=request.batch_size, progress=request.progress,
        prompt=request.prompt,
    )  # fmt: skip
    if request.output_value is None:
        return _items(answer, request, single=is_single(given))
    found = answer[request.output_value]
    if request.output_value == TOKENS:
        rows = [tensor_of(row) if request.as_tensor else row for row in found]
        return rows[0] if is_single(given) else rows
    vectors = _finished(found, request, model.who)
    return _returned(vectors, request, single=is_single(given))


def _finished(vectors: NDArray, request: EncodeRequest, who: str) -> NDArray:
    vectors = vectors[:, : request.truncate_dim] if request.truncate_dim is not None else vectors
    vectors = normalized(vectors) if request.normalize else vectors
    return quantized(np.ascontiguousarray(vectors), request.precision, who)


def _returned(vectors: NDArray, request: EncodeRequest, *, single: bool) -> Any:
    """Return the vectors in the form asked for; for no text an array of one axis, as sentence-transformers does."""
    if not len(vectors):
        vectors = np.zeros(0, vectors.dtype)
    found: Any = tensor_of(vectors) if request.as_tensor else vectors
    if single:
        return found[0]
    return found if request.stacked else list(found)


def _items(answer: Answer, request: EncodeRequest, *, single: bool) -> Any:
    convert: Callable[[Any], Any] = tensor_of if request.as_tensor else lambda row: row
    cut = slice(None, request.truncate_dim)
    rows = [
        {TOKENS: convert(tokens), SENTENCE: convert(vector[cut])}
        for tokens, vector in zip(answer[TOKENS], answer[SENTENCE], strict=True)
    ]
    return rows[0] if single else rows


def chosen_prompt(settings: EmbeddingSettings, prompt: str | None, name: str | None, who: str) -> str | None:
    """Return the prompt itself, or that of a name, or the default one.

    Raises:
        InputError: there is no prompt of this name, or it is no text.
    """
    if prompt is not None:
        if not isinstance(prompt, str):
            raise InputError(who, f"prompt is {prompt!r}", "pass a text")
        return prompt
    name = settings.default_prompt_name if name is None else name
    if name is None:
        return None
    if name not in settings.prompts:
        known = ", ".join(map(repr, settings.prompts)) or "none"
        raise InputError(who, f"it has no prompt named {name!r}", f"its prompts are {known}; or pass prompt=")
    return settings.prompts[name]
