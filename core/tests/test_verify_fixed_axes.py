"""Comparison of models of which an axis is fixed: their texts come padded to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForTokenClassification

from optimum_core.models.eager.calls import eager_outputs
from optimum_core.models.inputs.samples import Case
from optimum_core.models.signatures.signature import ModelSignature, describe
from optimum_core.types import Fidelity
from optimum_core.verify import verify
from optimum_core.verify.reference import reference_cases

Run = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def _compared(signature: ModelSignature, module: Any, run: Run) -> Fidelity:
    return verify(run, reference_cases(module, signature), signature.outputs, precision="fp32")


@pytest.mark.parametrize("fixed", [{"sequence": 12}, {"batch": 1}, {"batch": 1, "sequence": 12}])
def test_a_candidate_without_the_mask_is_wrong(
    described: Callable[[str], tuple[Any, ModelSignature]], fixed: Mapping[str, int]
) -> None:
    module, signature = described("bert")
    for axis, length in fixed.items():
        signature = signature.pinned(axis, length)

    def unmasked(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        return eager_outputs(module, {**inputs, "attention_mask": np.ones_like(inputs["attention_mask"])})

    assert _compared(signature, module, lambda inputs: eager_outputs(module, inputs)).passed
    assert not _compared(signature, module, unmasked).passed


def test_short_texts_are_compared_at_a_fixed_length(
    described: Callable[[str], tuple[Any, ModelSignature]],
) -> None:
    """A candidate may be right for rows of which half is padding, and wrong where most is."""
    module, signature = described("bert")

    def wrong(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        mask = inputs["attention_mask"].copy()
        mask[mask.sum(1) < 5] = 1
        return eager_outputs(module, {**inputs, "attention_mask": mask})

    assert not _compared(signature.pinned("sequence", 12), module, wrong).passed


def test_what_stands_at_padding_of_a_fixed_length_means_nothing_in_a_causal_model() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=32, num_labels=3,
    )  # fmt: skip
    module = LlamaForTokenClassification(config).eval()
    signature = describe(module, name="llama").pinned("sequence", 12)

    def other_at_padding(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        mask, outputs = inputs["attention_mask"], eager_outputs(module, inputs)
        is_left = mask[:, -1].all()
        return {name: np.where(mask[..., None] == 0, 7, array) if is_left else array for name, array in outputs.items()}

    assert _compared(signature, module, other_at_padding).passed


def test_lengths_of_a_workload_leave_fixed_axes_as_they_are(
    described: Callable[[str], tuple[Any, ModelSignature]],
) -> None:
    signature = described("bert")[1].pinned("batch", 1).pinned("sequence", 12)
    drawn = signature.draw(Case(name="1x12", lengths={"batch": 8, "sequence": 16}))
    assert {array.shape for array in drawn.values()} == {(1, 12)}


def test_features_that_fit_by_accident_do_not_vary() -> None:
    """Eight positions of nine features have as many numbers as nine rows of eight."""

    class Rows(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(-1, 8).softmax(-1).view_as(x)

    signature = describe(Rows().eval(), name="rows", samples={"x": torch.randn(2, 8, 8)})
    (spec,) = signature.inputs
    assert isinstance(spec.shape[1], str)
    assert spec.shape[2] == 8
    assert all(known.least == 1 for known in signature.ranges.values())
