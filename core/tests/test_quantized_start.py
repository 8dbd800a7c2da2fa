"""What a quantized search starts from: the fastest unquantized model that keeps the promise as it is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from optimum_core.errors import OptionError
from optimum_core.plan import Way
from optimum_core.search.candidate import Candidate
from optimum_core.search.context import SearchResult
from optimum_core.search.quantized import starting_point as start
from optimum_core.search.quantized.data import QuantizationData, StatedData
from optimum_core.search.quantized.evaluator import QuantizationContext
from optimum_core.search.quantized.setup import QuantizationSetup
from optimum_core.search.spec import CandidateSpec
from optimum_core.types import Measurement, Promise
from optimum_core.types.quantization import Drop
from optimum_core.verify import ReferenceCase

PROMISE = Promise(metric="accuracy", baseline=0.75, max_drop="0", limit=0.0, data="80 labelled rows")


def _candidate(backend: str, precision: str, ms: float, **fields: Any) -> Candidate:
    way = Way(backend=backend, device="cpu", precision=precision, format="f", exporter="e", exported="f")
    times = Measurement(shape="1x8", median=ms, p95=ms, runs=3, least=ms)
    candidate = Candidate(spec=CandidateSpec(way=way), signature=SimpleNamespace(), outcome="slower")
    return replace(candidate, **{"run": dict, "measurements": (times,), **fields})


@dataclass
class Asked:
    """Evaluators that were opened, and closed again; whether the first's model keeps the promise is written down."""

    kept: bool
    opened: list[str] = field(default_factory=list)
    closed: int = 0

    def of(self, job: QuantizationContext) -> Any:
        self.opened.append(job.unquantized.winner.spec.way.precision)
        return SimpleNamespace(context=job, keeps_unquantized=self.kept, close=self._close)

    def _close(self) -> None:
        self.closed += 1


def _job(winner: Candidate, *others: Candidate, promise: Promise | None = PROMISE) -> QuantizationContext:
    found = SearchResult(winner=winner, report=None, check=None, tried=(winner, *others))  # type: ignore[arg-type]
    search: Any = SimpleNamespace(choosable=frozenset({"runner", "other"}))
    unused: Any = None
    return QuantizationContext(
        goal=unused, data=unused, promise=promise, drop=None, unquantized=found, search=search, ways=(), present=unused
    )


NARROW = _candidate("runner", "bf16", 4.0, outcome="chosen")
SLOW = _candidate("other", "fp32", 9.0, behind=2.25, problem="")


def test_what_breaks_the_promise_in_fewer_bits_gives_way_to_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    court = Asked(kept=False)
    monkeypatch.setattr(start, "Evaluator", court)
    quickest = _candidate("eager", "fp32", 1.0)  # there for comparison only
    exact = _candidate("runner", "fp32", 6.0)
    slow = replace(SLOW)
    found = start.open_evaluator(_job(NARROW, slow, exact, quickest)).context.unquantized
    assert (found.winner.spec.way.precision, found.winner.outcome) == ("fp32", "chosen")
    assert found.winner.spec == exact.spec
    assert "in bf16 the promise is broken" in found.winner.problem
    assert slow.reason == "1.50 times the time of the chosen"
    (loser,) = [item for item in found.tried if item.spec.way.precision == "bf16"]
    assert (loser.outcome, loser.reason) == ("wrong", "it breaks the promise, by bf16 alone")
    assert len(found.tried) == 4 and any(item is found.winner for item in found.tried)
    assert (court.opened, court.closed) == (["bf16", "fp32"], 1)  # the last is the caller's


def test_what_keeps_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    court = Asked(kept=True)
    monkeypatch.setattr(start, "Evaluator", court)
    job = _job(NARROW, replace(SLOW))
    assert start.open_evaluator(job).context is job
    assert (court.opened, court.closed) == (["bf16"], 0)


@pytest.mark.parametrize(
    "job",
    [
        _job(replace(SLOW, outcome="chosen"), NARROW),
        _job(NARROW, replace(SLOW), promise=None),
        _job(NARROW, replace(SLOW, outcome="wrong")),
        _job(NARROW, replace(SLOW, slower_at=("1x8",))),
    ],
    ids=["exact already", "nothing promised", "wrong", "slower than eager"],
)
def test_where_there_is_no_choice_nothing_is_asked(job: QuantizationContext, monkeypatch: pytest.MonkeyPatch) -> None:
    court = Asked(kept=False)
    monkeypatch.setattr(start, "Evaluator", court)
    assert start.open_evaluator(job).context is job
    assert (len(court.opened), court.closed) == (1, 0)


def test_a_metric_that_fails_leaves_no_court_open(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(Asked):
        def of(self, job: QuantizationContext) -> Any:
            found = super().of(job)
            del found.keeps_unquantized
            return found

    court = Failing(kept=False)
    monkeypatch.setattr(start, "Evaluator", court)
    with pytest.raises(AttributeError):
        start.open_evaluator(_job(NARROW, replace(SLOW)))
    assert court.closed == 1


@pytest.mark.parametrize(("outputs", "why"), [((), "there are none"), (("last_hidden_state",), "ranks choices")])
def test_a_drop_that_nothing_would_go_by_is_refused(outputs: tuple[str, ...], why: str) -> None:
    values = np.ones((2, 3))
    cases = [
        ReferenceCase(name="rows", inputs={}, outputs=dict.fromkeys(outputs, values), varied=frozenset())
        for _ in outputs
    ]
    unused: Any = None
    setup = QuantizationSetup(
        goal=unused, stated=StatedData(drop=Drop(amount=0.01)), context=unused, budget=unused, ways=(),
        processor=unused, packer=unused,
    )  # fmt: skip
    with pytest.raises(OptionError, match=why):
        setup._require_ranking(QuantizationData(unseen=tuple(cases)))
    logits = replace(cases[0], outputs={"logits": values}) if cases else None
    if logits is not None:
        setup._require_ranking(QuantizationData(unseen=(logits,)))
