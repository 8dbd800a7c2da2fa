"""Models that write into their inputs: the user's samples stay as they are, and so do the inputs of the cases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core.models.signatures.signature import ModelSignature, describe
from optimum_core.verify import verify
from optimum_core.verify.reference import cases_at, reference_cases, remembers


class _Clips(torch.nn.Module):
    """It gives the same if it is called again with what it has written."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.relu_()
        return x + 1


def _signature(samples: torch.Tensor) -> ModelSignature:
    return describe(_Clips().eval(), name="clips", samples={"x": samples})


def test_the_users_samples_stay_as_they_are() -> None:
    samples = torch.linspace(-1, 1, 12).reshape(3, 4)
    before, signature = samples.clone(), _signature(samples)
    cases = reference_cases(_Clips().eval(), signature)
    assert remembers(_Clips().eval(), cases) is None
    assert torch.equal(samples, before)


def test_a_candidate_that_leaves_the_writing_out_is_wrong() -> None:
    signature = _signature(torch.linspace(-1, 1, 12).reshape(3, 4))
    cases, (output,) = reference_cases(_Clips().eval(), signature), signature.outputs
    right = verify(
        lambda given: {output.name: np.maximum(given["x"], 0) + 1}, cases, signature.outputs, precision="fp32"
    )
    wrong = verify(lambda given: {output.name: given["x"] + 1}, cases, signature.outputs, precision="fp32")
    assert right.passed
    assert not wrong.passed


def test_the_report_says_that_it_writes() -> None:
    (note,) = (note for note in _signature(torch.linspace(-1, 1, 12).reshape(3, 4)).notes if "in place" in note)
    assert note.startswith("eager changes x in place")


class _ClipsThree(torch.nn.Module):
    """It writes into three rows alone, and so not in the first case."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.relu_() if x.shape[0] == 3 else x.relu()) + 1


@pytest.mark.parametrize("module", [_Clips().eval(), _ClipsThree().eval()], ids=["always", "at three rows"])
def test_a_candidate_may_write_where_eager_does(module: torch.nn.Module) -> None:
    """A compiled form of the model writes into its inputs as the model does."""
    signature = describe(module, name="clips", samples={"x": torch.linspace(-1, 1, 8).reshape(2, 4)})
    (output,) = signature.outputs

    def as_eager(given: Mapping[str, Any]) -> dict[str, Any]:
        return {output.name: module(torch.from_numpy(given["x"])).numpy()}

    cases = (*reference_cases(module, signature), *cases_at(module, signature, {"at work": {"batch": 3}}))
    assert {case.name for case in cases if case.written} >= {"batch 3", "at work"}
    assert verify(as_eager, cases, signature.outputs, precision="fp32").passed
