"""A saved artifact on a machine that it was not tuned on: which backend, device and precision run it best here.

Neither the original model nor torch is needed: the artifact carries one call and what eager made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from optimum_core.artifact import Manifest
from optimum_core.errors import OptimumError, VerificationError
from optimum_core.hardware import detect
from optimum_core.measure import Contestant, measure, score
from optimum_core.measure.stopwatch import first_line
from optimum_core.measure.workload import Shape, WorkShape, workload
from optimum_core.plan import AUTO, FLOATS
from optimum_core.plugins import PluginManager
from optimum_core.types import CandidateResult, Fidelity, Measurement, Report, Session, SessionRequest
from optimum_core.verify import ReferenceCase, verify
from optimum_core.verify.carried import read_check
from optimum_core.verify.quantized import verify_quantized

Run = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def retune(
    manifest: Manifest, directory: Path, plugins: PluginManager, *, precision: str, shapes: Sequence[Shape] | None
) -> Manifest:
    """The manifest with the best backend, device and precision of this machine in it, and a report of the choice.

    Args:
        precision: "auto" lets every float precision compete.
        shapes: the workload; None: the default.

    Raises:
        VerificationError: nothing here runs it as eager did.
    """
    check = read_check(manifest, directory)
    work = workload(shapes, manifest.inputs, {})
    found = [_tried(manifest, directory, plugins, check, *way) for way in _ways(manifest, plugins, precision)]
    true = [(result, session, run) for result, session, run in found if session is not None and run is not None]
    if not true:
        rows = "\n".join(f"    {result.name}: {result.reason}" for result, _, _ in found)
        raise VerificationError(
            f"artifact of {manifest.model.name!r}",
            f"nothing here runs it as eager did:\n{rows}",
            "accelerate the model on this machine",
        )
    try:
        contestants = {
            result.name: Contestant(calls=[_call(run, _resized(check, manifest, shape)) for shape in work])
            for result, _, run in true
        }
        timed = measure(contestants, work)
    finally:
        for _, session, _ in true:
            session.close()
    return _decided(manifest, [result for result, _, _ in found], timed, work)


def _ways(manifest: Manifest, plugins: PluginManager, precision: str) -> Iterator[tuple[str, str, str]]:
    for name, support in plugins.supports(detect()).items():
        for offer in support.offers:
            if (
                manifest.format not in offer.loads
                or offer.proof != "device"
                or manifest.quantized not in (None, *offer.runs)
            ):
                continue
            for one in offer.precisions:
                if one == precision or (precision == AUTO and one in FLOATS):
                    yield name, offer.device, one


def _tried(
    manifest: Manifest,
    directory: Path,
    plugins: PluginManager,
    check: ReferenceCase,
    backend: str,
    device: str,
    precision: str,
) -> tuple[CandidateResult, Session | None, Run | None]:
    result = CandidateResult(
        name=f"{manifest.format} → {backend} {device}, {precision}",
        backend=backend,
        device=device,
        precision=precision,
        outcome="failed",
        reason="",
    )
    try:
        session = plugins.load_session(
            SessionRequest(
                backend=backend,
                artifact=manifest.artifact(directory),
                device=device,
                hardware=detect(),
                precision=precision,
            )
        )
    except OptimumError as error:
        return replace(result, reason=first_line(error)), None, None
    run = plugins.binder(session)
    fidelity = _verified(run, check, manifest, precision)
    if not fidelity.passed:
        session.close()
        return replace(result, outcome="wrong", reason=_problem(fidelity), fidelity=fidelity), None, None
    return replace(result, outcome="slower", fidelity=fidelity), session, run


def _verified(run: Run, check: ReferenceCase, manifest: Manifest, precision: str) -> Fidelity:
    if manifest.quantized is None:
        return verify(run, (check,), manifest.outputs, precision=precision)
    weights = manifest.quantized.rpartition("-")[2]
    return verify_quantized(run, (), (check,), manifest.outputs, precision=weights)


def _problem(fidelity: Fidelity) -> str:
    return fidelity.worst.problem if fidelity.worst else "nothing was compared"


def _call(run: Run, inputs: Mapping[str, Any]) -> Callable[[], object]:
    return lambda: run(inputs)


def _resized(check: ReferenceCase, manifest: Manifest, shape: WorkShape) -> dict[str, Any]:
    """The carried call's values at another shape, repeated or cut along the axes that vary."""
    arrays = {}
    for spec in manifest.inputs:
        array = check.inputs[spec.name]
        for axis, name in spec.dynamic_axes.items():
            length = shape.lengths.get(name, array.shape[axis])
            array = np.take(array, np.arange(length) % array.shape[axis], axis=axis)
        arrays[spec.name] = np.ascontiguousarray(array)
    return arrays


def _decided(
    manifest: Manifest,
    results: Sequence[CandidateResult],
    timed: Mapping[str, tuple[Measurement, ...]],
    work: Sequence[WorkShape],
) -> Manifest:
    best = min(timed, key=lambda name: score(timed[name]))
    listed = []
    for result in results:
        if result.name in timed:
            ratio = score(timed[result.name]) / score(timed[best])
            chosen = result.name == best
            result = replace(
                result,
                outcome="chosen" if chosen else "slower",
                reason="fastest on this machine" if chosen else f"{ratio:.2f} times the time of the chosen",
                measurements=timed[result.name],
            )
        listed.append(result)
    listed.sort(key=lambda item: (item.outcome != "chosen", score(item.measurements)))
    report = Report(
        model=manifest.model.name,
        task=manifest.task,
        workload=tuple(shape.name for shape in work),
        candidates=tuple(listed),
    )
    winner = listed[0]
    return replace(
        manifest,
        backend=winner.backend,
        device=winner.device,
        precision=winner.precision,
        session_options={},
        prepared=(),
        hardware=detect(),
        report=report,
    )
