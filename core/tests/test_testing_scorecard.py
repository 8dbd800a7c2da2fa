"""The scorecard of the conformance kit: every test has a promise that is written somewhere, and failures name it."""

from __future__ import annotations

import json

import pytest

from optimum_core.errors import UnavailableError
from optimum_core.testing import BackendSuite
from optimum_core.testing.promises import CAPABILITIES, PROMISES
from optimum_core.testing.running import run_kit
from optimum_core.testing.scorecard import Check, Scorecard


def card(*checks: Check) -> Scorecard:
    return Scorecard(
        backend="acme",
        distribution="acme-backend 1.0",
        contract="0.1",
        kit="0.1.0",
        versions={"acme": "2"},
        checks=checks,
    )


def test_every_test_of_the_kit_has_a_promise() -> None:
    assert {name for name in dir(BackendSuite) if name.startswith("test_")} == set(PROMISES)


def test_a_broken_promise_is_named_with_its_place() -> None:
    failed = [
        Check(test="test_outputs_are_fresh", way=f"acme-cpu{index}", outcome="failed", detail="it changed\nat 3")
        for index in range(2)
    ]
    found = card(Check(test="test_probing_twice_gives_the_same", way="", outcome="passed"), *failed)
    page = found.to_markdown()
    assert not found.passed and "# Backend `acme` does not keep the contract" in page
    assert "acme-backend 1.0, acme 2; contract 0.1, kit of optimum-core 0.1.0." in page
    assert "| outputs | 0 | 2 | 0 |" in page and "| probe | 1 | 0 | 0 |" in page
    assert "**outputs are the caller's, whatever is called later**: docs/hooks.md#lifetime-of-outputs" in page
    assert "`test_outputs_are_fresh` on acme-cpu0, acme-cpu1" in page and "  > at 3" in page
    tree = json.loads(found.to_json())
    assert list(tree["capabilities"]) == list(CAPABILITIES)
    assert tree["checks"][1]["where"] == "hooks.md#lifetime-of-outputs" and tree["passed"] is False


def test_a_cause_is_told_once() -> None:
    names = ("test_outputs_are_fresh", "test_inputs_are_left_alone")
    page = card(
        *(Check(test=name, way="acme-cpu", outcome="failed", detail="no driver") for name in names),
        Check(test="test_probing_twice_gives_the_same", way="", outcome="failed", detail="another"),
    ).to_markdown()
    assert page.count("> no driver") == 1 and "- 2 promises, of one cause:" in page
    assert all(f"`{name}` on acme-cpu" in page for name in names) and page.count("of one cause") == 1


def test_what_was_not_tested_is_no_success() -> None:
    skipped = [Check(test=name, way="", outcome="skipped", detail="nothing here loads it") for name in PROMISES]
    assert card(*skipped).complete and not card(*skipped).passed
    part = card(Check(test="test_outputs_are_fresh", way="", outcome="passed"))
    assert part.passed and "keeps what was tested of the contract" in part.to_markdown()


def test_the_kit_runs_on_an_installed_backend_by_its_name() -> None:
    found = run_kit("onnx", arguments=("-k", "probing or schemes or what_it_is", "--no-header"))
    tests = {(check.test, check.outcome) for check in found.checks}
    assert ("test_probing_twice_gives_the_same", "passed") in tests
    assert ("test_a_session_says_what_it_is", "passed") in tests and not found.counts("failed")
    assert found.distribution.startswith("optimum-core ") and "onnx" in found.versions and not found.complete
    with pytest.raises(UnavailableError, match="stone"):
        run_kit("stone")
