"""Trimming on graphs that OpenVINO's own converter made, compared with the graph as it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_core.models.pretrained import quiet
from optimum_core.types import Artifact
from optimum_openvino.devices import ROUTES
from optimum_openvino.runtime import without_telemetry
from optimum_openvino.session import OvSession
from optimum_openvino.trimming import trim

WIDTH, HEADS = 16, 2
Forward = Callable[[torch.Tensor], Any]


class Block(torch.nn.Module):
    """A layer of a transformer, and what is made of all of its positions."""

    def __init__(self, answer: Forward, *, causal: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.v, self.out = (torch.nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = torch.nn.Linear(WIDTH, 32), torch.nn.Linear(32, WIDTH)
        self.first, self.second = torch.nn.LayerNorm(WIDTH), torch.nn.LayerNorm(WIDTH)
        self.head = torch.nn.Linear(WIDTH, 3)
        self.answer, self.causal = answer, causal
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(4)

    def forward(self, x: torch.Tensor) -> Any:
        heads = [
            layer(x).reshape(x.shape[0], -1, HEADS, WIDTH // HEADS).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        ]
        q, k, v = heads
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = self.first(x + self.out(mixed.transpose(1, 2).flatten(2)))
        x = self.second(x + self.down(torch.nn.functional.gelu(self.up(x))))
        made = self.answer(x)
        return (self.head(made), *self.extra(x))

    def extra(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return ()


class WithAllPositions(Block):
    def extra(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (x,)


def converted(module: torch.nn.Module, shape: tuple[int, ...] = (-1, -1, WIDTH)) -> Any:
    sample = torch.randn(*(4 if length < 0 else length for length in shape))
    with quiet(), without_telemetry(), torch.no_grad():
        return openvino.convert_model(module.eval(), example_input=sample, input=list(shape))


def answers(model: Any, inputs: Any) -> list[np.ndarray[Any, Any]]:
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return [np.array(value) for value in compiled(inputs).values()]


def products(model: Any) -> int:
    """Multiplications in matrix products with weights, for one row of 8 positions."""
    copy = model.clone()
    copy.reshape([1, 8, WIDTH])
    total = 0
    for operation in copy.get_ops():
        if operation.get_type_name() == "MatMul":
            total += int(np.prod(operation.output(0).get_shape())) * operation.input(0).get_shape()[-1]
    return total


@pytest.mark.parametrize("position", [0, -1])
@pytest.mark.parametrize("causal", [False, True])
def test_one_position_is_computed_alone_and_comes_out_the_same(position: int, causal: bool) -> None:
    model = converted(Block(lambda x: x[:, position], causal=causal))
    before, whole = products(model), model.clone()
    assert trim(model) >= 5
    # Keys and values stay; under a causal mask, whose rows know where they are, queries too.
    assert products(model) < before * (0.5 if causal else 0.4)
    for batch, length in ((1, 1), (1, 9), (3, 4)):
        inputs = np.random.default_rng(length).standard_normal((batch, length, WIDTH)).astype(np.float32)
        np.testing.assert_allclose(answers(model, inputs)[0], answers(whole, inputs)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda x: x.mean(1), id="all positions are read"),
        pytest.param(lambda x: x[:, 2], id="a position that short inputs lack"),
        pytest.param(lambda x: x[:, 0] + x[:, -1], id="two positions"),
        pytest.param(lambda x: x.softmax(1)[:, 0], id="positions depend on each other"),
        pytest.param(lambda x: x.cumsum(1)[:, 0], id="an operation without a rule"),
    ],
)
def test_what_needs_more_is_left_alone(answer: Forward) -> None:
    model = converted(Block(answer))
    before = products(model)
    assert trim(model) == 0
    assert products(model) == before


def test_a_position_that_is_also_an_output_as_a_whole_is_left_alone() -> None:
    model = converted(WithAllPositions(lambda x: x[:, 0]))
    assert trim(model) == 0


class Windows(torch.nn.Module):
    """Rows are regrouped before the first is taken: the first of a window is not the first of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.layer(x).reshape(-1, 2, WIDTH)
        return made[:, 0]


def test_a_reshape_that_regroups_positions_is_not_cut_through() -> None:
    model = converted(Windows())
    whole = model.clone()
    trim(model)
    inputs = np.random.default_rng(0).standard_normal((2, 6, WIDTH)).astype(np.float32)
    np.testing.assert_allclose(answers(model, inputs)[0], answers(whole, inputs)[0], rtol=1e-5, atol=1e-5)


class Vector(torch.nn.Module):
    """A product with a vector, whose output lacks the axis: what comes last but one in it is the batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.vector = torch.nn.Linear(WIDTH, WIDTH), torch.nn.Parameter(torch.randn(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.layer(x) @ self.vector
        return made[-1]


def test_a_product_with_a_vector_is_not_cut_along_another_axis() -> None:
    model = converted(Vector())
    whole = model.clone()
    trim(model)
    inputs = np.random.default_rng(0).standard_normal((2, 6, WIDTH)).astype(np.float32)
    np.testing.assert_allclose(answers(model, inputs)[0], answers(whole, inputs)[0], rtol=1e-5, atol=1e-5)


class Chain(torch.nn.Module):
    """Operations one after the other, as hypothesis draws them; then one position of one axis."""

    def __init__(self, steps: list[str], axis: int, position: int) -> None:
        super().__init__()
        torch.manual_seed(len(steps))
        self.steps, self.axis, self.position = steps, axis, position
        self.layers = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in steps)
        self.row = torch.nn.Parameter(torch.randn(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for step, layer in zip(self.steps, self.layers, strict=True):
            x = STEPS[step](self, layer, x)
        return x.select(self.axis, self.position)


STEPS: Mapping[str, Callable[[Any, Any, torch.Tensor], torch.Tensor]] = {
    "linear": lambda chain, layer, x: layer(x),
    "gelu": lambda chain, layer, x: torch.nn.functional.gelu(x),
    "residual": lambda chain, layer, x: x + layer(x).tanh(),
    "row": lambda chain, layer, x: x * chain.row,
    "normed": lambda chain, layer, x: torch.nn.functional.layer_norm(x, (4,)),
    "normed over rows": lambda chain, layer, x: x - x.mean(1, keepdim=True),
    "softmax": lambda chain, layer, x: x.softmax(-1),
    "softmax over rows": lambda chain, layer, x: x.softmax(1),
    "swapped": lambda chain, layer, x: x.transpose(1, 2),
    "split": lambda chain, layer, x: x.reshape(x.shape[0], x.shape[1], 2, 2).transpose(2, 3).flatten(2),
    "regrouped": lambda chain, layer, x: x.reshape(x.shape[0], 2, 8).reshape(x.shape[0], 4, 4),
    "mixed": lambda chain, layer, x: x @ x.transpose(1, 2),
    "reversed": lambda chain, layer, x: x.flip(1),
}


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=6),
    axis=st.integers(0, 2),
    position=st.sampled_from([0, -1, 1]),
)
def test_whatever_is_trimmed_comes_out_the_same(steps: list[str], axis: int, position: int) -> None:
    model = converted(Chain(["linear", *steps], axis, position), (-1, 4, 4))
    whole = model.clone()
    if not trim(model):
        shapes = [
            [(op.get_type_name(), str(op.get_output_partial_shape(0))) for op in it.get_ordered_ops()]
            for it in (model, whole)
        ]
        assert shapes[0] == shapes[1], "it says that nothing was changed"
        return
    inputs = np.random.default_rng(1).standard_normal((3, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(answers(model, inputs)[0], answers(whole, inputs)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("kind", ["distilbert classifier", "vit"])
def test_classifiers_are_trimmed_by_each_route_and_agree_with_eager(
    kind: str,
    route: str,
    tiny: Callable[[str], Any],
    exported_by: Callable[[str, str], Artifact],
    load: Callable[..., OvSession],
) -> None:
    made, artifact = tiny(kind), exported_by(kind, route)
    assert artifact.steps[0].options["trimmed"] > 5
    assert made.compare(load(artifact).run).passed
