"""Whole numbers in columns, each looked up in a table of its own: what one column takes is too much for another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LukeConfig, LukeForEntitySpanClassification

from optimum_core.errors import InputError
from optimum_core.models.inputs.samples import Case
from optimum_core.models.signatures.signature import describe
from optimum_core.runtime.call_inputs import InputChecker
from optimum_core.types import TensorSpec
from optimum_core.verify.bound_cases import ALL_VALUES
from optimum_core.verify.reference import reference_cases

SIZES = (5, 9, 3)


class Categories(torch.nn.Module):
    """Categories of a row of a table, each with vectors of its own; the last column is a number."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = torch.nn.ModuleList(torch.nn.Embedding(size, 4) for size in SIZES)
        self.head = torch.nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = [table(x[:, index]) for index, table in enumerate(self.tables)]
        return self.head(torch.stack(found).sum(0) + x[:, len(SIZES) :].float())  # type: ignore[no-any-return]


def _rows(*rows: list[int]) -> torch.Tensor:
    return torch.tensor(rows)


ROWS = {
    "far apart": _rows([0, 8, 1, 70], [4, 2, 2, -3], [1, 3, 0, 12]),
    "within all": _rows([0, 1, 1, 0], [2, 2, 2, 1], [1, 0, 0, 2]),
    "one row": _rows([3, 7, 2, 50]),
}
COLUMNS = ((0, 4), (0, 8), (0, 2), (None, None))


@pytest.mark.parametrize("rows", ROWS)
def test_each_column_has_bounds_of_its_own(rows: str) -> None:
    torch.manual_seed(0)
    module = Categories().eval()
    signature = describe(module, name="rows", samples={"x": ROWS[rows]})
    assert signature.inputs[0].columns == COLUMNS
    assert signature.layout.steady == frozenset()
    case = next(case for case in reference_cases(module, signature) if case.name == ALL_VALUES)
    drawn = case.inputs["x"]
    assert [{drawn[:, index].min(), drawn[:, index].max()} for index in range(3)] == [{0, size - 1} for size in SIZES]
    others = signature.draw(Case(name="others", lengths={"batch": 64}, seed=1))["x"]
    assert others[:, 0].max() <= 4 and others[:, 2].max() <= 2


def test_a_large_table_beside_a_small_one() -> None:
    rows = 2**20 + 50

    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.large, self.small = torch.nn.Embedding(rows, 1), torch.nn.Embedding(6, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.large(x[:, 0]) + self.small(x[:, 1])  # type: ignore[no-any-return]

    spec = describe(Two().eval(), name="two", samples={"x": _rows([0, 5], [7, 2])}).inputs[0]
    assert spec.columns == ((0, rows - 1), (0, 5))


def test_columns_alike_have_one_range() -> None:
    class Alike(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(7, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.table(x).sum(1)  # type: ignore[no-any-return]

    spec = describe(Alike().eval(), name="alike", samples={"x": _rows([0, 6], [5, 2])}).inputs[0]
    assert (spec.least, spec.greatest, spec.columns) == (0, 6, None)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_a_value_beyond_its_column_is_refused_with_its_place(kind: Any) -> None:
    spec = TensorSpec(name="x", dtype="int64", shape=("batch", 4), columns=COLUMNS)
    checker = InputChecker("model 'm'", [spec])
    for _ in range(2):
        checker.bind((), {"x": kind(np.array([[4, 8, 2, 99], [0, 0, 0, -99]]))})
        with pytest.raises(InputError, match=r"0: 0 to 4, 1: 0 to 8, 2: 0 to 2\), got 7 at 0"):
            checker.bind((), {"x": kind(np.array([[0, 0, 0, 0], [7, 8, 2, 99]]))})
        with pytest.raises(InputError, match="got -1 at 2"):
            checker.bind((), {"x": kind(np.array([[0, 0, -1, 0]]))})


def test_places_in_a_text_are_bounded_in_models_of_transformers_too() -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 37}
    settings = {"vocab_size": 99, "max_position_embeddings": 40, "entity_vocab_size": 20, "entity_emb_size": 16}
    config = LukeConfig(**sizes, **settings, max_mention_length=6)
    signature = describe(LukeForEntitySpanClassification(config).eval(), name="spans")
    specs = {spec.name: spec for spec in signature.inputs}
    for name in ("entity_start_positions", "entity_end_positions"):
        assert (specs[name].least, specs[name].greatest_by) == (0, ("sequence", -1))


class Cast(torch.nn.Module):
    """Reads categories among floats: `round` takes more of them than `long` alone."""

    def __init__(self, *, rounds: bool = False) -> None:
        super().__init__()
        self.table, self.rounds = torch.nn.Embedding(5, 4), rounds

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        place = x[:, 0].round() if self.rounds else x[:, 0]
        return self.table(place.long()) + x[:, 1:2]  # type: ignore[no-any-return]


FLOATS = {"rows": torch.tensor([[0.0, 0.5], [4.0, -2.0], [2.0, 7.5]]), "one row": torch.tensor([[2.0, 0.5]])}


@pytest.mark.parametrize("rows", FLOATS)
@pytest.mark.parametrize(("rounds", "least", "greatest"), [(False, -1.0, 5.0), (True, -0.5, 4.5)])
def test_floats_that_are_looked_up_are_bounded_as_eager_bounds_them(
    rows: str, rounds: bool, least: float, greatest: float
) -> None:
    module = Cast(rounds=rounds).eval()
    signature = describe(module, name="cast", samples={"x": FLOATS[rows]})
    found, other = signature.inputs[0].columns or ()
    assert other == (None, None)
    np.testing.assert_allclose(np.array(found, dtype=float), (least, greatest), atol=1e-6)
    assert not signature.layout.steady
    case = next(case for case in reference_cases(module, signature) if case.name == ALL_VALUES)
    assert {case.inputs["x"][:, 0].min(), case.inputs["x"][:, 0].max()} == {0.0, 4.0}
    checker = InputChecker("model 'cast'", signature.inputs)
    for value in (least, greatest, 0.0, 4.0):
        for near in (value - 0.01, value + 0.01):
            inputs = {"x": torch.tensor([[near, 1e9], [0.0, -1e9]])}
            try:
                module(**inputs)
            except IndexError:
                with pytest.raises(InputError, match="at 0"):
                    checker.bind((), inputs)
            else:
                checker.bind((), inputs)


def test_a_column_is_bounded_beside_ones_that_may_be_left_out() -> None:
    class OneHot(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.one_hot(x[:, 0].long(), 5) + x.sum(1, keepdim=True)

    samples = {"x": torch.tensor([[0.0, 0.5, 1.0], [4.0, -2.0, 9.0], [2.0, 7.5, 3.0]])}
    signature = describe(OneHot().eval(), name="hot", samples=samples)
    first, *others = signature.inputs[0].columns or ()
    assert isinstance(signature.inputs[0].shape[1], str) and set(others) == {(None, None)}
    np.testing.assert_allclose(np.array(first, dtype=float), (-1.0, 5.0), atol=1e-6)
    checker = InputChecker("model 'hot'", signature.inputs)
    for width in (1, 3, 9):
        checker.bind((), {"x": torch.full((2, width), 4.0)})
        with pytest.raises(InputError, match=r"got 5.0 at 0"):
            checker.bind((), {"x": torch.full((2, width), 5.0)})


def test_floats_of_any_size_have_no_bounds() -> None:
    spec = describe(torch.nn.Linear(2, 3).eval(), name="line", samples={"input": FLOATS["rows"]}).inputs[0]
    assert spec.columns is None


def test_a_bound_that_moves_with_a_length_is_not_one_of_a_column() -> None:
    class Pairs(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(30, 4)

        def forward(self, x: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
            rows = torch.arange(len(x), device=x.device)
            return x[rows, pairs[:, 0]] + self.table(pairs[:, 1])  # type: ignore[no-any-return]

    samples = {"x": torch.randn(3, 7, 4), "pairs": _rows([0, 20], [3, 2], [2, 29])}
    spec = next(spec for spec in describe(Pairs().eval(), name="pairs", samples=samples).inputs if spec.name == "pairs")
    assert spec.columns is None
