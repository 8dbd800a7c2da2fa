"""The search returns nothing that is wrong, nothing that is slower than the model itself, and tells the whole story."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fake_backend import (
    Acme,
    Arrays,
    Deed,
    Described,
    Memory,
    Search,
    baked,
    far_behind,
    no_time,
    refusing,
    right,
    slow,
    wrong,
)
from optimum_core.errors import ExportError, OptionError, SessionError, VerificationError
from optimum_core.models.eager.calls import eager_outputs
from optimum_core.plan import Way
from optimum_core.plugins import DISABLED_ENV
from optimum_core.search import budget as budgets
from optimum_core.search.context import SearchResult
from optimum_core.search.history import Decided
from optimum_core.search.spec import CandidateSpec
from optimum_core.types import (
    Artifact,
    CandidateResult,
)

Make = Callable[..., Search]


@pytest.fixture
def search(described: Described, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.delenv(DISABLED_ENV, raising=False)
    module, signature = described("bert")

    def make(**routes: Deed | Exception) -> Search:
        return Search(acme=Acme(routes=routes), module=module, signature=signature, place=tmp_path)

    return make


def _of(tuned: SearchResult, route: str) -> CandidateResult:
    return next(item for item in tuned.report.candidates if item.options.get("route") == route)


def _id_of(route: str) -> str:
    found = Way(
        backend="acme", device="cpu", precision="fp32", format="acme", exporter="acme", exported="acme", routes=(route,)
    )
    return CandidateSpec(way=found, route=route).id


def _outcomes(tuned: SearchResult) -> dict[str, str]:
    return {str(item.options.get("route", item.backend)): item.outcome for item in tuned.report.candidates}


def test_the_faster_one_that_is_true_wins(search: Make) -> None:
    tuned = search(first=Memory()).run()
    assert tuned.winner.spec.way.backend == "acme"
    chosen = tuned.report.chosen
    assert chosen is not None
    assert (chosen.backend, chosen.options) == ("acme", {"route": "first"})
    assert tuned.report.candidates[0] is chosen
    assert chosen.fidelity is not None and len(chosen.fidelity.results) > 5
    assert _outcomes(tuned) == {"first": "chosen", "torch": "slower"}


def test_the_slower_one_is_not_chosen(search: Make) -> None:
    tuned = search(first=slow).run()
    assert tuned.winner.spec.is_baseline
    assert _outcomes(tuned) == {"torch": "chosen", "first": "slower"}
    assert "times the time of the chosen" in _of(tuned, "first").reason


def test_one_that_is_far_behind_is_not_compared(search: Make) -> None:
    tuned = search(first=far_behind, second=Memory()).run()
    assert _outcomes(tuned) == {"second": "chosen", "torch": "slower", "first": "skipped"}
    assert re.search(r"takes [\d.]+ times as long as eager at \S+, and was not compared", _of(tuned, "first").reason)
    assert _of(tuned, "first").fidelity is None and not _of(tuned, "first").measurements


def test_a_wrong_one_has_no_times(search: Make) -> None:
    assert not _of(search(first=wrong).run(), "first").measurements


@pytest.mark.parametrize("settings", [{"target": "acme"}, {"objective": "size"}])
def test_one_that_is_far_behind_is_compared_where_it_may_win(search: Make, settings: dict[str, str]) -> None:
    tuned = search(first=far_behind).run(**settings)
    assert _of(tuned, "first").fidelity is not None


def test_what_is_wrong_never_wins_however_fast(search: Make) -> None:
    tuned = search(first=lambda module, artifact, inputs: {"logits": np.zeros((len(inputs["input_ids"]), 5))}).run()
    assert tuned.winner.spec.is_baseline
    result = _of(tuned, "first")
    assert result.outcome == "wrong"
    assert "relative error" in result.reason
    assert result.fidelity is not None and not result.fidelity.passed


def test_the_next_route_is_tried(search: Make) -> None:
    made = search(first=wrong, second=Memory())
    tuned = made.run()
    assert tuned.winner.spec.route == "second"
    assert _outcomes(tuned) == {"second": "chosen", "first": "wrong", "torch": "slower"}
    assert made.acme.exported == ["first", "second"]


def test_a_route_that_fails_says_why_and_the_next_is_tried(search: Make) -> None:
    made = search(first=ExportError("acme", "no such operation\nat line 3", "none"), second=Memory())
    tuned = made.run("acme")
    assert (_of(tuned, "first").outcome, _of(tuned, "first").reason) == ("failed", "no such operation; at line 3")
    assert tuned.winner.spec.route == "second"


def test_a_failure_that_is_the_backends_own_bug_is_told_and_no_end(search: Make) -> None:
    tuned = search(first=ZeroDivisionError("oops"), second=Memory()).run()
    assert _of(tuned, "first").outcome == "failed"
    assert "ZeroDivisionError: oops" in _of(tuned, "first").reason


def test_where_nothing_is_true_the_table_names_each(search: Make) -> None:
    made = search(first=wrong, second=ExportError("acme", "no such operation", "none"), third=refusing)
    with pytest.raises(VerificationError) as caught:
        made.run("acme")
    rows = {line.strip() for line in caught.value.why.splitlines()[1:]}
    assert any(row.startswith("acme[first] → acme cpu:") and "relative error" in row for row in rows)
    assert any(row.startswith("acme[second] → acme cpu:") and "no such operation" in row for row in rows)
    assert any(row.startswith("acme[third] → acme cpu:") and "it runs nothing today" in row for row in rows)
    assert "target='torch'" in caught.value.remedy


def test_options_that_make_no_sense_end_the_search(search: Make) -> None:
    with pytest.raises(OptionError, match="no such option"):
        search(first=OptionError("acme", "no such option", "none"), second=right).run()


def test_sessions_are_closed_once_the_search_is_over(search: Make) -> None:
    made = search(first=wrong, second=Memory())
    made.run()
    assert [session.closed for session in made.acme.sessions] == [1, 1]
    with pytest.raises(VerificationError):
        (failing := search(first=wrong)).run("acme")
    assert all(session.closed for session in failing.acme.sessions)


def test_right_at_one_length_only_is_fixed_there_when_a_target_was_stated(search: Make) -> None:
    tuned = search(first=baked).run("acme")
    assert tuned.winner.spec.way.backend == "acme"
    limit = tuned.winner.signature.layout.limits["sequence"]
    assert {spec.shape for spec in tuned.winner.signature.inputs} == {("batch", limit)}
    assert [item.outcome for item in tuned.report.candidates if item.backend == "acme"] == ["chosen", "wrong"]
    assert tuned.check.inputs["input_ids"].shape[1] == limit


def test_right_at_one_length_only_is_not_enough_unasked(search: Make) -> None:
    made = search(first=baked)
    tuned = made.run()
    assert tuned.winner.spec.is_baseline
    assert _outcomes(tuned) == {"torch": "chosen", "first": "wrong"}
    assert made.acme.exported == ["first"]


def test_without_verification_nothing_is_said_to_be_proved(search: Make) -> None:
    tuned = search(first=wrong).run("acme", verify=False)
    assert tuned.winner.spec.way.backend == "acme"
    assert all(item.fidelity is None for item in tuned.report.candidates)
    assert tuned.winner.outcome == "chosen"


def test_the_baseline_is_measured_even_where_it_may_not_win(search: Make) -> None:
    tuned = search(first=slow).run("acme")
    assert tuned.winner.spec.way.backend == "acme"
    baseline = next(item for item in tuned.report.candidates if item.backend == "torch")
    assert baseline.outcome == "slower"
    assert "for comparison only" in baseline.reason
    assert baseline.measurements


def test_a_spent_budget_skips_what_is_not_needed(search: Make) -> None:
    made = search(first=right, second=Memory())
    tuned = made.run(budget=no_time())
    assert _of(tuned, "second").outcome == "skipped"
    assert "budget" in _of(tuned, "second").reason
    assert made.acme.exported == ["first"]


def test_a_spent_budget_still_goes_on_until_something_is_true(search: Make) -> None:
    tuned = search(first=wrong, second=Memory()).run("acme", budget=no_time())
    assert tuned.winner.spec.route == "second"


def test_a_spent_budget_ends_in_an_error_where_nothing_was_true_in_time(
    search: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budgets, "LEAST_TO_BUILD", 0.0)
    made = search(first=wrong, second=Memory())
    with pytest.raises(VerificationError, match=r"agrees with the eager model:\n(.*\n)+.*a budget of more than 0 s"):
        made.run("acme", budget=no_time())
    assert made.acme.exported == ["first"]


def test_a_spent_budget_ends_after_the_likeliest_restriction(search: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "LEAST_TO_BUILD", 0.0)
    made = search(first=baked, second=Memory())
    tuned = made.run("acme", budget=no_time())
    assert made.acme.exported == ["first", "first"]
    assert tuned.winner.spec.route == "first" and tuned.report.fixed


def test_a_spent_budget_ends_where_eager_may_be_returned(search: Make) -> None:
    made = search(first=wrong, second=Memory())
    tuned = made.run("auto", budget=no_time())
    assert made.acme.exported == ["first"] and _of(tuned, "second").outcome == "skipped"
    assert tuned.winner.spec.is_baseline and not tuned.report.settled
    assert "nothing that was built within the budget of 0 s agrees with eager, which is returned" in tuned.report.notes


def test_a_budget_long_over_before_anything_was_built_ends_in_eager(
    search: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budgets, "LEAST_TO_BUILD", 0.0)
    made = search(first=right)
    tuned = made.run("auto", budget=no_time())
    assert made.acme.exported == []
    assert tuned.winner.spec.is_baseline and not tuned.report.settled
    assert "the budget of 0 s ended before anything was built: eager is returned" in tuned.report.notes


def test_a_spent_budget_ends_where_eager_leaves_one_far_behind(search: Make) -> None:
    made = search(first=far_behind, second=Memory())
    tuned = made.run("auto", budget=no_time())
    assert made.acme.exported == ["first"] and tuned.winner.spec.is_baseline
    assert tuned.report.settled and tuned.report.ended_at is not None


def test_nothing_is_restricted_where_eager_leaves_one_far_behind(search: Make) -> None:
    made = search(first=far_behind, second=baked)
    found = made.run("auto", may_restrict=True)
    assert found.winner.spec.is_baseline and _of(found, "second").outcome == "wrong"
    assert not [item for item in found.tried if item.signature.inputs != made.signature.inputs]


def test_what_won_before_is_tried_alone(search: Make) -> None:
    made = search(first=right, second=Memory())
    tuned = made.run(decided=Decided(spec=_id_of("second")))
    assert made.acme.exported == ["second"]
    assert _of(tuned, "first").outcome == "skipped"
    assert tuned.winner.spec.route == "second"


def test_what_won_before_and_is_wrong_now_does_not_win_again(search: Make) -> None:
    tuned = search(first=Memory(), second=wrong).run(decided=Decided(spec=_id_of("second")))
    assert tuned.winner.spec.route == "first"
    assert _of(tuned, "second").outcome == "wrong"


def test_an_export_is_kept_for_the_next_search(search: Make) -> None:
    search(first=Memory()).run()
    again = search(first=Memory())
    again.run()
    assert again.acme.exported == []


def test_the_smallest_wins_where_size_was_asked_for(search: Make) -> None:
    tuned = search(first=slow).run(objective="size")
    assert tuned.winner.spec.way.backend == "acme"
    assert "size" in next(item.reason for item in tuned.report.candidates if item.outcome == "slower")


def test_a_candidate_that_breaks_while_it_is_measured_loses(search: Make) -> None:
    def breaks(module: Any, artifact: Artifact, inputs: Arrays) -> Arrays:
        if inputs["input_ids"].shape[0] == 1 and inputs["attention_mask"].all():
            raise SessionError("backend 'acme'", "out of memory", "use a smaller batch")
        return eager_outputs(module, inputs)

    tuned = search(first=breaks).run()
    assert tuned.winner.spec.is_baseline
    assert "out of memory" in _of(tuned, "first").reason


def test_every_stage_is_told_when_it_begins_and_when_it_ends(search: Make) -> None:
    made = search(first=wrong, second=Memory())
    made.run()
    begun = [event.stage for event in made.events if event.seconds is None]
    ended = [event.stage for event in made.events if event.seconds is not None]
    assert sorted(begun) == sorted(ended)
    assert {"reference", "export", "load", "verify", "measure"} <= set(begun)
    assert any(event.problem for event in made.events if event.stage == "verify")
