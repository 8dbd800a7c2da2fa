"""The stamp of a processor: compiled code is opened where it runs, and refused where it would crash."""

from __future__ import annotations

import json

import pytest

from optimum_core.backend import processor_problem, processor_stamp
from optimum_core.testing.machine import machine


def test_code_runs_on_its_own_processor_and_on_any_with_more() -> None:
    stamp = json.loads(json.dumps(processor_stamp(machine(architecture="x86_64", features={"avx2", "fma"}))))
    assert stamp == {"architecture": "x86_64", "features": ["avx2", "fma"]}
    for here in ("x86_64", "AMD64"):
        assert processor_problem(stamp, machine(architecture=here, features={"avx2", "fma", "avx512f"})) is None


def test_a_feature_or_an_architecture_that_is_lacking_is_named() -> None:
    stamp = processor_stamp(machine(architecture="x86_64", features={"avx2", "fma"}))
    lacking = processor_problem(stamp, machine(architecture="x86_64", features={"avx2"}))
    assert lacking == "it was compiled for a processor with fma, which this one lacks"
    other = processor_problem(stamp, machine(architecture="arm64", features={"neon"}))
    assert other == "it was compiled for x86_64, and this processor is arm64"


@pytest.mark.parametrize("used", [frozenset(), frozenset({"avx2"})])
def test_code_for_less_than_the_host_has_runs_on_less(used: frozenset[str]) -> None:
    stamp = processor_stamp(machine(features={"avx2", "avx512f"}), used)
    assert processor_problem(stamp, machine(features={"avx2"})) is None
