"""Weights in 4 bits, on graphs that are not compiled."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch

from optimum_core.errors import ExportError, OptionError
from optimum_core.testing.quantizing import weight_only
from optimum_core.types import Artifact, QuantizeConfig, QuantizeRequest
from optimum_inc import halting, plugin
from optimum_inc.halting import HaltingRun
from optimum_inc.kernels import Divided, Int4Linear, Int8Linear
from optimum_inc.products import products_of
from optimum_inc.rounding import by_awq, by_gptq, by_hqq, channel_factors, statistics_of, to_nearest
from optimum_inc.silencing import quiet
from optimum_inc.weights import quantize_linears

pytest.importorskip("neural_compressor", reason="the extra `quantize` is not installed")

Make = Callable[..., QuantizeRequest]
WHO = "here"


class Net(torch.nn.Module):
    """Two layers that take the same, one right behind another, and a last one."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = torch.nn.Linear(64, 96), torch.nn.Linear(64, 96, bias=False)
        self.narrow, self.wide = torch.nn.Linear(96, 32), torch.nn.Linear(32, 64)
        self.last = torch.nn.Linear(64, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        both = torch.tanh(self.left(x) / 8) * self.right(x)
        found: torch.Tensor = self.last(x + self.wide(self.narrow(both)))
        return found


def rows(seed: int, number: int = 256) -> torch.Tensor:
    """As behind a ReLU: channels that go together, none below 0, and four much larger than the rest."""
    mix = torch.randn(12, 64, generator=torch.Generator().manual_seed(0))
    mix[:, ::16] *= 12
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(number, 12, generator=generator)
    return torch.relu(latent @ mix + 0.3 * torch.randn(number, 64, generator=generator))


@cache
def program() -> Any:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        net = Net().eval()
        for parameter in net.parameters():  # a few weights much larger than the rest, as in trained models
            parameter.mul_(1 + 4 * (torch.rand_like(parameter) > 0.98))
    return torch.export.export(net, (rows(1, 8),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))


def graph() -> Any:
    return program().module(check_guards=False)


BATCHES = tuple((rows(seed),) for seed in (1, 2, 3))


def config(algorithm: str | None, **fields: Any) -> QuantizeConfig:
    return weight_only(weights="int4", algorithm=algorithm, **{"group_size": 32, **fields})


def quantized(wanted: QuantizeConfig, kept: frozenset[str] = frozenset()) -> tuple[Any, dict[str, Any]]:
    module = graph()
    with quiet():
        facts = quantize_linears(module, wanted, kept, WHO, BATCHES if wanted.calibrates else ())
    return module, facts


def error(module: Any) -> float:
    """Of the outputs, relative, for inputs that were not in calibration."""
    with torch.no_grad():
        want, got = graph()(rows(9)), module(rows(9))
    return float((got - want).norm() / want.norm())


def layers(module: Any, kind: type) -> list[Any]:
    return [layer for layer in module.modules() if isinstance(layer, kind)]


@pytest.mark.parametrize(("algorithm", "share"), [("gptq", 0.7), ("awq", 0.8), ("hqq", 0.9)])
def test_it_loses_less_than_rounding_to_the_nearest(algorithm: str, share: float) -> None:
    # Of hqq, which sees no inputs, only this is sure to show in outputs; of weights more, below.
    others = (True,) if algorithm == "hqq" else (True, False)
    least = min(error(quantized(config("rtn", symmetric=symmetric))[0]) for symmetric in others)
    module, facts = quantized(config(algorithm))
    assert (facts["algorithm"], facts["layers"]) == (algorithm, {"int8": 1, "int4": 4})
    assert 0 < error(module) < share * least


def test_what_goes_in_once_is_divided_once() -> None:
    module, facts = quantized(config("awq"))
    divisions = [node for node in module.graph.nodes if str(node.target).startswith("divided")]
    assert facts["batches"] == 3
    assert 1 <= facts["divided"] == len(divisions) == len(layers(module, Divided)) <= 3
    assert len(divisions[0].users) == 2  # left and right
    assert not layers(quantized(config("gptq"))[0], Divided)


@pytest.mark.parametrize("algorithm", ["gptq", "awq"])
def test_fields_are_honoured(algorithm: str) -> None:
    half, facts = quantized(config(algorithm, ratio=0.5))
    assert facts["layers"] == {"int8": 3, "int4": 2} == {"int8": len(layers(half, Int8Linear)), "int4": 2}
    symmetric = layers(quantized(config(algorithm, symmetric=True))[0], Int4Linear)
    assert all(not bool(layer.scales[..., 1].any()) for layer in symmetric)
    free = layers(quantized(config(algorithm))[0], Int4Linear)
    assert all(bool(layer.scales[..., 1].any()) for layer in free)
    assert [layer.group for layer in free] == [32] * 4
    left = next(found.node.name for found in products_of(graph()))
    module, facts = quantized(config(algorithm), frozenset({left}))
    assert facts["layers"] == {"int8": 1, "int4": 3}
    assert [node.name for node in module.graph.nodes if node.target is torch.ops.aten.linear.default] == [left]


def test_later_layers_see_what_earlier_ones_lose() -> None:
    module = graph()
    left, _, narrow, wide, _ = products_of(module)
    run = HaltingRun(module, BATCHES)
    assert torch.equal(torch.cat(list(run.inputs(left.node, left.x))), torch.cat([x for (x,) in BATCHES]))
    run.replace(left.node, left.x, lambda x: torch.zeros(len(x), 96))
    assert all(not bool(x.any()) for x in run.inputs(narrow.node, narrow.x))  # tanh(0) times anything
    assert narrow.bias is not None
    assert all(torch.equal(x, narrow.bias.expand(256, -1)) for x in run.inputs(wide.node, wide.x))
    assert run.batches == 3


def test_reading_ends_where_batches_hold_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(halting, "LIMIT", 2 * rows(1).nbytes - 1)
    assert quantized(config("gptq"))[1]["batches"] == 2


def test_each_algorithm_lowers_what_it_is_to_lower() -> None:
    weight, inputs = torch.randn(48, 64, generator=torch.Generator().manual_seed(0)), rows(1)
    with quiet():
        nearest = to_nearest(weight, 32, symmetric=False)
        hqq = by_hqq(weight, 32)
        gptq = by_gptq(weight, seen := statistics_of([inputs[:100], inputs[100:]]), 32, symmetric=False)
    for found in (nearest, hqq, gptq):
        assert (int(found.values.min()), int(found.values.max())) == (0, 15)
    assert torch.allclose(seen.magnitude, inputs.abs().mean(0), rtol=1e-4)
    lost, lost_by_hqq, lost_by_gptq = (found.floats() - weight for found in (nearest, hqq, gptq))
    assert float((inputs @ lost.t()).square().sum(1).mean()) == pytest.approx(seen.error(lost), rel=1e-3)
    assert seen.error(lost_by_gptq) < 0.5 * seen.error(lost)
    assert float(lost_by_hqq.norm()) < 0.97 * float(lost.norm())


def test_a_channel_that_calibration_left_out_keeps_its_weights() -> None:
    weight, inputs = torch.randn(48, 64, generator=torch.Generator().manual_seed(0)), rows(1)
    inputs[:, 5] = 0
    with quiet():
        seen = statistics_of([inputs])
        factors = channel_factors(weight, seen, 32, symmetric=False)
        awq = by_awq(weight, factors, seen, 32, symmetric=False).floats() / (1 if factors is None else factors)
        gptq = by_gptq(weight, seen, 32, symmetric=False).floats()
    for found in (awq, gptq):
        assert float((found - weight)[:, 5].norm()) < 0.2 * float(weight[:, 5].norm())


def test_weights_that_are_all_the_same_stay_so() -> None:
    with quiet():
        found = by_hqq(torch.full((16, 64), 0.25), 32).floats()
    assert torch.allclose(found, torch.tensor(0.25), atol=1e-4)


def test_inputs_that_are_no_numbers_are_an_error_that_names_the_layer() -> None:
    for algorithm in ("awq", "gptq"):
        with quiet(), pytest.raises(ExportError, match=r"(?s)'left' is no finite number.*exclude the layer"):
            quantize_linears(graph(), config(algorithm), frozenset(), WHO, [(rows(1).fill_(float("nan")),)])


@pytest.mark.parametrize("algorithm", ["awq", "gptq"])
def test_without_calibration_it_says_what_to_do(algorithm: str, exported: Artifact, quantize_request: Make) -> None:
    wanted = weight_only(weights="int4", algorithm=algorithm)
    for nothing in (None, ()):
        with pytest.raises(OptionError, match=rf"(?s)'{algorithm}' needs calibration data.*'hqq'"):
            plugin.quantize(quantize_request(exported, wanted, calibration=nothing))
