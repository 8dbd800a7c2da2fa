"""Capsules, in host memory: reading those of numpy and torch, and having numpy and torch read ours."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

from optimum_trt.dlpack import _HANDED_OUT, CPU, Buffer, DeviceArray, read


def ours(array: np.ndarray[Any, Any], freed: list[int]) -> DeviceArray:
    return DeviceArray(Buffer(array.ctypes.data, freed.append), array.shape, array.dtype.name, (CPU, 0))


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "int32", "int8", "uint8", "bool"])
def test_what_numpy_holds_is_read(dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    view = read(array.__dlpack__())
    assert (view.address, view.shape, view.dtype, view.contiguous) == (array.ctypes.data, (2, 3), dtype, True)
    assert view.device == (CPU, 0)


def test_gaps_and_order_are_seen() -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    assert not read(array[:, :, ::2].__dlpack__()).contiguous
    assert not read(array.transpose(0, 2, 1).__dlpack__()).contiguous
    assert read(array[1:, 1:].__dlpack__()).address == array[1:, 1:].ctypes.data
    assert read(array[:1].__dlpack__()).contiguous
    assert read(np.zeros((0, 5), np.float32).__dlpack__()).shape == (0, 5)
    assert read(np.array(3.0).__dlpack__()).shape == ()


def test_reading_leaves_the_capsule_to_its_owner() -> None:
    array = np.ones(3, np.float32)
    capsule = array.__dlpack__()
    assert read(capsule).shape == read(capsule).shape


def test_what_is_no_capsule_or_has_strange_numbers() -> None:
    import torch

    for wrong in (None, 3, object()):
        with pytest.raises(ValueError, match="no unused DLPack capsule"):
            read(wrong)
    with pytest.raises(ValueError, match="element type"):
        read(np.ones(2, np.complex64).__dlpack__())
    assert read(torch.ones(2, 3, dtype=torch.bfloat16).__dlpack__()).dtype == "bfloat16"


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "bool"])
def test_numpy_and_torch_read_ours_without_a_copy(dtype: str) -> None:
    import torch

    array = np.arange(6).reshape(2, 3).astype(dtype)
    freed: list[int] = []
    given = ours(array, freed)
    by_numpy, by_torch = np.from_dlpack(given), torch.utils.dlpack.from_dlpack(given)
    assert by_numpy.ctypes.data == by_torch.data_ptr() == array.ctypes.data
    assert by_numpy.tolist() == by_torch.tolist() == array.tolist()
    del given, by_numpy
    gc.collect()
    assert not freed, "torch still reads it"
    del by_torch
    gc.collect()
    assert freed == [array.ctypes.data] and not _HANDED_OUT


def test_a_capsule_that_nobody_takes_is_freed() -> None:
    freed: list[int] = []
    given = ours(np.ones(3, np.float32), freed)
    capsule = given.__dlpack__(stream=1)
    del given
    gc.collect()
    assert not freed and len(_HANDED_OUT) == 1
    del capsule
    gc.collect()
    assert len(freed) == 1 and not _HANDED_OUT
