"""Batching of many inputs of mixed length: sorted by length, padded only within a batch, returned in order.

In an unsorted batch every text is padded to the longest, and computation on padding is wasted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from optimum_core.errors import InputError
from optimum_core.models.data.texts import Item
from optimum_core.runtime.call_outputs import Answer
from optimum_core.types import TensorSpec
from optimum_core.types.arrays import Arrays, NDArray
from optimum_core.types.tensors import is_batch

_PADDED_AXIS = "sequence"
#: Tokens of a call beyond which more of them make it no more efficient, and the least share of an item in its row: in
#: 200 sentences of mixed length, 32 in a batch, padding falls from 42 to 12 percent of the tokens.
_ENOUGH_TOKENS, _LEAST_SHARE = 512, 0.9


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
            if any(is_batch(axis) for axis in rest) or (isinstance(first, str) and not is_batch(first)):
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
            if np.ma.is_masked(value):
                why = f"an item's {name!r} has masked values, which it would compute with"
                raise InputError(self._who, why, "replace them: its filled(value)")
            try:
                found[name] = np.asarray(value, order="C")  # as it lies in its batch
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
        without an attention mask to hide padding, of items equal in shape. A batch that fills the processor ends before
        items that would be mostly padding."""
        kinds = [self._kind(item) for item in arrays]
        size = 1 if any(spec.shape and spec.shape[0] == 1 for spec in self._inputs.values()) else batch_size
        batch: list[int] = []
        for index in sorted(range(len(arrays)), key=lambda index: (kinds[index], -lengths[index], index)):
            longest = lengths[batch[0]] if batch else 0
            is_full = len(batch) == size or (
                longest * len(batch) >= _ENOUGH_TOKENS and lengths[index] < _LEAST_SHARE * longest
            )
            if batch and (is_full or kinds[index] != kinds[batch[0]]):
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

    def _stacked(self, name: str, values: Sequence[NDArray], length: int) -> NDArray:
        axes = self._padded[name]
        if all(value.shape[axis] == length for value in values for axis in axes):
            return np.stack(values)
        fill = self._pad_id if name == "input_ids" else 0
        shape = tuple(length if axis in axes else size for axis, size in enumerate(values[0].shape))
        kinds = (*values, np.min_scalar_type(fill)) if fill else values
        stacked = np.full((len(values), *shape), fill, dtype=np.result_type(*kinds))
        for row, value in zip(stacked, values, strict=True):
            row[tuple(slice(0, size) for size in value.shape)] = value
        return stacked

    def _place(
        self,
        rows: list[Any],
        values: NDArray,
        spec: TensorSpec,
        batch: Sequence[int],
        lengths: Sequence[int],
    ) -> None:
        """Store every item's output at its index, without the padding of its batch."""
        axes = self._padded[spec.name]
        for row, index in zip(values, batch, strict=True):
            cut = tuple(slice(0, lengths[index]) if axis in axes else slice(None) for axis in range(row.ndim))
            rows[index] = row[cut] if axes else row


def _padded_axes(spec: TensorSpec) -> frozenset[int]:
    """Return the axes of one item's array that padding may lengthen."""
    return frozenset(axis - 1 for axis, label in enumerate(spec.shape) if label == _PADDED_AXIS and axis)


def _gathered(spec: TensorSpec, rows: list[Any]) -> Any:
    rest = spec.shape[1:]
    if any(isinstance(axis, str) for axis in rest):
        return rows
    return np.stack(rows) if rows else np.empty((0, *rest), spec.dtype if spec.dtype != "bfloat16" else np.float32)


@contextmanager
def progress_bar(total: int | None, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr, where that is a terminal; yield a function that takes the number of items completed.

    Args:
        total: the number of items; None: unknown.
    """
    if not shown or not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("items", total=total)
        yield lambda done: bar.advance(task, done)
