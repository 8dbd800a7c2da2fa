"""Encoding of data rows as batches of a model's inputs, stored on disk one by one: memory holds a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from optimum_core.errors import OptionError
from optimum_core.models.data.rows import Row, as_array
from optimum_core.models.signatures.signature import ModelSignature
from optimum_core.types import TensorSpec
from optimum_core.types.arrays import Arrays, NDArray

#: Number of texts, pictures or sounds in one batch, and number of them that are sorted by length at a time.
BATCH = 8
_CHUNK = 8 * BATCH
#: Tokens that texts are cut at if neither the model nor its tokenizer sets a limit.
_LONGEST = 512
_NO_LIMIT = 1e9  # transformers' "no limit" is a very large number


@dataclass(frozen=True, kw_only=True, slots=True)
class Batches:
    """Batches on disk: the same at every iteration, read one at a time.

    Attributes:
        sizes: number of items of each batch.
        labels: those of each batch, if the rows have any.
    """

    directory: Path
    sizes: tuple[int, ...]
    labels: tuple[Any, ...] = ()

    def __iter__(self) -> Iterator[Arrays]:
        for number in range(len(self.sizes)):
            with np.load(self.directory / f"{number}.npz", allow_pickle=False) as kept:
                yield {name: kept[name] for name in kept.files}

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def items(self) -> int:
        """The number of items in all batches."""
        return sum(self.sizes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoder:
    """Encoder of rows as a model's inputs.

    Attributes:
        signature: defines the model's inputs.
        processor: tokenizer or processor for raw data, or None.
        who: the data's name in messages.
    """

    signature: ModelSignature
    processor: Any
    who: str

    def spool(
        self, rows: Iterable[Row], directory: Path, advance: Callable[[int], None] = lambda done: None
    ) -> Batches:
        """Encode all rows and store the batches.

        Args:
            directory: is created, and holds one file per batch.
            advance: called with the number of items encoded so far.

        Raises:
            OptionError: a row does not fit the model; the message has its number.
        """
        directory.mkdir(parents=True)
        sizes: list[int] = []
        labels: list[Any] = []
        for inputs, label in self._batches(rows):
            np.savez(directory / f"{len(sizes)}.npz", **inputs)  # type: ignore[arg-type]
            sizes.append(_items(inputs, self.signature.inputs))
            labels.append(label)
            advance(sum(sizes))
        return Batches(directory=directory, sizes=tuple(sizes), labels=tuple(labels))

    def pieces(self, row: Row) -> Iterator[Row]:
        """Yield the row, or if it is a large batch of encoded items, small batches of them."""
        arrays = self._named(row) if self._is_encoded(row.value) else {}
        items = {array.shape[0] for array in arrays.values() if array.ndim}
        if len(items) != 1 or max(items) <= self._batch_size:
            yield row
            return
        for start in range(0, items.pop(), self._batch_size):
            stop = start + self._batch_size
            label = (
                row.label[start:stop] if hasattr(row.label, "__getitem__") and not isinstance(row.label, str) else None
            )
            value = {name: array[start:stop] for name, array in arrays.items()}
            yield Row(number=row.number, value=value, label=label)

    def keys(self, row: Row) -> set[str]:
        """Return a key of every item of the row: equal for equal data, alone or in a batch, whatever the padding; a
        text has the key of its tokens."""
        if self._is_encoded(row.value):
            arrays = self._named(row)
        elif self.processor is not None and "input_ids" in self._names and isinstance(self._raw(row), str | tuple):
            arrays = self._processed([row])
        else:
            return {Row(number=row.number, value=self._raw(row)).key}
        mask = arrays.pop("attention_mask", np.zeros(0))
        tokens = arrays.get("input_ids")
        if tokens is not None and tokens.dtype.kind in "iu":  # the other inputs follow from these, or may be missing
            arrays = {"input_ids": tokens.astype(np.int64, copy=False)}
        count = max((len(array) for array in arrays.values() if array.ndim), default=1)
        return {Row(number=row.number, value=_item(arrays, mask, index, count)).key for index in range(count)}

    def _batches(self, rows: Iterable[Row]) -> Iterator[tuple[Arrays, Any]]:
        iterator = iter(rows)
        while chunk := list(islice(iterator, _CHUNK)):
            raw = [row for row in chunk if not self._is_encoded(row.value)]
            for row in chunk:
                if self._is_encoded(row.value):
                    yield self._checked(self._named(row), row), row.label
            raw.sort(key=lambda row: len(str(row.value)) if isinstance(row.value, str | Mapping) else 0)
            size = self._raw_size(raw)
            for start in range(0, len(raw), size):
                batch = raw[start : start + size]
                if len(batch) < self._fixed_batch:
                    continue  # the model does not take fewer
                yield self._checked(self._processed(batch), batch[0]), [row.label for row in batch]

    @property
    def _fixed_batch(self) -> int:
        """The number of items in every call; 0 if it varies."""
        fixed = [spec.shape[0] for spec in self.signature.inputs if spec.shape and isinstance(spec.shape[0], int)]
        return fixed[0] if fixed else 0

    @property
    def _batch_size(self) -> int:
        return self._fixed_batch or BATCH

    def _raw_size(self, rows: Sequence[Row]) -> int:
        """Return the number of raw rows in one batch: one where texts cannot be padded to one length."""
        pads = self._pads or not rows or not isinstance(self._raw(rows[0]), str | tuple)
        return self._batch_size if pads else self._fixed_batch or 1

    @property
    def _names(self) -> list[str]:
        return [spec.name for spec in self.signature.inputs]

    def _is_encoded(self, value: Any) -> bool:
        if isinstance(value, Mapping):
            return any(name in value for name in self._names)
        if isinstance(value, tuple | list):
            return bool(value) and all(hasattr(item, "shape") for item in value)
        return hasattr(value, "shape") and self.processor is None

    def _named(self, row: Row) -> Arrays:
        """Return the inputs among an encoded row's values, by name, with a batch axis."""
        value = row.value
        if not isinstance(value, Mapping):
            value = dict(zip(self._names, value if isinstance(value, tuple | list) else (value,), strict=False))
        arrays: Arrays = {}
        for spec in self.signature.inputs:
            if spec.name not in value:
                continue
            array = as_array(value[spec.name])
            if array is None:
                raise self._misfit(row, f"input {spec.name!r} is a {type(value[spec.name]).__name__}", "pass a tensor")
            arrays[spec.name] = array[None] if array.ndim == len(spec.shape) - 1 else array
        return arrays

    def _processed(self, rows: Sequence[Row]) -> Arrays:
        """Return raw rows as one batch, through the model's processor."""
        if self.processor is None:
            raise self._unprocessed(rows[0])
        arguments = self._arguments(rows)
        try:
            made = self.processor(**arguments, return_tensors="np")
        except Exception as error:  # processors raise errors of any type
            why = f"the processor {type(self.processor).__name__} refuses it: {type(error).__name__}: {error}"
            raise self._misfit(rows[0], why, "pass inputs by name instead") from error
        return {name: np.asarray(made[name]) for name in self._names if name in made}

    def _arguments(self, rows: Sequence[Row]) -> dict[str, Any]:
        values = [self._raw(row) for row in rows]
        first = values[0]
        if isinstance(first, str | tuple):
            fixed = [spec.shape[-1] for spec in self.signature.inputs if spec.name == "input_ids"]
            length = fixed[0] if fixed and isinstance(fixed[0], int) else None
            texts = self._texts(rows, values)
            padding = {"padding": "max_length" if length else True} if self._pads else {}
            return {**texts, **padding, "truncation": True, "max_length": length or self._longest}
        if "pixel_values" in self._names:
            return {"images": values}
        rate = getattr(getattr(self.processor, "feature_extractor", self.processor), "sampling_rate", 16000)
        return {
            "audio" if hasattr(self.processor, "feature_extractor") else "raw_speech": values,
            "sampling_rate": rate,
        }

    def _texts(self, rows: Sequence[Row], values: Sequence[Any]) -> dict[str, Any]:
        """Return texts, or both texts of every pair, as arguments of the processor.

        Raises:
            OptionError: a row is neither as the first one is.
        """
        is_text = isinstance(values[0], str)
        for row, value in zip(rows, values, strict=True):
            if not (isinstance(value, str) if is_text else _is_pair(value)):
                why = f"it is {_told(value)}, and other rows are {'texts' if is_text else 'pairs of texts'}"
                raise self._misfit(row, why, "pass rows of one form")
        return {"text": list(values)} if is_text else dict(_pairs(values))

    @property
    def _pads(self) -> bool:
        owner = getattr(self.processor, "tokenizer", self.processor)
        return getattr(owner, "pad_token", None) is not None

    @property
    def _longest(self) -> int:
        """The number of tokens that a text is cut at: as the user's own call would, if the model takes so many."""
        owner = getattr(self.processor, "tokenizer", self.processor)
        stated = getattr(owner, "model_max_length", None)
        layout = self.signature.layout
        limit = layout.limits.get("sequence")
        if stated and stated < _NO_LIMIT:
            return int(stated if limit is None or stated <= limit else layout.longest("sequence"))
        return _LONGEST if limit is None else layout.longest("sequence")

    def _raw(self, row: Row) -> Any:
        """Return a row's text, pair of texts, picture or sound."""
        value = row.value
        if not isinstance(value, Mapping):
            return value
        texts = [item for item in value.values() if isinstance(item, str)]
        media = [item for item in value.values() if hasattr(item, "convert") or hasattr(item, "shape")]
        sounds = [item["array"] for item in value.values() if isinstance(item, Mapping) and "array" in item]
        found = [*media, *sounds] or texts
        if len(found) == 1:
            return found[0]
        if len(texts) == 2 and found is texts:
            return tuple(texts)
        columns = ", ".join(map(str, value))
        why = f"none of its columns ({columns}) is an input, and it is not clear which is the text, picture or sound"
        raise self._misfit(row, why, f"pass just that one, or inputs: {', '.join(self._names)}")

    def _checked(self, arrays: Arrays, row: Row) -> Arrays:
        """Return every input of the model with the element type and rank that it takes; optional ones are filled in."""
        whole: Arrays = {}
        for spec in self.signature.inputs:
            if spec.name in arrays:
                whole[spec.name] = self._fitting(arrays[spec.name], spec, row)
            elif spec.default is None:
                have = ", ".join(arrays) or "none of the model's"
                raise self._misfit(
                    row, f"input {spec.name!r} is missing; it has {have}", "pass every input of the model"
                )
        for spec in self.signature.inputs:
            if spec.name not in whole:
                like = next(a for a in whole.values() if a.ndim == len(spec.shape))
                whole[spec.name] = spec.left_out(np.zeros(like.shape), whole.get(spec.made_of or ""))
        return {spec.name: whole[spec.name] for spec in self.signature.inputs}

    def _fitting(self, array: NDArray, spec: TensorSpec, row: Row) -> NDArray:
        wanted = np.dtype(spec.dtype)
        if array.ndim != len(spec.shape):
            raise self._misfit(
                row, f"input {spec.name!r} has {array.ndim} axes, the model takes {len(spec.shape)}", _SHAPES
            )
        for index, axis in enumerate(spec.shape):
            if isinstance(axis, int) and array.shape[index] != axis:
                why = f"input {spec.name!r} has length {array.shape[index]} at axis {index}, the model takes {axis}"
                raise self._misfit(row, why, _SHAPES)
        if not np.can_cast(array.dtype, wanted, casting="same_kind") and array.dtype.kind != "b":
            raise self._misfit(row, f"input {spec.name!r} is {array.dtype}, the model takes {wanted}", "convert it")
        if (wrong := _out_of_range(array, spec)) is not None:
            why = f"input {spec.name!r} has the value {wrong}, the model takes {_range(spec)}"
            raise self._misfit(row, why, "pass what the model is called with")
        return np.ascontiguousarray(array, dtype=wanted)

    def _unprocessed(self, row: Row) -> OptionError:
        if not isinstance(row.value, Mapping):
            return self._misfit(row, "it is raw data, and the model has no processor here", "pass processor=")
        columns = ", ".join(map(repr, row.value))
        why = f"none of its columns ({columns}) is an input of the model, which has no processor here for raw data"
        return self._misfit(row, why, f"name them as its inputs: {', '.join(self._names)}; or pass processor=")

    def _misfit(self, row: Row, why: str, remedy: str) -> OptionError:
        return OptionError(f"{self.who}, row {row.number}", why, remedy)


def _out_of_range(array: NDArray, spec: TensorSpec) -> Any:
    """Return a value that the model refuses; None: it takes all."""
    least, greatest = spec.least, spec.greatest
    too_low = array < least if least is not None else np.zeros(array.shape, bool)
    outside = too_low | (array > greatest) if greatest is not None else too_low
    wrong = array[outside & (array != spec.skipped)] if spec.skipped is not None else array[outside]
    return wrong.flat[0] if wrong.size else None


def _range(spec: TensorSpec) -> str:
    if spec.greatest is None:
        return f"{spec.least} and above"
    return f"{spec.greatest} and below" if spec.least is None else f"{spec.least} to {spec.greatest}"


_SHAPES = "pass what the model is called with"


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(isinstance(text, str) for text in value)


def _told(value: Any) -> str:
    return f"a tuple of {len(value)}" if isinstance(value, tuple) else f"a {type(value).__name__}"


def _pairs(values: Sequence[Any]) -> Iterator[tuple[str, list[str]]]:
    yield "text", [first for first, _ in values]
    yield "text_pair", [second for _, second in values]


def _item(arrays: Arrays, mask: NDArray, index: int, count: int) -> Arrays:
    """Return one item of a batch, without masked positions."""
    item: Arrays = {}
    for name, array in arrays.items():
        meant = mask[index].astype(bool) if mask.ndim > 1 and mask.shape == array.shape else slice(None)
        item[name] = array[index][meant] if array.ndim and len(array) == count else array
    return item


def _items(inputs: Arrays, specs: Sequence[TensorSpec]) -> int:
    for spec in specs:
        if spec.shape and spec.shape[0] == "batch":
            return int(inputs[spec.name].shape[0])
    return int(next(iter(inputs.values())).shape[0]) if specs[0].shape else 1
