"""Comparisons that a stated budget leaves out: they are said, and calls there warn or are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core.errors import InputError, UnprovedLengthWarning
from optimum_core.models.eager.calls import eager_outputs
from optimum_core.models.inputs.samples import Case
from optimum_core.models.signatures.signature import ModelSignature, describe
from optimum_core.runtime.accelerated import AcceleratedModel
from optimum_core.search import references
from optimum_core.verify.planned_cases import Room, telling_first
from optimum_core.verify.ranges import proved
from optimum_core.verify.reference import few_of, reference_cases, remembers
from stated_backend import Deep, Stated, accelerated, eager, made, report_of

SHAPES = [{"batch": 1}, {"batch": 4}]


class Branching(Deep):
    """Another sum for more than ten rows."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        (values,) = super().forward(x).values()
        return {self.output: values if x.shape[0] <= 10 else values + 1}


class Banded(torch.nn.Module):
    """Another product for lengths from 21 to 40 than for others."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (3 if 20 < x.shape[1] <= 40 else 2)


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time at all for what a stated budget does not hold."""
    monkeypatch.setattr(references, "_LITTLE", 0.0)


def _call(place: Path, kind: type[Deep] = Deep, **settings: Any) -> AcceleratedModel:
    backends = [eager(), Stated(name="a", takes=lambda form: 1.0)]
    settings = {"cache_dir": place / "cache", "shapes": SHAPES, "target": "a", **settings}
    return accelerated(place, backends, made(kind), **settings)


def _described(lengths: int = 13) -> tuple[torch.nn.Module, ModelSignature]:
    module = Banded().eval()
    return module, describe(module, name="banded", samples={"x": torch.rand(2, lengths)})


@pytest.mark.usefixtures("no_room")
def test_what_was_left_out_is_said_and_calls_there_warn(tmp_path: Path) -> None:
    model = _call(tmp_path, budget=0)
    report = report_of(model)
    assert "batch 33" in report.left_out and any("left out" in note and "batch 33" in note for note in report.notes)
    assert model.manifest.axes["batch"].proved == (1, 4)
    rows = np.zeros((33, 3), dtype=np.float32)
    with pytest.warns(UnprovedLengthWarning, match="33"):
        model(x=rows)


@pytest.mark.usefixtures("no_room")
def test_a_side_of_a_switch_that_was_left_out_is_refused(tmp_path: Path) -> None:
    model = _call(tmp_path, Branching, budget=0)
    assert {"batch 10", "batch 11"} <= {*report_of(model).left_out}
    with pytest.raises(InputError, match="nothing was compared there"):
        model(x=np.zeros((11, 3), dtype=np.float32))


@pytest.mark.usefixtures("no_room")
def test_no_length_up_to_those_that_were_stated_is_left_out(tmp_path: Path) -> None:
    model = _call(tmp_path, Branching, budget=0, shapes=[{"batch": 1}, {"batch": 12}])
    assert not {"batch 10", "batch 11"} & {*report_of(model).left_out}
    for count in (10, 11, 12):
        rows = np.ones((count, 3), dtype=np.float32)
        want = eager_outputs(made(Branching), {"x": rows})[Branching.output]
        assert np.array_equal(model(x=rows)[Branching.output], want)


@pytest.mark.usefixtures("no_room")
@pytest.mark.parametrize("budget", [None, 1e6])
def test_a_call_with_the_time_compares_what_was_left_out(budget: float | None, tmp_path: Path) -> None:
    assert report_of(_call(tmp_path, budget=0)).left_out
    assert report_of(_call(tmp_path, budget=0)).from_cache
    full = _call(tmp_path, budget=budget)
    assert not report_of(full).from_cache and report_of(full).left_out == ()
    assert full.manifest.axes["batch"].proved == (1, 33)
    assert report_of(_call(tmp_path, budget=0)).from_cache


@pytest.mark.usefixtures("no_room")
def test_without_a_stated_budget_nothing_is_left_out(tmp_path: Path) -> None:
    assert report_of(_call(tmp_path)).left_out == ()


def test_what_takes_little_is_compared_whatever_the_budget(tmp_path: Path) -> None:
    assert report_of(_call(tmp_path, budget=0)).left_out == ()


@pytest.mark.usefixtures("no_room")
def test_eager_itself_is_not_limited(tmp_path: Path) -> None:
    model = accelerated(tmp_path, [eager(1.0), Stated(name="a", takes=lambda form: 8.0)], shapes=SHAPES, budget=0)
    assert report_of(model).left_out == () and model.backend == "eager"
    assert [item.shape for item in report_of(model).candidates[0].measurements] == ["batch=1", "batch=4"]


@pytest.mark.usefixtures("no_room")
def test_the_ordinary_cases_are_compared_without_any_room(tiny: Callable[..., Any]) -> None:
    module = tiny("bert").eval()
    signature = describe(module, name="bert")
    room = Room(allows=lambda seconds: False)
    few, all_of_them = reference_cases(module, signature, room), reference_cases(module, signature)
    names = {case.name for case in few}
    traced = signature.layout.lengths
    assert {"traced shape, fresh values", "no padding", "left padding", "every axis at once"} <= names
    assert {case.lengths["batch"] for case in few} >= {1, 3, traced["batch"]}
    assert {case.lengths["sequence"] for case in few} >= {1, 2, *signature.beside("sequence")}
    assert {case.name for case in all_of_them} - names == {case.name for case in room.left_out}
    assert all(length > traced[axis] for case in room.left_out for axis, length in case.lengths.items())


def test_sides_of_switches_come_before_other_lengths() -> None:
    _, signature = _described()
    names = [case.name for case in telling_first(signature)]
    (axis,) = {axis for axis, turns in signature.switches.items() if turns}
    assert signature.switches[axis] == (20, 40)
    sides = [names.index(f"{axis} {length}") for length in (20, 21, 40, 41)]
    assert max(sides) < min(names.index(f"{axis} 200"), names.index("batch 33"))


@pytest.mark.parametrize(
    ("missed", "greatest", "longest"),
    [({20, 21, 40}, 20, 13), ({40, 41, 200}, 40, 29), (set(), None, 200), ({21}, None, 200)],
)
def test_calls_end_before_the_first_side_that_was_not_compared(
    missed: set[int], greatest: int | None, longest: int
) -> None:
    module, signature = _described()
    (axis,) = {axis for axis, turns in signature.switches.items() if turns}
    between = {29} if missed == {20, 21, 40} else set()  # a length within the band, compared in any case otherwise
    cases = tuple(case for case in reference_cases(module, signature) if case.lengths[axis] not in missed | between)
    left_out = [Case(name=f"{axis} {length}", lengths={axis: length}) for length in missed]
    found = proved(signature, cases, left_out)[axis]
    assert (found.greatest, found.proved) == (greatest, (1, longest))


class Remembering(torch.nn.Module):
    """A model whose answers follow the most rows that it has seen."""

    most = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.most = max(self.most, len(x))
        return x + self.most


def test_few_calls_in_a_row_find_what_a_model_remembers() -> None:
    module = Remembering().eval()
    cases = reference_cases(module, describe(module, name="remembering", samples={"x": torch.rand(2, 3)}))
    few = few_of(cases)
    assert few[0] is cases[0] and len(few) < len(cases) / 2
    assert remembers(module, few) is not None


@pytest.mark.usefixtures("no_room")
def test_few_calls_in_a_row_are_said(tmp_path: Path) -> None:
    report = report_of(_call(tmp_path, budget=0))
    assert any(name.startswith("calls in a row") for name in report.left_out)
