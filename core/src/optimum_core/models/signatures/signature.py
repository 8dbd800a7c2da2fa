"""The signature of a model, its inputs and outputs: rules propose layouts, runs of the eager model decide."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from optimum_core.artifact import Structure
from optimum_core.artifact.structure import caches
from optimum_core.errors import OptionError
from optimum_core.models import tasks
from optimum_core.models.eager.calls import ask, caches_left_out, inputs_after
from optimum_core.models.eager.kept_answers import answers_kept, ask_once
from optimum_core.models.eager.outputs import agreed, flatten
from optimum_core.models.inputs import user_samples
from optimum_core.models.inputs.facts import facts_of
from optimum_core.models.inputs.layouts import InputLayout, Layout, alternatives
from optimum_core.models.inputs.processor import processed
from optimum_core.models.inputs.samples import Case, draw
from optimum_core.models.signatures.axes import (
    fixed_axes,
    further_lengths,
    lengths_beside,
    patch_of,
    reach,
    settle,
)
from optimum_core.models.signatures.code_switches import code_switches
from optimum_core.models.signatures.defaults import default_of
from optimum_core.models.signatures.derivation import first_that_runs, of_one_structure, tied
from optimum_core.models.signatures.eager_trials import Trials, box_sides, value_ranges
from optimum_core.models.signatures.ignored_inputs import ignored_inputs, shapes_beside, without_idle
from optimum_core.models.signatures.memory_order import inputs_kept_in_order
from optimum_core.models.signatures.one_row import inputs_of_one_row, with_all_rows
from optimum_core.models.signatures.output_axes import output_specs
from optimum_core.models.signatures.skipped_labels import all_may_be_skipped, skipped_value
from optimum_core.models.signatures.switches import LONGEST, ConfigNumbers, numbers_of
from optimum_core.models.signatures.type_following import follows_type
from optimum_core.models.signatures.value_limits import ValueBounds, float_limits, value_bounds
from optimum_core.types import AxisRange, TensorSpec
from optimum_core.types.arrays import ArrayMapping, Arrays
from optimum_core.types.tensors import FixedAxis, is_batch

if TYPE_CHECKING:
    from optimum_core.models.signatures.decoder_signature import DecoderSignature

__all__ = ["ModelSignature", "describe", "lengths_beside", "limited"]

log = logging.getLogger(__name__)
_SENT_ALONG = frozenset({"attention_mask", "token_type_ids"})
_NO_OTHER = "what was built agrees with the eager model at no other length that was tried"
_WRITES = (
    "eager changes {} in place, and gives the same if it is called again: an accelerated model may leave it as it is"
)
_STRUCTURE = "at other lengths the eager model returns other numbers or other items, which one graph cannot"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSignature:
    """The inputs and outputs of a model.

    Attributes:
        inputs, outputs: specs; a named axis is one that the eager model accepts at several lengths.
        structure: the containers around the outputs, as the eager model returns them.
        layout: the layout that inputs are drawn by.
        configured: by named axis, the length that the configuration and the samples say; traced lengths all differ.
        ranges: by named axis, the lengths that the eager model takes.
        further: by named axis, lengths to compare at beyond those beside the traced one, as far as time permits.
        switches: by named axis, lengths beyond which the model may compute otherwise, as the configuration or the
            model's own comparisons of sizes say.
        joint: lengths of two axes at which its comparisons of sizes turn out otherwise than at either length alone.
        patch: the edge of the patches that pictures are cut into.
        fixed: axes with one length, of which the eager model takes others.
        eager_axes: by input, the axes as eager takes them, where some are fixed that it takes several lengths of.
        ignored: inputs that its tokenizer may pass and that change no output.
        given: the user's samples.
        real: inputs from the model's processor, if it has one.
        decoder: its interface as a decoder with a cache, where it is to generate.
        caches: keys of eager's answers that hold caches for generation; without `decoder` they are left out.
        remarks: further notes for the report.
    """

    task: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    structure: Structure
    layout: Layout
    given: ArrayMapping
    ignored: tuple[str, ...] = ()
    real: Arrays | None = None
    ranges: Mapping[str, AxisRange] = field(default_factory=dict)
    configured: Mapping[str, int] = field(default_factory=dict)
    further: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    switches: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    joint: tuple[Mapping[str, int], ...] = ()
    patch: int = 1
    fixed: tuple[FixedAxis, ...] = ()
    eager_axes: Mapping[str, tuple[int | str, ...]] = field(default_factory=dict)
    decoder: DecoderSignature | None = None
    caches: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes that may vary."""
        return self.layout.axes

    @property
    def longest_text(self) -> int | None:
        """The greatest number of positions of the text that a model generates; None: unknown."""
        behind = self.decoder is not None and self.decoder.encoder is not None
        own = behind and "decoder_sequence" in self.axes
        found = self.ranges.get("decoder_sequence" if own else "sequence")
        return found.greatest if found is not None else None

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on the comparison and on the answers for the report."""
        found = list(self.remarks)
        if self.layout.steady:
            names = ", ".join(sorted(self.layout.steady))
            found.insert(
                0, f"compared with the values of {names} in sample_inputs alone: eager takes no others of these"
            )
        if self.decoder is None and self.caches:
            found.append(f"answers have no {', '.join(self.caches)}: it runs as one forward pass, without a cache")
        return tuple(found)

    @property
    def sample(self) -> Arrays | None:
        """The user's own call in the inputs' types, if its samples are of all inputs and of lengths that are taken;
        None: there is none."""
        if not all(item.name in self.given for item in self.layout.inputs):
            return None
        found = {item.name: np.asarray(self.given[item.name], dtype=item.dtype) for item in self.layout.inputs}
        found = with_all_rows(found, self.layout)
        taken = _fits(found, self.layout) and all(_within(found, self.layout, *pair) for pair in self.ranges.items())
        return found if taken else None

    def noting(self, remark: str) -> ModelSignature:
        """Return the signature with one more note for the report."""
        return replace(self, remarks=(*self.remarks, remark))

    def without(self, outputs: Collection[str]) -> ModelSignature:
        """Return the signature without some outputs, each with the item of the answer that it is in."""
        if not outputs:
            return self
        dropped = {name.partition(".")[0] for name in outputs}
        kept = [pair for pair in zip(self.structure.keys, self.structure.items, strict=True) if pair[0] not in dropped]
        return replace(
            self,
            outputs=tuple(spec for spec in self.outputs if spec.name.partition(".")[0] not in dropped),
            structure=replace(
                self.structure, keys=tuple(key for key, _ in kept), items=tuple(item for _, item in kept)
            ),
        ).noting(f"calls give no {', '.join(sorted(dropped))}: generation does not read them")

    def draw(self, case: Case) -> Arrays:
        """Return inputs for a case."""
        return draw(self.layout, case, self.given)

    def pinned(self, axis: str, length: int) -> ModelSignature:
        """Return the signature with one axis fixed at a length."""
        layout = self.layout.pinned(axis, length)
        real = self.real
        if real is not None and any(
            real[item.name].shape[index] != length
            for item in self.layout.inputs
            for index, name in enumerate(item.axes)
            if name == axis
        ):
            real = None
        fix, parts = {axis: length}, self.decoder
        if parts is not None and parts.encoder is not None:
            drawn = draw(layout, Case(name="traced"), self.given)
            parts = replace(parts, encoder=parts.encoder.with_inputs(_fixed(parts.encoder.encoder.inputs, fix), drawn))
        return replace(
            self,
            layout=layout,
            decoder=parts,
            real=real,
            inputs=_fixed(self.inputs, fix),
            outputs=_fixed(self.outputs, fix),
            ranges={name: found for name, found in self.ranges.items() if name != axis},
            joint=tuple(lengths for lengths in self.joint if axis not in lengths),
            fixed=(*self.fixed, *fixed_axes(self.layout, layout, _NO_OTHER)),
        )

    def beside(self, axis: str) -> tuple[int, ...]:
        """Return two lengths of an axis other than the traced one, longer and shorter, both within its range."""
        here, found = self.layout.lengths[axis], self.ranges.get(axis, AxisRange())
        longer, shorter = lengths_beside(self.layout, axis)
        if found.greatest is not None:
            longer = min(longer if is_batch(axis) else 2 * here + 3, found.greatest)
        shorter = max(shorter, found.least)
        kept = [length for length in (longer, shorter) if length != here]
        return tuple(kept) or (here,)


def limited(
    signature: ModelSignature, axis: str, greatest: int, why: str, *, least: int | None = None
) -> ModelSignature:
    """Return the signature with an axis limited to at most `greatest` and at least `least`: no cases are drawn beyond,
    and a call beyond is refused with the reason.

    Args:
        why: a clause for the error ("the model switches its attention at 704 tokens, …").
    """
    known = signature.ranges.get(axis, AxisRange())
    greatest = min(greatest, known.greatest or greatest)
    found = replace(known, greatest=greatest, why=why)
    if least is not None and least > known.least:
        found = replace(found, least=least, why_least=why)
    layout = signature.layout
    limits = {**layout.limits, axis: min(layout.limits.get(axis, greatest), greatest)}
    further = tuple(length for length in signature.further.get(axis, ()) if found.least <= length <= greatest)
    return replace(
        signature,
        layout=replace(layout, limits=limits),
        ranges={**signature.ranges, axis: found},
        further={**signature.further, axis: further},
        joint=tuple(pair for pair in signature.joint if found.least <= pair.get(axis, found.least) <= greatest),
        real=signature.real if signature.real is None or _within(signature.real, layout, axis, found) else None,
    )


def _within(inputs: Arrays, layout: Layout, axis: str, found: AxisRange) -> bool:
    return all(
        found.least <= inputs[item.name].shape[index] <= (found.greatest or LONGEST)
        for item in layout.inputs
        for index, name in enumerate(item.axes)
        if name == axis
    )


def _fixed(specs: tuple[TensorSpec, ...], lengths: Mapping[str, int]) -> tuple[TensorSpec, ...]:
    return tuple(spec.at(lengths) for spec in specs)


@answers_kept()
def describe(
    module: Any, *, name: str, processor: Any = None, samples: Any = None, task: str | None = None
) -> ModelSignature:
    """Find the signature of a model by trial.

    Args:
        module: the eager model.
        name: its name in errors.
        processor: its tokenizer, image processor, …, if there is one.
        samples: the user's inputs; without them they are derived.

    Raises:
        SourceError: no derived inputs make the model run.
    """
    facts = facts_of(module, processor)
    arrays = user_samples.as_arrays(module, samples) if samples is not None else {}
    layouts = user_samples.layouts_that_may_fit(arrays, facts) if arrays else alternatives(facts)
    layout, output = first_that_runs(module, name, layouts, arrays)
    whole = {item.name for item in layout.inputs}
    layout = without_idle(module, layout, arrays)
    idle = whole - {item.name for item in layout.inputs}
    layout = tied(module, layout, arrays, lengths_beside)
    free = layout
    if arrays:
        layout = of_one_structure(module, layout, arrays, lengths_beside)
        output = ask_once(module, draw(layout, Case(name="first"), arrays))
    structural = fixed_axes(free, layout, _STRUCTURE)
    trials, patch = Trials(module=module, arrays=arrays), patch_of(facts.config)
    numbers = numbers_of(facts.config, processor)
    settled = settle(trials, layout, patch)
    ranges = reach(trials, settled, numbers)
    layout = _bounded(settled.layout, ranges)
    traced_output = ask_once(module, draw(layout, Case(name="traced"), arrays))
    elsewhere = list(_answers_elsewhere(module, layout, arrays))
    structure = agreed(f"model {name!r}", [output, traced_output, *(answer for _, answer in elsewhere)])
    values = {key: value_bounds(module, layout, arrays, key, known) for key, known in value_ranges(trials, layout)}
    values.update(float_limits(module, layout, arrays))
    switches = code_switches(module, layout, arrays, ranges)
    turns, shapes_at = switches.by_axis, {**settled.shapes, **switches.shapes}
    names, one_row = [item.name for item in layout.inputs], inputs_of_one_row(module, layout, arrays)
    ordered = inputs_kept_in_order(module, layout, arrays)
    specs = [_input_spec(trials, layout, item, values.get(item.name, ValueBounds())) for item in layout.inputs]
    if samples is not None and not getattr(module, "is_graph", False):
        _require_wide(specs, user_samples.in_16_bits(module, samples))
    sent = processed(processor, names, beside=facts.processed) if processor is not None else None
    real = {name: sent[name] for name in names} if sent is not None else None
    inputs = draw(layout, Case(name="ignored"), arrays)
    shapes = shapes_beside(inputs, (facts.processed | _SENT_ALONG) - idle, sent or {})
    return ModelSignature(
        task=task or tasks.detect(type(module).__name__),
        inputs=tuple(replace(spec, one_row=spec.name in one_row, contiguous=spec.name in ordered) for spec in specs),
        outputs=output_specs(module, layout, arrays, flatten(traced_output), shapes_at, elsewhere),
        structure=structure,
        layout=layout,
        given=arrays,
        ignored=tuple(sorted({*idle, *ignored_inputs(module, inputs, shapes)})),
        real=real if real is not None and _fits(real, layout) and _runs(module, real) else None,
        ranges=ranges,
        configured=settled.configured,
        further=further_lengths(settled, ranges, numbers, turns),
        switches={**turns, "sequence": (*turns.get("sequence", ()), *_configured_switches(numbers, ranges))},
        joint=switches.joint,
        patch=patch,
        fixed=(*structural, *settled.fixed),
        eager_axes={} if structural else settled.eager_axes,
        caches=tuple(dict.fromkeys((*caches_left_out(module), *caches(structure)))),
        remarks=tuple(_WRITES.format(name) for name in inputs_after(module, inputs)),
    )


def _configured_switches(numbers: ConfigNumbers, ranges: Mapping[str, AxisRange]) -> tuple[int, ...]:
    """Return lengths of texts beyond which the model may compute otherwise. The number of positions is one if the eager
    model takes more: rotary embeddings may then be scaled."""
    bounded = ranges.get("sequence", AxisRange()).greatest is not None
    return tuple(sorted({*numbers.switches, *(() if bounded else numbers.positions)}))


def _bounded(layout: Layout, ranges: Mapping[str, AxisRange]) -> Layout:
    """Return the layout with limits no greater than the lengths that the eager model takes."""
    found = {axis: known.greatest for axis, known in ranges.items() if known.greatest is not None}
    return replace(layout, limits={**layout.limits, **found})


def _input_spec(trials: Trials, layout: Layout, item: InputLayout, values: ValueBounds) -> TensorSpec:
    default, pad = default_of(trials, layout, item)
    sides = box_sides(trials, layout, item.name, values.least, values.greatest) if item.kind == "boxes" else None
    skipped = skipped_value(trials, layout, item, values.least)
    return TensorSpec(
        name=item.name,
        dtype=item.dtype,
        shape=item.axes,
        default=default,
        pad=pad,
        least=values.least,
        greatest=values.greatest,
        least_by=values.least_by,
        greatest_by=values.greatest_by,
        least_ratio=values.least_ratio,
        greatest_ratio=values.greatest_ratio,
        sides=sides,
        columns=values.columns,
        exact=follows_type(trials.module, layout, item, trials.arrays),
        skipped=skipped,
        all_skipped=skipped is not None and all_may_be_skipped(trials, layout, item.name, skipped),
        nonfinite=not np.isfinite(trials.arrays.get(item.name, 0.0)).all(),
    )


def _require_wide(specs: Sequence[TensorSpec], narrow: Iterable[tuple[str, str]]) -> None:
    """Refuse samples of 16 bits to whose type the model's answers adapt: what is exported takes 32."""
    exact = {spec.name: spec.dtype for spec in specs if spec.exact}
    for name, dtype in narrow:
        if name in exact:
            raise OptionError(
                f"sample input {name!r}",
                f"it is {dtype}, and the model's answers follow its type, while {exact[name]} is exported",
                f"pass it as {exact[name]}, here and in calls, or go on with the model itself",
            )


def _answers_elsewhere(
    module: Any, layout: Layout, arrays: Mapping[str, Any]
) -> Iterator[tuple[Mapping[str, int], Any]]:
    """Yield the model's outputs for other values, and at other lengths of all axes at once, if it takes them; each with
    these lengths.

    Containers and numbers in the outputs must depend on neither.
    """
    places = [{axis: lengths_beside(layout, axis)[place] for axis in layout.axes} for place in (0, 1)]
    cases = (Case(name="other values", seed=1), *(Case(name="elsewhere", lengths=lengths) for lengths in places))
    for case in cases:
        try:
            yield {**layout.lengths, **case.lengths}, ask_once(module, draw(layout, case, arrays))
        except Exception as error:  # noqa: BLE001 - the model has limits of its own
            log.debug("%s, lengths %s: %r", case.name, dict(case.lengths), error)


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
