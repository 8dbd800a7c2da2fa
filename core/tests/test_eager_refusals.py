"""Models that raise for some values of their inputs, which an accelerated model may answer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BartConfig, BartForSequenceClassification

from checked_module import (
    Checked,
    by_count,
    by_error,
    by_torch,
    by_transformers,
    of_each_value,
    of_length,
    of_sums,
    of_weights,
    that_warns,
)
from optimum_core import accelerate, load
from optimum_core.errors import InputError, SessionError, UnprovedWarning

Check = Callable[[Any, torch.Tensor], None]

ONCE = [{"batch": 2}]


@pytest.mark.parametrize("check", [of_sums, by_error, by_torch, by_transformers, by_count])
def test_it_is_said_that_a_check_of_values_is_left_out(check: Check, tmp_path: Path) -> None:
    module = Checked(check).eval()
    with pytest.warns(
        UnprovedWarning, match=r"raises for some values or lengths, by the checks at checked_module.py:\d+;"
    ):
        fast = accelerate(module, target="ort", sample_inputs={"x": torch.rand(2, 4)}, shapes=ONCE, budget=0)
    assert fast.report is not None
    assert len(fast.report.checks_left_out) == 1
    assert any("no export makes them" in note for note in fast.report.notes)
    fast.save_pretrained(tmp_path / "saved")
    assert "without eager's checks" in repr(load(tmp_path / "saved"))


@pytest.mark.parametrize("check", [of_length, of_weights, of_each_value, that_warns])
def test_checks_that_nothing_passes_are_no_loss(check: Check, recwarn: pytest.WarningsRecorder) -> None:
    module = Checked(check).eval()
    fast = accelerate(module, target="ort", sample_inputs={"x": torch.rand(2, 4)}, shapes=ONCE, budget=0)
    assert fast.report is not None
    assert fast.report.checks_left_out == ()
    assert not [item for item in recwarn if issubclass(item.category, UnprovedWarning)]
    with pytest.raises((InputError, ValueError)) if check is of_each_value else nullcontext():
        fast(torch.full((2, 4), 2000.0))


def test_eager_itself_makes_them() -> None:
    module = Checked(by_error).eval()
    fast = accelerate(module, target="torch", sample_inputs={"x": torch.rand(2, 4)}, shapes=ONCE)
    assert fast.report is not None
    assert fast.report.checks_left_out == ()
    with pytest.raises(SessionError, match="more than half"):
        fast(torch.ones(2, 4))


def test_classifiers_that_count_end_tokens() -> None:
    config = BartConfig(
        vocab_size=60, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=64,
    )  # fmt: skip
    module = BartForSequenceClassification(config).eval()
    with pytest.warns(UnprovedWarning, match=r"by the checks at modeling_bart\.py:\d+"):
        fast = accelerate(module, target="ort", shapes=[{"batch": 2, "sequence": 8}], budget=0)
    assert "without eager's checks" in repr(fast)


def test_lengths_that_are_refused_together() -> None:
    module = torch.nn.Sequential(torch.nn.Conv1d(4, 6, 1), torch.nn.BatchNorm1d(6, track_running_stats=False)).eval()
    with pytest.warns(UnprovedWarning, match=r"by the checks at functional\.py:\d+"):
        fast = accelerate(module, target="ort", sample_inputs={"input": torch.rand(3, 4, 5)}, shapes=ONCE, budget=0)
    for shape in ((2, 4, 1), (1, 4, 2)):
        given = torch.rand(shape)
        assert torch.allclose(fast(given), module(given), atol=1e-4)


class NotFive(torch.nn.Module):
    """A sum over any number of positions but five."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[1] == 5:
            raise ValueError("not five")
        return x.sum(1)


def test_a_length_within_the_range_that_is_refused() -> None:
    with pytest.warns(UnprovedWarning, match=r"by the checks at test_eager_refusals\.py:\d+"):
        accelerate(NotFive().eval(), target="ort", sample_inputs={"x": torch.rand(3, 9, 4)}, shapes=ONCE, budget=0)
