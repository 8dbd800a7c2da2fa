"""The walk from the fastest quantization to the safest, which ends at the first that keeps what was promised.

First every way is tried once, by its plainest recipe, to learn how fast it is. Then recipes are taken in the order of
the time that is expected of them: plain ones, other methods of calibration, and ever more layers left in float, those
that hurt most first. When none keeps the promise, the best unquantized model is the answer.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from optimum_core.errors import OptionError
from optimum_core.measure import score
from optimum_core.measure.stopwatch import watched
from optimum_core.models.sensitivity import rank_layers
from optimum_core.tune.candidates import Candidate, Entry
from optimum_core.tune.job import Tuned
from optimum_core.tune.judging import Court, WalkJob
from optimum_core.tune.ledger import Ledger, Scout
from optimum_core.tune.race import NOISE
from optimum_core.tune.recipes import Recipe, variants
from optimum_core.tune.scouting import SIDE_BY_SIDE, Clock, Scouting, attempt
from optimum_core.tune.stages import Control
from optimum_core.tune.start import measure_against, opened
from optimum_core.verify import ReferenceCase

#: Recipes that are judged of one stage, at most.
MOST_TRIALS = 40
#: Batches that layers are ranked on.
_RANKING_BATCHES = 2


def walk(job: WalkJob) -> Tuned:
    """Find the fastest quantized model that keeps the promise; else the best unquantized one, with the reason.

    Raises:
        OptionError: a configuration that was stated whole cannot be built by anybody; the message has the reasons.
    """
    clock, court = Clock(budget=job.job.budget), opened(job)
    try:
        return _Walk(court.job, court, Ledger(floats=court.job.floats), clock).run()
    finally:
        job.job.builder.control = None
        court.close()


@dataclass(slots=True)
class _Walk:
    job: WalkJob
    court: Court
    ledger: Ledger
    clock: Clock
    _ranked: tuple[str, ...] | None = None
    _tried: int = 0

    def run(self) -> Tuned:
        if (why := self._hopeless()) is not None:
            return self._unquantized(why)
        if self.job.promise is not None:
            self.job.job.builder.control = Control(shortfall=self.court.shortfall, seconds=self.clock.left)
        scouting = Scouting(job=self.job, court=self.court, ledger=self.ledger, clock=self.clock)
        for schemes in self._stages():
            self.ledger.begin_stage()
            scouts = scouting.scout([way for way in self.job.ways if way.scheme in schemes])
            if (winner := self._first_kept(scouts)) is not None:
                return self._decide(winner, scouts)
        self._require_buildable()
        return self._unquantized(self._why_none())

    def _first_kept(self, scouts: Sequence[Scout]) -> Candidate | None:
        """The first recipe that keeps the promise. Where its time was only expected, it is timed, and what may turn out
        faster is judged as well."""
        best: tuple[Candidate, int] | None = None
        for recipe, expected in self._in_order(scouts):
            if best is not None and (self._by_size or expected >= best[0].pace):
                break
            kept = self._try(recipe, expected)
            if kept is None:
                continue
            if all(scout.entry != kept[0].entry for scout in scouts):
                self._time(*kept)
            if best is None:
                best = kept
                continue
            best, (slower, number) = sorted((best, kept), key=lambda item: item[0].pace)
            slower.close()
            self.ledger.outrun(number, slower.pace / best[0].pace)
        return best[0] if best is not None else None

    def _time(self, candidate: Candidate, number: int) -> None:
        with watched(self.job.job.emit, "measure", candidate.entry.name):
            self.court.pace([candidate], SIDE_BY_SIDE)
        self.ledger.time(number, candidate.pace)

    # What there is to try.

    @property
    def _by_size(self) -> bool:
        """Whether size decides: where it was asked for, and for fewer than 8 bits, whose point it is."""
        return self.job.job.objective == "size" or not self.job.wish.words.endswith("int8")

    @property
    def _is_free(self) -> bool:
        """Whether speed may speak for the unquantized model: only where no one scheme was asked for."""
        return self.job.wish.config is None and not self._by_size

    def _stages(self) -> Sequence[tuple[str, ...]]:
        """Schemes that compete with each other; those of later stages are for when nothing before keeps the promise."""
        schemes = self.job.wish.schemes
        weights = tuple(scheme for scheme in schemes if scheme.startswith("weight-only"))
        others = tuple(scheme for scheme in schemes if scheme not in weights)
        stages = (weights, others) if self._by_size else (others, weights)
        return [stage for stage in stages if stage]

    def _hopeless(self) -> str | None:
        """Why not even the unquantized model keeps the promise, where it does not."""
        promise = self.job.promise
        if promise is None or self.court.keeps_unquantized:
            return None
        wanted = promise.baseline - promise.limit
        return (
            f"even unquantized it has {promise.metric} {self.court.unquantized:.4g}, and {wanted:.4g} was promised "
            f"(eager has {promise.baseline:.4g}): what kept that after rounding would keep it by chance"
        )

    def _in_order(self, scouts: Sequence[Scout]) -> list[tuple[Recipe, float]]:
        """The recipes of all that is worth it and the pace expected of them, the fastest (or smallest) first."""
        ranked: list[tuple[tuple[float, ...], Recipe, float]] = []
        best: set[tuple[str | None, str | None]] = set()
        for scout in sorted(scouts, key=self._rank_of):
            way = scout.entry.way
            recipes: Sequence[Recipe] = [scout.recipe]
            if (way.quantizer, way.scheme) not in best and not scout.recipe.words:
                best.add((way.quantizer, way.scheme))
                recipes = list(self._variants(scout.entry))
            for number, recipe in enumerate(recipes):
                expected = recipe.expected(scout.pace, 1.0)
                if self._is_free and expected > NOISE:
                    if number == 0:  # its safer kin is slower still, and not worth a line each
                        why = f"{expected:.2f} times the time of the best unquantized model"
                        self.ledger.record(recipe, "slow", why, pace=scout.pace, size=scout.size)
                    continue
                like = round(expected, 3)  # what is expected to take the same does not differ by how it was computed
                key = (scout.size, number, like) if self._by_size else (like, number)
                ranked.append((key, recipe, expected))
        return [(recipe, expected) for _, recipe, expected in sorted(ranked, key=lambda item: item[0])]

    def _variants(self, entry: Entry) -> Iterator[Recipe]:
        calibrated, promised = self.job.evidence.calibration is not None, self.job.promise is not None
        return variants(entry, calibrated=calibrated, promised=promised)

    def _rank_of(self, scout: Scout) -> tuple[float, ...]:
        return (scout.size, scout.pace) if self._by_size else (scout.pace,)

    def _layers(self) -> Sequence[str]:
        """Names of the model's layers, those that hurt most first."""
        if self._ranked is None:
            evidence = self.job.evidence
            batches = [case.inputs for case in (evidence.unseen or self.court.drawn)[:_RANKING_BATCHES]]
            if evidence.calibration is not None:
                batches = list(islice(evidence.calibration, _RANKING_BATCHES))
            with watched(self.job.job.emit, "quantize", "which layers hurt most"):
                self._ranked = tuple(rank_layers(self.job.job.source.module(), batches))
        return self._ranked

    # Trying one.

    def _try(self, recipe: Recipe, expected: float) -> tuple[Candidate, int] | None:
        """Build and judge; the candidate where it keeps the promise, open, with its trial's number."""
        if (why := self._enough()) is not None:
            self.ledger.record(recipe, "skipped", why)
            return None
        self._tried += 1
        start = time.perf_counter()
        candidate = attempt(self.court, self.ledger, recipe, layers=self._layers, pace=expected)
        if candidate is None:
            return None
        verdict = self.court.judge(candidate)
        number = self.ledger.record(
            replace(recipe, entry=candidate.entry),  # with the layers that were left out
            verdict.outcome,
            verdict.reason,
            pace=candidate.pace,
            value=verdict.value,
            drop=None if verdict.value is None else self._baseline - verdict.value,
            size=candidate.size,
            seconds=time.perf_counter() - start,
        )
        if verdict.outcome == "kept":
            return candidate, number
        candidate.close()
        return None

    def _enough(self) -> str | None:
        """Why no further recipe is judged, where none is; one is, however little time was given."""
        if self.ledger.judged >= MOST_TRIALS:
            return f"{MOST_TRIALS} recipes were judged, and no more are"
        return "the time for the walk is over" if self._tried and self.clock.is_over() else None

    @property
    def _baseline(self) -> float:
        return self.job.promise.baseline if self.job.promise else 1.0

    # Deciding.

    def _decide(self, winner: Candidate, scouts: Sequence[Scout]) -> Tuned:
        """Race the winner, its prepared twin and the best unquantized model to the end."""
        search, pacer = self.job.job, self.court.pacer
        runners = [pacer, winner]
        if winner.entry.way.prepares and search.exact and (twin := self.court.prepared(winner)) is not None:
            runners.append(twin)
        with watched(search.emit, "measure", f"{len(runners)} candidates"):
            self.court.time(runners, search.effort)
        self.ledger.mention(scouts, winner.pace)
        best = min(runners[1:], key=self._score)
        ratio = self._score(pacer) / self._score(best)
        if self._is_free and ratio < 1:
            return self._unquantized("no quantized model is faster than the best unquantized one")
        best.outcome = "chosen"
        best.problem = f"the first that keeps the promise, {ratio:.2f} times as fast as the best unquantized model"
        loser = replace(
            pacer, outcome="slower", behind=ratio, problem="times the time of the chosen; not quantized", session=None
        )
        floats = self.job.floats
        smaller = (pacer.size or 0) / best.size if best.size else 1.0
        rest = [item for item in floats.tried if item is not floats.winner]
        measure_against(rest, smaller if search.objective == "size" else ratio)
        others = [loser if item is floats.winner else item for item in floats.tried]
        unseen = self.job.evidence.unseen
        return self._tuned(best, others, unseen[0] if unseen else self.job.floats.check, kept=True)

    def _score(self, candidate: Candidate) -> float:
        return score(candidate.measurements)

    def _unquantized(self, why: str) -> Tuned:
        winner = self.job.floats.winner
        winner.problem = f"{winner.problem}; not quantized: {why}"
        return self._tuned(
            winner, [item for item in self.job.floats.tried if item is not winner], self.job.floats.check
        )

    def _why_none(self) -> str:
        broken = [trial for trial in self.ledger.trials if trial.outcome == "broken"]
        if broken:
            nearest = min((trial.drop for trial in broken if trial.drop is not None), default=None)
            return f"none of {len(broken)} recipes keeps the promise" + (
                f"; the nearest drops by {nearest:.4g}" if nearest is not None else ""
            )
        slow = [trial for trial in self.ledger.trials if trial.outcome == "slow"]
        return "every quantized model is slower" if slow else "no quantized model could be built"

    def _require_buildable(self) -> None:
        """Where one configuration was asked for and nobody could build it, that is an error."""
        if self.job.wish.config is None or any(trial.outcome != "failed" for trial in self.ledger.trials):
            return
        rows = "\n".join(f"    {trial.name}: {trial.reason}" for trial in self.ledger.trials)
        raise OptionError("quantize", f"nobody here can do that:\n{rows}", "change what the reasons name")

    def _tuned(
        self, winner: Candidate, others: Sequence[Candidate], check: ReferenceCase, *, kept: bool = False
    ) -> Tuned:
        floats = self.job.floats.report
        promise = self.job.promise
        report = replace(
            floats,
            candidates=(winner.result(brief=False), *(item.result() for item in others if item is not winner)),
            promise=replace(promise, kept=kept) if promise else None,
            walk=tuple(self.ledger.trials),
            notes=self._notes(winner),
            seconds=floats.seconds + self.clock.spent,
        )
        return replace(self.job.floats, winner=winner, report=report, check=check)

    def _notes(self, winner: Candidate) -> tuple[str, ...]:
        evidence, config = self.job.evidence, winner.entry.config
        notes = []
        if config is not None and config.scheme == "dynamic":
            notes.append("ranges are found in every call, so that what is called together may move a near decision")
        if evidence.calibration is None:
            notes.append("no calibration data was passed: schemes that need it were not tried")
        else:
            notes.append(f"calibrated on {evidence.calibration.items} items")
        if evidence.metric is None and evidence.unseen:
            items = sum(next(iter(case.inputs.values())).shape[0] for case in evidence.unseen)
            notes.append(f"compared with eager on {items} items that calibration did not see")
        elif evidence.metric is None:
            notes.append("compared with eager on drawn inputs alone, which say little of a quantized model")
        return tuple(notes)
