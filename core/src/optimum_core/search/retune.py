"""Choice of backend, device and precision for a saved artifact on a machine that it was not tuned on.

Neither the original model nor torch is needed: the artifact carries one call and the eager model's outputs for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from optimum_core.artifact import Manifest
from optimum_core.errors import UnavailableError, VerificationError
from optimum_core.hardware import detect
from optimum_core.measure import Effort, score
from optimum_core.measure.cpu_load import other_load
from optimum_core.measure.workload import (
    Limits,
    WorkloadShape,
    WorkShape,
    encoder_decoder_workload,
    generation_workload,
    tuned_for,
    workload,
)
from optimum_core.models.inputs.samples import Case
from optimum_core.plan import AUTO, DOUBLE, FLOATS, Way
from optimum_core.plugins import PluginManager
from optimum_core.search.candidate import Candidate
from optimum_core.search.race import disturbance
from optimum_core.search.spec import CandidateSpec
from optimum_core.search.trial import TrialRunner, failing, tolerance_precision
from optimum_core.types import AxisRange, Fidelity, Report, SessionRequest, TensorSpec
from optimum_core.types.arrays import Arrays
from optimum_core.types.quantization import Scheme
from optimum_core.types.requests import concurrent
from optimum_core.types.state import ENCODER, MERGE
from optimum_core.verify import ReferenceCase, verify
from optimum_core.verify.carried_call import read_check
from optimum_core.verify.quantized import verify_quantized

#: The level of a candidate with the artifact's own session options.
_TUNED = "as it was tuned"


@dataclass(frozen=True, kw_only=True, slots=True)
class CarriedCall:
    """The call that an artifact carries, with the interface of a signature that a trial draws inputs from."""

    manifest: Manifest
    check: ReferenceCase

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self.manifest.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self.manifest.outputs

    @property
    def given(self) -> Mapping[str, Any]:
        return self.check.inputs

    @property
    def ranges(self) -> Mapping[str, AxisRange]:
        return self.manifest.axes

    def draw(self, case: Case) -> Arrays:
        """Return the carried call's values at other lengths, repeated or cut along the axes that vary."""
        arrays = {}
        for spec in self.manifest.inputs:
            array = self.check.inputs[spec.name]
            for axis, name in spec.dynamic_axes.items():
                length = case.lengths.get(name, array.shape[axis])
                array = np.take(array, np.arange(length) % array.shape[axis], axis=axis)
            arrays[spec.name] = np.ascontiguousarray(array)
        return arrays


def retune(
    manifest: Manifest,
    directory: Path,
    plugins: PluginManager,
    *,
    precision: str,
    shapes: Sequence[WorkloadShape] | None,
) -> Manifest:
    """Find the best backend, device and precision of this machine; return the manifest with them and a report.

    Args:
        precision: "auto" lets every float precision compete.
        shapes: the workload, perhaps with the number of calls of each; None: the default.

    Raises:
        VerificationError: no backend here reproduces the eager model's outputs.
        UnavailableError: its texts have places for pictures or sound, and none can be drawn at other lengths.
    """
    if MERGE in manifest.parts:
        raise UnavailableError(
            f"retune of model {manifest.model.name!r}",
            "its texts have as many places as their pictures fill, and cannot be drawn at other lengths",
            "load it without retune, or accelerate the original on this machine",
        )
    call = CarriedCall(manifest=manifest, check=read_check(manifest, directory))
    work = _workload(manifest, shapes)
    trials = TrialRunner(plugins=plugins, workload=lambda _: work, emit=lambda event: None)
    ways = list(_ways(manifest, plugins, precision))
    tried = [_tried(trials, call, directory, CandidateSpec(way=way)) for way in ways]
    tried += [_tried(trials, call, directory, spec) for spec in _as_tuned(manifest, ways)]
    try:
        return _decided(trials, call, tried, work)
    finally:
        for candidate in tried:
            candidate.close()


def _workload(manifest: Manifest, shapes: Sequence[WorkloadShape] | None) -> tuple[WorkShape, ...]:
    """Return the shapes to measure at: texts to write, for a model that generates."""
    limits, parts = Limits.of(manifest.axes), manifest.parts
    if not parts:
        return workload(shapes, manifest.inputs, limits)
    axis = "decoder_sequence" if ENCODER in parts and "decoder_sequence" in manifest.axes else "sequence"
    longest = limits.greatest.get(axis)
    if ENCODER in parts:
        return encoder_decoder_workload(shapes, parts[ENCODER].inputs, limits, longest)
    return generation_workload(shapes, longest)


def _ways(manifest: Manifest, plugins: PluginManager, precision: str) -> Iterator[Way]:
    for name, support in plugins.supports(detect()).items():
        for offer in support.offers:
            runs = manifest.format in offer.loads and manifest.quantized in (None, *offer.runs)
            for one in offer.precisions if runs and offer.proof == "device" else ():
                if one == precision or (precision == AUTO and one in FLOATS):
                    yield Way(
                        backend=name, device=offer.device, precision=one, format=manifest.format,
                        exported=manifest.format,
                    )  # fmt: skip


def _as_tuned(manifest: Manifest, ways: Sequence[Way]) -> Iterator[CandidateSpec]:
    """Yield the artifact's own settings, where these are more than a backend's defaults: the choice is never slower."""
    if not (manifest.session_options or manifest.prepared or manifest.streams > 1):
        return
    for way in ways:
        if (way.backend, way.device, way.precision) == (manifest.backend, manifest.device, manifest.precision):
            yield CandidateSpec(way=way, streams=manifest.streams, prepared=bool(manifest.prepared), level=_TUNED)


def _tried(trials: TrialRunner, call: CarriedCall, directory: Path, spec: CandidateSpec) -> Candidate:
    candidate = Candidate(spec=spec, signature=call, artifact=call.manifest.artifact(directory))
    with failing(candidate):
        trials.open(candidate, _request(candidate))
        trials.compare(candidate, (call.check,), _by_manifest)
    return candidate


def _request(candidate: Candidate) -> SessionRequest:
    way, manifest = candidate.spec.way, candidate.signature.manifest
    assert candidate.artifact is not None
    request = SessionRequest(
        backend=way.backend, artifact=candidate.artifact, device=way.device, hardware=detect(), precision=way.precision
    )
    if candidate.spec.level != _TUNED:
        return request
    return replace(
        request, streams=concurrent(manifest.streams), shapes=manifest.prepared, options=manifest.session_options
    )


def _by_manifest(candidate: Candidate, cases: tuple[ReferenceCase, ...]) -> Fidelity:
    manifest, run = candidate.signature.manifest, candidate.run
    assert run is not None
    if manifest.quantized is None:
        was_double = manifest.fidelity is not None and manifest.fidelity.precision == DOUBLE
        return verify(
            run, cases, manifest.outputs, precision=tolerance_precision(candidate.spec.way, is_double=was_double)
        )
    return verify_quantized(run, (), cases, manifest.outputs, precision=Scheme.parse(manifest.quantized).weights)


def _decided(
    trials: TrialRunner, call: CarriedCall, tried: Sequence[Candidate], work: tuple[WorkShape, ...]
) -> Manifest:
    manifest, correct = call.manifest, [item for item in tried if item.is_correct]
    if not correct:
        rows = "\n".join(f"    {item.spec.name}: {item.problem}" for item in tried)
        raise VerificationError(
            f"artifact of {manifest.model.name!r}",
            f"nothing here runs it as eager did:\n{rows}",
            "accelerate the model on this machine",
        )
    trials, work = _timed_where_taken(trials, correct, work)
    with other_load(detect().cpu.usable_cores) as load:
        trials.time(correct, Effort())
    winner = min(correct, key=lambda item: score(item.measurements))
    for item in correct:
        item.behind = score(item.measurements) / score(winner.measurements)
    winner.outcome, winner.behind, winner.problem = "chosen", None, "fastest on this machine"
    way, kept = winner.spec.way, winner.spec.level == _TUNED
    return replace(
        manifest,
        backend=way.backend,
        device=way.device,
        precision=way.precision,
        session_options=manifest.session_options if kept else {},
        prepared=manifest.prepared if kept else (),
        streams=manifest.streams if kept else 1,
        hardware=detect(),
        report=_report(manifest, winner, tried, work, disturbance(correct, load.cores, Effort())),
    )


def _report(
    manifest: Manifest, winner: Candidate, tried: Sequence[Candidate], work: tuple[WorkShape, ...], disturbed: str
) -> Report:
    fixed = manifest.report.fixed if manifest.report is not None else ()
    return Report(
        model=manifest.model.name,
        task=manifest.task,
        workload=tuple(shape.name for shape in work),
        candidates=tuple(
            item.result() for item in sorted(tried, key=lambda item: (item is not winner, score(item.measurements)))
        ),
        notes=(
            *(axis.note for axis in fixed),
            *filter(None, [tuned_for(work)]),
            *([f"the machine was busy while candidates were timed: {disturbed}"] if disturbed else []),
        ),
        fixed=fixed,
    )


def _timed_where_taken(
    trials: TrialRunner, correct: Sequence[Candidate], work: tuple[WorkShape, ...]
) -> tuple[TrialRunner, tuple[WorkShape, ...]]:
    """Return a runner and the shapes of the workload that all sessions take; if none, the shape of the carried call."""
    lengths = [taken for item in correct if (taken := getattr(item.session, "lengths", None)) is not None]
    fitting = tuple(shape for shape in work if all(taken.takes(shape.lengths) for taken in lengths))
    found = fitting or (WorkShape(name="as carried", lengths={}),)
    return replace(trials, workload=lambda _: found), found
