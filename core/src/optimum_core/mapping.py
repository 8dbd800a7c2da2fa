"""Many inputs of mixed length at once: sorted by length, padded only to their neighbours, given back in order.

In a batch of texts as they come, every text is padded to the longest, and padding is work thrown away.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from optimum_core.answers import Answer
from optimum_core.errors import InputError, UnavailableError
from optimum_core.types import TensorSpec

Item = Mapping[str, Any]
Arrays = dict[str, np.ndarray[Any, Any]]
_PADDED_AXIS = "sequence"


class Mapper:
    """Runs a model over many items.

    Args:
        who: the model, for errors.
        run: one call, arrays in by name and arrays out by name.
        inputs, outputs: specs of the model.
        pad_id: what fills `input_ids` behind a text's end.
        streams: calls to run side by side.
    """

    def __init__(
        self,
        who: str,
        run: Callable[[Arrays], Mapping[str, Any]],
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        *,
        pad_id: int = 0,
        streams: int = 1,
    ) -> None:
        self._who = who
        self._run = run
        self._inputs = {spec.name: spec for spec in inputs}
        self._outputs = tuple(outputs)
        self._pad_id = pad_id
        self._streams = streams

    def map(self, items: Sequence[Item], batch_size: int, advance: Callable[[int], None]) -> Answer:
        """Run all items.

        Args:
            items: inputs of one item each, by name, without the batch axis.
            advance: called with the number of items done.

        Returns:
            Every output by name: one array with the items along its first axis; where an output has a value for every
            token, a list of arrays, one an item, without padding.
        """
        arrays = [self._arrays(item) for item in items]
        results: list[Mapping[str, Any] | None] = [None] * len(arrays)
        batches = list(self._batches(arrays, batch_size))
        with ThreadPoolExecutor(self._streams) as pool:
            for batch, outputs in zip(batches, pool.map(lambda b: self._one(arrays, b), batches), strict=True):
                for row, index in enumerate(batch):
                    results[index] = self._row(outputs, row, arrays[index])
                advance(len(batch))
        rows = [row for row in results if row is not None]
        return Answer({spec.name: self._gathered(spec, rows) for spec in self._outputs})

    def _arrays(self, item: Item) -> Arrays:
        unknown = [name for name in item if name not in self._inputs]
        if unknown:
            known = ", ".join(self._inputs)
            raise InputError(self._who, f"an item has {unknown[0]!r}, which is no input", f"its inputs are {known}")
        return {name: np.asarray(value) for name, value in item.items()}

    def _batches(self, arrays: Sequence[Arrays], batch_size: int) -> Iterator[list[int]]:
        """Indices of neighbours in length; without a mask to hide padding, of equals in shape."""
        paddable = "attention_mask" in self._inputs
        order = sorted(range(len(arrays)), key=lambda index: (self._length(arrays[index]), index))
        batch: list[int] = []
        for index in order:
            alike = not batch or self._kind(arrays[batch[0]], paddable) == self._kind(arrays[index], paddable)
            if batch and (len(batch) == batch_size or not alike):
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    def _length(self, item: Arrays) -> int:
        return max((array.shape[axis] for name, array in item.items() for axis in self._padded_axes(name)), default=0)

    def _padded_axes(self, name: str) -> list[int]:
        """Axes of one item's array that padding may lengthen."""
        return [axis - 1 for axis, label in enumerate(self._inputs[name].shape) if label == _PADDED_AXIS and axis]

    def _kind(self, item: Arrays, paddable: bool) -> tuple[Any, ...]:
        """What items of one batch must share."""
        return tuple(
            (name, *(-1 if paddable and axis in self._padded_axes(name) else n for axis, n in enumerate(array.shape)))
            for name, array in sorted(item.items())
        )

    def _one(self, arrays: Sequence[Arrays], batch: Sequence[int]) -> Mapping[str, Any]:
        rows = [arrays[index] for index in batch]
        lengths = [self._length(row) for row in rows]
        feed = {name: self._stacked(name, [row[name] for row in rows], max(lengths)) for name in rows[0]}
        if "attention_mask" in self._inputs and "attention_mask" not in feed and max(lengths):
            feed["attention_mask"] = (np.arange(max(lengths)) < np.asarray(lengths)[:, None]).astype(np.int64)
        return self._run(feed)

    def _stacked(self, name: str, values: Sequence[np.ndarray[Any, Any]], length: int) -> np.ndarray[Any, Any]:
        axes = self._padded_axes(name)
        if not axes:
            return np.stack(values)
        fill = self._pad_id if name == "input_ids" else 0
        shape = tuple(length if axis in axes else size for axis, size in enumerate(values[0].shape))
        stacked = np.full((len(values), *shape), fill, dtype=values[0].dtype)
        for row, value in zip(stacked, values, strict=True):
            row[tuple(slice(0, size) for size in value.shape)] = value
        return stacked

    def _row(self, outputs: Mapping[str, Any], row: int, item: Arrays) -> Arrays:
        """One item's outputs, without the padding of its batch."""
        length = self._length(item)
        found = {}
        for spec in self._outputs:
            value = np.asarray(outputs[spec.name])[row]
            per_token = [axis - 1 for axis, label in enumerate(spec.shape) if label == _PADDED_AXIS and axis]
            cut = tuple(slice(0, length) if axis in per_token else slice(None) for axis in range(value.ndim))
            found[spec.name] = value[cut] if per_token else value
        return found

    def _gathered(self, spec: TensorSpec, rows: Sequence[Mapping[str, Any]]) -> Any:
        values = [row[spec.name] for row in rows]
        return values if _PADDED_AXIS in spec.shape or not values else np.stack(values)


def read_tokenizer(directory: Path, who: str) -> Callable[[Sequence[str]], Iterable[Item]]:
    """Texts to items, by the artifact's own tokenizer: through transformers where it is installed, else tokenizers.

    Raises:
        UnavailableError: there is no tokenizer, or nothing to read it with.
    """
    from importlib.util import find_spec

    if not (directory / "tokenizer.json").is_file():
        raise UnavailableError(who, "it has no tokenizer.json", "pass tokenizer=, or inputs instead of texts")
    if find_spec("transformers") is not None:
        from transformers import AutoTokenizer

        return from_transformers(AutoTokenizer.from_pretrained(directory))
    if find_spec("tokenizers") is None:
        raise UnavailableError(who, "nothing here reads its tokenizer", "pip install tokenizers")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_padding()
    return lambda texts: (
        {"input_ids": encoded.ids, "token_type_ids": encoded.type_ids}
        for encoded in tokenizer.encode_batch(list(texts))
    )


def from_transformers(tokenizer: Any) -> Callable[[Sequence[str]], Iterable[Item]]:
    """Texts to items by a transformers tokenizer."""

    def encode(texts: Sequence[str]) -> Iterable[Item]:
        encoded = tokenizer(list(texts), truncation=True, padding=False)
        return ({name: values[i] for name, values in encoded.items()} for i in range(len(texts)))

    return encode


@contextmanager
def progress_bar(total: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, where that is a terminal; what it gives is told the number of items done."""
    if not shown or not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("items", total=total)
        yield lambda done: bar.advance(task, done)
