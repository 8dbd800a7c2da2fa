"""Rows as people have them: many shapes of data, one reading, the same each time; equal data is known as equal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from optimum_core.errors import OptionError
from optimum_core.models.data.rows import Row, Rows, as_array


def _read(data: Any, **settings: Any) -> list[tuple[Any, Any]]:
    return [(row.value, row.label) for row in Rows(data, who="calibration", **settings)]


def _key(value: Any) -> str:
    return Row(number=1, value=value).key


class Indexed:
    """A data set as torch and `datasets` have them."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index >= 4:
            raise IndexError
        return {"ids": torch.tensor([index, index]), "label": index % 2}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(4))


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        (["a", "b"], [("a", None), ("b", None)]),
        ([("a", 0), ("b", 1)], [("a", 0), ("b", 1)]),
        ([("a", np.int64(1))], [("a", 1)]),
        ([("a", 0.5)], [("a", 0.5)]),
        ([("first", "second")], [(("first", "second"), None)]),  # a pair of texts is no label
        ([("a", True)], [(("a", True), None)]),
        ([{"text": "a", "label": 3}], [({"text": "a"}, 3)]),
        ([{"text": "a", "labels": [1, 0]}], [({"text": "a"}, [1, 0])]),
        ([{"text": "a"}], [({"text": "a"}, None)]),
        (("a", "b"), [("a", None), ("b", None)]),
    ],
)
def test_rows_of_every_form(data: Any, rows: list[Any]) -> None:
    assert _read(data) == rows


def test_labels_of_any_kind_where_labels_are_asked_for() -> None:
    assert _read([("a", "POSITIVE")], labelled=True) == [("a", "POSITIVE")]
    assert _read([["a", [1, 2]]], labelled=True) == [("a", [1, 2])]


def test_a_generator_is_kept_and_an_iterable_is_read_anew() -> None:
    rows = Rows((f"text {i}" for i in range(3)), who="calibration")
    assert list(rows) == list(rows)
    assert [row.number for row in rows] == [1, 2, 3]
    reads: list[int] = []

    class Counted:
        def __iter__(self) -> Iterator[str]:
            reads.append(1)
            return iter(["a", "b"])

    counted = Rows(Counted(), who="calibration")
    assert [row.value for row in counted] == [row.value for row in counted] == ["a", "b"]
    assert len(reads) > 1  # streamed, not kept


def test_no_more_rows_are_drawn_than_the_limit() -> None:
    def endless() -> Iterator[str]:
        number = 0
        while True:
            yield f"text {number}"
            number += 1

    assert len(list(Rows(endless(), who="calibration", limit=5))) == 5
    assert _read(["a", "b", "c"], limit=2) == [("a", None), ("b", None)]


def test_a_data_set_and_a_loader_of_it() -> None:
    assert [label for _, label in _read(Indexed(), labelled=True)] == [0, 1, 0, 1]
    loader: Any = torch.utils.data.DataLoader(Indexed(), batch_size=2)  # type: ignore[arg-type]
    ((first, labels), (second, _)) = _read(loader, labelled=True)
    assert first["ids"].tolist() == [[0, 0], [1, 1]]
    assert labels.tolist() == [0, 1]
    assert second["ids"].tolist() == [[2, 2], [3, 3]]


def test_a_loader_that_shuffles_is_read_once() -> None:
    loader: Any = torch.utils.data.DataLoader(list(range(64)), batch_size=4, shuffle=True)  # type: ignore[arg-type]
    rows = Rows(loader, who="calibration")
    assert [row.key for row in rows] == [row.key for row in rows]


@pytest.mark.parametrize("data", ["a text", b"bytes", 3, None, {"input_ids": [1]}, torch.nn.Linear(1, 1)])
def test_one_thing_is_not_many_rows(data: Any) -> None:
    with pytest.raises(OptionError, match=r"calibration: it is one (.|\n)*many rows are needed"):
        Rows(data, who="calibration")


@pytest.mark.parametrize("row", ["b", {"text": "b"}, ("b", 1, 2), ["b"]])
def test_a_row_without_a_label_is_named(row: Any) -> None:
    with pytest.raises(OptionError, match=r"evaluate: row 2 has no label(.|\n)*'label'"):
        list(Rows([("a", 0), row], who="evaluate", labelled=True))


def test_what_is_no_data_has_no_key() -> None:
    with pytest.raises(OptionError, match=r"data, row 7: it is a object"):
        assert Row(number=7, value={"text": object()}).key


values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-2, 2) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=5,
)


def _plain(value: Any) -> Any:
    """The value in a form in which only equal data is equal: numbers in lists are arrays, of whatever container."""
    array = as_array(value) if isinstance(value, list) else None
    if array is not None:
        return ("array", str(array.dtype), array.shape, array.tobytes())
    if isinstance(value, list):
        return ("list", tuple(map(_plain, value)))
    if isinstance(value, dict):
        return ("dict", tuple(sorted((name, _plain(item)) for name, item in value.items())))
    return (type(value).__name__, repr(value))


@given(values, values)
def test_keys_are_equal_just_where_values_are(one: Any, other: Any) -> None:
    assert (_key(one) == _key(other)) == (_plain(one) == _plain(other))


def test_a_key_is_of_the_value_in_whatever_container() -> None:
    array = np.arange(6, dtype=np.int64).reshape(2, 3)
    assert _key(array) == _key(torch.from_numpy(array)) == _key(array.tolist()) == _key(np.asfortranarray(array))
    assert len({_key(array), _key(array.astype(np.int32)), _key(array.reshape(3, 2)), _key(array + 1)}) == 4
    grey, red = Image.new("L", (4, 4), 9), Image.new("RGB", (4, 4), (9, 0, 0))
    assert len({_key(grey), _key(red), _key(Image.new("L", (4, 4), 8)), _key(Image.new("L", (2, 8), 9))}) == 4
    assert _key(grey) == _key(grey.copy())
    assert _key({"a": 1, "b": "x"}) == _key({"b": "x", "a": 1})
    assert _key(("one", "two")) != _key(("two", "one"))


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: [*rows[:-1], ("other", 0)],
        lambda rows: [*rows[:-1], (rows[-1][0], 7)],
        lambda rows: rows[:-1],
        lambda rows: rows[::-1],
        lambda rows: [*rows, rows[0]],
    ],
)
def test_fingerprints_tell_every_change(change: Callable[[list[Any]], list[Any]]) -> None:
    rows = [("one", 0), ("two", 1), ("three", 0)]
    kept = Rows(rows, who="calibration").fingerprint
    assert Rows((row for row in rows), who="evaluate").fingerprint == kept
    assert Rows(change(rows), who="calibration").fingerprint != kept
