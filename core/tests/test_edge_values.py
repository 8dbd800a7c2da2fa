"""Values at edges: which are compared, what counts as eager's answer, and what rounding or order alone decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, CanineConfig, CanineModel, PatchTSTConfig, PatchTSTModel

from optimum_core.models.eager.calls import eager_outputs, is_plain
from optimum_core.models.eager.otherwise import outputs_otherwise
from optimum_core.models.signatures.signature import describe
from optimum_core.types import Fidelity
from optimum_core.verify import ReferenceCase, verify
from optimum_core.verify.bound_cases import ALL_VALUES
from optimum_core.verify.edge_value_cases import HALVES, ONE_SIGN
from optimum_core.verify.large_value_cases import LARGE
from optimum_core.verify.reference import reference_cases


class Formula(torch.nn.Module):
    """A formula of its inputs."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor, keep: torch.Tensor) -> Any:
        return self.function(x, keep)


SAMPLES = {
    "x": torch.linspace(-2, 2, 24).reshape(3, 8)[:, [3, 0, 6, 1, 7, 4, 2, 5]],
    "keep": torch.tensor([[1, 0, 1]]).bool(),
}


def _cases(module: Any, samples: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, ReferenceCase]]:
    signature = describe(module, name="module", samples=samples)
    return signature, {case.name: case for case in reference_cases(module, signature)}


def _compared(function: Callable[..., Any], other: Callable[..., Any]) -> Fidelity:
    signature, cases = _cases(Formula(function).eval(), SAMPLES)
    exported = Formula(other).eval()
    run = lambda inputs: eager_outputs(exported, inputs)  # noqa: E731
    return verify(run, tuple(cases.values()), signature.outputs, precision="fp32")


def _wrong(fidelity: Fidelity) -> set[str]:
    return {item.case for item in fidelity.results if not item.passed}


def _with_keep(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, keep: function(x) + 0 * keep.sum()


def test_nothing_but_zeros_in_place_of_nan() -> None:
    def mean(x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        return x.mean() * keep.sum() / keep.sum()

    fidelity = _compared(mean, lambda x, keep: mean(x, keep).nan_to_num())
    assert _wrong(fidelity) == {"keep all off"}
    assert _compared(mean, mean).passed


@pytest.mark.parametrize(
    ("function", "other"),
    [
        (torch.round, lambda x: (x + 0.5).floor()),
        (lambda x: torch.atan2(x, -torch.ones_like(x)), lambda x: (-x).atan() + torch.pi * torch.where(x > 0, 1, -1)),
        (lambda x: x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-9), lambda x: x / (x * x).mean(-1, True).sqrt()),
    ],
)
def test_zeros_and_halves_are_exact(function: Callable[..., Any], other: Callable[..., Any]) -> None:
    assert HALVES in _wrong(_compared(_with_keep(function), _with_keep(other)))


def test_one_sign_alone() -> None:
    def chosen(x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        return x[x > 0].mean() + 0 * keep.sum()

    fidelity = _compared(chosen, lambda x, keep: chosen(x, keep).nan_to_num())
    assert ONE_SIGN[-1] in _wrong(fidelity)


@pytest.mark.parametrize(
    "function",
    [lambda x: x.topk(3).indices, lambda x: x.argsort(-1), lambda x: x.max(-1).indices],
)
def test_order_among_equal_values_is_noted(function: Callable[..., Any]) -> None:
    def backwards(x: torch.Tensor) -> Any:
        return x.shape[-1] - 1 - function(x.flip(-1))

    fidelity = _compared(lambda x, keep: function(x) + 0 * keep.sum(), lambda x, keep: backwards(x) + 0 * keep.sum())
    assert fidelity.passed
    assert any("order among equal values" in note for note in fidelity.notes)


def test_a_stable_order_is_promised() -> None:
    x = torch.tensor([[1.0, 2, 2, 1], [0, 0, 0, 0]])
    stable = Formula(lambda x, keep: torch.sort(x, dim=-1, stable=True).indices).eval()
    keep = torch.ones(1, dtype=torch.bool)
    found = outputs_otherwise(stable, {"x": x, "keep": keep})["output"]
    np.testing.assert_array_equal(found, torch.sort(x, dim=-1, stable=True).indices)


def test_what_rounding_decides_is_no_case() -> None:
    def angle(x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        return torch.acos(torch.nn.functional.cosine_similarity(x, x, dim=-1)) + 0 * keep.sum()

    _, cases = _cases(Formula(angle).eval(), SAMPLES)
    assert HALVES not in cases


def test_ids_that_no_table_bounds_are_compared_at_any_size() -> None:
    config = CanineConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=37, num_hash_buckets=64
    )
    _, cases = _cases(CanineModel(config).eval())
    found = cases[LARGE["i"]]
    assert found.inputs["input_ids"].max() > 2**40
    assert not found.sensitive


@pytest.mark.parametrize(("size", "compared"), [(40000, True), (99, False)])
def test_large_vocabularies_are_compared_to_their_end(size: int, compared: bool) -> None:
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=9, vocab_size=size)
    _, cases = _cases(BertModel(config).eval())
    assert (ALL_VALUES in cases) == compared
    if compared:
        assert cases[ALL_VALUES].inputs["input_ids"].max() == size - 1
        assert max(case.inputs["input_ids"].max() for name, case in cases.items() if name != ALL_VALUES) < 32768


def test_time_series_of_any_size() -> None:
    config = PatchTSTConfig(
        num_input_channels=2, context_length=32, d_model=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=8
    )
    _, cases = _cases(PatchTSTModel(config).eval())
    assert {LARGE["f"], HALVES} <= set(cases)
    assert not cases[HALVES].inputs["past_values"][-1].any()


def test_a_config_of_the_users_own_says_nothing_of_inputs() -> None:
    module = Formula(lambda x, keep: x + 0 * keep.sum()).eval()
    module.config = {"hidden": 8}  # type: ignore[assignment]
    assert is_plain(module)
    assert not is_plain(BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2)))
