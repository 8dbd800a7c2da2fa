"""Checking what a model is called with, and bringing it to what its session takes. Runs at every call: kept short."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from optimum_core.errors import InputError
from optimum_core.types import TensorSpec

# Arguments of transformers' forwards that change nothing here when they have these values.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "return_dict": (True, False, None),
    "use_cache": (False, None),
    "output_attentions": (False, None),
    "output_hidden_states": (False, None),
}

# A negative id of 64 bits ends in these bytes, whatever its lower half; runtimes take it for one counted from the end
# of the vocabulary. To look for bytes costs a fifth of a reduction by numpy, between calls that leave no cache warm.
_NEGATIVE = b"\xff\xff\xff\xff"


class InputChecker:
    """Checks calls against tensor specs.

    Args:
        who: the model, for errors.
        specs: its inputs.
        ignored: names that may come and are left out.
        on_host: whether the session takes host arrays; tensors of a device are passed on as they are otherwise.
    """

    def __init__(
        self, who: str, specs: Sequence[TensorSpec], *, ignored: Sequence[str] = (), on_host: bool = True
    ) -> None:
        self._who = who
        self._specs = {spec.name: spec for spec in specs}
        # Equal axes as one object, so that inputs of one shape are seen to be so by identity.
        alike: dict[tuple[int | str, ...], tuple[int | str, ...]] = {}
        self._plans = tuple(
            (
                spec.name,
                alike.setdefault(spec.shape, spec.shape),
                np.dtype(spec.dtype) if spec.dtype != "bfloat16" else None,
                spec.name.endswith("input_ids"),
            )
            for spec in specs
        )
        self._order = tuple(self._specs)
        self._ignored = frozenset(ignored)
        self._on_host = on_host

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        """The arrays to run on, by name, and whether torch tensors came in.

        Raises:
            InputError: a name is missing or unknown, or a value does not fit; the message names the input, what was
                expected and what came.
        """
        if args:
            kwargs = self._positional(args, kwargs)
        arrays: dict[str, Any] = {}
        lengths: dict[str, int] = {}
        torch_in = False
        axes_before: tuple[int | str, ...] | None = None
        shape_before: Any = None
        for plan in self._plans:
            name, axes, dtype, holds_ids = plan
            value = kwargs.get(name)
            if value is None:
                continue
            if type(value) is not np.ndarray:
                value, is_torch = self._to_array(name, value)
                torch_in = torch_in or is_torch
            shape = value.shape
            if axes is not axes_before or shape != shape_before:
                self._check_shape(name, value, lengths)
                axes_before, shape_before = axes, shape
            if value.dtype is not dtype:
                value = self._cast(name, value)
            if holds_ids and _NEGATIVE in value.tobytes() and value.min() < 0:
                raise self._mismatch(name, value, "ids of 0 and above", f"{value.min()}")
            arrays[name] = value
        if len(arrays) != len(kwargs):
            self._refuse_unknown(kwargs)
        if len(arrays) != len(self._plans):
            self._fill(arrays, lengths)
        return arrays, torch_in

    def _positional(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        if len(args) > len(self._order):
            raise InputError(self._who, f"it takes {len(self._order)} inputs, {len(args)} came", self._usage())
        named = dict(zip(self._order, args, strict=False))
        twice = [name for name in named if name in kwargs]
        if twice:
            raise InputError(self._who, f"input {twice[0]!r} came twice, by position and by name", self._usage())
        return {**named, **kwargs}

    def _to_array(self, name: str, value: Any) -> tuple[Any, bool]:
        """A host array for a torch tensor, without a copy; what else speaks DLPack as it is."""
        if type(value).__module__.partition(".")[0] == "torch" or hasattr(value, "detach"):
            if value.device.type == "cpu":
                return (value.detach() if value.requires_grad else value).numpy(), True
            if self._on_host:
                raise InputError(
                    self._who, f"input {name!r} is on {value.device}, the model runs on cpu", f"pass {name}.cpu()"
                )
            return value, True
        if hasattr(value, "__dlpack__"):
            return (np.from_dlpack(value), False) if self._on_host else (value, False)
        try:
            return np.asarray(value), False
        except ValueError as error:
            raise InputError(self._who, f"input {name!r} is no tensor: {error}", "pass a tensor or an array") from error

    def _check_shape(self, name: str, value: Any, lengths: dict[str, int]) -> None:
        axes, shape = self._specs[name].shape, value.shape
        if len(shape) != len(axes):
            raise self._mismatch(name, value, f"{len(axes)} axes", f"{len(shape)}")
        for axis, length in zip(axes, shape, strict=True):
            if axis != length:
                if isinstance(axis, int):
                    raise self._mismatch(name, value, f"length {axis} where it was fixed", f"{length}")
                if lengths.setdefault(axis, length) != length:
                    raise self._mismatch(name, value, f"{axis} {lengths[axis]}, as in the other inputs", f"{length}")

    def _cast(self, name: str, value: Any) -> Any:
        """Widen or narrow within a kind of number, and masks of booleans to integers; nothing else."""
        spec = self._specs[name]
        if not isinstance(value, np.ndarray):  # lies on a device: the runtime has the word on its type
            return value
        dtype = np.dtype(spec.dtype) if spec.dtype != "bfloat16" else None
        if dtype is None or not (value.dtype.kind == dtype.kind or value.dtype.kind + dtype.kind in ("bi", "ui")):
            raise self._mismatch(name, value, f"dtype {spec.dtype}", f"dtype {value.dtype}")
        return value.astype(dtype, copy=False)

    def _fill(self, arrays: dict[str, Any], lengths: Mapping[str, int]) -> None:
        for name, spec in self._specs.items():
            if name not in arrays:
                arrays[name] = self._filled(spec, lengths, arrays)

    def _filled(self, spec: TensorSpec, lengths: Mapping[str, int], arrays: Mapping[str, Any]) -> np.ndarray[Any, Any]:
        if spec.default is None or any(isinstance(axis, str) and axis not in lengths for axis in spec.shape):
            raise InputError(
                self._who, f"input {spec.name!r} is missing; it takes {self._signature(spec)}", self._usage()
            )
        shape = tuple(axis if isinstance(axis, int) else lengths[axis] for axis in spec.shape)
        return np.asarray(spec.left_out(np.zeros(shape, spec.dtype), arrays.get(spec.made_of or "")))

    def _refuse_unknown(self, kwargs: Mapping[str, Any]) -> None:
        for name, value in kwargs.items():
            if name in self._specs or name in self._ignored or value is None:
                continue
            if name in _NEUTRAL:
                if any(value is neutral for neutral in _NEUTRAL[name]):
                    continue
                raise InputError(
                    self._who, f"{name}={value!r} asks for something it was not exported with", "call the eager model"
                )
            raise InputError(self._who, f"it has no input {name!r}", self._usage())

    def _mismatch(self, name: str, value: Any, expected: str, came: str) -> InputError:
        spec = self._specs[name]
        return InputError(
            self._who,
            f"input {spec.name!r}: expected {expected}, got {came} (shape {tuple(value.shape)}, {value.dtype})",
            f"pass {spec.name} as {self._signature(spec)}",
        )

    def _signature(self, spec: TensorSpec) -> str:
        return f"{spec.dtype}[{', '.join(map(str, spec.shape))}]"

    def _usage(self) -> str:
        parts = [
            f"{spec.name}: {self._signature(spec)}" + (f" (left out: {spec.default})" if spec.default else "")
            for spec in self._specs.values()
        ]
        return "it takes " + "; ".join(parts)
