"""Calls with another type than was exported: answered where eager answers the same or nothing, refused where its answer
would be another."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core import accelerate
from optimum_core.errors import InputError

X = torch.tensor([[1.0, 2.0, 5.0], [3.0, 4.0, 6.0]])


class Scaled(torch.nn.Module):
    """It has no weights, so that its answer is of its input's type."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 + 1


class Widened(torch.nn.Module):
    """Its answers are of one type, whatever came; 8 bits wrap around before."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + x).to(torch.float32)


class Squared(torch.nn.Module):
    """In 16 bits, squares of numbers from 256 on are infinite."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * x).to(torch.float32)


class Doubled(torch.nn.Module):
    """It computes what torch, unlike sums, computes in 16 bits without a sign too."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


class Weighted(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.linear(x)
        return made


class Converting(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(torch.float32) * 2


class Looked(torch.nn.Module):
    """Indices may be of any type: what is looked up is the same."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(9, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.table(ids)
        return made


def _fast(module: torch.nn.Module, **samples: torch.Tensor) -> Any:
    return accelerate(module.eval(), target="torch", sample_inputs=samples, verify=False, budget=0)


@pytest.mark.parametrize(
    ("module", "sample", "refused"),
    [
        (Scaled, X, ["float64", "float16", "bfloat16"]),
        (Scaled, X.long(), ["int32", "uint8"]),
        (Widened, X.long(), ["uint8"]),
        (Squared, X, ["float16"]),
        (Doubled, X.byte(), ["uint16"]),
    ],
)
def test_refused_where_eager_answers_otherwise(
    module: type[torch.nn.Module], sample: torch.Tensor, refused: list[str]
) -> None:
    fast = _fast(module(), x=sample)
    assert fast.manifest.inputs[0].exact
    for name in refused:
        given = sample.to(getattr(torch, name))
        with pytest.raises(InputError, match=f"'x' is {name}, and the original's answers follow its type"):
            fast(given)
    np.testing.assert_array_equal(fast(x=sample.numpy()), module()(sample).numpy())
    np.testing.assert_array_equal(fast(x=sample.tolist()), module()(sample).numpy())  # a list has no type
    if sample.dtype == torch.float32:  # other byte order is no other type
        np.testing.assert_array_equal(fast(x=sample.numpy().astype(">f4")), module()(sample).numpy())


class Cut(torch.nn.Module):
    """It reads a number in Python; a fill value stands beside its answers."""

    def forward(self, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        made = (x[: int(rows.max())] / 3).to(torch.float64).to(torch.float32) * (x.dtype.itemsize / 4)
        return torch.cat([made, torch.full_like(made[:, :1], torch.finfo(torch.float32).min)], 1)


def test_a_number_that_is_read_and_a_huge_value_hide_no_effect_of_a_type() -> None:
    fast = _fast(Cut(), x=X, rows=torch.tensor([1, 2]))
    assert fast.manifest.inputs[0].exact


@pytest.mark.parametrize(
    ("module", "sample", "others"),
    [
        (Weighted, {"x": X}, ["float64", "float16"]),  # eager takes neither
        (Converting, {"x": X}, ["float64", "float16"]),
        (Looked, {"ids": X.long()}, ["int32", "uint8"]),
    ],
)
def test_converted_where_eager_answers_the_same_or_nothing(
    module: type[torch.nn.Module], sample: dict[str, torch.Tensor], others: list[str]
) -> None:
    made = module()
    fast, (name, values) = _fast(made, **sample), *sample.items()
    for other in others:
        found = fast(**{name: values.to(getattr(torch, other))})
        assert found.dtype == made(values).dtype
        torch.testing.assert_close(found, made(values), rtol=1e-3, atol=1e-3)


class Switched(torch.nn.Module):
    """It depends on something that shows in no attribute and no code."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(getattr(torch, os.environ["OPTIMUM_TEST_DTYPE"]))


def test_a_decision_is_used_for_answers_of_the_same_type_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The values of the recorded call are equal in both."""
    for name in ("int64", "int8"):
        monkeypatch.setenv("OPTIMUM_TEST_DTYPE", name)
        module = Switched()
        with accelerate(module, sample_inputs={"x": torch.ones(2, 3)}, target="torch", cache_dir=tmp_path) as fast:
            assert fast(torch.ones(4, 3)).dtype == module(torch.ones(4, 3)).dtype
            assert fast.manifest.outputs[0].dtype == name
