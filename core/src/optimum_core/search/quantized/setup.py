"""Setup of a quantized search: prepares the data before the unquantized search, and continues from its winner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from optimum_core.errors import OptionError
from optimum_core.measure.stopwatch import watched
from optimum_core.models.signatures.decoder_signature import DecoderSignature, FirstCalls
from optimum_core.plan import Way
from optimum_core.quantization_goal import QuantizationGoal
from optimum_core.search.budget import Budget
from optimum_core.search.candidate import Candidate
from optimum_core.search.context import SearchContext, SearchResult
from optimum_core.search.quantized.data import LEAST_ROWS, SHARE, DataPreparer, QuantizationData, StatedData
from optimum_core.search.quantized.evaluator import EvaluatedCandidate, QuantizationContext
from optimum_core.search.quantized.recipe_search import search_quantized
from optimum_core.search.quantized.survey import SECONDS
from optimum_core.types import Promise
from optimum_core.verify.comparison import ranks
from optimum_core.verify.promise import make_promise

#: Share of the budget that one evaluation of the eager model may take for a second, which shows whether it varies.
_SHARE_OF_EVALUATION = 0.1


def why_in_one_pass(decoder: DecoderSignature, goal: QuantizationGoal | None, data: StatedData | None) -> str | None:
    """Return the reason why a model that generates is quantized as one forward pass; None: it is not."""
    if goal is None or data is None or not decoder.in_parts:
        return None
    if data.calibration is not None or data.labelled is not None or (goal.config and goal.config.calibrates):
        return "behind other parts, a decoder is quantized by schemes without calibration, and no rows are compared"
    if decoder.merge is not None and decoder.merge.reads_ahead:
        return "it reads a text in pieces otherwise than in one, so that a rounded cache cannot be checked"
    return None


class Presenter(Protocol):
    """Wrapper of candidates as the models that `accelerate` returns."""

    def write_companions(self, directory: Path) -> None:
        """Write configuration, tokenizer and processor files."""

    def present(self, candidate: Candidate, directory: Path) -> Any:
        """Return an `AcceleratedModel` whose companion files are in `directory`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizationSetup:
    """The input of quantization beside the unquantized search.

    Attributes:
        context: that of the unquantized search.
        budget: that of the whole call; the unquantized search has a part of it.
    """

    goal: QuantizationGoal
    stated: StatedData
    context: SearchContext
    budget: Budget
    ways: tuple[Way, ...]
    processor: Any
    packer: Presenter

    def data(self) -> QuantizationData:
        """Read the data, and pass the calibration batches to the builder.

        Raises:
            OptionError: the data does not fit the model, or is too little, or no way keeps a cache as stated.
        """
        self._require_cache()
        context = self.context
        data = DataPreparer(
            stated=self.stated,
            module=context.source.module(),
            signature=context.signature,
            processor=self.processor,
            workshop=context.builder.workshop,
            emit=context.emit,
            calibrates=self._calibrates,
        ).prepare()
        self._require_calibration(data)
        self._require_ranking(data)
        decoder = context.signature.decoder
        context.builder.calibration = (
            data.calibration
            if decoder is None or data.calibration is None
            else FirstCalls(decoder=decoder, batches=data.calibration)
        )
        return data

    def prepare(self) -> Callable[[SearchResult], SearchResult]:
        """Read the data and evaluate the eager model; return a function that continues from the unquantized result.

        Raises:
            OptionError: the data does not fit the model, or is too little.
            EvaluationError: the metric gives no number for the eager model.
        """
        context, data = self.context, self.data()
        companions = context.builder.workshop / "companions"
        companions.mkdir()
        self.packer.write_companions(companions)

        def present(candidate: Candidate) -> Any:
            return self.packer.present(candidate, companions)

        promise = self._promise(data, present)

        def search(unquantized: SearchResult) -> SearchResult:
            return search_quantized(
                QuantizationContext(
                    goal=self.goal,
                    data=data,
                    promise=promise,
                    drop=self.stated.drop,
                    unquantized=unquantized,
                    search=replace(context, budget=self._budget()),
                    ways=tuple(way for way in self.ways if self._cache in (None, *way.caches)),
                    present=present,
                )
            )

        return search

    def _budget(self) -> Budget:
        """Return the rest of a stated budget, else a budget of its own."""
        return self.budget if self.budget.stated else Budget(seconds=SECONDS, size=self.budget.size)

    @property
    def _calibrates(self) -> bool:
        """Whether any recipe needs calibration data."""
        if self.goal.config is not None:
            return self.goal.config.calibrates
        return any(scheme.method != "dynamic" for scheme in self.goal.schemes)

    @property
    def _cache(self) -> str | None:
        """The number format of a decoder's cache, if one is stated."""
        return self.goal.config.cache if self.goal.config is not None else None

    def _require_cache(self) -> None:
        if self._cache is not None and not any(self._cache in way.caches for way in self.ways):
            backends = ", ".join(sorted({way.backend for way in self.ways}))
            why = f"it cannot be {self._cache!r}: {self.context.source.name} keeps no cache in it on {backends}"
            raise OptionError("quantize, cache", why, "leave it out: models that generate have one, on some backends")

    def _require_calibration(self, data: QuantizationData) -> None:
        config = self.goal.config
        if config is not None and config.calibrates and data.calibration is None:
            why = (
                f"{config.name} finds ranges on typical inputs, and of so few labelled rows none can be spared for that"
            )
            raise OptionError("calibration", why, f"pass calibration=, or {SHARE * LEAST_ROWS} labelled rows or more")

    def _require_ranking(self, data: QuantizationData) -> None:
        """Refuse `max_drop` without `evaluate` where there are no rows, or no output ranks choices: nothing would go by
        it."""
        if self.stated.drop is None or data.metric is not None:
            return
        if not data.unseen:
            why = "without evaluate it is measured on rows that calibration did not see, and there are none"
            raise OptionError("max_drop", why, f"pass evaluate=, or calibration= of {SHARE * LEAST_ROWS} rows or more")
        if not any(ranks(name, array) for case in data.unseen for name, array in case.outputs.items()):
            why = "without evaluate it is of the share of equal decisions, and no output of this model ranks choices"
            remedy = "pass evaluate=, a function of the accelerated model or labelled rows; or leave max_drop out"
            raise OptionError("max_drop", why, remedy)

    def _promise(self, data: QuantizationData, present: Callable[[Candidate], Any]) -> Promise | None:
        """Return the promise based on the eager model's value of the metric; None without a metric."""
        if data.metric is None or self.stated.drop is None:
            return None
        context = self.context
        spec = next(spec for spec in context.specs if spec.is_baseline)
        eager = Candidate(spec=spec, signature=context.signature)
        context.trials.build(eager)
        context.trials.open(eager)
        with watched(context.emit, "evaluate", "the eager model"):
            try:
                evaluated = EvaluatedCandidate(candidate=eager, present=present)
                patience = _SHARE_OF_EVALUATION * self._budget().seconds
                return make_promise(data.metric, evaluated, self.stated.drop, patience=patience)
            finally:
                eager.close()
