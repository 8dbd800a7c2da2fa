"""Layers are ranked by what rounding each alone does to the outputs, and every weight is given back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from optimum_core.models.eager.sensitivity import layers_of, rank_layers

BATCHES = [{"x": torch.randn(8, 16, generator=torch.Generator().manual_seed(seed))} for seed in range(2)]


class Layered(torch.nn.Module):
    """Three layers alike; what comes into `hurt` has an outlier, which leaves few steps to all other values."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(16, 16)
        self.hurt = torch.nn.Linear(17, 16)
        self.last = torch.nn.Linear(16, 16)
        with torch.no_grad():
            self.hurt.weight[:, -1] = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.first(x))
        hidden = torch.tanh(self.hurt(torch.cat([hidden, torch.full_like(hidden[:, :1], 500.0)], dim=1)))
        scores: torch.Tensor = self.last(hidden)
        return scores


@pytest.fixture
def layered() -> Layered:
    torch.manual_seed(4)
    return Layered().eval()


def _state(module: torch.nn.Module) -> dict[str, Any]:
    return {name: (value.data_ptr(), value.clone()) for name, value in module.state_dict().items()}


def _assert_untouched(module: torch.nn.Module, before: dict[str, Any]) -> None:
    for name, value in module.state_dict().items():
        assert value.data_ptr() == before[name][0], name
        assert torch.equal(value, before[name][1]), name
    assert not any(part._forward_pre_hooks for part in module.modules())


def test_the_layer_with_an_outlier_hurts_most(layered: Layered) -> None:
    before = _state(layered)
    ranked = rank_layers(layered, BATCHES)
    assert next(iter(ranked)) == "hurt"
    assert set(ranked) == {"first", "hurt", "last"}
    assert ranked["hurt"] > 10 * ranked["first"] > 0
    assert list(ranked.values()) == sorted(ranked.values(), reverse=True)
    _assert_untouched(layered, before)


def test_weights_are_given_back_when_the_model_raises(layered: Layered, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _state(layered)
    calls = iter(range(99))

    def forward(x: torch.Tensor) -> torch.Tensor:
        if next(calls) >= 3:  # with a layer rounded
            raise RuntimeError("out of memory")
        return Layered.forward(layered, x)

    monkeypatch.setattr(layered, "forward", forward)
    with pytest.raises(RuntimeError, match="out of memory"):
        rank_layers(layered, BATCHES)
    _assert_untouched(layered, before)


@pytest.mark.parametrize("kind", ["gpt2", "vit", "resnet"])
def test_every_kind_of_layer_counts(kind: str, tiny: Callable[[str], Any], described: Any) -> None:
    module = tiny(kind)
    _, signature = described(kind)
    from optimum_core.models.inputs.samples import Case

    before = _state(module)
    ranked = rank_layers(module, [signature.draw(Case(name="drawn", lengths={"batch": 2}, seed=1))])
    assert set(ranked) == set(layers_of(module))
    assert len(ranked) >= 5
    assert ("transformer.wte" in ranked) is (kind == "gpt2")  # the table of tokens is rounded too
    assert all(0 < error < 1 for error in ranked.values())
    _assert_untouched(module, before)
