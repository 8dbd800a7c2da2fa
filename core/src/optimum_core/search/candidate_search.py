"""The search: try the specs that compete, and race the correct candidates.

Candidates are tried in the order of their likelihood to win while the budget lasts. Each is compared with the eager
model and timed roughly at once; only a few stay open for the final race. If an export route is wrong, the next one is
tried whatever the budget; an axis at which no candidate is correct is restricted if the request allows that.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from optimum_core.errors import OptionError
from optimum_core.measure import score
from optimum_core.measure.stopwatch import watched
from optimum_core.measure.workload import WorkShape, tuned_for
from optimum_core.models.references.eager_dialogues import PictureText
from optimum_core.models.signatures.signature import ModelSignature
from optimum_core.plan import FULL_PRECISION
from optimum_core.search.axis_restriction import FIXED_BY_PROCESSOR, Restriction, restrictions
from optimum_core.search.budget import usual_seconds
from optimum_core.search.candidate import Candidate
from optimum_core.search.context import SearchContext, SearchResult
from optimum_core.search.failures import nothing_right
from optimum_core.search.history import Decided
from optimum_core.search.notes import ended_without, fixed_to_one_side, left_out_words, length_limits, limits_of
from optimum_core.search.precision_hint import hint
from optimum_core.search.race import Decision, Race
from optimum_core.search.shared_faults import wrong_alike
from optimum_core.search.spec import CandidateSpec
from optimum_core.search.standing import Standing
from optimum_core.search.trial import failing
from optimum_core.types import Measurement, PrecisionHint, Report
from optimum_core.verify import ReferenceCase, failing_axes
from optimum_core.verify.dialogues import Dialogue
from optimum_core.verify.ranges import proved

#: Number of eager calls at every shape whose time a search may take if no budget is stated: a model whose calls are
#: quick has little to gain.
WORTH = 150


def search(context: SearchContext) -> SearchResult:
    """Search, and return the best correct candidate. Sessions of all candidates are closed.

    Raises:
        VerificationError: no candidate is correct; the message has the table of those tried.
        ResourceError: no candidate is correct, and some failed for temporary reasons.
    """
    running = _Search(context)
    try:
        return running.run()
    finally:
        for candidate in running.tried:
            candidate.close()


class _Search:
    """The state of one search: the candidates tried so far."""

    def __init__(self, context: SearchContext) -> None:
        self.context = context
        self.race = Race(context)
        self.references = context.references
        self.tried: list[Candidate] = []
        self._postponed: list[CandidateSpec] = []
        self._owed: CandidateSpec | None = None
        self._ended_at: float | None = None
        self.standing = Standing(race=self.race, budget=context.budget, tried=self.tried)
        self._start = time.perf_counter()

    def run(self) -> SearchResult:
        for spec in self._specs_left():
            if (why := self._why_not(spec)) is not None:
                self._skip(spec, why)
            else:
                self._try(spec, self.context.signature)
        self._restrict()
        for spec in self._postponed:
            if self.standing.nothing_built_is_wanted() or self.standing.owes_nothing():
                break
            self.tried[:] = [item for item in self.tried if item.spec != spec]
            self._try(spec, self.context.signature)
        self._restrict()
        self._prefer_sure()
        if not self.standing.right():
            raise nothing_right(self.context, self.tried, [item for item in self.tried if self.race.may_win(item)])
        return self._decide()

    # Order and selection of specs.

    def _specs_left(self) -> Iterable[CandidateSpec]:
        """Try the earlier winner for a model of this shape, and the baseline; return the specs to try after them: none
        if that winner is still correct."""
        decided = self.context.decided or Decided(spec="")
        known = [spec for spec in self.context.specs if spec.id == decided.spec]
        if not known:
            return self._judging_exports_once(self.context.specs)
        for spec in dict.fromkeys((*known, *(spec for spec in self.context.specs if spec.is_baseline))):
            self._try(spec, self.context.signature)
        done = {item.spec for item in self.tried}
        rest = [spec for spec in self.context.specs if spec not in done]
        if not next(item for item in self.tried if item.spec == known[0]).is_correct:
            return self._judging_exports_once(rest)
        self._ended_at = decided.ended_at
        for spec in rest:
            self._skip(spec, "another won for a model of the same shape on this machine before")
        return ()

    def _judging_exports_once(self, specs: Sequence[CandidateSpec]) -> Iterator[CandidateSpec]:
        """Yield the specs in order; but if a wrong optimized export does not show whether the export is to blame, its
        least optimized form, which does, comes next."""
        waiting = list(specs)
        while waiting:
            spec = waiting.pop(0)
            yield spec
            if self._is_wrong(spec) and self._wrong_export(spec) is None:
                alike = [other for other in waiting if other.opens_same_files(spec)]
                plainest = max(alike, key=lambda other: other.way.levels.index(other.level), default=None)
                if plainest is not None:
                    waiting.remove(plainest)
                    waiting.insert(0, plainest)

    def _is_wrong(self, spec: CandidateSpec) -> bool:
        return any(item.spec == spec and item.outcome == "wrong" for item in self.tried)

    def _why_not(self, spec: CandidateSpec) -> str | None:
        """Return the reason to skip a spec, or None to try it."""
        if spec.prepared and not self.standing.is_worth_preparing(spec):
            return "it is not among the best unprepared"
        if (wrong := self._wrong_export(spec)) is not None:
            return f"its export is wrong: {wrong.problem}"
        if (wrong := wrong_alike(self.tried, spec, self._by_values())) is not None:
            return f"another export is wrong there in the same way: {wrong.problem}"
        if self.context.budget.allows(spec):
            return None
        why = f"the budget of {self.context.budget.seconds:.0f} s does not allow for it"
        if not self._is_wanted(spec):
            self._note_longer_budget(self.context.budget.needed(spec))
            return why
        if not (spec.is_baseline or self.context.budget.allows_in_least(spec)) and self._may_restrict():
            self._postponed.append(spec)  # to restrict what was built already costs less than another export
            return why
        return None

    def _wrong_export(self, spec: CandidateSpec) -> Candidate | None:
        """Return a candidate that shows the spec's export to be wrong, or None.

        No optimization is to blame if the trace fixed a branch on values, if it is right where it was traced and wrong
        at other lengths, or if it is wrong at two levels.
        """
        wrong = [item for item in self.tried if item.outcome == "wrong" and item.spec.opens_same_files(spec)]
        if len(wrong) > 1:
            return wrong[0]
        return next((item for item in wrong if not item.is_general or self._fails_at_other_lengths(item)), None)

    def _fails_at_other_lengths(self, item: Candidate) -> bool:
        """Whether a wrong candidate fails only at other lengths of some axes than the traced ones."""
        return item.fidelity is not None and bool(failing_axes(item.fidelity, self._all_cases(item.signature)))

    def _may_restrict(self) -> bool:
        """Whether a wrong candidate can be tried again with an axis restricted."""
        known = self._known()
        return any(self._restricted_anew(item, known) is not None for item in self.tried)

    def _is_wanted(self, spec: CandidateSpec, running: Candidate | None = None) -> bool:
        return spec == self._owed or self.standing.wants(spec, running)

    def _note_longer_budget(self, seconds: float) -> None:
        """Note that a candidate was not tried for which a budget has to be longer than this."""
        self._ended_at = min(seconds, self._ended_at or seconds)

    def _skip(self, spec: CandidateSpec, why: str) -> None:
        self.tried.append(Candidate(spec=spec, signature=self.context.signature, outcome="skipped", problem=why))

    # Trial of one spec.

    def _try(self, spec: CandidateSpec, signature: ModelSignature) -> None:
        candidate = Candidate(spec=spec, signature=signature)
        self.tried.append(candidate)
        trials, cases = self.context.trials, self._cases(signature)
        if spec.way.precision == FULL_PRECISION and spec.config is None:
            cases = self._all_cases(signature)
        with failing(candidate, passed_on=(OptionError,)), self.context.budget.learning(spec):
            trials.build(candidate)
            if self._is_late(candidate):
                return
            session = trials.open(candidate)
            if self._is_far_behind(candidate):
                return
            # The baseline is the reference itself: one case shows that it runs.
            asked = cases[:1] if spec.is_baseline else self.references.taken(session, signature, cases)
            trials.compare(candidate, asked, dialogues=self._dialogues(candidate))
            if candidate.is_correct and not self._is_late(candidate):
                self._time_roughly(candidate)

    def _is_late(self, candidate: Candidate) -> bool:
        """Skip the rest of a trial, and return True, if the budget ended during it and the candidate is not needed."""
        if not self.context.budget.is_spent or self._is_wanted(candidate.spec, candidate):
            return False
        self._note_longer_budget(self.context.budget.spent)
        candidate.give_up("the budget ended while it was tried")
        return True

    def _is_far_behind(self, candidate: Candidate) -> bool:
        """Skip the rest of a trial, and return True, if the candidate is too slow to win against the eager model."""
        if candidate.spec.way.is_eager or candidate.may_crash or not self.context.verify:
            return False
        if why := self.race.far_behind(candidate, self.tried):
            candidate.give_up(why, far_behind=True)
        return candidate.far_behind

    def _cases(self, signature: ModelSignature) -> tuple[ReferenceCase, ...]:
        shapes = self.context.workload(signature)
        return (*self.references.drawn(signature, shapes), *self.references.at_work(signature, shapes))

    def _all_cases(self, signature: ModelSignature) -> tuple[ReferenceCase, ...]:
        """Return also cases at further lengths, for candidates whose numbers are those of eager but for the last
        digits."""
        cases = self._cases(signature)
        if not self.context.verify or signature.decoder is not None:
            return cases
        return (*cases, *self.references.between(signature, cases))

    def _by_values(self) -> set[str]:
        return {case.name for case in self._cases(self.context.signature) if case.refused or case.wide}

    def _dialogues(self, candidate: Candidate) -> tuple[Dialogue | PictureText, ...]:
        if not self.context.verify or candidate.signature.decoder is None:
            return ()
        found = self.references.dialogues(candidate.signature)
        return found[:1] if candidate.spec.is_baseline else found

    def _time_roughly(self, candidate: Candidate) -> None:
        """Time a candidate beside the best so far, and close those that are no longer among the best."""
        rivals = [item for item in self.tried if item.session is not None and item is not candidate]
        self.race.time_roughly(candidate, rivals)
        if candidate.spec.is_baseline and not self.context.budget.stated:
            self.context.budget.seconds = usual_seconds(_worth(candidate.measurements))
        self.race.close_the_rest([*rivals, candidate])

    # Restriction of axes at which no candidate is correct.

    def _restrict(self) -> None:
        """Retry candidates that failed at some axes only with those restricted, where nothing built is correct."""
        for _ in range(3):
            if self.standing.nothing_built_is_wanted() or not self._retry_restricted():
                return

    def _retry_restricted(self) -> bool:
        """Retry each such candidate once, until one is correct and the budget is spent; the first one of a named target
        in any case, since it is the likeliest to be correct. False: there is none."""
        known = self._known()
        fresh = [pair for item in list(self.tried) if (pair := self._restricted_anew(item, known)) is not None]
        levels = [(other, signature) for spec, signature in fresh for other in self._other_levels(spec)]
        self._owed = fresh[0][0] if fresh and not self.standing.right() else None
        for spec, signature in (*fresh, *levels):
            is_over = self.standing.owes_nothing() and spec != self._owed
            if is_over or (self.standing.nothing_built_is_wanted() and not self.context.budget.allows(spec)):
                continue
            self.tried[:] = [item for item in self.tried if item.spec != spec or item.outcome != "skipped"]
            self._try(spec, signature)
        return bool(fresh)

    def _other_levels(self, spec: CandidateSpec) -> Iterator[CandidateSpec]:
        """Yield specs of the same export that were skipped because it was wrong."""
        for item in self.tried:
            if item.outcome == "skipped" and item.spec.opens_same_files(spec) and self._wrong_export(item.spec):
                yield item.spec

    def _known(self) -> set[Any]:
        """Return what was tried: specs with the inputs and limits that they had."""
        return {(item.spec, item.signature.inputs, _limits(item.signature)) for item in self.tried}

    def _restricted_anew(self, item: Candidate, known: set[Any]) -> tuple[CandidateSpec, ModelSignature] | None:
        """Return the spec of a wrong candidate with the mildest restriction not tried yet, or None."""
        for restriction in self._restrictions(item):
            signature = self._restricted(item.signature, restriction)
            if (item.spec, signature.inputs, _limits(signature)) not in known and self._has_work(signature):
                return item.spec, signature
        return None

    def _has_work(self, signature: ModelSignature) -> bool:
        """Whether a signature still takes the stated shapes."""
        try:
            return bool(self.context.workload(signature))
        except OptionError:
            return False

    def _restrictions(self, candidate: Candidate) -> Iterator[Restriction]:
        if candidate.spec.way.is_eager or candidate.fidelity is None or candidate.fidelity.passed:
            return iter(())
        cases = self._all_cases(candidate.signature)
        unasked = not self.context.may_restrict
        found = restrictions(candidate.signature, candidate.fidelity, cases, unasked=unasked)
        decoder = candidate.signature.decoder
        if decoder is None:
            return found
        if decoder.encoder is None:  # a decoder's axes have no fixed lengths
            return iter(())
        # The edges of the pictures that an encoder takes may have.
        return (item for item in found if not item.limits and item.fixed <= FIXED_BY_PROCESSOR)

    def _restricted(self, signature: ModelSignature, restriction: Restriction) -> ModelSignature:
        made = restriction.apply(signature)
        same = (
            item.signature
            for item in self.tried
            if (item.signature.inputs, _limits(item.signature)) == (made.inputs, _limits(made))
        )
        return next(same, made)

    # Decision.

    def _prefer_sure(self) -> None:
        """Reject candidates whose export took one side of a branch on values, if another without that may win."""
        able = self.standing.right()
        if not any(item.is_general for item in able):
            return
        for item in able:
            if not item.is_general:
                item.outcome, item.problem = "wrong", fixed_to_one_side(item)
                item.close()

    def _decide(self) -> SearchResult:
        finalists = [item for item in self.tried if item.session is not None]
        shapes = self.context.workload(finalists[0].signature)
        number = f"{len(finalists)} candidate{'' if len(finalists) == 1 else 's'}"
        with watched(self.context.emit, "measure", f"{number} at {', '.join(shape.name for shape in shapes)}"):
            decision = self.race.decide(finalists)
        winner = decision.winner
        by_short_runs = not decision.in_full and self.context.objective != "size"
        self.race.explain(winner, self.tried, [] if by_short_runs else finalists)
        compared = self.references.taken(winner.session, winner.signature, self._cases(winner.signature))
        left_out = self._limit_to_compared(winner, compared)
        precision = hint(self.context, winner, compared)
        self.tried.sort(key=lambda item: ({"chosen": 0, "slower": 1}.get(item.outcome, 2), score(item.measurements)))
        report = self._report(decision, shapes, left_out, precision)
        return SearchResult(winner=winner, report=report, check=compared[0], tried=tuple(self.tried))

    def _limit_to_compared(self, winner: Candidate, compared: tuple[ReferenceCase, ...]) -> tuple[str, ...]:
        """Set the winner's ranges to the lengths that were compared; return what the budget left out, in words."""
        if winner.spec.is_baseline:
            winner.free_axes_of_eager()
        if not self.context.verify or winner.spec.is_baseline:
            return ()
        missed = self.references.left_out(winner.signature)
        left_out = self.references.words_left_out(winner.signature)
        if left_out and self.references.ended_at is not None:
            self._note_longer_budget(self.references.ended_at)
        winner.signature = replace(winner.signature, ranges=proved(winner.signature, compared, missed))
        return left_out

    def _report(
        self,
        decision: Decision,
        shapes: Sequence[WorkShape],
        left_out: tuple[str, ...],
        precision: PrecisionHint | None,
    ) -> Report:
        winner = decision.winner
        transient = [item for item in self.tried if item.failed_transiently]
        unfinished = self.standing.ended_before_anything_was_right
        return Report(
            model=self.context.source.name,
            task=self.context.signature.task,
            workload=tuple(shape.name for shape in shapes),
            candidates=tuple(item.result(brief=item is not winner) for item in self.tried),
            objective=self.context.objective,
            seconds=time.perf_counter() - self._start,
            notes=(
                *self.context.source.notes,
                *self.context.signature.notes,
                *self.references.notes,
                *filter(None, [tuned_for(shapes)]),
                *length_limits(self.context.signature, winner.signature),
                *limits_of(decision, transient),
                *left_out_words(self.references.seconds, left_out),
                *ended_without(self.context.budget.seconds, self.standing),
            ),
            fixed=winner.signature.fixed,
            precision_hint=precision,
            settled=decision.settled and not transient and not unfinished,
            ended_at=self._ended_at,
            left_out=left_out,
            **self.references.remarks(eager=winner.spec.way.is_eager),
        )


def _limits(signature: ModelSignature) -> tuple[tuple[str, int | None], ...]:
    return tuple(sorted((axis, found.greatest) for axis, found in signature.ranges.items()))


def _worth(eager: Sequence[Measurement]) -> float:
    """Return the seconds that a search is worth."""
    return WORTH * sum(item.median for item in eager) / 1e3
