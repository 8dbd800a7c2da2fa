"""The items of `map`: texts, pairs of texts, pictures and sounds become inputs of a model, one item each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

from optimum_core.artifact import Manifest
from optimum_core.errors import InputError
from optimum_core.models.data.media import MEDIA, MediaReader, media_reader, medium_of
from optimum_core.models.data.texts import Item, Text, TextReader, read_texts, reader_of
from optimum_core.runtime.files_beside import FilesBeside
from optimum_core.types import Cut

#: Batches of pictures or sounds whose inputs are in memory at once.
_MEDIA_BATCHES = 4
_PADDED_AXIS = "sequence"
_KINDS = {
    "text": "texts", "pair": "pairs of texts", "picture": "pictures", "sound": "sounds", "item": "inputs by name"
}  # fmt: skip


class ItemEncoder:
    """Encoder of the items of `map`: texts and pairs of texts through a tokenizer, pictures and sounds through a
    processor; inputs by name as they are.

    Args:
        who: the model, for errors.
        tokenizer, processor: of transformers, or None: those that lie beside the model.
        manifest, directory: of the model.
    """

    def __init__(self, who: str, tokenizer: Any, processor: Any, manifest: Manifest, directory: Path) -> None:
        self._who = who
        self._tokenizer = tokenizer
        self._processor = processor
        self._manifest = manifest
        self._directory = directory
        self._kind: str | None = None

    def checked(self, given: Iterable[Any]) -> Iterable[Any]:
        """Return the items, as a list unless they come from an iterator.

        Raises:
            InputError: a single text or item was passed where many are expected, texts and items are mixed, or the
                model does not take a picture or sound.
            UnavailableError: pictures or sounds came, and there is no processor.
        """
        check_many(self._who, "map", given)
        if isinstance(given, Iterator):
            first = list(islice(given, 1))
            self._check(first)
            return chain(first, given)
        listed = listed_items(given)
        self._check(listed)
        if self._kind in MEDIA:  # every item is checked before the first is run
            for number, item in enumerate(listed, start=1):
                self._media.check(item, number)
        return listed

    def __call__(self, items: list[Any]) -> list[Item]:
        """Return the inputs of every item.

        Raises:
            InputError: texts and items are mixed.
            UnavailableError: there is no tokenizer, or no installed package that reads it.
        """
        self._check(items)
        if self._kind in MEDIA:
            return [self._media.read(item, number) for number, item in enumerate(items, start=1)]
        return items if self._kind == "item" else tokenized(items, self._reader, self._manifest)

    @property
    def takes_as_they_are(self) -> bool:
        """Whether the items are inputs by name already."""
        return self._kind == "item"

    def window(self, batch_size: int) -> int | None:
        """Return the number of items whose inputs may be in memory at once; None: as many as suits texts."""
        return _MEDIA_BATCHES * batch_size if self._kind in MEDIA else None

    @cached_property
    def _media(self) -> MediaReader:
        directory = FilesBeside(self._who, self._directory, self._manifest).checked()
        return media_reader(self._who, self._processor, directory, self._manifest.inputs, str(self._kind))

    @cached_property
    def _reader(self) -> TextReader:
        return text_reader(self._who, self._tokenizer, self._manifest, self._directory)

    def _check(self, items: list[Any]) -> None:
        for item in items:
            kind = _kind_of(item)
            self._kind = self._kind or kind
            if kind != self._kind:
                if kind == "item" and not isinstance(item, Mapping):
                    raise InputError(self._who, f"an item is {type(item).__name__}", f"pass {_KINDS[self._kind]} alone")
                why = f"some items are {_KINDS[self._kind]} and some are {_KINDS[kind]}"
                raise InputError(self._who, why, "pass one kind")


def listed_items(given: Any) -> list[Any]:
    """Return the items of a collection; of one of pyarrow, as Python has them."""
    return list(given.to_pylist() if hasattr(given, "to_pylist") else given)


def check_many(who: str, member: str, given: Any) -> None:
    """Refuse a single item where many are expected.

    Raises:
        InputError: a text, a mapping, a picture or a sound came by itself, or what holds no items.
    """
    medium = medium_of(given)
    if isinstance(given, str | bytes | Mapping) or medium:
        kind = "text" if isinstance(given, str) else medium or type(given).__name__
        raise InputError(who, f"{member} takes many items, and one {kind} came", f"pass a list: fast.{member}([…])")
    if not isinstance(given, Iterable):
        why = f"{member} takes many items, and {type(given).__name__} holds none"
        raise InputError(who, why, f"pass a list: fast.{member}([…])")
    if getattr(given, "shape", None) == ():
        raise InputError(who, f"{member} takes many items, and an array without axes came", "pass a list")
    check_rows(who, given)


def check_rows(who: str, given: Any) -> None:
    """Refuse a collection that gives its items in no order, or that gives its columns and not its rows.

    Raises:
        InputError: it is a set, or a table as of pandas, polars or pyarrow.
    """
    if isinstance(given, set | frozenset):
        raise InputError(who, "a set came, which has no order to return results in", "pass a list")
    if hasattr(given, "columns") and hasattr(given, "__iter__"):
        why = f"a {type(given).__name__} came, which gives its columns one by one, and no rows"
        raise InputError(who, why, 'pass one column: table["text"]')


def _kind_of(item: Any) -> str:
    if isinstance(item, str):
        return "text"
    return "pair" if is_pair(item) else medium_of(item) or "item"


def is_chat(item: Any) -> bool:
    """Whether an item is a chat: messages, each with a role."""
    return isinstance(item, list | tuple) and bool(item) and all(isinstance(part, Mapping) for part in item)


def is_pair(item: Any) -> bool:
    """Whether an item is a pair of texts."""
    return isinstance(item, tuple | list) and len(item) == 2 and all(isinstance(text, str) for text in item)


def tokenized(texts: Sequence[Text], reader: TextReader, manifest: Manifest, *, truncate: Cut = True) -> list[Item]:
    """Return those inputs of every text that the model takes."""
    taken = {spec.name for spec in manifest.inputs}
    return [
        {name: ids for name, ids in item.items() if name in taken} for item in reader.encode(texts, truncate=truncate)
    ]


def text_reader(who: str, tokenizer: Any, manifest: Manifest, directory: Path) -> TextReader:
    """Return the encoder of texts by the tokenizer passed or the one beside the model.

    Raises:
        UnavailableError: there is no tokenizer, or no installed package that reads it.
        ArtifactError: a file beside the model was changed since the model was opened.
    """
    longest = greatest_length(manifest)
    if tokenizer:
        return reader_of(tokenizer, longest)
    beside = FilesBeside(who, directory, manifest).checked()
    return read_texts(beside, who, longest, alike=manifest.reads_alike)


def greatest_length(manifest: Manifest) -> int | None:
    """Return the greatest length in tokens that the model takes."""
    found = [spec.shape[-1] for spec in manifest.inputs if spec.name == "input_ids" and spec.shape]
    fixed = [length for length in found if isinstance(length, int)]
    if (allowed := manifest.axes.get(_PADDED_AXIS)) is not None and allowed.greatest is not None:
        fixed.append(allowed.greatest)
    return min(fixed, default=None)
