"""Values at which runtimes part from eager: means over nothing, zeros, equal values, rows without anything, hashes of
large numbers. What a backend answers is eager's answer, or the backend is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from formula import Formula
from optimum_core import accelerate
from optimum_core.errors import VerificationError

BACKENDS = ["ort", "openvino"]


class Kept(torch.nn.Module):
    """The mean of those rows that are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)

    def forward(self, x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.linear(x)[keep].mean(0)
        return made


class Attention(torch.nn.Module):
    """Attention with a mask of the user's own."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(x, x * 2, x, attn_mask=mask)


class Hashed(torch.nn.Module):
    """Embeddings by a hash of ids, as in CANINE."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(1024, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.table((ids + 1) * 113 % 1024)
        return made


def _ties() -> torch.Tensor:
    return torch.tensor([[0.0, 1, -1, 2, -2, 0, 0, 0], [0.5, 1, 1, -0.5, 0.5, 0, -1, 0], [0.0] * 8])


@pytest.mark.parametrize("target", BACKENDS)
def test_a_mean_over_nothing_is_no_zero(target: str, tmp_path: Path) -> None:
    module, x, keep = Kept().eval(), torch.randn(6, 8), torch.tensor([1, 0, 1, 1, 0, 1]).bool()
    samples = {"x": x, "keep": keep}
    fast = accelerate(module, target=target, sample_inputs=samples, budget=1, cache_dir=tmp_path)
    torch.testing.assert_close(fast(x, ~keep), module(x, ~keep), rtol=1e-3, atol=1e-5)
    assert module(x, keep & ~keep).isnan().all()
    assert fast(x, keep & ~keep).isnan().all()


@pytest.mark.filterwarnings("ignore:std")
def test_a_runtime_that_gives_a_number_for_nothing_is_refused(tmp_path: Path) -> None:
    module = Formula(lambda x: x[x > 0].std()).eval()
    with pytest.raises(VerificationError, match="NaN or infinity"):
        accelerate(module, target="ort", sample_inputs={"x": torch.randn(3, 8)}, budget=1, cache_dir=tmp_path)


@pytest.mark.parametrize("target", BACKENDS)
@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.atan2(x, x.flip(-1)),
        lambda x: torch.complex(x, x.flip(-1)).angle(),
        lambda x: functional.rms_norm(x, (8,), eps=1e-12),
        lambda x: x.round(),
    ],
    ids=["atan2", "angle", "rms_norm", "round"],
)
def test_zeros_and_halves(function: Callable[..., Any], target: str, tmp_path: Path) -> None:
    fast = accelerate(
        Formula(function).eval(), target=target, sample_inputs={"x": torch.randn(3, 8)}, budget=1, cache_dir=tmp_path
    )
    for x in (_ties(), -_ties(), torch.zeros(3, 8)):
        torch.testing.assert_close(fast(x), function(x), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("target", BACKENDS)
def test_the_order_among_equal_values_refuses_no_backend(target: str, tmp_path: Path) -> None:
    module = Formula(lambda x: x.topk(3).indices).eval()
    fast = accelerate(module, target=target, sample_inputs={"x": torch.randn(3, 8)}, budget=1, cache_dir=tmp_path)
    assert fast.report is not None
    assert any("order among equal values" in note for note in fast.report.notes)
    x = torch.randn(3, 8)
    assert torch.equal(fast(x), module(x))


@pytest.mark.parametrize("target", BACKENDS)
def test_a_mask_that_leaves_nothing_of_a_row(target: str, tmp_path: Path) -> None:
    mask = torch.zeros(3, 6, 6)
    mask[:, :, 4:] = -torch.inf
    module, x = Attention().eval(), torch.randn(3, 6, 16)
    fast = accelerate(module, target=target, sample_inputs={"x": x, "mask": mask}, budget=1, cache_dir=tmp_path)
    mask[-1] = -torch.inf
    torch.testing.assert_close(fast(x, mask), module(x, mask), rtol=1e-3, atol=1e-5)


class Padded(torch.nn.Module):
    """Attention with a mask made of another input, which has no -inf in the samples."""

    def forward(self, x: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        mask = torch.zeros_like(x[..., :1] @ x[..., :1].transpose(1, 2)).masked_fill(kept[:, None] == 0, -torch.inf)
        return functional.scaled_dot_product_attention(x, x * 2, x, attn_mask=mask)


@pytest.mark.parametrize("target", BACKENDS)
def test_a_mask_made_of_another_input(target: str, tmp_path: Path) -> None:
    module, x, kept = Padded().eval(), torch.randn(3, 6, 16), torch.ones(3, 6)
    fast = accelerate(module, target=target, sample_inputs={"x": x, "kept": kept}, budget=1, cache_dir=tmp_path)
    kept[-1], kept[0, 4:] = 0, 0
    torch.testing.assert_close(fast(x, kept), module(x, kept), rtol=1e-3, atol=1e-5)


def test_hashes_of_large_numbers(tmp_path: Path) -> None:
    module, samples = Hashed().eval(), {"ids": torch.arange(20).reshape(2, 10)}
    fast = accelerate(module, target="ort", sample_inputs=samples, budget=1, cache_dir=tmp_path)
    ids = torch.tensor([[0xE0067, 0x1F3F4, 2**30 + 1, 2**45 + 7]])
    assert torch.equal(fast(ids), module(ids))
    with pytest.raises(VerificationError, match="whole numbers"):
        accelerate(module, target="openvino", sample_inputs=samples, budget=1, cache_dir=tmp_path)
