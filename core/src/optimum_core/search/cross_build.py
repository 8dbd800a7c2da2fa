"""Builds for another machine: nothing is measured, and only what this machine can run or evaluate is checked.

If the backend can evaluate its format without the device, that evaluation is compared with the eager model ("graph").
If it cannot, the input of its compiler is compared, on a backend that runs or evaluates that here, in the precision
that it is written in.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from optimum_core.errors import OptimumError, OptionError, ResourceError, UnavailableError, VerificationError
from optimum_core.plan import FLOATS, FULL_PRECISION
from optimum_core.quantization_goal import QuantizationGoal
from optimum_core.search.candidate import Candidate
from optimum_core.search.context import SearchContext, SearchResult
from optimum_core.search.quantized.data import QuantizationData
from optimum_core.search.spec import CandidateSpec
from optimum_core.search.trial import failing
from optimum_core.types import Artifact, Fidelity, Hardware, QuantizeConfig, Report, Session, SessionRequest, Support
from optimum_core.verify import ReferenceCase, verify
from optimum_core.verify.quantized import verify_quantized


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossBuild:
    """A search whose target runs on another machine.

    Attributes:
        context: its specs are those for that target, in the order in which they are tried.
        supports: the results of the probes, to find a backend that runs the input of the last step.
        goal, data: set if the model is to be quantized too.
    """

    context: SearchContext
    supports: Mapping[str, Support]
    goal: QuantizationGoal | None = None
    data: QuantizationData | None = None


def cross_build(task: CrossBuild) -> SearchResult:
    """Build and return the first candidate that is correct as far as this machine can tell.

    Raises:
        OptionError: every spec needs calibration data, and there is none.
        VerificationError: no candidate is correct; the message has the table of those tried.
        ResourceError: none could be built, for a temporary reason.
    """
    context, start = task.context, time.perf_counter()
    specs = _buildable(task)
    tried: list[Candidate] = []
    for spec in specs:
        candidate = Candidate(spec=spec, signature=context.signature)
        tried.append(candidate)
        # An invalid option fails for every other candidate too.
        with failing(candidate, passed_on=() if task.goal else (OptionError,)):
            _build_and_check(task, candidate)
        if candidate.outcome == "chosen":
            check = context.references.drawn(context.signature)[0]
            return _result(task, tried, check, time.perf_counter() - start)
    rows = "\n".join(f"    {item.spec.name}: {item.problem}" for item in tried)
    who = f"model {context.source.name!r}"
    if any(item.failed_transiently for item in tried):
        raise ResourceError(who, f"nothing could be built for a temporary reason:\n{rows}", "make room, and try again")
    raise VerificationError(
        who,
        f"nothing that was built for {context.specs[0].way.backend} is right as far as this machine can tell:\n{rows}",
        _remedy(context.specs[0].way.precision),
    )


def _remedy(precision: str) -> str:
    report = "pass sample_inputs= like your own calls, or report this table"
    narrow = f"not every model stands {precision}: leave out precision={precision!r}, or ask for another; or "
    return report if precision == FULL_PRECISION else narrow + report


def _buildable(task: CrossBuild) -> tuple[CandidateSpec, ...]:
    """Return the specs whose calibration data is available."""
    specs = tuple(_specs(task))
    given = task.data is not None and task.data.calibration is not None
    found = tuple(spec for spec in specs if given or spec.config is None or not spec.config.calibrates)
    if specs and not found:
        raise OptionError(
            "calibration",
            f"{specs[0].way.scheme} finds ranges on typical inputs, and there are none; made-up ones would be wrong",
            "pass calibration=, a few hundred texts or inputs",
        )
    return found


def _specs(task: CrossBuild) -> Iterator[CandidateSpec]:
    """Yield the context's specs with their quantization configurations.

    If the configuration is left open, 4 bits come also in the form that no runtime has as its own (QDQ), and 8 bits
    with signed activations, which GPUs multiply.
    """
    for spec in task.context.specs:
        if spec.way.scheme is None:
            yield spec
        elif task.goal is not None:
            config = task.goal.config or QuantizeConfig.named(spec.way.scheme)
            yield replace(spec, config=config)
            if task.goal.config is None and config.weights == "int4":
                yield replace(spec, config=replace(config, form="qdq", symmetric=True))
            if task.goal.config is None and config.name == "static-int8":
                yield replace(spec, config=replace(config, activations="int8", symmetric=True))


def _build_and_check(task: CrossBuild, candidate: Candidate) -> None:
    context, trials, references = task.context, task.context.trials, task.context.references
    trials.build(candidate)
    if not context.verify:
        candidate.outcome, candidate.problem = "chosen", "built; not compared with eager, as asked"
        return
    with _checkable(task, candidate) as (precision, where):
        cases = references.taken(candidate.session, candidate.signature, references.drawn(candidate.signature))

        def by(item: Candidate, asked: tuple[ReferenceCase, ...]) -> Fidelity:
            return replace(_compared(task, item, precision, asked), level="graph")

        trials.compare(candidate, cases, by)
    if candidate.outcome == "slower":
        candidate.outcome = "chosen"
        candidate.problem = f"built, checked at graph level ({where}), not run on the device"


@contextmanager
def _checkable(task: CrossBuild, candidate: Candidate) -> Iterator[tuple[str, str]]:
    """Open the artifact that this machine can run in the candidate's place; yield its precision and its description."""
    context, spec, artifact = task.context, candidate.spec, candidate.artifact
    assert artifact is not None
    if spec.way.proof == "graph":
        context.trials.open(candidate, context.builder.session_request(spec, artifact))
        precision, where = (
            spec.way.precision,
            f"the {artifact.format} evaluated by {spec.way.backend}, not by its runtime",
        )
    else:
        read = artifact.compiled_from or context.builder.before_last(spec, candidate.signature)
        session = _open_here(task, candidate, read)
        compiled = artifact.compiled_from is not None
        other = "" if compiled or read.precision == spec.way.precision or spec.config else f", in {read.precision}"
        what = "that it is compiled from" if compiled else f"that goes into it{other}"
        precision, where = read.precision, f"the {read.format} {what}, run by {session.backend}"
    try:
        yield precision, where
    finally:
        candidate.close()


def _open_here(task: CrossBuild, candidate: Candidate, artifact: Artifact) -> Session:
    """Open an artifact in the candidate's place, by the first backend on this machine that can.

    Raises:
        UnavailableError: no backend here runs its format.
        OptimumError: every backend that runs the format refuses the artifact; the last one's reason.
    """
    problem: OptimumError = UnavailableError(
        f"checking {artifact.format}",
        "no backend here runs it, so that nothing can be proved of what is built from it",
        f"install one that loads {artifact.format!r} (see `optimum-core plugins`), or pass verify=False",
    )
    for request in runners(artifact, task.supports, task.context.builder.hardware):
        try:
            return task.context.trials.open(candidate, request)
        except OptimumError as error:
            problem = error
    raise problem


def runners(artifact: Artifact, supports: Mapping[str, Support], hardware: Hardware) -> Iterator[SessionRequest]:
    """Yield requests for the backends that run an artifact on a device of this machine (fast) or evaluate its graph.

    A device may compute 16 bits in higher precision, and hide an overflow; its 8-bit products may overflow where those
    of the target do not. So evaluators come first for all but fp32, and they alone are used for 16 bits.
    """
    offers = [(name, offer) for name in sorted(supports) for offer in supports[name].offers]
    if artifact.precision == FULL_PRECISION:
        proofs: tuple[str, ...] = ("device", "graph")
    else:
        proofs = ("graph",) if artifact.precision in FLOATS else ("graph", "device")
    for proof in proofs:
        for name, offer in offers:
            if offer.proof == proof and artifact.format in offer.loads and offer.precisions[0] == FULL_PRECISION:
                yield SessionRequest(backend=name, artifact=artifact, device=offer.device, hardware=hardware)


def _compared(task: CrossBuild, candidate: Candidate, precision: str, cases: tuple[ReferenceCase, ...]) -> Fidelity:
    run, outputs = candidate.run, candidate.signature.outputs
    assert run is not None
    if candidate.spec.config is None:
        return verify(run, cases, outputs, precision=precision)
    unseen = task.data.unseen if task.data else ()
    return verify_quantized(run, cases, unseen, outputs, precision=candidate.spec.precision)


def _result(task: CrossBuild, tried: list[Candidate], check: ReferenceCase, seconds: float) -> SearchResult:
    context, winner = task.context, tried[-1]
    report = Report(
        model=context.source.name,
        task=context.signature.task,
        workload=(),
        candidates=(winner.result(brief=False), *(item.result() for item in tried[:-1])),
        objective=context.objective,
        seconds=seconds,
        notes=(f"built for another machine: {winner.problem}", *(axis.note for axis in winner.signature.fixed)),
        fixed=winner.signature.fixed,
        settled=not any(item.failed_transiently for item in tried),
    )
    return SearchResult(winner=winner, report=report, check=check, tried=tuple(tried))
