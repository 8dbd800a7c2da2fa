"""Models whose calls write into their own weights: the user's stay as they were, and every call is a first one."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core.models.eager.calls import eager_outputs
from optimum_core.models.signatures.signature import describe
from optimum_core.models.sources.source import MemorySource
from optimum_core.verify import verify
from optimum_core.verify.bound_cases import ALL_VALUES
from optimum_core.verify.reference import reference_cases


class Halving(torch.nn.Module):
    """Halves its weights at its first call, as RWKV scales its own."""

    halved = False

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)
        self.tied = self.layer.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.halved:
            with torch.no_grad():
                self.layer.weight.div_(2)
            self.halved = True
        found: torch.Tensor = self.layer(x) @ self.tied
        return found


class Shortening(torch.nn.Module):
    """Shortens the rows that it looks up."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(10, 4, max_norm=0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.table(x)
        return found


class Counting(torch.nn.Module):
    """Normalizes by the statistics of the call, and adds them to its own."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.batch_norm(
            x, self.norm.running_mean, self.norm.running_var, training=True, momentum=0.5
        )


@pytest.mark.parametrize(
    ("kind", "inputs"),
    [
        (Halving, {"x": np.ones((2, 4), np.float32)}),
        (Shortening, {"x": np.arange(10).reshape(2, 5)}),
        (Counting, {"x": np.eye(4, dtype=np.float32)}),
    ],
)
def test_the_users_weights_stay_and_every_call_is_a_first_one(
    kind: type[torch.nn.Module], inputs: Mapping[str, Any]
) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        want = copy.deepcopy(model)(**{name: torch.as_tensor(value) for name, value in inputs.items()})
    module = MemorySource(model).module()
    for _ in range(3):
        (got,) = eager_outputs(module, inputs).values()
        np.testing.assert_allclose(got, want, rtol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert "tied" not in dict(model.named_parameters()) or module.layer.weight is module.tied


def test_others_share_the_users_weights() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4)).eval()
    module = MemorySource(model).module()
    eager_outputs(module, {"input": np.ones((2, 4), np.float32)})
    assert module[0].weight is model[0].weight


def test_all_values_within_the_bounds_are_compared() -> None:
    """An export made of the rows that the samples look up is wrong for the others."""
    torch.manual_seed(0)
    module = MemorySource(Shortening().eval()).module()
    signature = describe(module, name="m", samples={"x": torch.tensor([[1, 2, 3, 1, 2]] * 2)})
    cases = reference_cases(module, signature)
    weight = module.table.weight.detach().numpy()

    def run(inputs: Mapping[str, Any]) -> dict[str, Any]:
        (want,) = eager_outputs(module, inputs).items()
        seen = np.isin(inputs["x"], [1, 2, 3])[..., None]
        return {want[0]: np.where(seen, want[1], weight[inputs["x"]])}

    fidelity = verify(run, cases, signature.outputs, precision="fp32")
    assert ALL_VALUES in {result.case for result in fidelity.results if not result.passed}
    others = {case.name for case in cases if not np.isin(case.inputs["x"], [1, 2, 3]).all()}
    assert {result.case for result in fidelity.results if not result.passed} <= others
