"""Checking of a call's inputs and their conversion to the session's types. Runs at every call, so it is kept short.

Checks that depend only on names, shapes and types run when a combination is first seen, and are kept as a `Plan`;
later calls check values only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from optimum_core.errors import InputError
from optimum_core.runtime.bounds import LengthBounds, ValueRange, converted, is_finite, require_order, row_bounds, typed
from optimum_core.runtime.call_outputs import Answerer
from optimum_core.runtime.call_plan import NO_PLAN, Plan
from optimum_core.runtime.call_rows import of_one_row, repeat_rows
from optimum_core.runtime.gradients import detached
from optimum_core.runtime.neutral_arguments import FURTHER, NEUTRAL, require_neutral
from optimum_core.runtime.repeated_call import Inputs, Repeated, SessionFunctions, never, repeated
from optimum_core.types import AxisRange, TensorSpec
from optimum_core.types.arrays import NDArray

#: Name, shape and type of each argument of a call, in its order, and what is left to do with such.
Seen = tuple[list[Any] | None, Plan]

_ARRAY = np.ndarray
#: Maximum number of combinations of names, shapes and types that are remembered.
_MOST_PLANS = 256
_UNMASK = "replace them: its filled(value); where the model has an input for a mask, pass that too"
_TOKENIZE = "encode text first: fast(**tokenizer(texts, return_tensors='np')), or call fast.map(texts)"


class InputChecker:
    """Checker of call arguments against tensor specs.

    Args:
        who: the model, for errors.
        specs: its inputs.
        outputs: names of its outputs.
        axes: the lengths that it accepts, by named axis.
        positional: names of the positional arguments, in order; None: the inputs in their order.
        ignored: names that are accepted and left out.
        defaults: arguments that are no inputs, with the values that the model was exported with.
        on_host: whether the session takes host arrays; otherwise device tensors are passed on unchanged.
        is_eager: whether the eager model itself runs, so that NaN and infinity mean what they mean to it.
        absent: inputs that it lacks, and that may be passed with the one value that says nothing.
    """

    def __init__(
        self,
        who: str,
        specs: Sequence[TensorSpec],
        *,
        outputs: Sequence[str] = (),
        axes: Mapping[str, AxisRange] | None = None,
        positional: Sequence[str] | None = None,
        ignored: Sequence[str] = (),
        defaults: Mapping[str, Any] | None = None,
        on_host: bool = True,
        is_eager: bool = False,
        absent: Mapping[str, int] | None = None,
    ) -> None:
        self._who = who
        self._specs = {spec.name: spec for spec in specs}
        self._dtypes = {spec.name: np.dtype(spec.dtype) for spec in specs if spec.dtype != "bfloat16"}
        self._ranges = {spec.name: found for spec in specs if (found := ValueRange.of(spec)) is not None}
        self._moving = [spec.name for spec in specs if spec.follows_length]
        self._within = {spec.name: rows for spec in specs if (rows := row_bounds(spec)) is not None}
        floats = [spec.name for spec in specs if "float" in spec.dtype and not spec.nonfinite]
        self._floats = frozenset(() if is_eager else floats)
        self._ordered = frozenset(() if is_eager else (spec.name for spec in specs if spec.contiguous))
        self._limits = LengthBounds(who, axes or {}, specs)
        self._order = tuple(self._specs) if positional is None else tuple(positional)
        self._ignored, self._absent = frozenset(ignored), absent or {}
        self._defaults = dict(defaults or {})
        self._exported = [name for name, made in FURTHER.items() if any(map(made.search, outputs))]
        self._on_host = on_host
        self._plans: dict[tuple[Any, ...], Plan] = {}
        self._last: Seen = None, NO_PLAN  # one pair: seen by threads as a whole
        self._tensor: type | None = None  # torch's class, once one came that a session on the host takes

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Inputs, bool]:
        """Return the arrays to run on, by name, and whether torch tensors were passed.

        Raises:
            InputError: a name is missing or unknown, or a value does not fit; the message names the input, the
                expected and the actual value.
        """
        arrays, torch_in, _ = self.bind_call(self.named(args, kwargs) if args else kwargs)
        return arrays, torch_in

    def bind_call(self, kwargs: dict[str, Any]) -> tuple[Inputs, bool, Seen]:
        """Return what `bind` does, and what was seen of the arguments, which other threads do not change."""
        arrays: Inputs = {}
        torch_in = False
        seen: list[Any] = []
        specs, tensor = self._specs, self._tensor
        for name, value in kwargs.items():
            kind = type(value)
            if kind is tensor and name in specs:
                torch_in = True
                try:
                    value = value.numpy()
                except (RuntimeError, TypeError):  # it has gradients, is on a device, or has a type that numpy lacks
                    value = self._from_torch(name, value)
            elif kind is not _ARRAY or name not in specs:
                if (value is None and self._defaults.get(name) is None) or not self._takes(name, value):
                    continue
                value, is_torch = self._to_array(name, value)
                torch_in = torch_in or is_torch
            arrays[name] = value
            seen += (name, value.shape, value.dtype)
        last, plan = self._last
        if seen != last:  # a hash of all would cost more, above all when the processor's caches hold none of it
            key = tuple(seen)
            plan = self._plans.get(key) or self._remember(key, arrays)
            self._last = seen, plan
        self._apply(plan, arrays)
        if plan.rows:
            repeat_rows(plan.rows, arrays)
        for spec, filled in plan.fills:
            of = spec.made_of  # a mask derived from the ids differs from call to call
            arrays[spec.name] = filled.copy() if of is None else spec.left_out(filled, arrays.get(of))
        return arrays, torch_in, (seen, plan)

    def repeated(self, call: Seen, functions: SessionFunctions, answerer: Answerer, *, as_torch: bool) -> Repeated:
        """Return a function for further calls like one that was bound and answered."""
        seen, plan = call
        more = plan.casts or plan.fills or plan.within or plan.rows or plan.ordered
        if seen is None or more or (as_torch and self._tensor is None):
            return never
        return repeated(seen, plan.ranges, plan.floats, self._tensor if as_torch else None, functions, answerer)

    def check(self, arrays: Inputs) -> None:
        """Check a subset of the inputs as `bind` does; others may be missing.

        Raises:
            InputError: a value does not fit.
        """
        key = tuple((name, array.shape, array.dtype) for name, array in arrays.items())
        self._apply(self._plans.get(key) or self._keep(key, self._planned(arrays, {})), dict(arrays))

    def check_finite(self, name: str, value: Any) -> None:
        """Refuse NaN and infinity in an input, where the eager model was not compared with them.

        Raises:
            InputError: it holds some.
        """
        if name in self._floats and not is_finite(value):
            why = f"input {name!r} holds NaN or infinity, of which runtimes make something else than the eager model"
            remedy = "replace them, or call the eager model; where they belong there, as -inf in a mask of your own, "
            raise InputError(self._who, why, f"{remedy}accelerate the model with sample_inputs that hold them")

    def named(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return all arguments by name.

        Raises:
            InputError: there are too many, one was passed twice, or the first is a text or a whole encoding.
        """
        first = args[0]
        if _is_text(first):
            raise InputError(self._who, "it was called with text", _TOKENIZE)
        if isinstance(first, Mapping):
            why = f"it was called with one {type(first).__name__}, by position"
            raise InputError(self._who, why, "unpack it: fast(**encoding)")
        if len(args) > len(self._order):
            why = f"it takes {len(self._order)} inputs by position, {len(args)} came"
            raise InputError(self._who, why, self._usage())
        found = dict(zip(self._order, args, strict=False))
        twice = [name for name in found if name in kwargs]
        if twice:
            raise InputError(self._who, f"input {twice[0]!r} came twice, by position and by name", self._usage())
        return {**found, **kwargs}

    def _apply(self, plan: Plan, arrays: Inputs) -> None:
        if plan.ordered:
            require_order(self._who, plan.ordered, arrays)
        for name, dtype in plan.casts:
            value = arrays[name]
            if value.dtype.kind == "f" and dtype.kind == "i" and not ((value == 0) | (value == 1)).all():
                raise self._mismatch(name, value, "a mask of 0 and 1", "other values")
            if (made := converted(value, dtype)) is None:
                raise self._mismatch(name, value, f"values that {dtype} holds", "others")
            arrays[name] = made
        for name, least, greatest in plan.ranges:
            value = arrays[name]
            # `argmax` takes a third of the time of `max`, which goes through numpy's ufunc machinery.
            if type(value) is _ARRAY and least <= value.item(value.argmin()) and value.item(value.argmax()) <= greatest:
                continue
            allowed = plan.moved.get(name) or self._ranges[name]
            if (wrong := allowed.wrong(value)) is not None:
                raise self._mismatch(name, value, allowed.words, f"{wrong}", allowed.remedy)
        for name in plan.floats:
            self.check_finite(name, arrays[name])
        if plan.within:
            self._check_within(plan.within, arrays)

    def _check_within(self, names: tuple[str, ...], arrays: Inputs) -> None:
        for name in names:
            allowed = self._within[name]
            if (wrong := allowed.wrong(arrays[name])) is not None:
                raise self._mismatch(name, arrays[name], allowed.words, f"{wrong}", allowed.remedy)

    def _takes(self, name: str, value: Any) -> bool:
        """Whether a value is an input; False: it has no effect and is left out."""
        if name in self._specs:
            return True
        if name in self._absent:  # asked first: older artifacts of given graphs list masks as ignored too
            return require_neutral(self._who, name, value, self._absent[name])
        if name in self._ignored:
            return False
        if name in NEUTRAL:
            return self._refuse_setting(name, value)
        if self._defaults.get(name) is not None:
            return self._refuse_other(name, value)
        raise self.no_input(name)

    def not_exported(self, setting: str) -> InputError:
        """Return the error for a setting that asks for further outputs."""
        return InputError(self._who, f"{setting} asks for something it was not exported with", "call the eager model")

    def _refuse_setting(self, name: str, value: Any) -> bool:
        """Return False for a value of a setting of transformers that has no effect.

        Raises:
            InputError: other outputs are asked for, or some of those exported are declined.
        """
        if name in self._exported and value is not None:
            why = f"{name}={value!r}, and its configuration decided which outputs it was exported with"
            outputs = name.removeprefix("output_")
            remedy = f"leave {name} out, for outputs with {outputs}; or accelerate it with config.{name}=False"
            raise InputError(self._who, why, remedy)
        if not any(value is neutral for neutral in NEUTRAL[name]):
            raise self.not_exported(f"{name}={value!r}")
        if name in FURTHER and value is not None and self._defaults.get(name) is not None:
            return self._refuse_other(name, value)
        return False

    def no_input(self, name: str) -> InputError:
        """Return the error for an argument that is no input."""
        if name in self._order:
            why = f"{name!r}, argument {self._order.index(name) + 1} of its forward, was not exported"
            remedy = f"leave {name} out, or accelerate the model with sample_inputs that hold it"
            return InputError(self._who, why, f"{remedy}; {self._usage()}")
        return InputError(self._who, f"it has no input {name!r}", self._usage())

    def _refuse_other(self, name: str, value: Any) -> bool:
        """Return False for the value that an argument was exported with: it has no effect.

        Raises:
            InputError: it is another value.
        """
        default, value = self._defaults[name], value.item() if isinstance(value, np.generic) else value
        plain = isinstance(value, bool | int | float | str)
        # 1, 1.0 and True are equal, and tensors that are multiplied by them become of different types.
        alike = plain and all(isinstance(value, kind) == isinstance(default, kind) for kind in (bool, float))
        if (alike and value == default) or (value is None and default is False):
            return False
        what = f"{name}={value!r}" if plain or value is None else f"{name} is a {type(value).__name__}"
        why = f"{what}, and it was exported with {name}={default!r}"
        raise InputError(self._who, why, f"leave {name} out, or call the eager model")

    def _to_array(self, name: str, value: Any) -> tuple[Any, bool]:
        """Return a torch tensor as a host array without a copy, and True; other DLPack arrays as such, and False."""
        if type(value).__module__.partition(".")[0] == "torch" or hasattr(value, "detach"):
            if self._on_host:
                self._tensor = type(value)
            return self._from_torch(name, value), True
        if np.ma.is_masked(value):
            raise InputError(self._who, f"input {name!r} has masked values, which it would compute with", _UNMASK)
        if hasattr(value, "__dlpack__") and not isinstance(value, _ARRAY):  # of arrays, it refuses those of files
            return (np.from_dlpack(value), False) if self._on_host else (value, False)
        try:
            made = np.asarray(value)
        except ValueError as error:
            raise InputError(self._who, f"input {name!r} is no tensor: {error}", "pass a tensor or an array") from error
        has_type = type(value) not in (list, tuple, int, float)
        return (made if has_type else typed(made, self._dtypes.get(name))), False

    def _from_torch(self, name: str, value: Any) -> Any:
        if value.device.type != "cpu":
            if self._on_host:
                why = f"input {name!r} is on {value.device}, the model runs on cpu"
                raise InputError(self._who, why, f"pass {name}.cpu()")
            return value
        value = detached(self._who, name, value).resolve_neg()  # a part of a conjugate has its signs to come
        if str(value.dtype) == "torch.bfloat16":  # numpy has no such type; widening is lossless
            if self._specs[name].exact:
                raise self._another_type(self._specs[name], "bfloat16")
            value = value.float()
        try:
            return value.numpy()
        except (RuntimeError, TypeError) as error:
            why = f"input {name!r} is a tensor that numpy cannot hold ({value.dtype}): {error}"
            raise InputError(self._who, why, f"pass {name} as {self._signature(self._specs[name])}") from error

    def _remember(self, seen: tuple[Any, ...], arrays: Inputs) -> Plan:
        lengths: dict[str, int] = {}
        plan = self._planned(arrays, lengths)
        missing = (spec for name, spec in self._specs.items() if name not in arrays)
        return self._keep(seen, replace(plan, fills=tuple((s, self._filled(s, lengths, arrays)) for s in missing)))

    def _keep(self, seen: tuple[Any, ...], plan: Plan) -> Plan:
        if len(self._plans) >= _MOST_PLANS:
            self._plans.clear()
        self._plans[seen] = plan
        return plan

    def _planned(self, arrays: Inputs, lengths: dict[str, int]) -> Plan:
        """Return the plan after checking names, shapes and types; add to `lengths` those of named axes.

        Raises:
            InputError: they do not fit.
        """
        casts = []
        ones = of_one_row(self._specs.values(), arrays)
        for name, spec in self._specs.items():
            if (value := arrays.get(name)) is None:
                continue
            if (dtype := self._cast(spec, value)) is not None:
                casts.append((name, dtype))
            self._check_shape(spec, value, lengths, skip=name in ones)
        rows = tuple((name, lengths[str(self._specs[name].shape[0])]) for name in ones)
        for axis, length in lengths.items():
            self._limits.check(axis, length)
        moved = {name: found for name in self._moving if (found := ValueRange.of(self._specs[name].at(lengths)))}
        bounded = {**self._ranges, **moved}.items()
        ranges = tuple((n, one.least, one.greatest) for n, one in bounded if n in arrays and all(arrays[n].shape))
        within = tuple(name for name in self._within if name in arrays and all(arrays[name].shape))
        floats = tuple(name for name in arrays if name in self._floats and all(arrays[name].shape))
        ordered = tuple(name for name in arrays if name in self._ordered)
        return Plan(
            casts=tuple(casts), ranges=ranges, moved=moved, within=within, floats=floats, ordered=ordered, rows=rows
        )

    def _check_shape(self, spec: TensorSpec, value: Any, lengths: dict[str, int], *, skip: bool = False) -> None:
        axes, shape = spec.shape, value.shape
        if len(shape) != len(axes):
            raise self._mismatch(spec.name, value, f"{len(axes)} axes", f"{len(shape)}")
        for index, (axis, length) in enumerate(zip(axes, shape, strict=True)):
            if isinstance(axis, int):
                if axis != length:
                    fixed = f"length {axis} at axis {index}, which is fixed"
                    raise self._mismatch(spec.name, value, fixed, f"{length}")
            elif not (skip and index == 0) and lengths.setdefault(axis, length) != length:
                expected = self._limits.as_elsewhere(axis, index, lengths[axis])
                raise self._mismatch(spec.name, value, expected, f"{length}", self._limits.to_keep_apart())

    def _cast(self, spec: TensorSpec, value: Any) -> np.dtype[Any] | None:
        """Return the type to convert a value to, or None. Only width within a kind of number, booleans where none
        is looked up and masks of 0.0 and 1.0 to integers, and unsigned to signed integers are converted."""
        if not isinstance(value, np.ndarray):  # a device array, whose type the runtime checks
            return None
        dtype = self._dtypes.get(spec.name)
        kind = value.dtype.kind
        if kind in "US" or (kind == "O" and _is_text(value.tolist())):
            raise InputError(self._who, f"input {spec.name!r} is text", _TOKENIZE)
        is_mask = dtype is not None and kind + dtype.kind in ("fi", "bi") and spec.name.endswith("mask")
        # Eager looks no boolean up in a table: True is no id.
        is_switch = dtype is not None and kind + dtype.kind == "bi" and not spec.is_bounded
        if dtype is None or not (kind == dtype.kind or kind + dtype.kind == "ui" or is_switch or is_mask):
            raise self._mismatch(spec.name, value, f"dtype {spec.dtype}", f"dtype {value.dtype}")
        if value.dtype == dtype:
            return None
        if spec.exact and value.dtype.newbyteorder("=") != dtype:
            raise self._another_type(spec, str(value.dtype))
        return dtype

    def _another_type(self, spec: TensorSpec, came: str) -> InputError:
        """Return the error for an input of a type to which the original's answers would adapt."""
        why = f"input {spec.name!r} is {came}, and the original's answers follow its type: {spec.dtype} was exported"
        return InputError(self._who, why, f"pass {spec.name} as {self._signature(spec)}, or call the eager model")

    def _filled(self, spec: TensorSpec, lengths: Mapping[str, int], arrays: Mapping[str, Any]) -> NDArray:
        if spec.default is None or any(isinstance(axis, str) and axis not in lengths for axis in spec.shape):
            why = f"input {spec.name!r} is missing; it takes {self._signature(spec)}"
            raise InputError(self._who, why, self._usage())
        zeros = np.zeros([axis if isinstance(axis, int) else lengths[axis] for axis in spec.shape], spec.dtype)
        return np.asarray(spec.left_out(zeros, arrays.get(spec.made_of or "")))

    def _mismatch(self, name: str, value: Any, expected: str, came: str, remedy: str = "") -> InputError:
        return InputError(
            self._who,
            f"input {name!r}: expected {expected}, got {came} (shape {tuple(value.shape)}, {value.dtype})",
            remedy or f"pass {name} as {self._signature(self._specs[name])}",
        )

    def _signature(self, spec: TensorSpec) -> str:
        return f"{spec.dtype}[{', '.join(map(str, spec.shape))}]"

    def _usage(self) -> str:
        defaults = {spec.name: f" (left out: {spec.default})" if spec.default else "" for spec in self._specs.values()}
        return "it takes " + "; ".join(f"{n}: {self._signature(self._specs[n])}{told}" for n, told in defaults.items())


def _is_text(value: Any) -> bool:
    return bool(value) and _is_text(value[0]) if isinstance(value, (list, tuple)) else isinstance(value, (str, bytes))
