"""Samples whose values are no numbers: masks in floats, and padding of a form that no rule draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core import accelerate
from optimum_core.errors import OptionError, VerificationError
from optimum_core.models.eager.calls import call
from optimum_core.models.inputs.samples import Case
from optimum_core.models.signatures.signature import describe
from optimum_core.verify.gradients import minds_gradients
from optimum_core.verify.reference import GIVEN, cases_at, reference_cases
from padded_encoder import PaddedEncoder


class Gated(torch.nn.Module):
    """A sum of the places that a gate, which may be left out, lets through."""

    def __init__(self, least: float = 0.0) -> None:
        super().__init__()
        self.least = least

    def forward(self, x: torch.Tensor, gate: torch.Tensor | None = None) -> torch.Tensor:
        return x.sum(1) if gate is None else (x * (gate > self.least)).sum(1)


class Idle(Gated):
    def forward(self, x: torch.Tensor, gate: torch.Tensor | None = None) -> torch.Tensor:
        return x.sum(1)


@pytest.mark.parametrize(
    ("least", "gate"),
    [
        (0.0, torch.ones(2, 7)),
        (-0.5, torch.ones(2, 7)),
        (-1e6, torch.rand(2, 7)),
        (0, torch.ones(2, 7, dtype=torch.int64)),
        (-50, torch.ones(2, 7, dtype=torch.int32)),
        (0, torch.ones(2, 7, dtype=torch.bool)),
    ],
)
def test_a_gate_that_every_sample_opens_is_no_idle_input(least: float, gate: torch.Tensor) -> None:
    samples = {"x": torch.randn(2, 7), "gate": gate}
    signature = describe(Gated(least).eval(), name="gated", samples=samples)
    assert [spec.name for spec in signature.inputs] == ["x", "gate"] and not signature.ignored
    assert describe(Idle().eval(), name="idle", samples=samples).ignored == ("gate",)


class Marked(Gated):
    """One value alone counts: no draw comes to it."""

    def forward(self, x: torch.Tensor, gate: torch.Tensor | None = None) -> torch.Tensor:
        return x.sum(1) if gate is None else x.sum(1) * (gate != 1234).all()


class MarkedInPython(Gated):
    def __init__(self, numbers: Callable[[torch.Tensor], list[list[int]]]) -> None:
        super().__init__(0)
        self.numbers = numbers

    def forward(self, x: torch.Tensor, gate: torch.Tensor | None = None) -> torch.Tensor:
        return x.sum(1) * (0 if gate is not None and [1234] * 7 in self.numbers(gate) else 1)


@pytest.mark.parametrize(
    "numbers",
    [lambda gate: gate.tolist(), lambda gate: np.asarray(gate).tolist(), lambda gate: np.from_dlpack(gate).tolist()],
    ids=["tolist", "array", "dlpack"],
)
def test_an_input_that_python_reads_is_not_idle(numbers: Callable[[torch.Tensor], list[list[int]]]) -> None:
    samples = {"x": torch.randn(2, 7), "gate": torch.arange(14).reshape(2, 7)}
    assert not describe(MarkedInPython(numbers).eval(), name="marked", samples=samples).ignored


class Sized(Gated):
    def forward(self, x: torch.Tensor, gate: torch.Tensor | None = None) -> torch.Tensor:
        return x.sum(1) if gate is None or gate.numel() > 0 else x.sum(1) * 0


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float32])
def test_an_input_that_counts_at_one_value_alone_is_not_idle(dtype: torch.dtype) -> None:
    samples = {"x": torch.randn(2, 7), "gate": torch.arange(14).reshape(2, 7).to(dtype)}
    assert not describe(Marked().eval(), name="marked", samples=samples).ignored
    assert describe(Sized().eval(), name="sized", samples=samples).ignored == ("gate",)


def test_zeros_are_among_the_values_of_a_mask_in_floats() -> None:
    samples = {"x": torch.randn(2, 7), "gate": torch.ones(2, 7)}
    cases = reference_cases(module := Gated().eval(), describe(module, name="gated", samples=samples))
    gates = [case.inputs["gate"] for case in cases]
    assert any(np.isin(gate, (0, 1)).all() and not gate.all() for gate in gates)
    assert any(not np.isin(gate, (0, 1)).all() for gate in gates), "ones may be numbers all the same"


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("fill", [False, True])
def test_switches_that_are_all_alike_are_turned(fill: bool) -> None:
    samples = {"x": torch.randn(3, 7, 8), "padding": torch.full((3, 7), fill)}
    if fill:
        samples["padding"][:, 0] = False
    module = PaddedEncoder().eval()
    cases = reference_cases(module, describe(module, name="packed", samples=samples))
    drawn = [case.inputs["padding"] for case in cases]
    ordinary = [case.inputs["padding"] for case in cases if not case.name.startswith("padding ")]
    assert len({one.sum() / one.size for one in ordinary}) > 1 and not any(one.all(axis=1).any() for one in ordinary)
    if not fill:
        assert any((one.any() and (np.diff(one.astype(int), axis=1) >= 0).all()) for one in drawn), (
            "padding at the ends"
        )


def test_a_transformers_mask_in_floats_is_a_mask(tiny: Callable[..., Any]) -> None:
    model = tiny("bert", num_hidden_layers=1)
    samples = {"input_ids": torch.randint(5, 60, (2, 7)), "attention_mask": torch.ones(2, 7)}
    signature = describe(model, name="bert", samples=samples)
    spec = next(spec for spec in signature.inputs if spec.name == "attention_mask")
    assert spec.dtype == "float32" and "attention_mask" not in signature.ignored
    assert not signature.draw(Case(name="fresh", seed=101))["attention_mask"].all()
    fast = accelerate(model, target="ort", level="all", sample_inputs=samples, shapes=[(2, 7)], budget=0)
    samples["attention_mask"][0, 3:] = 0
    with torch.no_grad():
        torch.testing.assert_close(fast(**samples)[0], model(**samples)[0], atol=1e-4, rtol=1e-4)


class Times(torch.nn.Module):
    """A product with one number, or with none."""

    def forward(self, x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        return torch.where(n > 0, x * n, x)


@pytest.mark.parametrize("n", [torch.tensor(3), torch.tensor(True), torch.tensor(0.5)])
def test_a_number_without_axes_has_other_values_too(n: torch.Tensor) -> None:
    samples = {"x": torch.randn(2, 5), "n": n}
    signature = describe(Times().eval(), name="times", samples=samples)
    assert not signature.notes, "eager takes others"
    assert len({float(case.inputs["n"]) for case in reference_cases(Times().eval(), signature)}) > 1


def test_the_call_that_was_given_is_compared() -> None:
    """torch's own encoder packs rows whose padding is at their ends; drawn padding is anywhere."""
    padding = torch.arange(6) >= torch.tensor([[6], [4]])
    samples = {"x": torch.randn(2, 6), "gate": padding.float()}
    signature = describe(Gated().eval(), name="gated", samples=samples)
    given = next(case for case in reference_cases(Gated().eval(), signature) if case.name == GIVEN)
    assert all(np.array_equal(given.inputs[name], value.numpy()) for name, value in samples.items())
    other = signature.pinned(signature.axes[-1], 5)
    assert other.sample is None, "it is of another length"


@pytest.mark.parametrize(("ids", "mask"), [(torch.int32, torch.bool), (torch.int64, torch.float64)])
def test_the_call_that_was_given_is_compared_in_the_types_of_the_inputs(
    ids: torch.dtype, mask: torch.dtype, tiny: Callable[[str], Any]
) -> None:
    samples = {"input_ids": torch.randint(5, 90, (2, 7), dtype=ids), "attention_mask": torch.ones(2, 7, dtype=mask)}
    module = tiny("bert")
    signature = describe(module, name="bert", samples=samples)
    types = {spec.name: spec.dtype for spec in signature.inputs}
    given = next(case for case in reference_cases(module, signature) if case.name == GIVEN)
    assert {name: array.dtype.name for name, array in given.inputs.items()} == types


def test_samples_of_another_type_than_the_model_takes_are_converted() -> None:
    module = torch.nn.Linear(8, 3).eval()
    signature = describe(module, name="linear", samples={"input": torch.randn(2, 8, dtype=torch.float64)})
    assert any(case.name == GIVEN for case in reference_cases(module, signature))
    assert minds_gradients(module, signature) is None


@pytest.mark.parametrize("flag", [torch.tensor([True]), torch.ones(2, 1, dtype=torch.bool)])
def test_a_flag_is_turned(flag: torch.Tensor) -> None:
    class Asked(torch.nn.Module):
        def forward(self, x: torch.Tensor, flag: torch.Tensor) -> torch.Tensor:
            return torch.where(flag, x, -x)

    signature = describe(Asked(), name="asked", samples={"x": torch.randn(2, 5), "flag": flag})
    cases = [case for case in reference_cases(Asked(), signature) if "flag" in case.inputs]
    assert any(not case.inputs["flag"].all() for case in cases)


class _Packed(torch.nn.Module):
    """Lengths of zero are refused."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = torch.nn.GRU(4, 5, batch_first=True)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        pack = torch.nn.utils.rnn.pack_padded_sequence
        packed = pack(x, lengths, batch_first=True, enforce_sorted=False)
        _, last = self.cells(packed)
        return torch.as_tensor(last[0])


class _Bag(torch.nn.Module):
    """The offsets have to begin with zero, in whatever order the others are."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.EmbeddingBag(50, 6)

    def forward(self, text: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.table(text, offsets))


@pytest.mark.parametrize(
    ("module", "samples"),
    [
        (_Packed(), {"x": torch.randn(3, 5, 4), "lengths": torch.tensor([5, 2, 3])}),
        (_Bag(), {"text": torch.arange(10), "offsets": torch.tensor([0, 3, 7])}),
    ],
)
def test_values_are_varied_only_where_eager_takes_many_others(
    module: torch.nn.Module, samples: dict[str, torch.Tensor]
) -> None:
    """The first draws of other values are taken by luck."""
    signature = describe(module.eval(), name="tiny", samples=samples)
    for seed in range(301, 321):
        for lengths in ({}, {"batch": 1}):
            if set(lengths) <= set(signature.axes):
                call(module, signature.draw(Case(name="other", lengths=lengths, seed=seed)))


def test_a_workload_has_the_values_that_were_given_where_eager_refuses_others() -> None:
    taken: list[torch.Tensor] = []  # no attribute: the copies that are called were made before

    class Picky(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if taken and not bool(torch.isin(x, taken[-1]).all()):
                raise ValueError(x)
            return x + 1

    module, x = Picky().eval(), torch.randn(3, 1)
    signature = describe(module, name="tiny", samples={"x": x})
    taken.append(x)
    (case,) = cases_at(module, signature, {"as in the workload": {"batch": 4}})
    assert len(case.inputs["x"]) == 4 and np.isin(case.inputs["x"], x.numpy()).all()
    taken.append(torch.zeros(1))
    with pytest.raises(VerificationError, match="eager itself does not run at batch 4"):
        cases_at(module, signature, {"as in the workload": {"batch": 4}})


class Batched(torch.nn.Module):
    """A module that takes its inputs in one container."""

    def forward(self, batch: Any) -> torch.Tensor:
        values = batch.values() if isinstance(batch, dict) else batch
        return torch.cat(list(values), dim=-1)


class Apart(torch.nn.Module):
    """A module around it, as the error says."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Batched()

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.inner({"x": x, "y": y})
        return found


def test_containers_of_tensors_are_refused_with_a_remedy_that_works() -> None:
    x, y = torch.randn(2, 3), torch.randn(2, 4)
    for batch in ({"x": x, "y": y}, [x, y]):
        with pytest.raises(OptionError, match="a module around it whose forward takes each tensor by name"):
            describe(Batched(), name="batched", samples={"batch": batch})
    signature = describe(Apart(), name="apart", samples={"x": x, "y": y})
    assert [spec.name for spec in signature.inputs] == ["x", "y"]
