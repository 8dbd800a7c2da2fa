"""Numbers beyond 16 bits in a program that is converted to 16 bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil import Builder

from optimum_coreml.coremltools_adapter import quiet
from optimum_coreml.fp16 import EXACT, halving
from optimum_coreml.storage import read_program, save, weights_file
from optimum_coreml_interpreter import Program

mb: Any = Builder
LEAST = np.finfo(np.float32).min


def halved(build: Callable[[Any], Any], folder: Path, *, ours: bool = True) -> Program:
    with quiet() as ct:
        from contextlib import nullcontext

        @mb.program(input_specs=[mb.TensorSpec(shape=(2, 4))], opset_version=ct.target.iOS18)  # type: ignore[untyped-decorator]
        def made(x: Any) -> Any:
            return build(x)

        with halving() if ours else nullcontext():
            model = ct.convert(
                made,
                convert_to="mlprogram",
                minimum_deployment_target=ct.target.iOS18,
                compute_precision=ct.precision.FLOAT16,
                skip_model_load=True,
            )
        save(model, folder, {})
    package = folder / "model.mlpackage"
    return Program(read_program(package, "test"), weights_file(package), "test")


def run(program: Program, x: torch.Tensor) -> torch.Tensor:
    (found,) = program.run({program.inputs[0]: x.to(program.input_type(program.inputs[0]))}).values()
    return found.float()


def masked(x: Any) -> Any:
    return mb.softmax(x=mb.select(cond=mb.less(x=x, y=0.0), a=LEAST, b=x), axis=-1)


def scaled(x: Any) -> Any:
    return mb.softmax(x=mb.mul(x=mb.cast(x=mb.less(x=x, y=0.0), dtype="fp32"), y=LEAST), axis=-1)


X = torch.tensor([[-1.0, -2.0, -3.0, -4.0], [1.0, -1.0, 2.0, -7.0]])


@pytest.mark.parametrize("build", [masked, scaled])
def test_a_mask_of_the_least_number_gives_no_nan(build: Callable[[Any], Any], tmp_path: Path) -> None:
    least = torch.tensor(LEAST)
    want = torch.where(X < 0, least, X if build is masked else torch.zeros(())).softmax(-1)
    found = run(halved(build, tmp_path / "ours"), X)
    torch.testing.assert_close(found, want, rtol=0, atol=1e-3)
    assert float(found[1, 1]) == 0, "what is hidden has no weight at all"
    assert run(halved(build, tmp_path / "theirs", ours=False), X).isnan().any(), (
        "coremltools' own pass; no more needed?"
    )


def test_what_bounds_or_is_compared_with_stays_infinite(tmp_path: Path) -> None:
    """The same constant bounds here, and masks there."""

    def build(x: Any) -> Any:
        bound = mb.const(val=LEAST)
        within = mb.maximum(x=x, y=bound)
        return mb.add(x=within, y=mb.softmax(x=mb.select(cond=mb.less(x=x, y=0.0), a=bound, b=x), axis=-1))

    x = torch.tensor([[-60000.0, 1.0, 2.0, 3.0], [-1.0, -1.0, -1.0, -1.0]])
    found = run(halved(build, tmp_path), x)
    assert float(found[0, 0]) == pytest.approx(-60000, abs=32)
    assert found[1].tolist() == pytest.approx([-0.75] * 4)


def test_operators_that_say_so_stay_in_32_bits(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        large = mb.add(x=x, y=np.float32(4096), name=f"{EXACT}large")
        return mb.sub(x=large, y=np.float32(4096), name=f"{EXACT}small")

    x = torch.full((2, 4), 0.25)
    assert run(halved(build, tmp_path), x).tolist() == x.tolist()
