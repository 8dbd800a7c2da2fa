"""Constants of a program: stored in it, or in its file of weights.

The file: a header of 64 bytes, then for each constant 64 bytes with its type, size and offset, and its bytes.
Types of less than a byte are packed, the lowest bits first.
"""

from __future__ import annotations

import struct
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from coremltools.proto import MIL_pb2

from optimum_core.types.arrays import NDArray
from optimum_coreml_interpreter.registry import UndefinedError

_SENTINEL = 0xDEADBEEF
_HEAD = struct.Struct("<IIQQ")
_TYPES = dict(MIL_pb2.DataType.items())

#: The torch dtype that stores each type. torch computes little with unsigned types, and has none below a byte: wider.
_STORAGE: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "FLOAT16": torch.float16,
    "FLOAT32": torch.float32,
    "INT4": torch.int8,
    "INT8": torch.int8,
    "INT16": torch.int16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "UINT1": torch.uint8,
    "UINT2": torch.uint8,
    "UINT3": torch.uint8,
    "UINT4": torch.uint8,
    "UINT6": torch.uint8,
    "UINT8": torch.uint8,
    "UINT16": torch.int32,
    "UINT32": torch.int64,
}
STORAGE: dict[int, torch.dtype] = {_TYPES[name]: dtype for name, dtype in _STORAGE.items()}

_WHOLE = {
    "FLOAT16": np.float16,
    "FLOAT32": np.float32,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT16": np.int16,
    "UINT16": np.uint16,
    "INT32": np.int32,
    "UINT32": np.uint32,
}
_BITS = {"INT4": 4, "UINT1": 1, "UINT2": 2, "UINT3": 3, "UINT4": 4, "UINT6": 6}
#: The file's own numbers of types.
_IN_FILE = {
    1: "FLOAT16", 2: "FLOAT32", 3: "UINT8", 4: "INT8", 6: "INT16", 7: "UINT16", 8: "INT4", 9: "UINT1", 10: "UINT2",
    11: "UINT4", 12: "UINT3", 13: "UINT6", 14: "INT32", 15: "UINT32",
}  # fmt: skip


class Constants:
    """Reader of the constants of one program; `weights` need not exist where no constant lies there."""

    def __init__(self, weights: Path) -> None:
        self._path = weights
        self._bytes = np.memmap(weights, np.uint8, "r") if weights.is_file() else np.zeros(0, np.uint8)

    def read(self, value: Any) -> Any:
        """Return a `Value` as a tensor, a text or a list of texts.

        Raises:
            UndefinedError: its type is unknown, or the file does not contain it.
        """
        kind = value.type.WhichOneof("type")
        if kind == "listType":
            return [self.read(item) for item in value.immediateValue.list.values]
        if kind != "tensorType":
            raise UndefinedError(f"a constant of type {kind}")
        about = value.type.tensorType
        shape = [int(axis.constant.size) for axis in about.dimensions]
        name = MIL_pb2.DataType.Name(about.dataType)
        if name == "STRING":
            texts = list(value.immediateValue.tensor.strings.values)
            return texts if shape else texts[0]
        if about.dataType not in STORAGE:
            raise UndefinedError(f"a constant of type {name}")
        if value.WhichOneof("value") == "blobFileValue":
            array = self._from_file(value.blobFileValue, name)
        else:
            array = _immediate(value.immediateValue.tensor, name, int(np.prod(shape)))
        return torch.from_numpy(array.reshape(shape).copy()).to(STORAGE[about.dataType])

    def _from_file(self, place: Any, name: str) -> NDArray:
        offset = place.offset
        if PurePosixPath(place.fileName).name != self._path.name:
            raise UndefinedError(f"a constant in {place.fileName}, not in {self._path.name}")
        head = self._bytes[offset : offset + 64]
        if head.size < 64:
            raise UndefinedError(f"{self._path.name} ends before {offset + 64}, where a constant is said to lie")
        sentinel, kind, size, start = _HEAD.unpack(head[: _HEAD.size].tobytes())
        if sentinel != _SENTINEL or _IN_FILE.get(kind) != name or start + size > self._bytes.size:
            raise UndefinedError(f"{self._path.name} holds no {name} at {offset}")
        padding = int(head[24:32].view(np.uint64)[0])
        return _unpacked(self._bytes[start : start + size], name, size * 8 - padding)


def _immediate(tensor: Any, name: str, count: int) -> NDArray:
    kind = tensor.WhichOneof("value")
    if kind == "bytes":
        data = np.frombuffer(tensor.bytes.values, np.uint8)
        return _unpacked(data, name, count * _BITS[name] if name in _BITS else data.size * 8)
    values = np.array(getattr(tensor, kind).values) if kind else np.zeros(0)
    # A constant of many equal values may be written as one.
    return np.full(count, values[0]) if values.size == 1 != count else values


def _unpacked(data: NDArray, name: str, bits: int) -> NDArray:
    """Return bytes as numbers; `bits` of them count."""
    if name in _WHOLE:
        array: NDArray = np.frombuffer(data.tobytes(), _WHOLE[name])
        return array.astype(np.int64) if name.startswith("UINT") and name != "UINT8" else array
    width = _BITS[name]
    ones = np.unpackbits(data, bitorder="little")[: bits // width * width].reshape(-1, width)
    numbers: NDArray = (ones.astype(np.int16) << np.arange(width, dtype=np.int16)).sum(axis=1).astype(np.int16)
    if name == "INT4":
        numbers = np.where(numbers >= 8, numbers - 16, numbers)
    return numbers
