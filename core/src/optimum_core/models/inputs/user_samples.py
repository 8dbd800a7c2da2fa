"""The user's samples: they define the call, whose axes are varied as far as the eager model takes that."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from optimum_core.errors import OptionError
from optimum_core.models.fingerprint import require_values
from optimum_core.models.inputs.facts import Facts
from optimum_core.models.inputs.layouts import InputLayout, Layout, layouts_of, with_media_apart, words
from optimum_core.models.inputs.variations import is_switch
from optimum_core.types.arrays import ArrayMapping, Arrays, NDArray

_KNOWN_DTYPES = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
_TEXT_KINDS = ("ids", "mask", "types", "boxes")


def as_arrays(module: Any, samples: Any) -> Arrays:
    """Return samples by input name, as numpy arrays; 16-bit floats as 32-bit ones, unless the module takes these.

    Args:
        module: its forward names the inputs if samples are one tensor or a sequence of them.
        samples: a mapping of names to tensors or arrays, one tensor or array, or a sequence of them in order.

    Raises:
        OptionError: a name that the forward does not take, or a value that is no tensor.
    """
    who = f"sample_inputs of {type(module).__name__}"
    parameters = inspect.signature(module.forward).parameters
    named = [name for name, item in parameters.items() if item.kind not in (item.VAR_POSITIONAL, item.VAR_KEYWORD)]
    takes_any = any(item.kind is item.VAR_KEYWORD for item in parameters.values())
    usage = f"pass tensors for: {', '.join(named)}" if named else "give its forward parameters with names"
    if not isinstance(samples, Mapping):
        samples = dict(_by_position(who, parameters, samples, usage))
    samples = {name: value for name, value in samples.items() if value is not None}
    for name in samples:
        if name not in named and not takes_any:
            raise OptionError(who, f"its forward takes no {name!r}", usage)
        if name in named and parameters[name].kind is inspect.Parameter.POSITIONAL_ONLY:
            raise OptionError(
                who,
                f"its forward takes {name!r} by position only ('/'), and every input is passed to it by name",
                f"remove the '/' from it, or wrap the model in a torch.nn.Module whose forward({name}, …) calls it",
            )
    if not samples:
        raise OptionError(who, "there are none", usage)
    order = [*(name for name in named if name in samples), *(name for name in samples if name not in named)]
    arrays = {name: _array(name, samples[name]) for name in order}
    if not getattr(module, "is_graph", False):
        arrays = {
            name: array.astype(np.float32) if array.dtype == np.float16 else array for name, array in arrays.items()
        }
    missing = [name for name in named if parameters[name].default is inspect.Parameter.empty and name not in samples]
    if missing:
        raise OptionError(who, f"its forward requires {', '.join(map(repr, missing))} too", usage)
    return arrays


def in_16_bits(module: Any, samples: Any) -> Iterator[tuple[str, str]]:
    """Yield the samples that are floats of 16 bits, which become ones of 32, each with its type's name."""
    parameters = inspect.signature(module.forward).parameters
    named = samples if isinstance(samples, Mapping) else dict(_by_position("", parameters, samples, ""))
    for name, value in named.items():
        dtype = str(getattr(value, "dtype", "")).removeprefix("torch.")
        if dtype in ("float16", "bfloat16"):
            yield name, dtype


def _by_position(
    who: str, parameters: Mapping[str, inspect.Parameter], samples: Any, usage: str
) -> Iterator[tuple[str, Any]]:
    values: Sequence[Any] = samples if isinstance(samples, tuple | list) else (samples,)
    by_position = [
        name for name, item in parameters.items() if item.kind in (item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD)
    ]
    if len(values) > len(by_position):
        taken = f"its forward takes {len(by_position)} by position"
        if any(item.kind is item.VAR_POSITIONAL for item in parameters.values()):
            taken += ", and those of *args have no names"
        raise OptionError(who, f"there are {len(values)}, {taken}", usage)
    return zip(by_position, values, strict=False)


def positional(module: Any) -> tuple[str, ...]:
    """Return the parameters of a module's forward that may be passed by position, in order."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(module.forward).parameters
    return tuple(name for name, parameter in parameters.items() if parameter.kind in kinds)


def plain_defaults(module: Any) -> dict[str, bool | int | float | str | None]:
    """Return the parameters of a module's forward whose defaults are plain values that JSON can hold."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(module.forward).parameters.items()
        if parameter.default is None or type(parameter.default) in (bool, int, float, str)
    }


def _array(name: str, value: Any) -> NDArray:
    if isinstance(value, bool | int | float | str | Mapping) or _holds_tensors(value):
        holds, remedy = _holds_tensors(value), "pass a tensor, or leave it out and set it in the module itself"
        if holds or isinstance(value, Mapping):
            remedy = f"give a module around it whose forward takes each tensor by name and makes {name!r} of them"
        raise OptionError(
            f"sample input {name!r}",
            f"it is a {type(value).__name__}{' of tensors' if holds else ''}, no tensor: only tensors become inputs",
            remedy,
        )
    require_values(name, value)
    if np.ma.is_masked(value):
        why = "it has masked values, which it would be traced with"
        raise OptionError(f"sample input {name!r}", why, "replace them: its filled(value)")
    try:
        array = np.asarray(_on_host(value) if hasattr(value, "detach") else value)
    except Exception as error:
        raise OptionError(f"sample input {name!r}", f"it is no tensor: {error}", "pass a dense tensor") from error
    if array.dtype.name not in _KNOWN_DTYPES:
        what = type(value).__name__ if array.dtype == object or array.dtype.kind in "US" else array.dtype.name
        remedy = "pass a tensor or array of such a type"
        if array.dtype.kind == "c":
            remedy = "give a module around it whose forward takes torch.view_as_real of it, and makes it of that"
        raise OptionError(f"sample input {name!r}", f"it is {what}, no tensor of {', '.join(_KNOWN_DTYPES)}", remedy)
    return array


def _on_host(tensor: Any) -> Any:
    import torch

    held = tensor.detach().resolve_neg()
    return (held.float() if held.dtype == torch.bfloat16 else held).cpu().numpy()


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, list | tuple) and any(hasattr(item, "__array__") for item in value)


def layouts_that_may_fit(samples: ArrayMapping, facts: Facts) -> Iterator[Layout]:
    """Yield layouts of the given call, those with the most varying axes first.

    Axes have the names of the rules if an input's name and shape are known, and other names by position and length:
    those at one position with one length are assumed to vary together. An axis of length one is lengthened if the eager
    model takes that, since a length of one often means something else than the others.
    """
    inputs, lengths = _named(samples, facts)
    base = Layout(inputs=inputs, lengths=lengths, stated=lengths, **_words_of(facts, samples))
    narrowed = replace(base, inputs=tuple(map(_narrowed, inputs)))
    for layout in (base, narrowed) if narrowed != base else (base,):
        yield from _lengthened(layout)


def _lengthened(layout: Layout) -> Iterator[Layout]:
    media = with_media_apart(layout.inputs)
    lengths = {**layout.lengths, "media_batch": layout.lengths.get("batch", 1)}
    apart = replace(layout, inputs=media, lengths=lengths, stated=lengths)
    singles = [axis for axis in layout.axes if layout.lengths[axis] == 1]
    yielded = []
    for longer in (singles, [axis for axis in singles if axis == "batch"], []):
        for base in (apart, layout) if media != layout.inputs else (layout,):
            made = replace(base, lengths={**base.lengths, **dict.fromkeys(longer, 2)})
            if "batch" in longer and base is apart:
                made = replace(made, lengths={**made.lengths, "media_batch": 2})
            for axis in made.axes:
                made = made.pinned(axis, made.lengths[axis]) if made.lengths[axis] < 2 else made
            if made not in yielded:
                yielded.append(made)
                yield made


def _narrowed(item: InputLayout) -> InputLayout:
    return replace(item, dtype="float32") if item.dtype == "float64" else item


def _named(samples: ArrayMapping, facts: Facts) -> tuple[tuple[InputLayout, ...], dict[str, int]]:
    facts = replace(facts, parameters=tuple(samples)) if facts.is_graph else facts
    known = {name: _known(name, array, facts) for name, array in samples.items()}
    firsts = {array.shape[0] for array in samples.values() if array.ndim}
    batch = next((samples[name].shape[0] for name, item in known.items() if item is not None), None)
    lengths = {"batch": batch if batch is not None else min(firsts)} if batch is not None or len(firsts) == 1 else {}
    made: dict[str, InputLayout] = {}
    for name in sorted(samples, key=lambda name: known[name] is None):  # known inputs first: they name others' axes
        array, item = samples[name], known[name]
        axes: list[int | str] = []
        for index, length in enumerate(array.shape):
            axis = item.axes[index] if item is not None else _alike(index, length, lengths, made.values())
            if isinstance(axis, str) and lengths.setdefault(axis, length) != length:
                axis = f"{name}_{axis}"
                lengths[axis] = length
            axes.append(axis if length else 0)
        kind = item.kind if item is not None else "given"
        dtype = _dtype(array, None if facts.is_graph else item)
        made[name] = InputLayout(name=name, kind=kind, axes=tuple(axes), dtype=dtype)
    return tuple(made[name] for name in samples), lengths


def _alike(index: int, length: int, lengths: Mapping[str, int], others: Iterable[InputLayout]) -> str:
    """Return the name for an unknown axis: that of another input's axis at the same position with the same length."""
    if index == 0 and lengths.get("batch") == length:
        return "batch"
    for other in others:
        axis = other.axes[index] if index and len(other.axes) > index else 0
        if isinstance(axis, str) and lengths[axis] == length:
            return axis
    return f"axis{index}_{length}"


def _known(name: str, array: NDArray, facts: Facts) -> InputLayout | None:
    """Return the rules' layout of an input of this name, rank and fixed lengths, or None; for a graph without a
    configuration, that of a text."""
    rules = layouts_of(name, facts) if facts.config is not None or facts.is_graph else []
    for item in rules if facts.config is not None else [item for item in rules if item.kind in _TEXT_KINDS]:
        switch = item.kind == "mask" and is_switch(array)
        same = switch or (array.dtype.kind == "f") == (item.dtype == "float32")
        fits = len(item.axes) == array.ndim and same
        if fits and all(isinstance(axis, str) or axis == array.shape[i] for i, axis in enumerate(item.axes)):
            return item
    return None


def _dtype(array: NDArray, item: InputLayout | None) -> str:
    known = item is not None and item.kind in _TEXT_KINDS and not (item.kind == "mask" and array.dtype.kind == "f")
    return item.dtype if item is not None and known else array.dtype.name


def _words_of(facts: Facts, samples: ArrayMapping) -> dict[str, Any]:
    found = words(facts)
    seen = {name: int(array.max(initial=0)) + 1 for name, array in samples.items() if array.dtype.kind in "iu"}
    if facts.config is None:
        return {"vocabulary": seen}
    vocabulary = {name: size for name, size in found["vocabulary"].items() if size >= seen.get(name, 0)}
    return {**found, "vocabulary": {**seen, **vocabulary}}


def _has_columns(item: InputLayout, layout: Layout) -> bool:
    """Whether numbers may be varied within their columns: floats where there are rows to take them from."""
    rows = layout.shape(item, layout.stated)[0] if item.axes else 0
    whole = "int" in item.dtype
    return item.kind not in _TEXT_KINDS and len(item.axes) > 1 and (whole or ("float" in item.dtype and rows > 1))


def as_varied_as_eager_takes(layout: Layout, takes: Callable[[Layout], bool]) -> Layout:
    """Return the layout with fresh values in every input that the eager model takes them for, and rows in any order.

    Args:
        takes: returns whether the eager model runs on fresh values of a layout.
    """
    if takes(layout):
        return layout
    layout = replace(layout, columns=frozenset(item.name for item in layout.inputs if _has_columns(item, layout)))
    if layout.columns and takes(layout):
        for name in sorted(layout.columns):
            looser = replace(layout, columns=layout.columns - {name})
            layout = looser if takes(looser) else layout
        return layout
    names = [item.name for item in layout.inputs]
    still = replace(layout, steady=frozenset(names))
    if not takes(still):
        still = replace(still, ordered=True)
    for name in names:
        looser = replace(still, steady=still.steady - {name})
        still = looser if takes(looser) else still
    return still
