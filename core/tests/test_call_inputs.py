"""A call is brought to what the session takes, or refused with what was expected and what came."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core.errors import InputError, NoGradientsWarning
from optimum_core.runtime.call_inputs import InputChecker
from optimum_core.types import TensorSpec

SPECS = (
    TensorSpec(name="input_ids", dtype="int64", shape=("batch", "sequence")),
    TensorSpec(name="attention_mask", dtype="int64", shape=("batch", "sequence"), default="ones"),
    TensorSpec(name="token_type_ids", dtype="int64", shape=("batch", "sequence"), default="zeros"),
)
PICTURE = (TensorSpec(name="pixel_values", dtype="float32", shape=("batch", 3, 4, 4)),)
IDS = np.arange(6, dtype=np.int64).reshape(2, 3)
PIXELS = np.linspace(0, 1, 96, dtype=np.float32).reshape(2, 3, 4, 4)


def _bind(*args: Any, specs: tuple[TensorSpec, ...] = SPECS, **kwargs: Any) -> dict[str, np.ndarray[Any, Any]]:
    return InputChecker("model 'x'", specs).bind(args, kwargs)[0]


def test_arrays_pass_without_a_copy() -> None:
    assert _bind(input_ids=IDS)["input_ids"] is IDS


def test_tensors_pass_without_a_copy_and_are_remembered() -> None:
    tensor = torch.from_numpy(IDS.copy())
    arrays, torch_in = InputChecker("x", SPECS).bind((), {"input_ids": tensor})
    assert torch_in
    assert np.shares_memory(arrays["input_ids"], tensor.numpy())
    assert not InputChecker("x", SPECS).bind((), {"input_ids": IDS})[1]


@pytest.mark.parametrize("value", [IDS.tolist(), torch.from_numpy(IDS), IDS, IDS.T.copy().T, torch.from_numpy(IDS.T).T])
def test_whatever_holds_numbers_will_do(value: Any) -> None:
    assert np.array_equal(_bind(input_ids=value)["input_ids"], IDS)


def test_what_speaks_dlpack_will_do() -> None:
    class Foreign:
        def __dlpack__(self, **settings: Any) -> Any:
            return IDS.__dlpack__(**settings)

        def __dlpack_device__(self) -> tuple[int, int]:
            return IDS.__dlpack_device__()

    arrays, torch_in = InputChecker("x", SPECS).bind((), {"input_ids": Foreign()})
    assert np.array_equal(arrays["input_ids"], IDS)
    assert not torch_in


class _Array(np.ndarray[Any, Any]):
    pass


def test_subclasses_of_arrays_will_do(tmp_path: Path) -> None:
    IDS.tofile(tmp_path / "ids")
    mapped = np.memmap(tmp_path / "ids", dtype=IDS.dtype, mode="r", shape=IDS.shape)
    for value in (mapped, IDS.astype(">i8").view(_Array), np.ma.masked_array(IDS)):
        assert np.array_equal(_bind(input_ids=value)["input_ids"], IDS)


@pytest.mark.parametrize(
    ("default", "same", "others"),
    [(1, [1, np.int64(1)], [True, 1.0, None, "1"]), (0.5, [0.5], [None]), (0, [0], [0.0, False, None]),
     (False, [False, None], [0, True]), ("", [""], [None])],
)  # fmt: skip
def test_an_argument_equal_to_the_default_is_of_its_type(default: Any, same: list[Any], others: list[Any]) -> None:
    checker = InputChecker("m", SPECS, defaults={"scale": default})
    for value in same:
        checker.bind((), {"input_ids": IDS, "scale": value})
    for value in others:
        with pytest.raises(InputError, match=f"it was exported with scale={default!r}"):
            checker.bind((), {"input_ids": IDS, "scale": value})


def test_gradients_stay_behind_and_that_is_said_where_they_were_asked_for() -> None:
    tensor = torch.from_numpy(PIXELS.copy()).requires_grad_()
    with pytest.warns(NoGradientsWarning, match=r"'pixel_values' requires gradients(.|\n)*torch.no_grad\(\)"):
        arrays = _bind(specs=PICTURE, pixel_values=tensor)
    assert np.array_equal(arrays["pixel_values"], PIXELS)
    with torch.no_grad():
        assert np.array_equal(_bind(specs=PICTURE, pixel_values=tensor)["pixel_values"], PIXELS)


def test_slices_and_permutations_keep_their_values() -> None:
    wide = torch.arange(24).reshape(4, 6)
    assert _bind(input_ids=wide[::2, 1::2])["input_ids"].tolist() == [[1, 3, 5], [13, 15, 17]]
    channels_last = torch.from_numpy(PIXELS).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert np.array_equal(_bind(specs=PICTURE, pixel_values=channels_last)["pixel_values"], PIXELS)


def test_a_part_of_a_conjugate_has_its_own_signs() -> None:
    value = torch.complex(torch.ones(2, 3, 4, 4), torch.full((2, 3, 4, 4), 2.0)).conj().imag
    assert value.is_neg()
    arrays, is_torch = InputChecker("x", PICTURE).bind((), {"pixel_values": value})
    assert is_torch and (arrays["pixel_values"] == -2).all()


@pytest.mark.parametrize(
    ("dtype", "value"), [("int32", 7), ("uint8", 7), ("int8", -7), ("uint64", 7), ("float32", 2.5), ("float16", 0.5)]
)
def test_numbers_of_python_have_the_type_of_their_input(dtype: str, value: float) -> None:
    specs = tuple(TensorSpec(name=f"x{axes}", dtype=dtype, shape=(2,) * axes, exact=True) for axes in (0, 1))
    found = _bind(x0=value, x1=[value, 1], specs=specs)
    assert {array.dtype.name for array in found.values()} == {dtype}
    assert (float(found["x0"]), found["x1"].tolist()) == (value, [value, 1])


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        *(("int32", 2**31), ("uint8", 256), ("uint8", -1), ("uint64", -1), ("int64", 2**63), ("int64", 1.0)),
        *(("int32", np.int64(1)), ("float32", np.float64(1)), ("float32", 1e300)),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_numbers_that_do_not_fit_or_have_another_type_are_refused(dtype: str, value: Any) -> None:
    with pytest.raises(InputError, match="'x'"):
        _bind(x=value, specs=(TensorSpec(name="x", dtype=dtype, shape=(), exact=True),))


def test_what_is_left_out_is_what_eager_assumes() -> None:
    arrays = _bind(input_ids=IDS, token_type_ids=None)
    assert arrays["attention_mask"].tolist() == np.ones((2, 3)).tolist()
    assert arrays["token_type_ids"].tolist() == np.zeros((2, 3)).tolist()
    assert {array.dtype.name for array in arrays.values()} == {"int64"}


def test_positions_are_the_order_of_the_inputs_where_there_is_no_forward() -> None:
    mask = np.ones_like(IDS)
    arrays = _bind(IDS, mask)
    assert arrays["input_ids"] is IDS
    assert arrays["attention_mask"] is mask
    assert set(_bind(IDS, token_type_ids=mask)) == {"input_ids", "attention_mask", "token_type_ids"}


@pytest.mark.parametrize("dtype", ["int32", "int16", "int8", "uint8", "bool"])
def test_whole_numbers_are_widened(dtype: str) -> None:
    arrays = _bind(input_ids=IDS, attention_mask=np.ones((2, 3), dtype=dtype))
    assert (arrays["attention_mask"].dtype.name, arrays["attention_mask"].min()) == ("int64", 1)


def test_booleans_are_no_ids() -> None:
    specs = (TensorSpec(name="input_ids", dtype="int64", shape=("batch", "sequence"), least=0, greatest=99),)
    mask = TensorSpec(name="attention_mask", dtype="int64", shape=("batch", "sequence"), least=0, greatest=1)
    with pytest.raises(InputError, match="expected dtype int64, got dtype bool"):
        _bind(specs=specs, input_ids=IDS > 0)
    assert _bind(specs=(*specs, mask), input_ids=IDS, attention_mask=IDS > 0)["attention_mask"].dtype == np.int64


@pytest.mark.parametrize(("dtype", "value"), [("int64", 2**31), ("int64", -(2**31) - 1), ("uint32", 2**32 - 1)])
def test_whole_numbers_that_do_not_fit_are_refused(dtype: str, value: int) -> None:
    specs = (TensorSpec(name="steps", dtype="int32", shape=("batch",)),)
    assert _bind(specs=specs, steps=np.array([7, 8], dtype))["steps"].tolist() == [7, 8]
    with pytest.raises(InputError, match="expected values that int32 holds"):
        _bind(specs=specs, steps=np.array([7, value], dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_masks_of_zero_and_one_may_be_floats(dtype: str) -> None:
    mask = np.array([[1, 1, 0], [1, 0, 0]], dtype=dtype)
    assert _bind(input_ids=IDS, attention_mask=mask)["attention_mask"].tolist() == mask.tolist()
    for other in (0.5, -1e4, np.nan, np.inf):
        mask[0, 1] = other
        with pytest.raises(InputError, match="expected a mask of 0 and 1, got other values"):
            _bind(input_ids=IDS, attention_mask=mask)
    with pytest.raises(InputError, match="expected dtype int64"):
        _bind(input_ids=IDS, token_type_ids=mask)


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_floats_are_brought_to_one_width(dtype: str) -> None:
    arrays = _bind(specs=PICTURE, pixel_values=PIXELS.astype(dtype))
    assert arrays["pixel_values"].dtype.name == "float32"
    assert np.allclose(arrays["pixel_values"], PIXELS, atol=1e-3)


@pytest.mark.parametrize(
    "settings", [{"return_dict": True}, {"return_dict": None}, {"use_cache": False}, {"output_attentions": False}]
)
def test_arguments_that_change_nothing_are_let_through(settings: dict[str, Any]) -> None:
    assert set(_bind(input_ids=IDS, **settings)) == {spec.name for spec in SPECS}


@pytest.mark.parametrize("name", ["output_attentions", "output_hidden_states"])
def test_a_setting_that_is_on_by_default_is_not_turned_off(name: str) -> None:
    checker = InputChecker("x", SPECS, defaults={name: True})
    checker.bind((), {"input_ids": IDS, name: None})
    with pytest.raises(InputError, match=f"{name}=False, and it was exported with {name}=True"):
        checker.bind((), {"input_ids": IDS, name: False})


def test_an_unknown_name_with_nothing_in_it_is_let_through() -> None:
    assert set(_bind(input_ids=IDS, labels=None)) == {spec.name for spec in SPECS}


def test_a_mask_of_padding_is_refused_where_an_older_artifact_lists_it_as_ignored() -> None:
    specs = [TensorSpec(name="x", dtype="float32", shape=("batch", 2))]
    checker = InputChecker("model 'm'", specs, ignored=["attention_mask"], absent={"attention_mask": 1})
    x = np.ones((1, 2), np.float32)
    assert list(checker.bind((), {"x": x, "attention_mask": np.ones((1, 2), np.int64)})[0]) == ["x"]
    with pytest.raises(InputError, match="holds other values than 1"):
        checker.bind((), {"x": x, "attention_mask": np.array([[1, 0]])})


def test_names_that_the_original_ignores_are_left_out() -> None:
    checker = InputChecker("x", SPECS[:2], ignored=("token_type_ids",))
    assert set(checker.bind((), {"input_ids": IDS, "token_type_ids": IDS})[0]) == {"input_ids", "attention_mask"}


LONG = np.ones((2, 4), dtype=np.int64)
REFUSED: list[tuple[str, tuple[TensorSpec, ...], tuple[Any, ...], dict[str, Any]]] = [
    ("input 'input_ids' is missing", SPECS, (), {}),
    ("input 'input_ids' is missing", SPECS, (), {"input_ids": None, "attention_mask": LONG}),
    ("input 'pixel_values' is missing", PICTURE, (), {}),
    ("it has no input 'inputs_embeds'", SPECS, (), {"input_ids": IDS, "inputs_embeds": PIXELS}),
    ("it has no input 'labels'", SPECS, (), {"input_ids": IDS, "labels": IDS}),
    ("output_attentions=True asks for something", SPECS, (), {"input_ids": IDS, "output_attentions": True}),
    ("use_cache=True asks for something", SPECS, (), {"input_ids": IDS, "use_cache": True}),
    ("expected 2 axes, got 1", SPECS, (), {"input_ids": IDS[0]}),
    ("expected 2 axes, got 3", SPECS, (), {"input_ids": IDS[None]}),
    ("expected sequence 3, as in the other inputs, got 4", SPECS, (), {"input_ids": IDS, "attention_mask": LONG}),
    ("expected batch 2, as in the other inputs, got 1", SPECS, (), {"input_ids": IDS, "attention_mask": IDS[:1]}),
    (
        "expected length 4 at axis 3, which is fixed, got 5",
        PICTURE,
        (),
        {"pixel_values": np.zeros((1, 3, 4, 5), "float32")},
    ),
    ("expected dtype int64, got dtype float32", SPECS, (), {"input_ids": IDS.astype("float32")}),
    ("expected dtype float32, got dtype uint8", PICTURE, (), {"pixel_values": PIXELS.astype("uint8")}),
    ("input 'input_ids' is text", SPECS, (), {"input_ids": [["a", "b", "c"]]}),
    ("expected ids of 0 and above, got -100", SPECS, (), {"input_ids": IDS - 100}),
    ("input 'input_ids' is no tensor", SPECS, (), {"input_ids": [[1, 2], [3]]}),
    ("input 'input_ids' came twice", SPECS, (IDS,), {"input_ids": IDS}),
    ("it takes 3 inputs by position, 4 came", SPECS, (IDS, IDS, IDS, IDS), {}),
    ("input 'pixel_values' has masked values", PICTURE, (), {"pixel_values": np.ma.masked_less(PIXELS, 1e9)}),
    ("input 'pixel_values' is on meta", PICTURE, (), {"pixel_values": torch.zeros(1, 3, 4, 4, device="meta")}),
]


@pytest.mark.parametrize(("why", "specs", "args", "kwargs"), REFUSED, ids=[why for why, _, _, _ in REFUSED])
def test_what_does_not_fit_is_refused(
    why: str, specs: tuple[TensorSpec, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    with pytest.raises(InputError) as caught:
        _bind(*args, specs=specs, **kwargs)
    assert why in caught.value.why
    assert caught.value.who == "model 'x'"
    assert caught.value.remedy


def test_the_usage_says_what_may_be_left_out() -> None:
    with pytest.raises(InputError) as caught:
        _bind()
    assert "input_ids: int64[batch, sequence]" in caught.value.remedy
    assert "attention_mask: int64[batch, sequence] (left out: ones)" in caught.value.remedy


def test_a_call_that_was_refused_changes_nothing() -> None:
    checker = InputChecker("x", SPECS)
    with pytest.raises(InputError):
        checker.bind((), {"input_ids": IDS, "attention_mask": LONG})
    arrays, _ = checker.bind((), {"input_ids": LONG})
    assert arrays["attention_mask"].shape == (2, 4)


def test_an_empty_batch_has_no_negative_ids() -> None:
    assert _bind(input_ids=np.zeros((0, 3), dtype=np.int64))["attention_mask"].shape == (0, 3)


def test_tensors_of_a_device_pass_where_the_session_is_there() -> None:
    class OnDevice(torch.Tensor):
        device = torch.device("cuda:0")

    checker = InputChecker("x", PICTURE, on_host=False)
    tensor = torch.zeros(1, 3, 4, 4).as_subclass(OnDevice)
    arrays, torch_in = checker.bind((), {"pixel_values": tensor})
    assert arrays["pixel_values"] is tensor
    assert torch_in
