"""The search among quantized models, from the fastest to the safest; it ends at the first that keeps the promise.

First every way is tried once, with its default recipe, to measure its speed. Then recipes are tried in the order of
their expected time: default ones, other methods of calibration, and ever more layers left in float, the most sensitive
first. If none keeps the promise, the result is the best unquantized model.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from optimum_core.errors import OptionError
from optimum_core.measure import score
from optimum_core.measure.stopwatch import watched
from optimum_core.models.eager.sensitivity import layers_of, rank_layers
from optimum_core.plan import Way
from optimum_core.search.budget import Budget
from optimum_core.search.builder import Control
from optimum_core.search.candidate import Candidate
from optimum_core.search.context import SearchResult
from optimum_core.search.notes import left_out_words
from optimum_core.search.quantized.evaluator import Evaluator, QuantizationContext
from optimum_core.search.quantized.log import SearchLog, Surveyed
from optimum_core.search.quantized.recipes import Recipe, variants
from optimum_core.search.quantized.starting_point import measure_against, open_evaluator
from optimum_core.search.quantized.survey import SIDE_BY_SIDE, Survey, attempt
from optimum_core.search.race import NOISE, Race
from optimum_core.search.spec import CandidateSpec
from optimum_core.types.quantization import Scheme
from optimum_core.verify import ReferenceCase
from optimum_core.verify.promise import Called, promise_notes
from optimum_core.verify.ranges import proved

#: Most recipes that are evaluated in one stage.
MOST_TRIALS = 40
#: Number of recipes wrong beyond rounding after which a way is given up: something computes wrongly there.
_MOST_ABSURD = 2
#: Number of batches that layers are ranked on; of a decoder, one row each and no more tokens than this.
_RANKING_BATCHES, _RANKING_TOKENS = 2, 128


def search_quantized(context: QuantizationContext) -> SearchResult:
    """Find the fastest quantized model that keeps the promise; else return the best unquantized one, with the reason.

    Raises:
        OptionError: no backend can build a fully stated configuration; the message has the reasons.
    """
    evaluator = open_evaluator(context)
    try:
        log = SearchLog(unquantized=evaluator.context.unquantized)
        return _QuantizedSearch(evaluator.context, evaluator, log, context.search.budget).run()
    finally:
        context.search.builder.control = None
        evaluator.close()


@dataclass(slots=True)
class _QuantizedSearch:
    context: QuantizationContext
    evaluator: Evaluator
    log: SearchLog
    budget: Budget
    _ranked: tuple[str, ...] | None = None
    _tried: int = 0
    _absurd: Counter[Way] = field(default_factory=Counter)

    def run(self) -> SearchResult:
        if (why := self._hopeless()) is not None:
            return self._unquantized(why)
        if self.context.promise is not None:
            self.context.search.builder.control = Control(
                shortfall=self.evaluator.shortfall, seconds=lambda: self.budget.left
            )
        survey = Survey(context=self.context, evaluator=self.evaluator, log=self.log, budget=self.budget)
        for schemes in self._stages():
            self.log.begin_stage()
            names = {str(scheme) for scheme in schemes}
            ways = [way for way in self.context.ways if way.scheme in names]
            surveyed = survey.of(ways, owed=not self._tried)
            if (winner := self._first_kept(surveyed)) is not None:
                return self._decide(winner, surveyed)
        self._require_buildable()
        return self._unquantized(self._why_none())

    def _first_kept(self, surveyed: Sequence[Surveyed]) -> Candidate | None:
        """Return the first recipe that keeps the promise. If its time was only estimated, it is timed, and recipes that
        may turn out faster are evaluated as well."""
        best: tuple[Candidate, int] | None = None
        for recipe, expected in self._in_order(surveyed):
            if best is not None and (self._by_size or expected >= best[0].relative_time):
                break
            kept = self._try(recipe, expected)
            if kept is None:
                continue
            if all(item.spec != kept[0].spec for item in surveyed):
                self._time(*kept)
            if best is None:
                best = kept
                continue
            best, (slower, number) = sorted((best, kept), key=lambda item: item[0].relative_time)
            slower.close()
            self.log.outrun(number, slower.relative_time / best[0].relative_time)
        return best[0] if best is not None else None

    def _time(self, candidate: Candidate, number: int) -> None:
        with watched(self.context.search.emit, "measure", candidate.spec.name):
            self.evaluator.time_relatively([candidate], SIDE_BY_SIDE)
        self.log.time(number, candidate.relative_time)

    # Selection and order of recipes.

    @property
    def _by_size(self) -> bool:
        """Whether size decides: it is the objective, or weights have fewer than 8 bits, whose purpose it is where the
        model does not generate; a decoder's time is mostly that of reading its weights."""
        return self.context.search.objective == "size" or (self._has_few_bits and not self._generates)

    @property
    def _has_few_bits(self) -> bool:
        return self.context.goal.weights != "int8"

    @property
    def _generates(self) -> bool:
        return self.context.search.signature.decoder is not None

    @property
    def _is_free(self) -> bool:
        """Whether the unquantized model may win by speed: only if no single scheme was requested."""
        return self.context.goal.config is None and not self._by_size and not self._has_few_bits

    def _stages(self) -> Sequence[tuple[Scheme, ...]]:
        """Return groups of schemes that compete; a later group is tried if no earlier one keeps the promise."""
        schemes = self.context.goal.schemes
        if self._generates and not self._by_size:
            return [schemes]
        weights = tuple(scheme for scheme in schemes if scheme.is_weight_only)
        others = tuple(scheme for scheme in schemes if not scheme.is_weight_only)
        stages = (weights, others) if self._by_size else (others, weights)
        return [stage for stage in stages if stage]

    def _hopeless(self) -> str | None:
        """Return the reason why not even the unquantized model keeps the promise, or None if it does."""
        promise = self.context.promise
        if promise is None or self.evaluator.keeps_unquantized:
            return None
        wanted = promise.baseline + (promise.limit if promise.rises else -promise.limit)
        return (
            f"even unquantized it has {promise.metric} {self.evaluator.unquantized_value:.4g}, and {wanted:.4g} was "
            f"promised (eager has {promise.baseline:.4g}): what kept that after rounding would keep it by chance"
        )

    def _in_order(self, surveyed: Sequence[Surveyed]) -> list[tuple[Recipe, float]]:
        """Return the recipes worth trying with their expected relative times, the fastest (or smallest) first."""
        ranked: list[tuple[tuple[float, ...], Recipe, float]] = []
        best: set[tuple[str | None, str | None]] = set()
        for item in sorted(surveyed, key=self._rank_of):
            way = item.spec.way
            recipes: Sequence[Recipe] = [item.recipe]
            if (way.quantizer, way.scheme) not in best and not item.recipe.words:
                best.add((way.quantizer, way.scheme))
                recipes = list(self._variants(item.spec))
            for number, recipe in enumerate(recipes):
                expected = recipe.expected(item.relative_time, 1.0)
                if self._is_free and expected > NOISE:
                    if number == 0:  # its safer variants are slower still, and not worth a line each
                        why = f"{expected:.2f} times the time of the best unquantized model"
                        self.log.record(recipe, "slow", why, relative_time=item.relative_time, size=item.size)
                    continue
                like = round(expected, 3)  # equal expectations must not differ by floating-point error
                key = (item.size, number, like) if self._by_size else (like, number)
                ranked.append((key, recipe, expected))
        return [(recipe, expected) for _, recipe, expected in sorted(ranked, key=lambda found: found[0])]

    def _variants(self, spec: CandidateSpec) -> Iterator[Recipe]:
        calibrated, promised = self.context.data.calibration is not None, self.context.promise is not None
        decoder = self.context.search.signature.decoder
        for recipe in variants(spec, calibrated=calibrated, promised=promised):
            if not recipe.left_out or decoder is None or not decoder.in_parts:
                yield recipe  # layers are ranked in a whole model

    def _rank_of(self, item: Surveyed) -> tuple[float, ...]:
        return (item.size, item.relative_time) if self._by_size else (item.relative_time,)

    def _layers(self) -> Sequence[str]:
        """Return the names of the model's layers, the most sensitive first."""
        if self._ranked is None:
            data = self.context.data
            batches = [case.inputs for case in (data.unseen or self.evaluator.drawn)[:_RANKING_BATCHES]]
            if data.calibration is not None:
                batches = list(islice(data.calibration, _RANKING_BATCHES))
            if self._generates:
                batches = [_short_row(item) for item in batches]
            with watched(self.context.search.emit, "quantize", "which layers hurt most"):
                self._ranked = tuple(rank_layers(self.context.search.source.module(), batches))
        return self._ranked

    # Trial of one recipe.

    def _try(self, recipe: Recipe, expected: float) -> tuple[Candidate, int] | None:
        """Build and evaluate a recipe; if it keeps the promise, return its open candidate and the number of its
        result."""
        if (why := self._why_not(recipe)) is not None:
            self.log.record(recipe, "skipped", why)
            return None
        self._tried += 1
        start = time.perf_counter()
        candidate = attempt(self.evaluator, self.log, recipe, layers=self._layers, relative_time=expected)
        if candidate is None:
            return None
        evaluated = time.perf_counter()
        verdict = self.evaluator.judge(candidate)
        self.evaluator.seconds = max(self.evaluator.seconds, time.perf_counter() - evaluated)
        self._absurd[recipe.spec.way] += verdict.beyond_rounding
        number = self.log.record(
            replace(recipe, spec=candidate.spec),  # its configuration names the layers that were left out
            verdict.outcome,
            verdict.reason,
            relative_time=candidate.relative_time,
            value=verdict.value,
            drop=None if verdict.value is None else self._loss(verdict.value),
            size=candidate.size,
            seconds=time.perf_counter() - start,
        )
        if verdict.outcome == "kept":
            return candidate, number
        candidate.close()
        return None

    def _why_not(self, recipe: Recipe) -> str | None:
        """Return the reason to skip a recipe, or None; one is evaluated however short the time."""
        if self.log.evaluated >= MOST_TRIALS:
            return f"{MOST_TRIALS} recipes were evaluated, and no more are"
        if self._absurd[recipe.spec.way] >= _MOST_ABSURD:
            return f"{_MOST_ABSURD} recipes of this way are further off than rounding explains: it computes wrongly"
        if not self._tried:
            return None
        if self.budget.is_over():
            return "the time for the search is over"
        rest = self._ranking_seconds(recipe) + self.evaluator.seconds
        if self.budget.left < self.budget.expected(recipe.spec) + rest:
            return "what it is expected to take is not left of the budget"
        return None

    def _ranking_seconds(self, recipe: Recipe) -> float:
        """Return the expected seconds to rank the layers, if the recipe needs that and it is not done yet."""
        if not recipe.left_out or self._ranked is not None:
            return 0.0
        eager = next((item for item in self.context.unquantized.tried if item.spec.is_baseline), None)
        times = [one.first or one.median for one in eager.measurements] if eager is not None else []
        milliseconds = (min if self._generates else max)(times, default=0.0)
        return len(layers_of(self.context.search.source.module())) * _RANKING_BATCHES * milliseconds / 1e3

    def _loss(self, value: float) -> float:
        return self.context.promise.loss(value) if self.context.promise else 1.0 - value

    # Decision.

    def _decide(self, winner: Candidate, surveyed: Sequence[Surveyed]) -> SearchResult:
        """Race the winner, its other sessions and the best unquantized model, beside eager if that may win."""
        search, unquantized = self.context.search, self.evaluator.unquantized
        race = Race(search)
        able = [winner, *self.evaluator.opened_otherwise(winner)]
        others = [unquantized, *self._eager_rival(unquantized)]
        with watched(search.emit, "measure", f"{len(able) + len(others)} candidates"):
            search.trials.time([*others, *able], search.budget.limited(search.effort))
        self.log.mention(surveyed, winner.relative_time)
        allowed = [item for item in able if not self._is_free or item in race.never_slower([*others, *able])]
        if not allowed:
            return self._unquantized(f"it is slower than eager at {', '.join(winner.slower_at)}")
        best = min(allowed, key=lambda item: score(item.measurements))
        ratio = score(unquantized.measurements) / score(best.measurements)
        if self._is_free and ratio < 1:
            return self._unquantized("no quantized model is faster than the best unquantized one")
        best.outcome, best.slower_at = "chosen", ()
        best.problem = f"the first that keeps the promise, {ratio:.2f} times as fast as the best unquantized model"
        return self._chosen(best, ratio)

    def _eager_rival(self, unquantized: Candidate) -> list[Candidate]:
        """Return the eager model, open, if it may win and is not the best unquantized model itself."""
        found = next((item for item in self.context.unquantized.tried if item.spec.is_baseline), None)
        if found is None or not self._is_free or unquantized.spec.is_baseline or not found.is_correct:
            return []
        if found.spec.way.backend not in self.context.search.choosable:
            return []
        return [self.evaluator.opened(replace(found, session=None))]

    def _chosen(self, best: Candidate, ratio: float) -> SearchResult:
        unquantized, result = self.evaluator.unquantized, self.context.unquantized
        loser = replace(unquantized, outcome="slower", behind=ratio, problem="not quantized", session=None)
        smaller = (unquantized.size or 0) / best.size if best.size else 1.0
        by_size = self.context.search.objective == "size"
        measure_against([item for item in result.tried if item is not result.winner], smaller if by_size else ratio)
        others = [loser if item is result.winner else item for item in result.tried]
        unseen = self.context.data.unseen
        check = unseen[0] if unseen and not self._generates else result.check
        return self._result(best, others, check, kept=True)

    def _unquantized(self, why: str) -> SearchResult:
        result = self.context.unquantized
        winner = result.winner
        winner.problem = f"{winner.problem}; not quantized: {why}"
        found = self._result(winner, [item for item in result.tried if item is not winner], result.check)
        return replace(found, report=replace(found.report, notes=(f"not quantized: {why}", *found.report.notes)))

    def _why_none(self) -> str:
        broken = [result for result in self.log.results if result.outcome == "broken"]
        if broken:
            nearest = min((result.drop for result in broken if result.drop is not None), default=None)
            return f"none of {len(broken)} recipes keeps the promise" + (
                f"; the nearest drops by {nearest:.4g}" if nearest is not None else ""
            )
        slow = [result for result in self.log.results if result.outcome == "slow"]
        return "every quantized model is slower" if slow else "no quantized model could be built"

    def _require_buildable(self) -> None:
        """Raise an error if one configuration was requested and no backend could build it."""
        if self.context.goal.config is None or any(result.outcome != "failed" for result in self.log.results):
            return
        rows = "\n".join(f"    {result.name}: {result.reason}" for result in self.log.results)
        raise OptionError("quantize", f"no backend here can do that:\n{rows}", "change what the reasons name")

    def _result(
        self, winner: Candidate, others: Sequence[Candidate], check: ReferenceCase, *, kept: bool = False
    ) -> SearchResult:
        before, promise, search = self.context.unquantized.report, self.context.promise, self.context.search
        left_out = search.references.words_left_out(search.signature) if kept and search.verify else before.left_out
        if kept and left_out:
            missed = search.references.left_out(search.signature)
            ranges = proved(winner.signature, (*self.evaluator.drawn, *self.context.data.unseen), missed)
            winner.signature = replace(winner.signature, ranges=ranges)
        report = replace(
            before,
            candidates=(winner.result(brief=False), *(item.result() for item in others if item is not winner)),
            promise=replace(promise, kept=kept, value=self._value(winner, kept=kept)) if promise else None,
            walk=tuple(self.log.results),
            notes=(
                *before.notes,
                *left_out_words(search.references.seconds, () if before.left_out else left_out),
                *self._notes(winner),
            ),
            left_out=left_out,
            seconds=self.budget.spent,
            settled=before.settled and not self.log.failed_transiently,
            precision_hint=None if kept else before.precision_hint,
        )
        return replace(self.context.unquantized, winner=winner, report=report, check=check)

    def _value(self, winner: Candidate, *, kept: bool) -> float | None:
        """Return the winner's value of the metric, as far as it is known."""
        if kept:
            return next((item.value for item in self.log.results if item.outcome == "kept"), None)
        if winner.spec.is_baseline:
            return self.context.promise.baseline if self.context.promise else None
        return self.evaluator.unquantized_value

    def _notes(self, winner: Candidate) -> Iterator[str]:
        data, config = self.context.data, winner.spec.config
        yield from promise_notes(self.context.promise, by_function=isinstance(data.metric, Called))
        if self.log.failed_transiently:
            yield "some recipes failed for a temporary reason, and are tried again at the next call"
        if config is not None and config.scheme == "dynamic":
            yield "ranges are found in every call, so that what is called together may move a near decision"
        if data.calibration is None:
            yield "no calibration data was passed: schemes that need it were not tried"
        else:
            yield f"calibrated on {data.calibration.items} items"
        if data.metric is None and data.unseen:
            items = sum(next(iter(case.inputs.values())).shape[0] for case in data.unseen)
            yield f"compared with eager on {items} items that calibration did not see"
        elif data.metric is None and self._generates:
            yield "compared with eager on eager's own greedy text: pass calibration= or evaluate= for texts of yours"
        elif data.metric is None:
            yield "compared with eager on drawn inputs alone, which say little of a quantized model"


def _short_row(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first row of a batch of texts without padding, cut short."""
    ids = inputs["input_ids"]
    kept = inputs["attention_mask"][0] == 1 if "attention_mask" in inputs else slice(None)
    return {name: array[:1, kept][:, :_RANKING_TOKENS] for name, array in inputs.items() if array.shape == ids.shape}
