"""DLPack without a library for it: reading of foreign capsules, and creation of our own for device memory.

The layout of the structures is that of DLPack 0.8 (`DLManagedTensor`), which every producer still gives when it is not
asked for a newer one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

CPU, GPU = 1, 2
_NAME = b"dltensor"
# DLPack's type code and bits.
_DTYPES: dict[tuple[int, int], str] = {
    (0, 8): "int8",
    (0, 16): "int16",
    (0, 32): "int32",
    (0, 64): "int64",
    (1, 8): "uint8",
    (1, 16): "uint16",
    (1, 32): "uint32",
    (1, 64): "uint64",
    (2, 16): "float16",
    (2, 32): "float32",
    (2, 64): "float64",
    (4, 16): "bfloat16",
    (6, 8): "bool",
}
_CODES = {name: code for code, name in _DTYPES.items()}


class _Device(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("index", ctypes.c_int32))


class _Dtype(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _Dtype),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))
_Destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

_python = ctypes.pythonapi
_new = _python.PyCapsule_New
_new.restype, _new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, _Destructor)
_valid = _python.PyCapsule_IsValid
_valid.restype, _valid.argtypes = ctypes.c_int, (ctypes.py_object, ctypes.c_char_p)
_pointer = _python.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
# The same functions for a capsule that is being destroyed, which must not become a Python object once more.
_valid_dying = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _python))
_pointer_dying = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", _python))


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """Memory that another library owns; `keeps` has to live as long as it is read.

    Attributes:
        address: the address of the first element.
        contiguous: whether it lies in one piece, the last axis fastest.
    """

    address: int
    shape: tuple[int, ...]
    dtype: str
    contiguous: bool
    device: tuple[int, int]
    keeps: Any


def read(capsule: Any) -> View:
    """Return the contents of a capsule. The capsule stays unused, so that its owner frees it.

    Raises:
        ValueError: it is no unused DLPack capsule, or TensorRT lacks its element type.
    """
    if not _valid(capsule, _NAME):
        raise ValueError("it gives no unused DLPack capsule")
    tensor = ctypes.cast(_pointer(capsule, _NAME), ctypes.POINTER(_Managed)).contents.tensor
    shape = tuple(tensor.shape[index] for index in range(tensor.ndim))
    strides = tuple(tensor.strides[index] for index in range(tensor.ndim)) if tensor.strides else None
    dtype = _DTYPES.get((tensor.dtype.code, tensor.dtype.bits))
    if dtype is None or tensor.dtype.lanes != 1:
        raise ValueError(f"its element type (kind {tensor.dtype.code}, {tensor.dtype.bits} bits) is not one of ours")
    return View(
        address=(tensor.data or 0) + tensor.byte_offset,
        shape=shape,
        dtype=dtype,
        contiguous=strides is None or _is_contiguous(shape, strides),
        device=(tensor.device.kind, tensor.device.index),
        keeps=capsule,
    )


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    expected = 1
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        if length != 1 and stride != expected:
            return 0 in shape
        expected *= length
    return True


#: Objects that exported capsules refer to, until their consumers are done: by address of the structure.
_HANDED_OUT: dict[int, Any] = {}


class Buffer:
    """Memory on a device, freed when neither the object nor any consumer of its capsules is left."""

    __slots__ = ("_free", "address")

    def __init__(self, address: int, free: Callable[[int], None]) -> None:
        self.address = address
        self._free = free

    def __del__(self) -> None:
        self._free(self.address)


class DeviceArray:
    """An output in device memory, complete when it is returned. Speaks DLPack; consumers share its memory."""

    __slots__ = ("_buffer", "_device", "dtype", "shape")

    def __init__(self, buffer: Buffer, shape: tuple[int, ...], dtype: str, device: tuple[int, int]) -> None:
        self._buffer = buffer
        self._device = device
        self.shape = shape
        self.dtype = dtype

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device

    def __dlpack__(self, *, stream: Any = None, **_: Any) -> Any:
        """Return a capsule of DLPack 0.8; `stream` is not needed, because the result is complete."""
        shape = (ctypes.c_int64 * max(len(self.shape), 1))(*self.shape)
        code, bits = _CODES[self.dtype]
        tensor = _Tensor(
            data=self._buffer.address,
            device=_Device(*self._device),
            ndim=len(self.shape),
            dtype=_Dtype(code, bits, 1),
            shape=shape,
            strides=None,
            byte_offset=0,
        )
        managed = _Managed(tensor=tensor, context=None, deleter=_DELETE)
        address = ctypes.addressof(managed)
        _HANDED_OUT[address] = managed, shape, self._buffer
        return _new(address, _NAME, _DESTROY)


def _delete(managed: Any) -> None:
    _HANDED_OUT.pop(ctypes.addressof(managed.contents), None)


def _destroy(capsule: int) -> None:
    # A consumer that takes the memory renames the capsule and deletes the structure itself.
    if _valid_dying(capsule, _NAME):
        _HANDED_OUT.pop(_pointer_dying(capsule, _NAME), None)


_DELETE = _Deleter(_delete)
_DESTROY = _Destructor(_destroy)
