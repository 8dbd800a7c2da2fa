"""Many items at once give what they give one by one, in their order, however they were batched."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_core.errors import InputError
from optimum_core.runtime.call_outputs import Answer
from optimum_core.runtime.mapping import Mapper
from optimum_core.types import TensorSpec

IDS = TensorSpec(name="input_ids", dtype="int64", shape=("batch", "sequence"))
MASK = TensorSpec(name="attention_mask", dtype="int64", shape=("batch", "sequence"), default="ones")
POOLED = TensorSpec(name="pooled", dtype="int64", shape=("batch", 2))
TOKENS = TensorSpec(name="tokens", dtype="int64", shape=("batch", "sequence"))
PAD = 9


class Recorder:
    """A model that sums what its mask lets through, and remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[dict[str, np.ndarray[Any, Any]]] = []
        self._lock = threading.Lock()

    def __call__(self, arrays: dict[str, Any]) -> Mapping[str, Any]:
        with self._lock:
            self.calls.append(arrays)
        ids = arrays["input_ids"]
        seen = ids * arrays.get("attention_mask", np.ones_like(ids))
        return {"pooled": np.stack([seen.sum(1), (seen > 0).sum(1)], axis=1), "tokens": 2 * ids}

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [call["input_ids"].shape for call in self.calls]


def _mapped(
    lengths: Sequence[int],
    size: int,
    *,
    inputs: Sequence[TensorSpec] = (IDS, MASK),
    outputs: Sequence[TensorSpec] = (POOLED, TOKENS),
    streams: int = 1,
) -> tuple[Answer, Recorder]:
    model = Recorder()
    done: list[int] = []
    mapper = Mapper("model 'm'", model, inputs, outputs, pad_id=PAD, streams=streams)
    answer = mapper.map([{"input_ids": _row(n)} for n in lengths], size, done.append)
    assert sum(done) == len(lengths)
    return answer, model


def _row(length: int) -> list[int]:
    return [length * 100 + position for position in range(1, length + 1)]


@given(st.lists(st.integers(1, 12), max_size=40), st.integers(1, 50), st.sampled_from([1, 3]))
@settings(deadline=None, max_examples=60)
def test_results_are_in_the_order_of_the_items(lengths: list[int], size: int, streams: int) -> None:
    answer, model = _mapped(lengths, size, streams=streams)
    assert answer.pooled.tolist() == [[sum(_row(n)), n] for n in lengths]
    assert [row.tolist() for row in answer.tokens] == [[2 * value for value in _row(n)] for n in lengths]
    assert all(len(call["input_ids"]) <= size for call in model.calls)
    assert len(model.calls) == -(-len(lengths) // size)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=40), st.integers(1, 9))
@settings(deadline=None, max_examples=60)
def test_nothing_is_padded_beyond_its_neighbours(lengths: list[int], size: int) -> None:
    _, model = _mapped(lengths, size)
    in_order = sorted(lengths, reverse=True)
    longest = [in_order[start] for start in range(0, len(in_order), size)]
    assert [shape[1] for shape in model.shapes] == longest


def test_padding_is_masked_and_filled_with_the_models_own_token() -> None:
    _, model = _mapped([3, 1], 2)
    assert model.calls[0]["input_ids"].tolist() == [[301, 302, 303], [101, PAD, PAD]]
    assert model.calls[0]["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=20), st.integers(1, 9))
@settings(deadline=None, max_examples=40)
def test_without_a_mask_only_equals_share_a_call(lengths: list[int], size: int) -> None:
    answer, model = _mapped(lengths, size, inputs=(IDS,))
    assert answer.pooled[:, 0].tolist() == [sum(_row(n)) for n in lengths]
    assert not any((call["input_ids"] == PAD).any() for call in model.calls)
    assert len(model.calls) == sum(-(-lengths.count(n) // size) for n in set(lengths))


@pytest.mark.parametrize(("narrow", "wide"), [("int8", "int64"), ("uint8", "int16"), ("int64", "int8")])
def test_a_batch_is_of_a_type_that_holds_all_items(narrow: str, wide: str) -> None:
    """The longest item of a batch is its first."""
    greatest = int(np.iinfo(wide).max) - 7
    items = [{"input_ids": np.array([1, 2, 3], narrow)}, {"input_ids": np.array([greatest], wide)}]
    model = Recorder()
    Mapper("m", model, (IDS, MASK), (POOLED,), pad_id=30000).map(items, 2, lambda done: None)
    assert model.calls[0]["input_ids"].tolist() == [[1, 2, 3], [greatest, 30000, 30000]]


def test_an_item_lies_in_order_in_its_batch() -> None:
    """Items that are views are put in order before they are checked."""
    checked: list[bool] = []
    pixels = TensorSpec(name="pixel_values", dtype="float32", shape=("batch", 3, 2), contiguous=True)
    item = {"pixel_values": np.ones((2, 3), np.float32).T}
    mapper = Mapper(
        "m", lambda feed: {"pooled": np.ones((1, 8), np.float32)}, (pixels,), (POOLED,),
        check=lambda arrays: checked.extend(array.flags.c_contiguous for array in arrays.values()),
    )  # fmt: skip
    mapper.map([item], 2, lambda done: None)
    assert checked == [True]


def test_an_item_with_masked_values_is_refused() -> None:
    item = {"input_ids": np.ma.masked_array([1, 2], mask=[False, True])}
    with pytest.raises(InputError, match="an item's 'input_ids' has masked values"):
        Mapper("m", Recorder(), (IDS, MASK), (POOLED,)).map([item], 2, lambda done: None)


def test_a_mask_of_its_own_is_kept() -> None:
    model = Recorder()
    mapper = Mapper("m", model, (IDS, MASK), (POOLED,))
    items = [{"input_ids": [5, 6, 7], "attention_mask": [1, 0, 1]}, {"input_ids": [8], "attention_mask": [1]}]
    assert mapper.map(items, 4, lambda done: None).pooled.tolist() == [[12, 2], [8, 1]]
    assert len(model.calls) == 1


def test_items_with_and_without_a_mask_may_be_mixed() -> None:
    model = Recorder()
    mapper = Mapper("m", model, (IDS, MASK), (POOLED,))
    items = [{"input_ids": [5, 6], "attention_mask": [1, 0]}, {"input_ids": [8]}, {"input_ids": [1, 2, 3]}]
    assert mapper.map(items, 4, lambda done: None).pooled.tolist() == [[5, 1], [8, 1], [6, 3]]


def test_nothing_gives_nothing_of_the_right_shape() -> None:
    answer, model = _mapped([], 4)
    assert (answer.pooled.shape, answer.pooled.dtype, answer.tokens, model.calls) == ((0, 2), np.int64, [], [])


def test_a_batch_that_is_fixed_at_one_item() -> None:
    fixed = TensorSpec(name="input_ids", dtype="int64", shape=(1, "sequence"))
    answer, model = _mapped([2, 2, 3], 8, inputs=(fixed,))
    assert sorted(model.shapes) == [(1, 2), (1, 2), (1, 3)]
    assert answer.pooled[:, 1].tolist() == [2, 2, 3]


@pytest.mark.parametrize("shape", [("batch", "media_batch"), ("sequence", 2), ()])
def test_an_output_that_is_not_made_item_by_item_is_refused(shape: tuple[int | str, ...]) -> None:
    with pytest.raises(InputError, match=r"'mixed' is not made item by item"):
        _mapped([1, 2], 2, outputs=(TensorSpec(name="mixed", dtype="float32", shape=shape),))


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({"input_ids": [1], "labels": 3}, r"'labels', which is no input(.|\n)*input_ids, attention_mask"),
        ({"input_ids": [[1, 2]]}, r"'input_ids' has 2 axes(.|\n)*pass 1"),
        ({"input_ids": 1}, "has 0 axes"),
        ({"input_ids": [[1], [2, 3]]}, "is no array"),
        ({"input_ids": [1, 2], "attention_mask": [1]}, r"differ in length: \[1, 2\]"),
        (5, "an item is int"),
    ],
)
def test_items_that_do_not_fit(item: Any, said: str) -> None:
    model = Recorder()
    with pytest.raises(InputError, match=said):
        Mapper("m", model, (IDS, MASK), (POOLED,)).map([{"input_ids": [1]}, item], 2, lambda done: None)
    assert model.calls == []
