# mypy: disable-error-code="no-any-return"
"""Samples of the user are the call: kept, varied where eager takes that, refused where they are no call."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from optimum_core.errors import OptionError, SourceError
from optimum_core.measure.workload import Limits
from optimum_core.models.inputs.samples import Case
from optimum_core.models.signatures.one_row import inputs_of_one_row
from optimum_core.models.signatures.signature import describe

Tensor = torch.Tensor


class Odd(torch.nn.Module):
    """A network of plain parameters, so that every signature can be tried."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(6, 3)


class Nothing(Odd):
    def forward(self) -> Tensor:
        return self.linear.weight


class Unnamed(Odd):
    def forward(self, *tensors: Tensor) -> Tensor:
        return self.linear(sum(tensors))


class Named(Odd):
    def forward(self, **tensors: Tensor) -> Tensor:
        return self.linear(tensors["left"] + tensors["right"])


class Keyword(Odd):
    def forward(self, left: Tensor, *, right: Tensor) -> Tensor:
        return self.linear(left + right)


class Positional(Odd):
    def forward(self, left: Tensor, /) -> Tensor:
        return self.linear(left)


class Several(Odd):
    def forward(self, parts: list[Tensor]) -> Tensor:
        return self.linear(torch.cat(parts))


class Switched(Odd):
    def forward(self, left: Tensor, double: bool = False, scale: float = 1.0) -> Tensor:
        return self.linear(left) * (2 if double else 1) * scale


class Scaled(Odd):
    def forward(self, left: Tensor, scale: Tensor, shift: Tensor | None = None) -> Tensor:
        made = self.linear(left) * scale
        return made if shift is None else made + shift


class Looked(Odd):
    """Takes ids of ten, and only where each row has exactly two of the last."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(10, 6)

    def forward(self, ids: Tensor) -> Tensor:
        if not bool(((ids == 9).sum(dim=1) == 2).all()):
            raise ValueError("two of 9 are needed")
        return self.linear(self.table(ids))


class Scores(Odd):
    def forward(self, weights: Tensor, known: Tensor) -> Tensor:
        return self.linear(weights.log().masked_fill(~known, 0.0))


class Silent(Odd):
    def forward(self, left: Tensor) -> Any:
        return None


class Words(Odd):
    def forward(self, left: Tensor) -> Any:
        return "words"


class Rows(Odd):
    """Returns as many tensors as there are rows."""

    def forward(self, left: Tensor) -> Any:
        return list(self.linear(left))


class Windows(Odd):
    """Takes texts of five tokens or more."""

    def forward(self, left: Tensor) -> Tensor:
        return self.linear(left.unfold(1, 5, 1).mean(dim=-1).mean(dim=1))


X = torch.rand(2, 6)

RIGHT: list[tuple[type[Odd], Any, dict[str, tuple[int | str, ...]]]] = [
    (Named, {"left": X, "right": X}, {"left": ("batch", 6), "right": ("batch", 6)}),
    (Keyword, {"right": X, "left": X}, {"left": ("batch", 6), "right": ("batch", 6)}),
    (Switched, X, {"left": ("batch", 6)}),
    (Switched, {"left": X, "double": None}, {"left": ("batch", 6)}),
    (Scaled, {"left": X, "scale": torch.tensor(2.0)}, {"left": ("batch", 6), "scale": ()}),
    (Scaled, (X, torch.rand(3)), {"left": ("axis0_2", 6), "scale": (3,)}),
    (Switched, X.double().numpy(), {"left": ("batch", 6)}),
    (Switched, X.half(), {"left": ("batch", 6)}),
    (Switched, X.bfloat16(), {"left": ("batch", 6)}),
    (Switched, [X.tolist()], {"left": ("batch", 6)}),
    (Switched, torch.rand(1, 6), {"left": ("batch", 6)}),
    (Switched, torch.rand(0, 6), {"left": (0, 6)}),
    (Scores, {"weights": X + 1, "known": X > 0.3}, {"weights": ("batch", 6), "known": ("batch", 6)}),
    (Looked, {"ids": torch.tensor([[1, 2, 9, 9], [9, 9, 4, 5]])}, {"ids": ("batch", 4)}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "samples", "shapes"), RIGHT, ids=lambda value: getattr(value, "__name__", None))
def test_any_signature_of_tensors_is_read_off_its_samples(
    kind: type[Odd], samples: Any, shapes: dict[str, tuple[int | str, ...]]
) -> None:
    signature = describe(kind(), name="odd", samples=samples)
    assert {spec.name: spec.shape for spec in signature.inputs} == shapes


class Doubled(torch.nn.Module):
    """Answers in the type of its input."""

    def forward(self, left: torch.Tensor) -> torch.Tensor:
        return 2 * left


class Aligned(torch.nn.Module):
    """A loss that reads memory at its labels and lengths, and checks none."""

    def forward(self, scores: torch.Tensor, labels: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        steps = torch.full((scores.shape[1],), scores.shape[0])
        return torch.nn.functional.ctc_loss(scores.log_softmax(-1), labels, steps, lengths)


def test_numbers_beyond_memory_are_tried_in_no_function_that_checks_none() -> None:
    samples = {"scores": torch.rand(5, 2, 4), "labels": torch.tensor([[1, 2, 3], [3, 1, 1]])}
    signature = describe(Aligned(), name="aligned", samples={**samples, "lengths": torch.tensor([3, 2])})
    assert [spec.name for spec in signature.inputs] == ["scores", "labels", "lengths"]


WRONG: list[tuple[type[torch.nn.Module], Any, str]] = [
    (Doubled, X.half(), "float16"),
    (Doubled, {"left": X.bfloat16()}, "bfloat16"),
    (Nothing, {}, "none"),
    (Nothing, X, "takes 0"),
    (Unnamed, (X, X), "no names"),
    (Unnamed, {"left": X}, "left"),
    (Keyword, (X, X), "takes 1"),
    (Keyword, {"left": X}, "right"),
    (Positional, X, "position"),
    (Positional, {"left": X}, "position"),
    (Several, {"parts": [X, X]}, "'parts'"),
    (Several, {"parts": {"a": X}}, "'parts'"),
    (Switched, {"left": X, "double": True}, "'double'"),
    (Switched, {"left": X, "scale": 2.0}, "'scale'"),
    (Switched, {"left": X, "scale": 2}, "'scale'"),
    (Switched, {"left": "text"}, "'left'"),
    (Switched, {"left": [[1.0], [1.0, 2.0]]}, "'left'"),
    (Switched, {"left": X.to_sparse()}, "'left'"),
    (Switched, {"left": torch.ones(2, 6, dtype=torch.complex64)}, "complex64"),
    (Switched, {"left": X.to("meta")}, "'left'"),
    (Switched, {"left": None}, "none"),
    (Silent, X, "NoneType"),
    (Words, X, "str"),
    (Switched, torch.rand(2, 5), "mat1 and mat2"),
]


@pytest.mark.parametrize(("kind", "samples", "said"), WRONG, ids=lambda value: getattr(value, "__name__", None))
def test_what_cannot_be_samples_is_refused_by_name(kind: type[torch.nn.Module], samples: Any, said: str) -> None:
    with pytest.raises((OptionError, SourceError)) as caught:
        describe(kind(), name="odd", samples=samples)
    assert said in f"{caught.value.who}: {caught.value.why}"


def test_the_traced_call_is_the_given_one_and_others_have_values_like_it() -> None:
    samples = {"ids": torch.tensor([[1, 2, 9, 9], [9, 9, 4, 5]])}
    signature = describe(Looked(), name="looked", samples=samples)
    assert np.array_equal(signature.draw(Case(name="traced"))["ids"], samples["ids"])
    fresh = signature.draw(Case(name="fresh", lengths={"batch": 5}, seed=4))["ids"]
    assert fresh.shape == (5, 4)
    assert ((fresh == 9).sum(axis=1) == 2).all()


class Summed(torch.nn.Module):
    """Adds its inputs, and notes their rows."""

    seen: ClassVar[list[tuple[int, ...]]] = []

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        self.seen.append((len(x),) if y is None else (len(x), len(y)))
        return x if y is None else x + y


@pytest.mark.parametrize(("names", "rows"), [("x", []), ("xy", [(2, 1), (2, 2), (1, 2)])])
def test_one_row_is_asked_for_in_the_smallest_calls(names: str, rows: list[tuple[int, int]]) -> None:
    samples = {name: torch.randn(5, 8) for name in names}
    signature = describe(Summed(), name="rows", samples=samples)
    assert signature.layout.lengths["batch"] > 2
    Summed.seen.clear()
    found = inputs_of_one_row(Summed(), signature.layout, signature.given)
    assert found == (set(names) if rows else set())
    assert list(dict.fromkeys(Summed.seen)) == rows


def test_a_sample_of_one_row_is_traced_with_two() -> None:
    signature = describe(torch.nn.Linear(6, 2), name="linear", samples=torch.rand(1, 6))
    assert signature.draw(Case(name="traced"))["input"].shape == (2, 6)


@pytest.mark.parametrize("rows", [1, 3])
def test_an_axis_that_is_fixed_has_the_length_of_the_sample(rows: int) -> None:
    signature = describe(Rows(), name="rows", samples=torch.rand(rows, 6))
    assert [spec.shape for spec in signature.inputs] == [(rows, 6)]
    assert len(signature.outputs) == rows


def test_the_shortest_length_is_found_and_workloads_keep_to_it() -> None:
    signature = describe(Windows(), name="windows", samples=torch.rand(2, 30, 6))
    (axis,) = [axis for axis in signature.axes if axis != "batch"]
    assert signature.ranges[axis].least == 5
    limits = Limits.of({"sequence": signature.ranges[axis]})
    assert limits.clipped("sequence", 3) == 5
