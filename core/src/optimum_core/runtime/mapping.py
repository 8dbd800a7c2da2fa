"""Batching of many inputs of mixed length: sorted by length, padded only within a batch, returned in order.

In an unsorted batch every text is padded to the longest, and computation on padding is wasted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from optimum_core.artifact import Manifest
from optimum_core.errors import InputError, UnavailableError
from optimum_core.runtime.answers import Answer
from optimum_core.types import TensorSpec

Item = Mapping[str, Any]
Arrays = dict[str, np.ndarray[Any, Any]]
_PADDED_AXIS = "sequence"
#: transformers writes a very large number where a tokenizer has no limit.
_NO_LIMIT = 1e9


class Mapper:
    """Runner of a model over many items.

    Args:
        who: the model, for errors.
        run: runs one call: takes arrays by name and returns arrays by name.
        check: raises where one item's inputs, as a batch of one, do not fit; called before any item is run.
        inputs, outputs: specs of the model.
        pad_id: the value that pads `input_ids`.
        streams: number of concurrent calls.
    """

    def __init__(
        self,
        who: str,
        run: Callable[[Arrays], Mapping[str, Any]],
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        *,
        check: Callable[[Arrays], None] = lambda arrays: None,
        pad_id: int = 0,
        streams: int = 1,
    ) -> None:
        self._who = who
        self._run = run
        self._check = check
        self._inputs = {spec.name: spec for spec in inputs}
        self._outputs = tuple(outputs)
        self._padded = {spec.name: _padded_axes(spec) for spec in (*inputs, *outputs)}
        self._pad_id = pad_id
        self._streams = streams

    def map(self, items: Sequence[Item], batch_size: int, advance: Callable[[int], None]) -> Answer:
        """Run all items.

        Args:
            items: inputs of one item each, by name, without the batch axis.
            advance: called with the number of items completed.

        Returns:
            Every output by name: one array with the items along its first axis; where an output's other axes vary, as
            with a value for every token, a list of arrays, one per item, without padding.

        Raises:
            InputError: an item does not fit the model's inputs, or an output cannot be split into items.
        """
        from concurrent.futures import ThreadPoolExecutor

        self._check_outputs()
        arrays = [self._arrays(item) for item in items]
        lengths = [self._length(item) for item in arrays]
        batches = list(self._batches(arrays, lengths, batch_size))
        found: dict[str, list[Any]] = {spec.name: [None] * len(arrays) for spec in self._outputs}
        # A single stream runs in the caller's thread: runtimes keep a thread pool for each thread that calls them.
        with ThreadPoolExecutor(self._streams) as pool:
            together = pool.map if self._streams > 1 else map
            answers = together(lambda batch: self._one(arrays, lengths, batch), batches)
            for batch, outputs in zip(batches, answers, strict=True):
                for spec in self._outputs:
                    self._place(found[spec.name], np.asarray(outputs[spec.name]), spec, batch, lengths)
                advance(len(batch))
        return Answer({spec.name: _gathered(spec, found[spec.name]) for spec in self._outputs})

    def _check_outputs(self) -> None:
        for spec in self._outputs:
            first, *rest = spec.shape or ("",)
            if any(_is_batch(axis) for axis in rest) or (isinstance(first, str) and not _is_batch(first)):
                raise InputError(
                    self._who, f"output {spec.name!r} is not made item by item", "call the model with one whole batch"
                )

    def _arrays(self, item: Item) -> Arrays:
        if not isinstance(item, Mapping):
            raise InputError(self._who, f"an item is {type(item).__name__}", "pass texts, or inputs by name")
        found = {}
        for name, value in item.items():
            spec = self._inputs.get(name)
            if spec is None:
                known = ", ".join(self._inputs)
                raise InputError(self._who, f"an item has {name!r}, which is no input", f"its inputs are {known}")
            try:
                found[name] = np.asarray(value)
            except ValueError as error:
                raise InputError(self._who, f"an item's {name!r} is no array: {error}", "pass numbers") from error
            if found[name].ndim != len(spec.shape) - 1:
                why = f"an item's {name!r} has {found[name].ndim} axes"
                raise InputError(self._who, why, f"pass {len(spec.shape) - 1}: those of one item, without the batch")
        self._check({name: array[None] for name, array in found.items()})
        return found

    def _length(self, item: Arrays) -> int:
        lengths = {array.shape[axis] for name, array in item.items() for axis in self._padded[name]}
        if len(lengths) > 1:
            why = f"an item's inputs differ in length: {sorted(lengths)}"
            raise InputError(self._who, why, "give all of its inputs one length")
        return lengths.pop() if lengths else 0

    def _batches(self, arrays: Sequence[Arrays], lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
        """Yield batches of indices of items similar in length, the longest first so that buffers need not grow;
        without an attention mask to hide padding, of items equal in shape."""
        kinds = [self._kind(item) for item in arrays]
        size = 1 if any(spec.shape and spec.shape[0] == 1 for spec in self._inputs.values()) else batch_size
        batch: list[int] = []
        for index in sorted(range(len(arrays)), key=lambda index: (kinds[index], -lengths[index], index)):
            if batch and (kinds[index] != kinds[batch[0]] or len(batch) == size):
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    def _kind(self, item: Arrays) -> tuple[Any, ...]:
        """Return the shapes that items of one batch must share."""
        paddable = "attention_mask" in self._inputs
        return tuple(
            (name, *(-1 if paddable and axis in self._padded[name] else n for axis, n in enumerate(array.shape)))
            for name, array in sorted(item.items())
        )

    def _one(self, arrays: Sequence[Arrays], lengths: Sequence[int], batch: Sequence[int]) -> Mapping[str, Any]:
        longest = max(lengths[index] for index in batch)
        names = arrays[batch[0]]
        feed = {name: self._stacked(name, [arrays[index][name] for index in batch], longest) for name in names}
        if "attention_mask" in self._inputs and "attention_mask" not in feed and longest:
            own = np.asarray([lengths[index] for index in batch])
            feed["attention_mask"] = (np.arange(longest) < own[:, None]).astype(np.int64)
        return self._run(feed)

    def _stacked(self, name: str, values: Sequence[np.ndarray[Any, Any]], length: int) -> np.ndarray[Any, Any]:
        axes = self._padded[name]
        if all(value.shape[axis] == length for value in values for axis in axes):
            return np.stack(values)
        fill = self._pad_id if name == "input_ids" else 0
        shape = tuple(length if axis in axes else size for axis, size in enumerate(values[0].shape))
        stacked = np.full((len(values), *shape), fill, dtype=values[0].dtype)
        for row, value in zip(stacked, values, strict=True):
            row[tuple(slice(0, size) for size in value.shape)] = value
        return stacked

    def _place(
        self,
        rows: list[Any],
        values: np.ndarray[Any, Any],
        spec: TensorSpec,
        batch: Sequence[int],
        lengths: Sequence[int],
    ) -> None:
        """Store every item's output at its index, without the padding of its batch."""
        axes = self._padded[spec.name]
        for row, index in zip(values, batch, strict=True):
            cut = tuple(slice(0, lengths[index]) if axis in axes else slice(None) for axis in range(row.ndim))
            rows[index] = row[cut] if axes else row


def _is_batch(axis: int | str) -> bool:
    return isinstance(axis, str) and axis.endswith("batch")


def _padded_axes(spec: TensorSpec) -> frozenset[int]:
    """Return the axes of one item's array that padding may lengthen."""
    return frozenset(axis - 1 for axis, label in enumerate(spec.shape) if label == _PADDED_AXIS and axis)


def _gathered(spec: TensorSpec, rows: list[Any]) -> Any:
    rest = spec.shape[1:]
    if any(isinstance(axis, str) for axis in rest):
        return rows
    return np.stack(rows) if rows else np.empty((0, *rest), spec.dtype if spec.dtype != "bfloat16" else np.float32)


def as_items(who: str, given: Iterable[str | Item], tokenizer: Any, manifest: Manifest, directory: Path) -> list[Item]:
    """Return inputs by name of every text or item; texts go through the tokenizer passed or the one beside the model.

    Raises:
        InputError: a single text or item was passed where many are expected, or texts and items are mixed.
        UnavailableError: there is no tokenizer, or no installed package that reads it.
    """
    if isinstance(given, str | bytes | Mapping):
        kind = "text" if isinstance(given, str) else type(given).__name__
        raise InputError(who, f"map takes many items, and one {kind} came", "pass a list: fast.map([…])")
    listed = list(given)
    texts = [item for item in listed if isinstance(item, str)]
    if texts and len(texts) != len(listed):
        raise InputError(who, "some items are texts and some are not", "pass one kind")
    if not texts:
        return listed  # type: ignore[return-value]
    longest = _stated_length(manifest, directory)
    encode = from_transformers(tokenizer, longest) if tokenizer else read_tokenizer(directory, who, longest)
    taken = {spec.name for spec in manifest.inputs}
    return [{name: ids for name, ids in item.items() if name in taken} for item in encode(texts)]


def _stated_length(manifest: Manifest, directory: Path) -> int | None:
    """Return the maximum length in tokens by the model or sentence-transformers; the tokenizer's may be lower."""
    found = []
    if (allowed := manifest.axes.get(_PADDED_AXIS)) is not None and allowed.greatest is not None:
        found.append(allowed.greatest)
    for spec in manifest.inputs:
        if spec.name == "input_ids" and spec.shape and isinstance(spec.shape[-1], int):
            found.append(spec.shape[-1])
    for name in sorted(manifest.files):  # no file that was put beside them later
        if not fnmatch(name, "sentence_*_config.json"):
            continue
        stated = json.loads((directory / name).read_text(encoding="utf-8")).get("max_seq_length")
        if isinstance(stated, int) and stated > 0:
            found.append(stated)
    return min(found, default=None)


def read_tokenizer(directory: Path, who: str, longest: int | None = None) -> Callable[[Sequence[str]], Iterable[Item]]:
    """Return a function from texts to items by the artifact's tokenizer, read by transformers or else by tokenizers.

    Args:
        longest: tokens to truncate at, where the tokenizer's own limit is not lower.

    Raises:
        UnavailableError: there is no tokenizer, or no installed package that reads it.
    """
    from importlib.util import find_spec

    if not (directory / "tokenizer.json").is_file():
        raise UnavailableError(who, "it has no tokenizer.json", "pass tokenizer=, or inputs instead of texts")
    if find_spec("transformers") is not None:
        from transformers import AutoTokenizer

        return from_transformers(AutoTokenizer.from_pretrained(directory, trust_remote_code=False), longest)
    if find_spec("tokenizers") is None:
        raise UnavailableError(who, "nothing here reads its tokenizer", "pip install tokenizers")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_padding()
    _truncate_as_transformers(tokenizer, directory / "tokenizer_config.json", longest)
    return lambda texts: (
        {"input_ids": encoded.ids, "token_type_ids": encoded.type_ids}
        for encoded in tokenizer.encode_batch(list(texts))
    )


def _truncate_as_transformers(tokenizer: Any, config: Path, longest: int | None) -> None:
    """Truncate at the length in `tokenizer_config.json`, which overrides `tokenizer.json` in transformers."""
    stated = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    limit = _least_limit(stated.get("model_max_length"), longest)
    if limit is not None:
        tokenizer.enable_truncation(limit)
    else:
        tokenizer.no_truncation()


def _least_limit(stated: Any, longest: int | None) -> int | None:
    """Return the tokenizer's own limit or the model's, whichever is lower; None where neither has one."""
    own = int(stated) if isinstance(stated, int | float) and stated < _NO_LIMIT else None
    return min((limit for limit in (own, longest) if limit is not None), default=None)


def from_transformers(tokenizer: Any, longest: int | None = None) -> Callable[[Sequence[str]], Iterable[Item]]:
    """Return a function from texts to items by a transformers tokenizer, truncated at its limit or `longest`."""

    def encode(texts: Sequence[str]) -> Iterable[Item]:
        limit = _least_limit(getattr(tokenizer, "model_max_length", None), longest)
        cut = {"truncation": True, "max_length": limit} if limit is not None else {"truncation": True}
        encoded = tokenizer(list(texts), padding=False, **cut)
        return ({name: values[i] for name, values in encoded.items()} for i in range(len(texts)))

    return encode


@contextmanager
def progress_bar(total: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr, where that is a terminal; yield a function that takes the number of items completed."""
    if not shown or not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("items", total=total)
        yield lambda done: bar.advance(task, done)
