"""Evaluation of quantized candidates: build, time beside the best unquantized model, check against the promise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from optimum_core.errors import OptimumError
from optimum_core.generation.model_session import GenerativeSession
from optimum_core.measure import Effort, least_score
from optimum_core.measure.stopwatch import one_line, watched
from optimum_core.models.references.eager_dialogues import PictureText
from optimum_core.plan import FULL_PRECISION, Way
from optimum_core.quantization_goal import QuantizationGoal
from optimum_core.search.candidate import Candidate
from optimum_core.search.context import SearchContext, SearchResult
from optimum_core.search.quantized.data import QuantizationData
from optimum_core.search.race import ROUGH
from optimum_core.search.spec import CandidateSpec
from optimum_core.search.trial import TrialRunner, drawn_inputs, failing
from optimum_core.types import Artifact, Fidelity, Promise, Session
from optimum_core.types.quantization import Drop
from optimum_core.verify import ReferenceCase, verify
from optimum_core.verify.dialogues import Dialogue
from optimum_core.verify.promise import Labelled, Metric, keeps
from optimum_core.verify.quantized import verify_quantized
from optimum_core.verify.quantized_decoder import DecoderReference, verify_decoder

#: Cosine with the eager model's outputs below which rounding does not explain the difference.
_BEYOND_ROUNDING = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizationContext:
    """The input of a quantized search.

    Attributes:
        goal: the requested quantization.
        data: the data for calibration and evaluation.
        promise: the allowed loss of the metric; None: nearness to the eager model decides, and `drop` limits the share
            of differing arg-max.
        unquantized: the result of the unquantized search; its winner is the result if no quantized model will do.
        search: that search's context.
        ways: the ways that quantize.
        present: wraps a candidate as the model that `accelerate` would return.
    """

    goal: QuantizationGoal
    data: QuantizationData
    promise: Promise | None
    drop: Drop | None
    unquantized: SearchResult
    search: SearchContext
    ways: tuple[Way, ...]
    present: Callable[[Candidate], Any]


@dataclass(kw_only=True, slots=True)
class EvaluatedCandidate:
    """A candidate with the interface that metrics use."""

    candidate: Candidate
    present: Callable[[Candidate], Any]

    @property
    def run(self) -> Any:
        return self.candidate.run

    def model(self) -> Any:
        """Return the accelerated model."""
        return self.present(self.candidate)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The outcome for a candidate ("kept", "broken" or "failed"), the reason, and its value of the metric.

    Attributes:
        beyond_rounding: rounding does not explain the difference from the eager model: something computes wrongly.
    """

    outcome: Any
    reason: str
    value: float | None = None
    beyond_rounding: bool = False


@dataclass(kw_only=True, slots=True)
class Evaluator:
    """Builder and evaluator of candidates; it closes every session that it opens.

    Attributes:
        unquantized: the best unquantized model, opened anew: times are multiples of its time.
        unquantized_value: its value of the metric, once computed.
        seconds: the longest that the evaluation of one model took.
    """

    context: QuantizationContext
    unquantized: Candidate
    drawn: tuple[ReferenceCase, ...]
    dialogues: tuple[Dialogue | PictureText, ...] = ()
    unquantized_value: float | None = None
    seconds: float = 0.0
    _open: list[Candidate] = field(default_factory=list)
    _right: dict[tuple[str | None, ...], bool] = field(default_factory=dict)

    @classmethod
    def of(cls, context: QuantizationContext) -> Evaluator:
        """Return an evaluator with the unquantized winner open, and reference outputs for drawn inputs."""
        search = context.search
        remembers = search.verify and search.signature.decoder is not None
        dialogues = search.references.dialogues(search.signature) if remembers else ()
        winner = replace(context.unquantized.winner, session=None)
        evaluator = cls(
            context=context,
            unquantized=winner,
            drawn=search.references.drawn(search.signature),
            dialogues=dialogues,
        )
        evaluator.opened(winner)
        return evaluator

    @property
    def _trials(self) -> TrialRunner:
        return self.context.search.trials

    def opened(self, candidate: Candidate) -> Candidate:
        """Open a session for the candidate, which is closed with the evaluator; return the candidate."""
        self._trials.open(candidate)
        self._open.append(candidate)
        return candidate

    def close(self) -> None:
        """Close every session that is still open."""
        for candidate in self._open:
            candidate.close()

    @property
    def keeps_unquantized(self) -> bool:
        """Whether the best unquantized model keeps the promise; evaluated once."""
        promise, metric = self.context.promise, self.context.data.metric
        if promise is None or metric is None:
            return True
        if self.unquantized_value is None:
            with watched(self.context.search.emit, "evaluate", "the best unquantized model") as stage:
                self.unquantized_value = metric.value(self.evaluated(self.unquantized))
            self.seconds = stage.seconds
        return keeps(promise, self.unquantized_value)

    def is_right(self, way: Way, route: str | None) -> bool:
        """Whether the model on this way is correct before quantization, at shapes that it was not traced with.

        True also if the backend cannot run it unquantized, or a temporary fault hinders the proof.
        """
        key = way.exporter, way.exported, route
        if key not in self._right:
            if (right := self._proved(way, route)) is None:
                return True
            self._right[key] = right
        return self._right[key]

    def _proved(self, way: Way, route: str | None) -> bool | None:
        """Return whether the unquantized model is correct; None: a temporary fault, which says nothing of it."""
        search = self.context.search
        start = way.exporter, way.exported, route
        known = [
            item
            for item in self.context.unquantized.tried
            if item.spec.export_key == start and item.outcome != "skipped"
        ]
        if known or way.exported != way.format or not search.verify:
            return not known or any(item.is_correct for item in known)
        spec = CandidateSpec(way=replace(way, quantizer=None, scheme=None, precision=FULL_PRECISION), route=route)
        candidate = Candidate(spec=spec, signature=search.signature)
        with failing(candidate), search.budget.learning(spec):
            self._trials.build(candidate)
            self._trials.open(candidate)
            self._trials.compare(candidate, self._taken(candidate), dialogues=self.dialogues)
        candidate.close()
        return None if candidate.failed_transiently else candidate.is_correct

    def _taken(self, candidate: Candidate) -> tuple[ReferenceCase, ...]:
        """Return the drawn cases, or others of the lengths that the candidate's session takes.

        Raises:
            VerificationError: it takes none that could be drawn.
        """
        return self.context.search.references.taken(candidate.session, candidate.signature, self.drawn)

    def build(self, candidate: Candidate, *, relative_time: float | None = None) -> None:
        """Build and open a candidate.

        Args:
            relative_time: its time as a multiple of the best unquantized model's, if known; else it is measured.

        Raises:
            OptimumError: it cannot be built, opened or run.
        """
        self._trials.build(candidate)
        self.opened(candidate)
        if relative_time is None:
            self.time_relatively([candidate], ROUGH)
        else:
            candidate.relative_time = relative_time

    def time_relatively(self, candidates: Sequence[Candidate], effort: Effort) -> None:
        """Measure candidates side by side with the best unquantized model, and set their times as multiples of its."""
        self._trials.time([self.unquantized, *candidates], self.context.search.budget.limited(effort))
        for candidate in candidates:
            candidate.relative_time = least_score(candidate.measurements) / least_score(self.unquantized.measurements)

    def judge(self, candidate: Candidate) -> Verdict:
        """Return the verdict: by the form of the outputs and their nearness to the eager model's, then by the
        metric."""
        promise, metric = self.context.promise, self.context.data.metric
        if self.context.search.verify:
            with failing(candidate):  # its session may take no length at which it could be compared
                self._trials.compare(candidate, self._taken(candidate), self._compared)
        if candidate.outcome == "failed":
            return Verdict(outcome="failed", reason=candidate.problem)
        if candidate.outcome == "wrong":
            value = None if promise else self._agreement(candidate)
            absurd = _is_absurd(candidate.fidelity)
            return Verdict(outcome="broken", reason=candidate.problem, value=value, beyond_rounding=absurd)
        if promise is None or metric is None:
            return Verdict(outcome="kept", reason=_nearness(candidate.fidelity), value=self._agreement(candidate))
        try:
            with watched(self.context.search.emit, "evaluate", candidate.spec.name):
                values = [one.value(self.evaluated(candidate)) for one in _asked(metric, candidate)]
        except OptimumError as error:  # the metric worked on the eager model, so this candidate is to blame
            return Verdict(outcome="failed", reason=one_line(error))
        value = max(values, key=promise.loss)
        drop = promise.loss(value)
        worse, better = ("rises", "drops") if promise.rises else ("drops", "rises")
        moved = f"{worse} by {drop:.4g}" if drop >= 0 else f"{better} by {-drop:.4g}"
        return Verdict(
            outcome="kept" if keeps(promise, value) else "broken",
            reason=f"{promise.metric} {moved}; a {worse[:-1]} of {promise.limit:.4g} is allowed",
            value=value,
            beyond_rounding=_is_absurd(candidate.fidelity),
        )

    def shortfall(self, spec: CandidateSpec, artifact: Artifact, session: Session) -> float:
        """Return by how much a session of a backend that is still quantizing misses the promise; 0.0: it keeps it.

        Raises:
            EvaluationError: the metric gives no number for the session.
        """
        promise, metric = self.context.promise, self.context.data.metric
        assert promise is not None and metric is not None
        search = self.context.search
        run = search.plugins.binder(session)
        tried = Candidate(spec=spec, signature=search.signature, artifact=artifact, session=session, run=run)
        with watched(search.emit, "evaluate", f"{spec.name}, less of it quantized"):
            value = metric.value(self.evaluated(tried))
        return 0.0 if keeps(promise, value) else promise.loss(value) - promise.limit

    def _compared(self, candidate: Candidate, cases: tuple[ReferenceCase, ...]) -> Fidelity:
        """Return the comparison with the eager model, of form alone if a metric decides; of a decoder also that with
        itself."""
        assert candidate.run is not None
        promise, drop, unseen = self.context.promise, self.context.drop, self.context.data.unseen
        agreement = 1 - drop.limit(1.0) if drop is not None and promise is None else None
        outputs, spec = candidate.signature.outputs, candidate.spec
        if not isinstance(candidate.session, GenerativeSession):
            return verify_quantized(
                candidate.run, cases, unseen, outputs, precision=spec.precision, agreement=agreement,
                binding=promise is None,
            )  # fmt: skip
        rounds = spec.config is not None and (spec.config.scheme == "dynamic" or spec.config.cache is not None)
        return verify_decoder(
            candidate.session.drives,
            candidate.run,
            DecoderReference(
                drawn=cases,
                dialogues=[item for item in self.dialogues if isinstance(item, Dialogue)],
                unseen=unseen,
                outputs=outputs,
                behind=[item for item in self.dialogues if not isinstance(item, Dialogue)],
            ),
            precision=spec.precision,
            arithmetic="int8" if rounds else spec.way.precision,
            agreement=agreement,
            binding=promise is None,
        )

    @staticmethod
    def _agreement(candidate: Candidate) -> float | None:
        """Return the least share of equal arg-max on unseen data; None if no output ranks choices."""
        results = candidate.fidelity.results if candidate.fidelity else ()
        return min((item.agreement for item in results if item.agreement is not None), default=None)

    def evaluated(self, candidate: Candidate) -> EvaluatedCandidate:
        """Return a candidate with the interface that metrics use."""
        return EvaluatedCandidate(candidate=candidate, present=self.context.present)

    def opened_otherwise(self, winner: Candidate) -> Iterator[Candidate]:
        """Yield the winner with its other sessions: prepared for the workload's shapes, and for one call at a time;
        those that compute otherwise are left out."""
        prepares = winner.spec.way.prepares and self.context.search.may_restrict
        for streams in dict.fromkeys((winner.spec.streams, 1)):
            for prepared in (False, True) if prepares else (False,):
                spec = replace(winner.spec, streams=streams, prepared=prepared)
                if spec != winner.spec and (twin := self._opened_as(spec, winner)) is not None:
                    yield twin

    def _opened_as(self, spec: CandidateSpec, winner: Candidate) -> Candidate | None:
        twin = replace(winner, spec=spec, session=None)
        with failing(twin):  # the backend may be unable to prepare it for these shapes
            self.opened(twin)
            self._trials.compare(twin, tuple(self._as_usual(winner)), _values_alike)
        twin.fidelity = winner.fidelity
        return twin if twin.session is not None else None

    def _as_usual(self, winner: Candidate) -> Iterator[ReferenceCase]:
        assert winner.run is not None
        for shape in self.context.search.workload(winner.signature):
            inputs = drawn_inputs(winner.signature, shape)
            outputs = {name: np.asarray(value) for name, value in winner.run(inputs).items()}
            yield ReferenceCase(name="as the other session", inputs=inputs, outputs=outputs, varied=frozenset())


def _values_alike(candidate: Candidate, cases: tuple[ReferenceCase, ...]) -> Fidelity:
    assert candidate.run is not None
    return verify(candidate.run, cases, candidate.signature.outputs, precision=candidate.spec.precision)


def _is_absurd(fidelity: Fidelity | None) -> bool:
    """Whether outputs differ from the eager model's by more than rounding explains."""
    return fidelity is not None and any(item.cosine < _BEYOND_ROUNDING for item in fidelity.results)


def _nearness(fidelity: Fidelity | None) -> str:
    """Return how near the tokens are to the eager model's, in words."""
    found = next((item for item in fidelity.results if item.divergence is not None), None) if fidelity else None
    if found is None or found.agreement is None:
        return "within the tolerance"
    return f"{found.agreement:.1%} of {found.case} as eager, divergence {found.divergence:.2g}"


def _asked(metric: Metric, candidate: Candidate) -> list[Metric]:
    """Return the metric; for dynamic quantization also with each item alone, since ranges then depend on the other
    items of a call."""
    config = candidate.spec.config
    if not isinstance(metric, Labelled) or config is None or config.scheme != "dynamic":
        return [metric]
    batched = all(spec.shape and isinstance(spec.shape[0], str) for spec in candidate.signature.inputs)
    return [metric, replace(metric, alone=True)] if batched else [metric]
