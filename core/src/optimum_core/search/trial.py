"""The trial of a candidate, shared by all searches: build, open, compare with the eager model, time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optimum_core.errors import OptimumError, fault_of_the_moment
from optimum_core.generation.generator_workload import timed_call
from optimum_core.generation.model_session import GenerativeSession, open_session, run_function
from optimum_core.measure import Contestant, Effort, measure
from optimum_core.measure.stopwatch import Emit, one_line, watched, watched_memory
from optimum_core.measure.workload import WorkShape
from optimum_core.models.eager.threads import usual_threads
from optimum_core.models.inputs.samples import Case
from optimum_core.plan import DOUBLE, FLOATS, FULL_PRECISION, Way
from optimum_core.plugins import PluginManager
from optimum_core.search.candidate import Candidate
from optimum_core.search.child_run import run_in_child
from optimum_core.types import Fidelity, Session, SessionRequest
from optimum_core.verify import ReferenceCase, Run, verify
from optimum_core.verify.quantized import verify_quantized

if TYPE_CHECKING:  # they import torch, without which an artifact is tuned
    from optimum_core.models.references.eager_dialogues import PictureText
    from optimum_core.search.builder import Builder
    from optimum_core.verify.dialogues import Dialogue


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRunner:
    """Runner of the stages of a trial.

    Attributes:
        builder: builds and opens candidates; not needed for saved artifacts.
        workload: returns the shapes to time at.
        verify: False leaves the comparison out.
        held_to: the precision whose tolerance applies, if the model itself is quantized, a graph in 16 bits, or a
            model in 64.
    """

    plugins: PluginManager
    workload: Callable[[Any], tuple[WorkShape, ...]]
    emit: Emit
    builder: Builder | None = None
    verify: bool = True
    held_to: str | None = None

    def build(self, candidate: Candidate) -> None:
        """Build the candidate's artifact.

        Raises:
            OptimumError: a backend refuses or fails.
        """
        assert self.builder is not None
        start = time.perf_counter()
        candidate.artifact = self.builder.build(candidate.spec, candidate.signature)
        candidate.build_seconds = time.perf_counter() - start
        candidate.size = self.builder.size(candidate.artifact)

    def open(self, candidate: Candidate, request: SessionRequest | None = None) -> Session:
        """Open a session for the candidate, and record time and memory.

        Args:
            request: opens a saved artifact, or another one in place of the candidate's, which cannot run here.

        Raises:
            SessionError: it ends the process that runs it, seen in a child process.
            OptimumError: the backend cannot open it.
        """
        candidate.request = request or self._request(candidate)
        self._try_in_child(candidate)
        with watched(self.emit, "load", candidate.spec.name), watched_memory() as memory:
            start = time.perf_counter()
            candidate.session = open_session(self.plugins, candidate.request)
            candidate.load_seconds = time.perf_counter() - start
            candidate.run = run_function(self.plugins, candidate.session)
        own = candidate.size or 0 if candidate.spec.way.is_eager else 0  # its weights lay in memory before
        candidate.memory = memory.growth + own
        candidate.outcome = "slower"  # until the race chooses it
        return candidate.session

    def _try_in_child(self, candidate: Candidate) -> None:
        """Open a candidate that may end its process in a child first, and call it once."""
        if not self._opens_in_child(candidate):
            return
        assert self.builder is not None and candidate.request is not None
        if self.builder.is_crash_prone(candidate.spec):
            with watched(self.emit, "load", f"{candidate.spec.name}, in a process of its own"):
                shape = self.workload(candidate.signature)[0]
                run_in_child(candidate.request, [drawn_inputs(candidate.signature, shape)])

    def _request(self, candidate: Candidate) -> SessionRequest:
        assert self.builder is not None and candidate.artifact is not None
        shapes = [shape.lengths for shape in self.workload(candidate.signature)] if candidate.spec.prepared else []
        return self.builder.session_request(candidate.spec, candidate.artifact, shapes)

    def compare(
        self,
        candidate: Candidate,
        cases: tuple[ReferenceCase, ...],
        by: Callable[[Candidate, tuple[ReferenceCase, ...]], Fidelity] | None = None,
        dialogues: Sequence[Dialogue | PictureText] = (),
    ) -> None:
        """Compare the candidate with the eager model, and close it if it is wrong.

        Args:
            by: compares in place of the check by the precision's tolerance.
            dialogues: calls that continue from a cache, for a candidate that generates.

        Raises:
            SessionError: it ends the process that runs it, seen in a child process.
        """
        if not self.verify:
            return
        number = f"{len(cases)} case{'' if len(cases) == 1 else 's'}"
        with (
            watched(self.emit, "verify", f"{candidate.spec.name}: {number} against eager") as stage,
            watched_memory() as memory,
        ):
            wrong = self._wrong_in_child(candidate, cases)
            here = tuple(case for case in cases if not (case.refused and self._opens_in_child(candidate)))
            candidate.fidelity = wrong or (by or self._by_precision)(candidate, here)
            if dialogues and candidate.fidelity.passed and isinstance(candidate.session, GenerativeSession):
                from optimum_core.verify.dialogues import with_dialogues  # it imports torch, as eager's dialogues did

                candidate.fidelity = with_dialogues(candidate.fidelity, candidate.session.drives, dialogues)
            worst = candidate.fidelity.worst
            if not candidate.fidelity.passed:
                candidate.outcome = "wrong"
                candidate.problem = f"{worst.case}, {worst.output}: {worst.problem}" if worst else "nothing compared"
                candidate.close()
                stage.problem = candidate.problem
        candidate.memory = max(candidate.memory or 0, memory.growth)

    def _wrong_in_child(self, candidate: Candidate, cases: tuple[ReferenceCase, ...]) -> Fidelity | None:
        """Return the comparison of what a child process got from a risky candidate or call, if that is wrong already:
        calls that eager refuses end the process of some runtimes."""
        risky = tuple(case for case in cases if case.refused or candidate.may_crash)
        if not risky or not self._opens_in_child(candidate):
            return None
        assert candidate.request is not None
        replay = run_in_child(candidate.request, [case.inputs for case in risky])
        fidelity = self._by_precision(candidate, risky, replay)
        return None if fidelity.passed else fidelity

    def _opens_in_child(self, candidate: Candidate) -> bool:
        """Whether a child process can open the candidate: its backend is installed, and it is not eager."""
        request = candidate.request
        if self.builder is None or request is None or candidate.spec.way.is_eager:
            return False
        return self.plugins.is_installed(request.backend)

    def _by_precision(self, candidate: Candidate, cases: tuple[ReferenceCase, ...], run: Run | None = None) -> Fidelity:
        run, outputs, spec = run or candidate.run, candidate.signature.outputs, candidate.spec
        assert run is not None
        if self.held_to in FLOATS:
            return verify(run, cases, outputs, precision=self.held_to)
        if self.held_to == DOUBLE:
            return verify(run, cases, outputs, precision=tolerance_precision(spec.way, is_double=True))
        if self.held_to is not None:
            return verify_quantized(run, cases, (), outputs, precision=self.held_to, ties=True)
        if spec.config is not None:  # the quantized search compares values, on data of the model's
            return verify_quantized(run, cases, (), outputs, precision=spec.precision, binding=False)
        return verify(run, cases, outputs, precision=spec.way.precision)

    def time(self, candidates: Sequence[Candidate], effort: Effort, first: int | None = None) -> None:
        """Measure candidates side by side at every shape of the workload, or at so many of the first ones.

        Raises:
            OptimumError: a candidate does not run at some shape.
        """
        shapes = self.workload(candidates[0].signature)[:first]
        contestants = {
            str(number): Contestant(calls=_calls(item, shapes), streams=item.spec.streams)
            for number, item in enumerate(candidates)
        }
        with usual_threads():
            timed = measure(contestants, shapes, effort)
        for name, item in zip(contestants, candidates, strict=True):
            item.measurements = timed[name]


@contextmanager
def failing(candidate: Candidate, passed_on: tuple[type[OptimumError], ...] = ()) -> Iterator[None]:
    """Record an error of the block in the candidate, and close the candidate.

    Args:
        passed_on: errors that are raised, since they fail for every other candidate too.
    """
    try:
        yield
    except passed_on:
        candidate.close()
        raise
    except (OptimumError, OSError, MemoryError) as error:
        candidate.close()
        found = fault_of_the_moment(candidate.spec.name, error) or error
        if not isinstance(found, OptimumError):
            raise
        logging.getLogger(__name__).debug("%s failed", candidate.spec.name, exc_info=error)
        candidate.outcome, candidate.problem, candidate.error = "failed", one_line(found), found


def _calls(candidate: Candidate, shapes: Sequence[WorkShape]) -> list[Callable[[], object]]:
    """Return one call for each shape, on inputs drawn beforehand."""
    run, session = candidate.run, candidate.session
    assert run is not None
    drawn = [(shape, drawn_inputs(candidate.signature, shape)) for shape in shapes]
    return [
        timed_call(session, inputs, shape.new)
        if shape.new is not None and isinstance(session, GenerativeSession)
        else _call(run, inputs)
        for shape, inputs in drawn
    ]


def _call(run: Callable[[Mapping[str, Any]], Any], inputs: Mapping[str, Any]) -> Callable[[], object]:
    return lambda: run(inputs)


def drawn_inputs(signature: Any, shape: WorkShape) -> Mapping[str, Any]:
    """Return inputs to time with: drawn for the shape, without padding; the values are those of samples that were
    given, since eager may refuse others."""
    seed = 0 if signature.given else 7
    inputs: Mapping[str, Any] = signature.draw(Case(name=shape.name, lengths=shape.lengths, padding="none", seed=seed))
    return inputs


def tolerance_precision(way: Way, *, is_double: bool) -> str:
    """Return the precision whose tolerance a way is held to: 64 bits where the model has them, unless fewer were asked
    for, as a comparison only."""
    return DOUBLE if is_double and way.precision == FULL_PRECISION else way.precision
