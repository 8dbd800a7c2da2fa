"""Tokens of texts and of pairs of texts, one item each and without padding, by transformers or by tokenizers alone."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from optimum_core.artifact.embedding import EmbeddingSettings
from optimum_core.errors import UnavailableError, UnprovedWarning
from optimum_core.generation.text import check_characters, lower, plain_tokenizer
from optimum_core.packages import present
from optimum_core.types import Cut

Item = Mapping[str, Any]
#: A text, or two texts that are encoded as one sequence.
Text = str | tuple[str, str] | list[str]
#: transformers writes a very large number where a tokenizer has no limit.
_NO_LIMIT = 1e9
_UNCUT: Mapping[str, Any] = {"truncation": False, "verbose": False}


class TextReader(Protocol):
    """Encoder of texts as a model's inputs."""

    def encode(self, texts: Sequence[Text], *, truncate: Cut = True) -> Iterator[Item]:
        """Return the inputs of every text, or of every pair of texts; whole ones unless they are to be cut."""
        ...

    def prompt_length(self, prompt: str) -> int:
        """Return the number of tokens of a prompt, without the special token that ends a text."""
        ...


class TransformersReader:
    """Encoder by a tokenizer of transformers.

    Args:
        tokenizer: a `PreTrainedTokenizerBase`, which is not changed.
        limit: tokens to cut at; None: none.

    Attributes:
        tokenizer: the same.
    """

    def __init__(self, tokenizer: Any, limit: int | None) -> None:
        self.tokenizer = self._tokenizer = tokenizer
        self._cut = {"truncation": True, "max_length": limit} if limit is not None else {"truncation": True}
        self._by_side: dict[str, Any] = {}

    def _sided(self, side: str) -> Any:
        """Return a tokenizer that cuts on a side: a setting of the tokenizer, which calls in other threads share."""
        if side not in self._by_side:
            copied = copy.deepcopy(self._tokenizer)
            copied.truncation_side = side
            self._by_side[side] = copied
        return self._by_side[side]

    @cached_property
    def _whole(self) -> Any:
        """The tokenizer for whole texts: a call sets in a tokenizer of transformers whether it cuts, so that calls in
        several threads would cut each other's texts.
        """
        copied = copy.deepcopy(self._tokenizer)
        copied(["a"], padding=False, **_UNCUT)
        return copied

    def encode(self, texts: Sequence[Text], *, truncate: Cut = True) -> Iterator[Item]:
        """Return the inputs of every text, or of every pair of texts; whole ones unless they are to be cut."""
        tokenizer, cut = (self._tokenizer, self._cut) if truncate else (self._whole, _UNCUT)
        tokenizer = self._sided(truncate) if isinstance(truncate, str) else tokenizer
        found: dict[int, Item] = {}
        with _readable(texts):
            for places in _of_one_kind(texts):
                encoded = tokenizer(*_columns([texts[place] for place in places]), padding=False, **cut)
                rows = ({name: values[i] for name, values in encoded.items()} for i in range(len(places)))
                found.update(zip(places, rows, strict=True))
        return (found[place] for place in range(len(texts)))

    def prompt_length(self, prompt: str) -> int:
        """Return the number of tokens of a prompt, without the special token that ends a text."""
        ids = self._tokenizer([prompt], padding=False, **self._cut)["input_ids"][0]
        return _without_end(ids, self._tokenizer.all_special_ids)


class PlainReader:
    """Encoder by the `tokenizers` package alone.

    Args:
        tokenizer: a `tokenizers.Tokenizer`, which cuts at the limit, and does not pad.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._by_side: dict[str, Any] = {}

    def _sided(self, side: str) -> Any:
        """Return the tokenizer that cuts on a side."""
        if side not in self._by_side:
            copied = type(self._tokenizer).from_str(self._tokenizer.to_str())
            if (cut := self._tokenizer.truncation) is not None:
                copied.enable_truncation(**{**cut, "direction": side})
            self._by_side[side] = copied
        return self._by_side[side]

    @cached_property
    def _whole(self) -> Any:
        """The tokenizer that cuts nothing."""
        copied = type(self._tokenizer).from_str(self._tokenizer.to_str())
        copied.no_truncation()
        return copied

    def encode(self, texts: Sequence[Text], *, truncate: Cut = True) -> Iterator[Item]:
        """Return the inputs of every text, or of every pair of texts; whole ones unless they are to be cut."""
        given = [text if isinstance(text, str) else tuple(text) for text in texts]
        with _readable(texts):
            tokenizer = self._tokenizer if truncate else self._whole
            encoded = (self._sided(truncate) if isinstance(truncate, str) else tokenizer).encode_batch(given)
        return ({"input_ids": item.ids, "token_type_ids": item.type_ids} for item in encoded)

    def prompt_length(self, prompt: str) -> int:
        """Return the number of tokens of a prompt, without the special token that ends a text."""
        added = self._tokenizer.get_added_tokens_decoder()
        special = [number for number, token in added.items() if token.special]
        return _without_end(self._tokenizer.encode(prompt).ids, special)


def _of_one_kind(texts: Sequence[Text]) -> Iterator[list[int]]:
    """Yield the places of texts, and those of pairs: a tokenizer takes a text among pairs for a pair of characters."""
    for single in (True, False):
        if places := [place for place, text in enumerate(texts) if isinstance(text, str) == single]:
            yield places


def _columns(texts: Sequence[Text]) -> tuple[list[str], ...]:
    """Return texts of one kind as the arguments of a tokenizer."""
    if isinstance(texts[0], str):
        return (list(texts),)  # type: ignore[arg-type]
    return [text[0] for text in texts], [text[1] for text in texts]


@contextmanager
def _readable(texts: Sequence[Text]) -> Iterator[None]:
    """Name the text that no tokenizer reads, as half of a surrogate pair is no character."""
    try:
        yield
    except (TypeError, UnicodeEncodeError):
        for part in (part for text in texts for part in ([text] if isinstance(text, str) else text)):
            check_characters(part)
        raise


def _without_end(ids: Sequence[int], special: Sequence[int]) -> int:
    return len(ids) - 1 if ids and ids[-1] in special else len(ids)


def reader_of(tokenizer: Any, longest: int | None = None) -> TextReader:
    """Return an encoder by a transformers tokenizer, which cuts at its own limit or `longest`, whichever is lower."""
    return TransformersReader(tokenizer, _least(_limit(getattr(tokenizer, "model_max_length", None)), longest))


def read_texts(directory: Path, who: str, longest: int | None = None, *, alike: bool | None = None) -> TextReader:
    """Return an encoder by the tokenizer of a directory: by transformers where that is installed, unless `tokenizers`
    alone is known to read texts alike, which is loaded in a tenth of the time and memory.

    A greatest length that sentence-transformers wrote beside it replaces the tokenizer's own, as there.

    Args:
        who: the model, for errors.
        longest: tokens that the model takes at most.
        alike: whether `tokenizers` alone reads texts as transformers does; None: that was not compared.

    Raises:
        UnavailableError: there is no tokenizer, or no installed package that reads it.

    Warns:
        UnprovedWarning: transformers is not installed, and reads texts otherwise.
    """
    if not (directory / "tokenizer.json").is_file():
        raise UnavailableError(who, "it has no tokenizer.json", "pass tokenizer=, or inputs instead of texts")
    if alike and present("tokenizers"):
        return plain_reader(directory, who, longest)
    if present("transformers"):
        return transformers_reader(directory, longest)
    if alike is False:
        why = "reads some texts, such as those with special tokens, otherwise than its tokenizer in transformers does"
        warnings.warn(
            f"{who}: the package tokenizers alone {why}; pip install transformers", UnprovedWarning, stacklevel=4
        )
    return plain_reader(directory, who, longest)


def transformers_reader(directory: Path, longest: int | None = None) -> TransformersReader:
    """Return an encoder by transformers' tokenizer of a directory."""
    from transformers import AutoTokenizer

    settings = EmbeddingSettings.read(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    stated = settings.max_seq_length or _limit(tokenizer.model_max_length)
    lower(tokenizer.backend_tokenizer, settings)
    return TransformersReader(tokenizer, _least(stated, longest))


def plain_reader(directory: Path, who: str, longest: int | None = None) -> PlainReader:
    """Return an encoder by the `tokenizers` package alone.

    Raises:
        UnavailableError: that package is not installed.
    """
    tokenizer = plain_tokenizer(directory, who)
    _cut(tokenizer, cut_length(directory, longest))
    return PlainReader(tokenizer)


def cut_length(directory: Path, longest: int | None = None) -> int | None:
    """Return the number of tokens that `read_texts` cuts texts at; None: it does not.

    Args:
        longest: tokens that the model takes at most.
    """
    return _least(EmbeddingSettings.read(directory).max_seq_length or _stated(directory), longest)


def _stated(directory: Path) -> int | None:
    """Return the limit in `tokenizer_config.json`, which overrides `tokenizer.json` in transformers."""
    config = directory / "tokenizer_config.json"
    stated = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    return _limit(stated.get("model_max_length"))


def _cut(tokenizer: Any, limit: int | None) -> None:
    if limit is not None:
        tokenizer.enable_truncation(limit)
    else:
        tokenizer.no_truncation()


def _limit(stated: Any) -> int | None:
    return int(stated) if isinstance(stated, int | float) and stated < _NO_LIMIT else None


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)
