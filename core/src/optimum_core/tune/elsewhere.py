"""Building for a machine that is not this one: nothing is measured, and what is checked is what can be checked here.

Where the backend evaluates its format in some other way than the device does, that is compared with eager ("graph").
Where it cannot, what its compiler read is compared, on whoever here runs or evaluates that, in the precision that it is
written in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from optimum_core.errors import OptimumError, OptionError, UnavailableError, VerificationError
from optimum_core.measure.stopwatch import first_line, watched
from optimum_core.plan import EXACT, FLOATS
from optimum_core.quantization import Wish
from optimum_core.tune.candidates import Candidate, Entry
from optimum_core.tune.evidence import Evidence
from optimum_core.tune.job import Job, Tuned
from optimum_core.types import Artifact, Fidelity, Hardware, QuantizeConfig, Report, Session, SessionRequest, Support
from optimum_core.verify import ReferenceCase, verify
from optimum_core.verify.quantized import verify_quantized
from optimum_core.verify.reference import cases_taken, reference_cases

Run = Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Elsewhere:
    """A job whose target runs on another machine.

    Attributes:
        job: its entries are those that lead there, in the order in which they are tried.
        supports: the probes' answers, to find who runs what goes into the last step.
        wish, evidence: where the model is to be quantized too.
    """

    job: Job
    supports: Mapping[str, Support]
    wish: Wish | None = None
    evidence: Evidence | None = None


def build_elsewhere(task: Elsewhere) -> Tuned:
    """The first candidate that is right as far as this machine can tell.

    Raises:
        OptionError: all that could be built finds ranges on data, and there is none.
        VerificationError: none is; the message has the table of what was tried.
    """
    job, start = task.job, time.perf_counter()
    entries = _buildable(task)
    cases = reference_cases(job.source.module(), job.blueprint)
    tried: list[Candidate] = []
    for entry in entries:
        candidate = Candidate(entry=entry, blueprint=job.blueprint)
        tried.append(candidate)
        try:
            _build_and_check(task, candidate, cases)
        except OptionError as error:
            if task.wish is None:
                raise  # what was asked for makes no sense: no other candidate can mend that
            candidate.problem = first_line(error)
        except OptimumError as error:
            candidate.problem = first_line(error)
        if candidate.outcome == "chosen":
            return _tuned(task, tried, cases[0], time.perf_counter() - start)
    rows = "\n".join(f"    {item.entry.name}: {item.problem}" for item in tried)
    raise VerificationError(
        f"model {job.source.name!r}",
        f"nothing that was built for {job.entries[0].way.backend} is right as far as this machine can tell:\n{rows}",
        _remedy(job.entries[0].way.precision),
    )


def _remedy(precision: str) -> str:
    report = "pass sample_inputs= like your own calls, or report this table"
    narrow = f"not every model stands {precision}: leave out precision={precision!r}, or ask for another; or "
    return report if precision == EXACT else narrow + report


def _buildable(task: Elsewhere) -> tuple[Entry, ...]:
    """The entries that have the data that they need."""
    entries = tuple(_entries(task))
    given = task.evidence is not None and task.evidence.calibration is not None
    found = tuple(entry for entry in entries if given or entry.config is None or not entry.config.calibrates)
    if entries and not found:
        raise OptionError(
            "calibration",
            f"{entries[0].way.scheme} finds ranges on typical inputs, and there are none; made-up ones would be wrong",
            "pass calibration=, a few hundred texts or inputs",
        )
    return found


def _entries(task: Elsewhere) -> Iterator[Entry]:
    """The job's, with their configurations.

    Where that is left open, 4 bits also in the form that is nobody's own, and 8 with signed activations, which GPUs
    multiply.
    """
    for entry in task.job.entries:
        if entry.way.scheme is None:
            yield entry
        elif task.wish is not None:
            config = task.wish.config or QuantizeConfig.named(entry.way.scheme)
            yield replace(entry, config=config)
            if task.wish.config is None and config.weights == "int4":
                yield replace(entry, config=replace(config, form="qdq", symmetric=True))
            if task.wish.config is None and config.name == "static-int8":
                yield replace(entry, config=replace(config, activations="int8", symmetric=True))


def _build_and_check(task: Elsewhere, candidate: Candidate, cases: tuple[ReferenceCase, ...]) -> None:
    job, entry = task.job, candidate.entry
    start = time.perf_counter()
    candidate.artifact = job.builder.build(entry, job.blueprint)
    candidate.build_seconds = time.perf_counter() - start
    candidate.size = job.builder.size(candidate.artifact)
    if not job.verify:
        candidate.outcome, candidate.problem = "chosen", "built; not compared with eager, as asked"
        return
    with (
        _checkable(task, candidate) as (session, precision, where),
        watched(job.emit, "verify", f"{entry.name}, {where}") as stage,
    ):
        taken = cases_taken(session, job.source.module(), candidate.blueprint, cases)
        found = _compared(task, candidate, job.plugins.binder(session), precision, taken)
        candidate.fidelity = replace(found, level="graph")
        worst = candidate.fidelity.worst
        if candidate.fidelity.passed:
            candidate.outcome = "chosen"
            candidate.problem = f"built, checked at graph level ({where}), not run on the device"
        elif worst is not None:
            candidate.outcome = "wrong"
            candidate.problem = stage.problem = f"{worst.case}, {worst.output}: {worst.problem}"


@contextmanager
def _checkable(task: Elsewhere, candidate: Candidate) -> Iterator[tuple[Session, str, str]]:
    """What can be run here in the candidate's place, the precision that it computes in, and in words what it is."""
    job, entry, artifact = task.job, candidate.entry, candidate.artifact
    assert artifact is not None
    if entry.way.proof == "graph":
        session, precision = job.builder.open(entry, artifact, ()), entry.way.precision
        where = f"the {artifact.format} evaluated by {entry.way.backend}, not by its runtime"
    elif artifact.compiled_from is not None:
        read = artifact.compiled_from
        session, precision = _opened(task, read), read.precision
        where = f"the {read.format} that it is compiled from, run by {session.backend}"
    else:
        before = job.builder.before_last(entry, job.blueprint)
        session, precision = _opened(task, before), before.precision
        other = "" if precision == entry.way.precision or entry.config else f", in {precision}"
        where = f"the {before.format} that goes into it{other}, run by {session.backend}"
    try:
        yield session, precision, where
    finally:
        session.close()


def _opened(task: Elsewhere, artifact: Artifact) -> Session:
    """A session of the first backend on this machine that opens an artifact.

    Raises:
        UnavailableError: nobody runs its format.
        OptimumError: all who do refuse it; the last one's reason.
    """
    problem: OptimumError = UnavailableError(
        f"checking {artifact.format}",
        "no backend here runs it, so that nothing can be proved of what is built from it",
        f"install one that loads {artifact.format!r} (see `optimum-core plugins`), or pass verify=False",
    )
    for request in runners(artifact, task.supports, task.job.builder.hardware):
        try:
            return task.job.plugins.load_session(request)
        except OptimumError as error:
            problem = error
    raise problem


def runners(artifact: Artifact, supports: Mapping[str, Support], hardware: Hardware) -> Iterator[SessionRequest]:
    """Who runs an artifact on a device of this machine, which is fast, and who evaluates it as it is written.

    A device may compute 16 bits in more, and hide what overflows; its products of 8 bits may overflow where the absent
    one's do not. So the evaluators come first for all but fp32, and there is nobody else for 16 bits.
    """
    offers = [(name, offer) for name in sorted(supports) for offer in supports[name].offers]
    if artifact.precision == EXACT:
        proofs: tuple[str, ...] = ("device", "graph")
    else:
        proofs = ("graph",) if artifact.precision in FLOATS else ("graph", "device")
    for proof in proofs:
        for name, offer in offers:
            if offer.proof == proof and artifact.format in offer.loads and offer.precisions[0] == EXACT:
                yield SessionRequest(backend=name, artifact=artifact, device=offer.device, hardware=hardware)


def _compared(
    task: Elsewhere, candidate: Candidate, run: Run, precision: str, cases: tuple[ReferenceCase, ...]
) -> Fidelity:
    entry, outputs = candidate.entry, candidate.blueprint.outputs
    if entry.config is None:
        return verify(run, cases, outputs, precision=precision)
    unseen = task.evidence.unseen if task.evidence else ()
    return verify_quantized(run, cases, unseen, outputs, precision=entry.precision)


def _tuned(task: Elsewhere, tried: list[Candidate], check: ReferenceCase, seconds: float) -> Tuned:
    job, winner = task.job, tried[-1]
    report = Report(
        model=job.source.name,
        task=job.blueprint.task,
        workload=(),
        candidates=(winner.result(brief=False), *(item.result() for item in tried[:-1])),
        objective=job.objective,
        seconds=seconds,
        notes=(f"built for another machine: {winner.problem}",),
    )
    return Tuned(winner=winner, report=report, check=check, tried=tuple(tried))
