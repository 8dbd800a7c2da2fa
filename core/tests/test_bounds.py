"""Values and lengths that the model does not take are refused, whatever the backend would make of them."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core.errors import InputError, UnprovedLengthWarning
from optimum_core.runtime.bounds import LengthBounds
from optimum_core.runtime.call_inputs import InputChecker
from optimum_core.runtime.repeated_call import SessionFunctions, repeated
from optimum_core.types import AxisRange, TensorSpec

SPECS = (
    TensorSpec(name="input_ids", dtype="int64", shape=("batch", "sequence"), least=0, greatest=99),
    TensorSpec(name="token_type_ids", dtype="int64", shape=("batch", "sequence"), default="zeros", least=0, greatest=1),
    TensorSpec(name="position_ids", dtype="int64", shape=("batch", "sequence"), default="zeros", least=2, greatest=65),
    TensorSpec(name="depth", dtype="int32", shape=("batch",), default="zeros", least=-5, greatest=5),
    TensorSpec(name="more", dtype="int64", shape=("batch",), default="zeros", least=1),
    TensorSpec(name="fewer", dtype="int64", shape=("batch",), default="zeros", greatest=7),
)
AXES = {
    "sequence": AxisRange(least=1, greatest=64, proved=(2, 32), why="the model has 64 positions"),
    "batch": AxisRange(least=0, proved=(0, 3)),
}
IDS = np.arange(8).reshape(2, 4)


def _checker() -> InputChecker:
    return InputChecker("model 'x'", SPECS, axes=AXES)


def _refusal(**call: Any) -> str:
    checker = _checker()
    with pytest.raises(InputError) as caught:
        checker.bind((), call)
    checker.bind((), {"input_ids": IDS})  # the next good call is none the worse
    return str(caught.value)


@pytest.mark.parametrize("value", [100, 150, -1, -100, 2**40, 2**63 - 1, -(2**63)])
@pytest.mark.parametrize(
    "kind", [np.asarray, torch.as_tensor, lambda ids: np.asfortranarray(ids), lambda ids: ids[:, ::2]]
)
def test_ids_out_of_the_vocabulary(value: int, kind: Any) -> None:
    ids = IDS.copy()
    ids[1, 2] = value
    said = _refusal(input_ids=kind(ids))
    assert f"'input_ids': expected ids from 0 to 99, got {value}" in said
    assert "tokenizer" in said
    assert "beyond 100" in said


@pytest.mark.parametrize("dtype", ["int8", "int32", "uint8", "uint64"])
def test_ids_of_any_width(dtype: str) -> None:
    ids = IDS.astype(dtype)
    _checker().bind((), {"input_ids": ids})
    ids[0, 0] = 120
    assert "got 120" in _refusal(input_ids=ids)
    if dtype == "uint64":
        ids[0, 0] = 2**64 - 1  # becomes -1 as int64
        assert "expected values that int64 holds" in _refusal(input_ids=ids)


@pytest.mark.parametrize(
    ("name", "good", "bad", "said"),
    [
        ("token_type_ids", IDS % 2, IDS, "values from 0 to 1, got 7"),
        ("position_ids", IDS + 2, IDS, "values from 2 to 65, got 0"),
        ("position_ids", IDS + 58, IDS + 60, "values from 2 to 65, got 67"),
        ("depth", np.array([-5, 5]), np.array([-6, 5]), "values from -5 to 5, got -6"),
        ("depth", np.array([-5, 5]), np.array([-5, 6]), "values from -5 to 5, got 6"),
        ("more", np.array([1, 2**62]), np.array([0, 1]), "values of 1 and above, got 0"),
        ("fewer", np.array([-(2**62), 7]), np.array([8, 7]), "values of 7 and below, got 8"),
    ],
)
def test_every_input_with_bounds(name: str, good: Any, bad: Any, said: str) -> None:
    _checker().bind((), {"input_ids": IDS, name: good})
    assert said in _refusal(input_ids=IDS, **{name: bad})


def test_places_are_bounded_by_the_length_that_they_are_in() -> None:
    place = TensorSpec(name="place", dtype="int64", shape=("batch",), least_by=("n", 0), greatest_by=("n", -1))
    checker = InputChecker("model", [TensorSpec(name="x", dtype="float32", shape=("batch", "n")), place])
    for length in (4, 9, 4):
        x = np.zeros((2, length), np.float32)
        for value in (-length, length - 1):
            checker.bind((), {"x": x, "place": np.array([0, value])})
        for value in (-length - 1, length):
            with pytest.raises(InputError, match=f"values from -{length} to {length - 1}, got {value} "):
                checker.bind((), {"x": x, "place": np.array([0, value])})
    with pytest.raises(InputError, match="expected dtype int64, got dtype bool"):
        checker.bind((), {"x": x, "place": np.array([True, False])})


def test_values_are_looked_at_in_every_call() -> None:
    checker = _checker()
    for _ in range(2):
        checker.bind((), {"input_ids": IDS})
        with pytest.raises(InputError, match="got 100"):
            checker.bind((), {"input_ids": np.full((2, 4), 100)})


@pytest.mark.parametrize(("least", "greatest"), [(0, 99), (0, 127), (0, 2**40), (-5, 5), (1, 99)])
@pytest.mark.parametrize("dtype", ["int8", "int64"])
def test_values_are_looked_at_in_a_call_like_the_one_before(dtype: str, least: int, greatest: int) -> None:
    seen: list[Any] = ["x", (2,), np.dtype(dtype)]
    answerer: Any = SimpleNamespace(answer=lambda outputs, **_: outputs)
    call = repeated(seen, (("x", least, greatest),), (), None, SessionFunctions(dict), answerer)

    def taken(value: int) -> bool:
        return call({"x": np.array([value, 2], dtype)}) is not None

    last = int(np.iinfo(dtype).max)
    assert taken(max(least, 1)) and taken(min(greatest, last))
    assert not taken(least - 1)
    assert greatest >= last or not taken(greatest + 1)


def test_a_length_beyond_the_limit_says_which_and_what_to_do() -> None:
    said = _refusal(input_ids=np.ones((1, 65), np.int64))
    assert "65 tokens, the model takes 64 (the model has 64 positions)" in said
    assert "truncate: tokenizer(…, truncation=True, max_length=64)" in said


def test_nothing_at_all_is_too_short() -> None:
    assert "0 tokens, the model takes 1 or more" in _refusal(input_ids=np.ones((1, 0), np.int64))
    assert _checker().bind((), {"input_ids": np.ones((0, 4), np.int64)})[0]["token_type_ids"].shape == (0, 4)


def test_a_length_that_was_not_compared_is_told_once_for_each_axis() -> None:
    checker = _checker()
    with pytest.warns(UnprovedLengthWarning, match="model 'x': 33 tokens; it was compared .* at 2 to 32 only"):
        checker.bind((), {"input_ids": np.ones((1, 33), np.int64)})
    with pytest.warns(UnprovedLengthWarning, match="a batch of 4; .* at 0 to 3 only"):
        checker.bind((), {"input_ids": np.ones((4, 1), np.int64)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for length in (34, 64, 32, 2, 33):
            checker.bind((), {"input_ids": np.ones((5, length), np.int64)})


def test_one_item_is_checked_with_others_missing() -> None:
    _checker().check({"token_type_ids": IDS[:1] % 2})
    with pytest.raises(InputError, match="values from 0 to 1, got 3"):
        _checker().check({"token_type_ids": IDS[:1]})


def test_many_shapes_are_not_remembered_for_ever() -> None:
    checker = InputChecker("x", SPECS)
    for length in range(1, 600):
        checker.bind((), {"input_ids": np.ones((1, length), np.int64)})
    assert len(vars(checker)["_plans"]) <= 256


def test_tensors_of_a_device_are_looked_at_there() -> None:
    class OnDevice(torch.Tensor):
        device = torch.device("cuda:0")

    checker = InputChecker("x", SPECS, on_host=False)
    checker.bind((), {"input_ids": IDS, "token_type_ids": torch.ones(2, 4, dtype=torch.int64).as_subclass(OnDevice)})
    with pytest.raises(InputError, match="got 9"):
        checker.bind((), {"input_ids": IDS, "token_type_ids": torch.full((2, 4), 9).as_subclass(OnDevice)})


def test_an_axis_without_a_name_of_its_own_is_told_by_its_place() -> None:
    specs = (
        TensorSpec(name="x", dtype="float32", shape=("batch", "axis1_6")),
        TensorSpec(name="y", dtype="float32", shape=("y_batch", "axis1_6")),
    )
    axes = {"axis1_6": AxisRange(least=1), "y_batch": AxisRange(least=2)}
    checker = InputChecker("model 'x'", specs, axes=axes)
    two = np.zeros((2, 3), "float32")
    with pytest.raises(InputError, match="axis 1 of input 'x' has length 0, the model takes 1 or more"):
        checker.bind((), {"x": two[:, :0], "y": two[:, :0]})
    with pytest.raises(InputError, match="axis 0 of input 'y' has length 1, the model takes 2 or more"):
        checker.bind((), {"x": two, "y": two[:1]})
    with pytest.raises(
        InputError, match="'y': expected length 3 at axis 1, as at axis 1 of input 'x', got 2"
    ) as caught:
        checker.bind((), {"x": two, "y": two[:, :2]})
    assert "sample_inputs in which they differ" in caught.value.remedy


def test_too_short_is_padded_only_where_there_is_a_mask() -> None:
    ids = TensorSpec(name="input_ids", dtype="int64", shape=("batch", "sequence"))
    mask = TensorSpec(name="attention_mask", dtype="int64", shape=("batch", "sequence"), default="ones")
    short, axes = np.ones((1, 2), np.int64), {"sequence": AxisRange(least=3)}
    with pytest.raises(InputError, match=r"2 tokens, the model takes 3 or more(.|\n)*pass at least 3"):
        InputChecker("m", (ids,), axes=axes).bind((), {"input_ids": short})
    with pytest.raises(InputError, match="pad to that length, with zeros in attention_mask"):
        InputChecker("m", (ids, mask), axes=axes).bind((), {"input_ids": short})


def test_numbers_that_do_not_lie_one_after_the_other_are_left_to_the_whole_path() -> None:
    seen: list[Any] = ["x", (2, 3), np.dtype("int64")]
    answerer: Any = SimpleNamespace(answer=lambda outputs, **_: outputs)
    call = repeated(seen, (("x", 0, 9),), (), None, SessionFunctions(dict), answerer)
    assert call({"x": np.full((2, 3), 9)}) is not None
    assert call({"x": np.full((3, 2), 9).T}) is None
    assert call({"x": np.full((2, 3), 10)}) is None


def test_a_shortest_length_that_is_not_the_models_own_says_why() -> None:
    bounds = LengthBounds("m", {"sequence": AxisRange(least=7, why_least="this form differs below")})
    with pytest.raises(InputError, match=r"6 tokens, the model takes 7 or more \(this form differs below\)"):
        bounds.check("sequence", 6)
