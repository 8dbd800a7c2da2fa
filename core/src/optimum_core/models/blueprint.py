"""What goes into a model and what comes out, found by trying: layouts are proposed by rule, the eager model decides."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from optimum_core.artifact import Structure
from optimum_core.models import given, tasks
from optimum_core.models.finding import first_that_runs, tied
from optimum_core.models.flat import alike, ask
from optimum_core.models.layouts import InputLayout, Layout, alternatives, facts_of
from optimum_core.models.outputs import agreed, flatten
from optimum_core.models.real import processed
from optimum_core.models.samples import Arrays, Case, draw
from optimum_core.types import AxisRange, TensorSpec

log = logging.getLogger(__name__)
_SENT_ALONG = frozenset({"attention_mask", "token_type_ids"})
_MAYBE_IDLE = frozenset({"pixel_mask", "decoder_attention_mask", "rewards"})
_STEPS = {"samples": 1600, "frames": 32, "height": 32, "width": 32}


@dataclass(frozen=True, kw_only=True, slots=True)
class Blueprint:
    """A model seen from outside.

    Attributes:
        inputs, outputs: specs; a named axis is one that the eager model accepts at several lengths.
        structure: what is around the outputs, as the eager model returns them.
        layout: how inputs are drawn.
        ranges: by named axis, the lengths that the eager model takes.
        ignored: inputs that its tokenizer may send along and that change nothing.
        given: samples that the user passed.
        real: inputs from the model's processor, where it has one.
    """

    task: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    structure: Structure
    layout: Layout
    given: Mapping[str, np.ndarray[Any, Any]]
    ignored: tuple[str, ...] = ()
    real: Arrays | None = None
    ranges: Mapping[str, AxisRange] = field(default_factory=dict)

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes that may vary."""
        return self.layout.axes

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the report should know of how it was compared."""
        if not self.layout.steady:
            return ()
        names = ", ".join(sorted(self.layout.steady))
        return (f"compared with the values of {names} in sample_inputs alone: eager takes no others of these",)

    def draw(self, case: Case) -> Arrays:
        """Inputs for a case."""
        return draw(self.layout, case, self.given)

    def pinned(self, axis: str, length: int) -> Blueprint:
        """The same model with one axis fixed at a length."""
        layout = self.layout.pinned(axis, length)
        real = self.real
        if real is not None and any(
            real[item.name].shape[index] != length
            for item in self.layout.inputs
            for index, name in enumerate(item.axes)
            if name == axis
        ):
            real = None
        fix = {axis: length}
        return replace(
            self, layout=layout, real=real, inputs=_fixed(self.inputs, fix), outputs=_fixed(self.outputs, fix)
        )


def _fixed(specs: tuple[TensorSpec, ...], lengths: Mapping[str, int]) -> tuple[TensorSpec, ...]:
    return tuple(replace(spec, shape=tuple(lengths.get(str(axis), axis) for axis in spec.shape)) for spec in specs)


def describe(
    module: Any, *, name: str, processor: Any = None, samples: Any = None, task: str | None = None
) -> Blueprint:
    """Find out what a model takes and gives.

    Args:
        module: the eager model.
        name: how to speak of it in errors.
        processor: its tokenizer, image processor, …, where there is one.
        samples: inputs that its user passed; without them they are derived.

    Raises:
        SourceError: no derived inputs make the model run.
    """
    facts = facts_of(module, processor)
    arrays = given.as_arrays(module, samples) if samples is not None else {}
    layouts = given.layouts_that_may_fit(arrays, facts) if arrays else alternatives(facts)
    layout, output = first_that_runs(module, name, layouts, arrays)
    whole = {item.name for item in layout.inputs}
    layout = _without_idle(module, layout, arrays)
    idle = whole - {item.name for item in layout.inputs}
    layout = tied(module, layout, arrays, lengths_beside)
    runs = dict(_probe(module, layout, arrays))
    layout = _settled(layout, runs)
    traced = {axis: layout.lengths[axis] for axis in layout.axes}
    traced_output = ask(module, draw(layout, Case(name="traced"), arrays))
    structure = agreed(f"model {name!r}", [output, traced_output, *_answers_elsewhere(module, layout, arrays)])
    outputs = _output_specs(flatten(traced_output), traced, runs)
    names = [item.name for item in layout.inputs]
    sent = processed(processor, names, beside=facts.processed) if processor is not None else None
    real = {name: sent[name] for name in names} if sent is not None else None
    inputs = draw(layout, Case(name="ignored"), arrays)
    shapes = _shapes_beside(inputs, (facts.processed | _SENT_ALONG) - idle, sent or {})
    return Blueprint(
        task=task or tasks.detect(type(module).__name__),
        inputs=tuple(
            TensorSpec(
                name=item.name, dtype=item.dtype, shape=item.axes, default=_default(module, layout, arrays, item.name)
            )
            for item in layout.inputs
        ),
        outputs=outputs,
        structure=structure,
        layout=layout,
        given=arrays,
        ignored=tuple(sorted({*idle, *_ignored(module, inputs, shapes)})),
        real=real if real is not None and _fits(real, layout) and _runs(module, real) else None,
    )


def _without_idle(module: Any, layout: Layout, arrays: Mapping[str, Any]) -> Layout:
    """Without what eager does nothing with (token types of some models, rewards of others): a tracer drops it too."""
    for item in layout.inputs:
        maybe = item.kind in ("types", "given") or item.name in _MAYBE_IDLE
        if maybe and item.name not in layout.steady and _is_idle(module, layout, arrays, item):
            layout = layout.without(item.name)
    return layout


def _is_idle(module: Any, layout: Layout, arrays: Mapping[str, Any], item: InputLayout) -> bool:
    """Whether eager computes the same without this input as with it: at the user's own values, and at others."""
    if len(layout.inputs) == 1:
        return False
    drawn = [draw(layout, Case(name="idle", seed=seed), arrays) for seed in (0, 21, 22)]
    if item.kind == "given":
        if any(np.array_equal(inputs[item.name], drawn[0][item.name]) for inputs in drawn[1:]):
            return False  # nothing is known of values that do not change
    else:
        usual = drawn[0][item.name]
        drawn += [{**drawn[0], item.name: pattern.astype(usual.dtype)} for pattern in _patterns(usual.shape)]
    for inputs in drawn:
        rest = {name: array for name, array in inputs.items() if name != item.name}
        try:
            with_it, without = flatten(ask(module, inputs)), flatten(ask(module, rest))
        except Exception as error:  # noqa: BLE001 - it is needed, or not with these values
            log.debug("input %s is not idle: %r", item.name, error)
            return False
        if with_it.keys() != without.keys() or not all(alike(without[key], with_it[key]) for key in without):
            return False
    return True


def _patterns(shape: tuple[int, ...]) -> Iterator[np.ndarray[Any, Any]]:
    """Zeros and ones by turns, and in blocks: some models look at neighbours that are alike, others at each alone."""
    by_turns = np.arange(np.prod(shape, dtype=int)).reshape(shape) % 2
    yield by_turns
    if shape:
        columns = np.arange(shape[-1])
        yield np.broadcast_to((columns >= shape[-1] // 2).astype(np.int64), shape)
        yield np.broadcast_to((columns < (shape[-1] + 1) // 2).astype(np.int64), shape)


def lengths_beside(layout: Layout, axis: str) -> tuple[int, ...]:
    """Two lengths to try an axis at, other than the traced one: shorter and longer."""
    length = layout.lengths[axis]
    if axis.endswith("batch"):
        return (3 if length != 3 else 2, 1)
    if axis in _STEPS:
        return (length + _STEPS[axis], max(1, length - _STEPS[axis] if length > 2 * _STEPS[axis] else length // 2))
    longest = layout.longest(axis)
    return (min(2 * length + 3, longest), max(1, length - 3 if length > 4 else length - 1))


Runs = dict[tuple[str, int], dict[str, tuple[int, ...]] | None]


def _probe(module: Any, layout: Layout, arrays: Mapping[str, Any]) -> Iterator[tuple[tuple[str, int], Any]]:
    """For every axis at two other lengths: the outputs' shapes, or None where eager refuses."""
    for axis in layout.axes:
        for length in lengths_beside(layout, axis):
            try:
                output = ask(module, draw(layout, Case(name="probe", lengths={axis: length}), arrays))
                yield (axis, length), {name: tuple(value.shape) for name, value in flatten(output).items()}
            except Exception as error:  # noqa: BLE001 - eager refuses this length, in its own words
                log.debug("axis %s at %d: %r", axis, length, error)
                yield (axis, length), None


def _answers_elsewhere(module: Any, layout: Layout, arrays: Mapping[str, Any]) -> Iterator[Any]:
    """What the model returns at other lengths of all axes at once, where it takes them: containers and numbers in it
    must not depend on them."""
    for place in (0, 1):
        lengths = {axis: lengths_beside(layout, axis)[place] for axis in layout.axes}
        try:
            yield ask(module, draw(layout, Case(name=f"beside {place}", lengths=lengths), arrays))
        except Exception as error:  # noqa: BLE001 - the axes are tried one by one elsewhere
            log.debug("lengths %s together: %r", lengths, error)


def _settled(layout: Layout, runs: Runs) -> Layout:
    """Fix the axes at which eager refuses another length; give varying ones lengths that differ from each other."""
    for axis in layout.axes:
        if all(shapes is None for (name, _), shapes in runs.items() if name == axis):
            layout = layout.pinned(axis, layout.lengths[axis])
    lengths, taken = dict(layout.lengths), set[int]()
    for axis in layout.axes:
        while lengths[axis] in taken:
            lengths[axis] += _STEPS.get(axis, 1)
        taken.add(lengths[axis])
    return replace(layout, lengths=lengths)


def _output_specs(traced: Mapping[str, Any], lengths: Mapping[str, int], runs: Runs) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            name=name,
            dtype=str(tensor.dtype).removeprefix("torch."),
            shape=tuple(_output_axis(name, index, tensor, lengths, runs) for index in range(tensor.dim())),
        )
        for name, tensor in traced.items()
    )


def _output_axis(name: str, index: int, tensor: Any, lengths: Mapping[str, int], runs: Runs) -> int | str:
    """What decides the length of an output's axis: nothing, one of the inputs' axes as it is, or some mixture."""
    here = int(tensor.shape[index])
    moved: dict[str, list[tuple[int, int]]] = {}
    for (axis, length), shapes in runs.items():
        if shapes is None or axis not in lengths or name not in shapes or len(shapes[name]) <= index:
            continue
        moved.setdefault(axis, []).append((length, shapes[name][index]))
    followed = [axis for axis, pairs in moved.items() if lengths[axis] == here and all(a == b for a, b in pairs)]
    if followed:
        return followed[0]
    changes = any(len({result for _, result in pairs} | {here}) > 1 for pairs in moved.values())
    return f"{name}.axis{index}" if changes else here


def _default(module: Any, layout: Layout, arrays: Mapping[str, Any], name: str) -> Literal["ones", "zeros"] | None:
    """What leaving an input out means, where eager computes the same with ones or zeros in its place."""
    item = next(item for item in layout.inputs if item.name == name)
    elsewhere = {axis for other in layout.inputs if other.name != name for axis in other.axes}
    if item.kind not in ("mask", "types") or not {axis for axis in item.axes if isinstance(axis, str)} <= elsewhere:
        return None
    filled = draw(layout, Case(name="default", padding="none"), arrays)
    value: Literal["ones", "zeros"] = "ones" if item.kind == "mask" else "zeros"
    filled[name] = np.ones_like(filled[name]) if value == "ones" else np.zeros_like(filled[name])
    try:
        left_out = flatten(ask(module, {key: array for key, array in filled.items() if key != name}))
        stated = flatten(ask(module, filled))
    except Exception as error:  # noqa: BLE001 - then it is required
        log.debug("input %s cannot be left out: %r", name, error)
        return None
    same = all(alike(stated[key], left_out[key]) for key in stated if key in left_out)
    return value if same else None


def _ignored(module: Any, inputs: Arrays, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """Which of these further inputs eager takes without a change in its outputs, at several values."""
    try:
        without = flatten(ask(module, inputs))
    except Exception as error:  # noqa: BLE001 - it needs one of them
        log.debug("without %s it does not run: %r", ", ".join(shapes), error)
        return
    for name, shape in sorted(shapes.items()):
        if name in inputs:
            continue
        try:
            answers = [flatten(ask(module, {**inputs, name: extra})) for extra in _patterns(shape)]
        except Exception as error:  # noqa: BLE001 - eager refuses it, and so shall we
            log.debug("input %s is refused: %r", name, error)
            continue
        if all(alike(without[key], given_too[key]) for given_too in answers for key in without):
            yield name


def _shapes_beside(inputs: Arrays, names: Iterable[str], made: Arrays) -> dict[str, tuple[int, ...]]:
    """Shapes of inputs that the processor may send along: as it made them, or as those that they belong to."""
    found: dict[str, tuple[int, ...]] = {}
    for name in names:
        text = inputs.get("decoder_input_ids" if name.startswith("decoder_") else "input_ids")
        pixels = inputs.get("pixel_values")
        if name.startswith("pixel_") and pixels is not None and pixels.ndim > 2:
            found[name] = (pixels.shape[0], *pixels.shape[-2:])
        elif text is not None and not name.startswith("pixel_"):
            found[name] = text.shape
        elif name in made and made[name].dtype.kind in "iub":
            first = next(iter(inputs.values()))
            found[name] = (first.shape[0], *made[name].shape[1:]) if first.ndim else made[name].shape
        elif name == "attention_mask" and "input_values" in inputs:
            found[name] = inputs["input_values"].shape
    return found


def _fits(real: Arrays, layout: Layout) -> bool:
    return all(
        len(real[item.name].shape) == len(item.axes)
        and all(isinstance(axis, str) or real[item.name].shape[i] == axis for i, axis in enumerate(item.axes))
        for item in layout.inputs
    )


def _runs(module: Any, inputs: Arrays) -> bool:
    try:
        ask(module, inputs)
    except Exception as error:  # noqa: BLE001 - the processor is not this model's own
        log.debug("the processor's output does not run: %r", error)
        return False
    return True
