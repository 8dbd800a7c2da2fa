"""Recurrent operators, lists, branches and loops against torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil import Builder

from optimum_core.errors import SessionError
from optimum_coreml.coremltools_adapter import quiet
from optimum_coreml.storage import read_program, save, weights_file
from optimum_coreml_interpreter import Program

Tensor = torch.Tensor
mb: Any = Builder
STEPS, BATCH, IN, OUT = 5, 2, 3, 4


def saved(model: Any, folder: Path) -> Program:
    save(model, folder, {})
    package = folder / "model.mlpackage"
    return Program(read_program(package, "test"), weights_file(package), "test")


def built(build: Callable[[Any], Any], shape: tuple[int, ...], folder: Path) -> Program:
    with quiet() as ct:

        @mb.program(input_specs=[mb.TensorSpec(shape=shape)], opset_version=ct.target.iOS18)  # type: ignore[untyped-decorator]
        def made(x: Any) -> Any:
            return build(x)

        model = ct.convert(
            made,
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS18,
            compute_precision=ct.precision.FLOAT32,
            pass_pipeline=ct.PassPipeline.EMPTY,
            skip_model_load=True,
        )
        return saved(model, folder)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("kind", "further"),
    [
        (torch.nn.LSTM, {}),
        (torch.nn.LSTM, {"bidirectional": True, "num_layers": 2}),
        (torch.nn.GRU, {}),
        (torch.nn.GRU, {"bidirectional": True, "num_layers": 2}),
        (torch.nn.RNN, {"num_layers": 2}),
        (torch.nn.RNN, {"nonlinearity": "relu"}),
    ],
)
def test_torchs_own_layers(kind: type[torch.nn.Module], further: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = kind(IN, OUT, batch_first=True, **further).eval()

    class Outputs(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            steps, last = self.layer(x)
            return steps, torch.cat(last, -1) if isinstance(last, tuple) else last

    x = drawn(BATCH, STEPS, IN)
    with quiet() as ct, torch.no_grad():
        record: Any = torch.jit.trace
        model = ct.convert(
            record(Outputs(), x, check_trace=False),
            inputs=[ct.TensorType(name="x", shape=x.shape)],
            outputs=[ct.TensorType(name="steps"), ct.TensorType(name="last")],
            minimum_deployment_target=ct.target.iOS18,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
        )
        program = saved(model, tmp_path)
    found = program.run({"x": x})
    with torch.no_grad():
        for name, want in zip(("steps", "last"), Outputs()(x), strict=True):
            torch.testing.assert_close(found[name], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("whole", [True, False])
def test_a_gated_unit_of_mil(direction: str, whole: bool, tmp_path: Path) -> None:
    """MIL's has one bias; torch's second one of the output gate is left at 0. Its gates have another order."""
    torch.manual_seed(0)
    layer = torch.nn.GRU(IN, OUT)
    state = {name: value.detach() for name, value in layer.named_parameters()}
    state["bias_hh_l0"][2 * OUT :] = 0

    def sorted_gates(value: Tensor) -> np.ndarray[Any, Any]:
        reset, update, output = value.chunk(3)
        return torch.cat([reset, output, update]).numpy()

    start = drawn(BATCH, OUT, seed=3)
    program = built(
        lambda x: mb.gru(
            x=x,
            initial_h=start.numpy(),
            weight_ih=sorted_gates(state["weight_ih_l0"]),
            weight_hh=sorted_gates(state["weight_hh_l0"]),
            bias=sorted_gates(state["bias_ih_l0"] + state["bias_hh_l0"]),
            direction=direction,
            output_sequence=whole,
        ),
        (STEPS, BATCH, IN),
        tmp_path,
    )
    x = drawn(STEPS, BATCH, IN)
    with torch.no_grad():
        steps, last = layer(x if direction == "forward" else x.flip(0), start[None])
    steps = steps if direction == "forward" else steps.flip(0)
    found, hidden = program.run({"x": x}).values()
    torch.testing.assert_close(found, steps if whole else last, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(hidden, last[0], rtol=1e-4, atol=1e-5)


def test_a_branch(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        positive = mb.greater(x=mb.reduce_sum(x=x, axes=[0]), y=0.0)
        return mb.cond(pred=positive, _true_fn=lambda: mb.mul(x=x, y=2.0), _false_fn=lambda: mb.sub(x=x, y=1.0))

    program = built(build, (3,), tmp_path)
    for x, want in ((torch.ones(3), torch.full((3,), 2.0)), (-torch.ones(3), torch.full((3,), -2.0))):
        assert next(iter(program.run({"x": x}).values())).tolist() == want.tolist()


def test_a_loop_over_a_list(tmp_path: Path) -> None:
    """Powers of what goes in, until one is larger than 100: as many as there turn out to be."""

    def build(x: Any) -> Any:
        written = mb.make_list(init_length=1, dynamic_length=True, elem_shape=[2], dtype="fp32")

        def small(power: Any, count: Any, ls: Any) -> Any:
            return mb.less(x=mb.reduce_max(x=power, axes=[0]), y=100.0)

        def body(power: Any, count: Any, ls: Any) -> Any:
            return mb.mul(x=power, y=x), mb.add(x=count, y=1), mb.list_write(ls=ls, index=count, value=power)

        _, count, ls = mb.while_loop(_cond=small, _body=body, loop_vars=(x, 0, written))
        places = mb.range_1d(start=0, end=count, step=1)
        first = mb.list_read(ls=ls, index=0)
        ls = mb.list_scatter(ls=ls, indices=[0], value=mb.expand_dims(x=mb.add(x=first, y=0.5), axes=[0]))
        return mb.list_gather(ls=ls, indices=places), mb.list_length(ls=ls)

    program = built(build, (2,), tmp_path)
    for x in (torch.tensor([3.0, 2.0]), torch.tensor([5.0, 7.0])):
        want, power = [], x
        while power.max() < 100:
            want.append(power)
            power = power * x
        found, length = program.run({"x": x}).values()
        want[0] = want[0] + 0.5
        assert (found.tolist(), int(length)) == (torch.stack(want).tolist(), len(want))


def test_what_is_not_in_a_list_is_an_error(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        fixed = mb.make_list(init_length=2, dynamic_length=False, elem_shape=[2], dtype="fp32")
        place = mb.squeeze(x=mb.cast(x=x, dtype="int32"), axes=[0])
        return mb.list_read(ls=mb.list_write(ls=fixed, index=place, value=[1.0, 2.0]), index=0)

    program = built(build, (1,), tmp_path)
    assert next(iter(program.run({"x": torch.tensor([0.0])}).values())).tolist() == [1.0, 2.0]
    with pytest.raises(SessionError, match="which was never written"):
        program.run({"x": torch.tensor([1.0])})
    with pytest.raises(SessionError, match="place 2 in a list of 2"):
        program.run({"x": torch.tensor([2.0])})
