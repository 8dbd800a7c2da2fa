"""Items of `map` on real models: the same as one by one, and every one checked before the first is run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from transformers import BatchEncoding

from mapped_models import items_of, observed_calls, one_by_one
from optimum_core import AcceleratedModel
from optimum_core.errors import InputError
from optimum_core.plugins import manager
from optimum_core.runtime.opening import open_model
from optimum_core.types import AxisRange, TensorSpec

pytestmark = pytest.mark.usefixtures("one_thread")
Make = Callable[[str], AcceleratedModel]


@pytest.mark.parametrize("size", [1, 4, 100])
def test_the_same_as_one_by_one(size: int, fast: AcceleratedModel) -> None:
    items = items_of(13)
    got = fast.map(items, batch_size=size).logits
    np.testing.assert_allclose(got, np.stack(one_by_one(fast, items)), rtol=1e-3, atol=1e-4)


def test_a_value_for_every_token_comes_without_padding(fast_of: Make) -> None:
    model, items = fast_of("distilbert"), items_of(9)
    got = model.map(items, batch_size=4).logits
    assert isinstance(got, list)
    for mine, alone, item in zip(got, one_by_one(model, items), items, strict=True):
        assert mine.shape == (len(item["input_ids"]), 5)
        np.testing.assert_allclose(mine, alone, rtol=1e-3, atol=1e-4)


def test_one_kind_of_items_only(fast: AcceleratedModel) -> None:
    with pytest.raises(InputError, match="some items are texts and some are inputs by name"):
        fast.map(["w5", {"input_ids": [5]}])
    with pytest.raises(InputError, match="batch_size is 0"):
        fast.map(["w5"], batch_size=0)


@pytest.mark.parametrize("one", ["one text", b"one text", {"input_ids": [5]}, BatchEncoding({"input_ids": [[5]]})])
def test_one_item_is_not_many(one: Any, fast: AcceleratedModel) -> None:
    with pytest.raises(
        InputError, match=r"map takes many items, and one (text|bytes|dict|BatchEncoding) came(.|\n)*a list"
    ):
        fast.map(one)


def test_a_number_holds_no_items(fast: AcceleratedModel) -> None:
    with pytest.raises(InputError, match="map takes many items, and int holds none"):
        fast.map(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [[120], np.zeros(0, int), [5] * 65, [-1]])
def test_every_item_is_checked_before_the_first_is_run(bad: Any, fast: AcceleratedModel) -> None:
    model = dataclasses.replace(fast.manifest, inputs=_bounded(fast), axes={"sequence": AxisRange(greatest=64)})
    with open_model(model, fast.directory, plugins=manager()) as bounded:
        assert len(bounded.map([{"input_ids": [119] * 64}, {"input_ids": [0]}]).logits) == 2
        with (
            observed_calls() as calls,
            pytest.raises(InputError, match=r"ids from 0 to 119|tokens, the model takes"),
        ):
            bounded.map([{"input_ids": [5, 6]}, {"input_ids": [7] * 9}, {"input_ids": bad}])
    assert calls == []


def _bounded(model: AcceleratedModel) -> tuple[TensorSpec, ...]:
    return tuple(
        dataclasses.replace(spec, least=0, greatest=119) if spec.name == "input_ids" else spec
        for spec in model.manifest.inputs
    )


def test_no_items(fast: AcceleratedModel) -> None:
    assert fast.map([]).logits.shape == (0, 5)


def test_progress_is_told_and_hidden_where_there_is_no_terminal(
    fast: AcceleratedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    fast.map(items_of(3), progress=True)
    assert capsys.readouterr() == ("", "")
