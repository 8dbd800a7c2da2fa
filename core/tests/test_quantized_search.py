"""The order of a quantized search: expected times lead it, measured ones decide, and the log agrees with both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from optimum_core.errors import PromiseError
from optimum_core.plan import Way
from optimum_core.search.budget import Budget
from optimum_core.search.candidate import Candidate
from optimum_core.search.quantized import search as searching
from optimum_core.search.quantized.evaluator import Verdict
from optimum_core.search.quantized.log import SearchLog, Surveyed
from optimum_core.search.spec import CandidateSpec
from optimum_core.types import Promise, QuantizeConfig, Trial

LAYERS = tuple(f"layer.{number}" for number in range(20))
SIGNATURE = SimpleNamespace(decoder=None)
CONFIG = QuantizeConfig(scheme="dynamic")


class Bench:
    """A court whose candidates keep the promise, and take the time, that is written down for them.

    Attributes:
        kept: backends whose candidates keep it, by how many layers are left out at least.
        paces: what is measured of a backend's candidates with layers left out.
        controls: whether what a backend finds by accuracy control keeps it.
    """

    def __init__(self, kept: Mapping[str, int], paces: Mapping[str, float], *, controls: bool = False) -> None:
        self.kept, self.paces, self.controls = kept, paces, controls
        self.context: Any = None
        self.judged: list[str] = []
        self.open: set[int] = set()
        self.unquantized: Any = None

    def built(self, spec: CandidateSpec, *, pace: float | None = None) -> Candidate:
        if spec.config is not None and spec.config.accuracy_control and not self.controls:
            raise PromiseError(spec.way.backend, "it took everything back", "allow more")
        candidate = Candidate(spec=spec, signature=SimpleNamespace())
        candidate.session = SimpleNamespace(close=lambda: self.open.discard(id(candidate)))
        candidate.pace, candidate.size = pace or 1.0, 1
        self.open.add(id(candidate))
        return candidate

    def judge(self, candidate: Candidate) -> Verdict:
        config, backend = candidate.spec.config, candidate.spec.way.backend
        assert config is not None
        self.judged.append(f"{backend} {len(config.exclude)}")
        kept = backend in self.kept and len(config.exclude) >= self.kept[backend]
        kept |= config.accuracy_control is True
        return Verdict(outcome="kept" if kept else "broken", reason="as it is written down", value=0.5)

    def pace(self, candidates: Sequence[Candidate], effort: Any) -> None:
        for candidate in candidates:
            candidate.pace = self.paces[candidate.spec.way.backend]


def _scout(backend: str, pace: float, config: QuantizeConfig = CONFIG) -> Surveyed:
    way = Way(
        backend=backend, device="cpu", precision="fp32", format=backend, exporter="e", exported=backend,
        quantizer=backend, scheme=config.name,
    )  # fmt: skip
    return Surveyed(spec=CandidateSpec(way=way, config=config), pace=pace, size=1)


def _walked(
    bench: Bench, scouts: Sequence[Surveyed], monkeypatch: pytest.MonkeyPatch
) -> tuple[Candidate | None, SearchLog]:
    """The winner, and the ledger with what was not judged."""
    measured = SimpleNamespace(measurements=(), spec=SimpleNamespace(is_baseline=True))
    floats: Any = SimpleNamespace(winner=measured, tried=[measured])
    monkeypatch.setattr("optimum_core.search.quantized.log.score", lambda measurements: 10.0)
    job: Any = SimpleNamespace(
        goal=SimpleNamespace(config=CONFIG, weights="int8"),
        data=SimpleNamespace(calibration=None),
        promise=Promise(metric="accuracy", baseline=1.0, max_drop="0.01", limit=0.01, data="rows"),
        search=SimpleNamespace(objective="latency", emit=lambda event: None, signature=SIGNATURE),
        ways=(),
    )
    ledger = SearchLog(unquantized=floats)
    budget = Budget(seconds=900.0)
    bench.context = SimpleNamespace(search=SimpleNamespace(budget=budget))
    work = searching._QuantizedSearch(job, bench, ledger, budget, _ranked=LAYERS)  # type: ignore[arg-type]
    winner = work._first_kept(scouts)
    if winner is not None:
        ledger.mention(scouts, winner.pace)
    return winner, ledger


def _outcomes(ledger: SearchLog) -> dict[str, str]:
    def name(trial: Trial) -> str:
        return f"{trial.name.split()[0]} {len(trial.config.get('exclude', ()))}"

    return {name(trial): trial.outcome for trial in ledger.trials}


SCOUTS = (_scout("quick", 0.5), _scout("next", 0.6))


def test_one_that_was_timed_ends_the_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(kept={"quick": 0, "next": 0}, paces={})
    winner, ledger = _walked(bench, SCOUTS, monkeypatch)
    assert winner is not None and winner.spec == SCOUTS[0].spec
    assert bench.judged == ["quick 0"]
    assert [trial.reason for trial in ledger.trials if trial.outcome == "slow"] == ["1.20 times the time of the chosen"]
    assert [trial.milliseconds for trial in ledger.trials] == [5.0, 6.0]
    assert [trial.speedup for trial in ledger.trials] == [2.0, pytest.approx(10 / 6)]


def test_one_that_is_slower_than_expected_is_held_against_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(kept={"quick": 1, "next": 0}, paces={"quick": 0.9})
    winner, ledger = _walked(bench, SCOUTS, monkeypatch)
    assert winner is not None and winner.spec == SCOUTS[1].spec
    assert bench.judged[:2] == ["quick 0", "quick 1"] and bench.judged[-1] == "next 0"
    (slower,) = (trial for trial in ledger.trials if len(trial.config.get("exclude", ())) == 1)
    assert (slower.outcome, slower.reason) == ("slow", "1.50 times the time of the chosen")
    assert slower.milliseconds == pytest.approx(9.0)
    assert [trial.outcome for trial in ledger.trials].count("kept") == 1
    assert len(bench.open) == 1  # the winner's session alone


def test_one_that_is_as_quick_as_expected_ends_the_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(kept={"quick": 1, "next": 0}, paces={"quick": 0.52})
    winner, ledger = _walked(bench, SCOUTS, monkeypatch)
    assert winner is not None and winner.spec.way.backend == "quick"
    assert bench.judged == ["quick 0", "quick 1"]
    told = {trial.name: trial.reason for trial in ledger.trials if trial.outcome == "slow"}
    assert list(told.values()) == ["1.15 times the time of the chosen"]


def test_when_none_keeps_it_all_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(kept={}, paces={})
    winner, ledger = _walked(bench, SCOUTS, monkeypatch)
    assert winner is None and not bench.open
    assert len(bench.judged) == len(ledger.trials) == 10
    assert set(_outcomes(ledger).values()) == {"broken"}


def test_a_backend_controls_accuracy_when_nothing_else_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(kept={}, paces={"quick": 0.7}, controls=True)
    winner, ledger = _walked(bench, [_scout("quick", 0.5, QuantizeConfig())], monkeypatch)
    assert winner is not None and winner.spec.config is not None
    assert winner.spec.config.accuracy_control and not winner.spec.config.exclude
    assert bench.judged[-2:] == ["quick 10", "quick 0"]  # after half of the layers
    assert winner.pace == 0.7  # what was only expected is timed
    assert [trial.outcome for trial in ledger.trials].count("kept") == 1


def test_control_that_finds_nothing_is_a_promise_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(kept={}, paces={})
    winner, ledger = _walked(bench, [_scout("quick", 0.5, QuantizeConfig())], monkeypatch)
    assert winner is None and not bench.open
    (last,) = [trial for trial in ledger.trials if trial.config.get("accuracy_control")]
    assert (last.outcome, last.reason) == ("broken", "it took everything back")
    assert last is ledger.trials[-1]


def _decided(
    words: str, unquantized: float, quantized: float, monkeypatch: pytest.MonkeyPatch
) -> tuple[Candidate, Sequence[Candidate], bool]:
    """Who is chosen, the others and whether the promise is kept, where the last race gives these times."""
    signature: Any = SimpleNamespace()
    pacer = Candidate(spec=SCOUTS[0].spec, signature=signature, problem="fastest", measurements=(unquantized,))  # type: ignore[arg-type]
    other = replace(pacer, behind=1.5, problem="", for_comparison=True)
    winner = Candidate(spec=SCOUTS[1].spec, signature=signature, measurements=(quantized,))  # type: ignore[arg-type]
    court: Any = SimpleNamespace(unquantized=pacer, prepared=lambda item: None, time=lambda items, effort: None)
    floats: Any = SimpleNamespace(winner=pacer, tried=[pacer, other], check=None)
    job: Any = SimpleNamespace(
        goal=SimpleNamespace(config=None, weights=words),
        data=SimpleNamespace(unseen=()),
        unquantized=floats,
        search=SimpleNamespace(
            objective="latency",
            may_restrict=False,
            emit=lambda event: None,
            effort=None,
            choosable={"quick", "next"},
            signature=SIGNATURE,
        ),
    )
    running = searching._QuantizedSearch
    monkeypatch.setattr(searching, "score", lambda measurements: measurements[0])
    monkeypatch.setattr(running, "_result", lambda self, winner, others, check, kept=False: (winner, others, kept))
    found: Any = running(job, court, SearchLog(unquantized=floats), Budget(seconds=900.0))._decide(winner, ())
    return found  # type: ignore[no-any-return]


def test_a_quantized_model_that_is_slower_is_not_chosen_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, _, kept = _decided("int8", 10.0, 10.2, monkeypatch)
    assert (chosen.problem, kept) == (
        "fastest; not quantized: no quantized model is faster than the best unquantized one",
        False,
    )
    chosen, _, kept = _decided("int4", 10.0, 10.2, monkeypatch)  # whose point is the size
    assert kept and "0.98 times as fast" in chosen.problem


def test_how_far_others_are_behind_is_said_of_what_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, (loser, other), _ = _decided("int8", 10.0, 5.0, monkeypatch)
    assert "2.00 times as fast" in chosen.problem
    assert loser.reason == "2.00 times the time of the chosen; not quantized"
    assert other.reason == "3.00 times the time of the chosen; for comparison only"
